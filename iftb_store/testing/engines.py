"""Runs the calls of a random programme on real engines, and compares their answers with the answers of the model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import Field, fields, is_dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import (
    BalanceRepository,
    DatabaseManager,
    FillRepository,
    LedgerRepository,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
)
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.model_state import Duplicate, Number, State
from iftb_store.testing.model_values import unlike
from iftb_store.testing.rows import delete_bars
from iftb_store.testing.samples import Clock

#: The name of the session that an app opens itself, if the backend supports that; otherwise the manager opens it.
APP = "app"

_REPOSITORIES = {
    "bars": OHLCVRepository,
    "trades": TradeRepository,
    "positions": PositionRepository,
    "events": SystemEventRepository,
    "fills": FillRepository,
    "ledger": LedgerRepository,
    "balances": BalanceRepository,
}
_TABLES = ("ohlcv", "trades", "positions", "system_events", "fills", "ledger_entries", "balance_snapshots")
# added to the model's number of a row that was rolled back, to get an id that no row of the engine has
_NOBODY = 10**15
_NUMBER = re.compile(r"<(\w+) (\d+)>")


class Interruption(Exception):
    """Raised inside a session to make the session roll back."""


_ENDINGS: Mapping[str, type[BaseException] | None] = {
    "clean exit": None,
    "exception": Interruption,
    "cancellation": asyncio.CancelledError,
}
CONTINUING = ("commit", "rollback", "rollback after an error of raw SQL")
#: The ways to end a transaction; the value says whether the writes of the transaction are kept.
ENDINGS = {ending: ending in ("clean exit", "commit") for ending in (*_ENDINGS, *CONTINUING)}


class Engine:
    """A connected manager, its sessions, and the mapping from the model's row numbers to the ids that this engine assigned."""

    def __init__(self, name: str, manager: DatabaseManager, clock: Clock) -> None:
        self.name = name
        self._manager = manager
        #: Whether the engine keeps trades, positions and events; if not, programmes have only calls of bars.
        self.keeps_records = Capability.RECORDS in manager.capabilities
        self._tables = _TABLES if self.keeps_records else _TABLES[:1]
        self._clock = clock
        self._sessions: dict[str, tuple[AbstractAsyncContextManager[Any], Any]] = {}
        self._ids: dict[Number, int] = {}
        self._numbers: dict[tuple[str, int], Number] = {}
        self._released: set[Number] = set()

    async def close(self) -> None:
        """Roll back every session."""
        for session in list(self._sessions):
            await self._leave(session, Interruption)

    async def clear(self) -> None:
        """Roll back every session and empty the tables."""
        await self.close()
        self._ids.clear()
        self._numbers.clear()
        self._released.clear()
        async with self._manager.get_session() as session:
            if Capability.RAW_WRITES not in self._manager.capabilities:
                await delete_bars(session)
                return
            for table in self._tables:
                await session.execute(text(f"DELETE FROM {table}"))

    async def call(
        self,
        session: str | None,
        repository: str,
        method: str,
        args: Sequence[Any],
        named: Mapping[str, Any],
        account: str | None = None,
    ) -> Any:
        """Call a method of a repository, of all accounts or one; return the result, or the exception that the method raises."""
        target = self._manager if session is None else await self._session(session)
        of_account: Any = {} if account is None else {"account": account}
        bound = getattr(_REPOSITORIES[repository](target, clock=self._clock, **of_account), method)
        try:
            answer = bound(*map(self._with_ids, args), **named)
            if method == "stream_range":
                return [bars async for bars in answer]
            if method == "stream_arrow":
                batches = [batch async for batch in answer]
                sizes = [batch.num_rows for batch in batches]
                # the sizes are the answer if they break the rule, as they then differ from that of the model
                fit = all(0 < size <= named["batch_size"] for size in sizes)
                return [OHLCVBar(**row) for batch in batches for row in batch.to_pylist()] if fit else sizes
            table = await answer
            return [OHLCVBar(**row) for row in table.to_pylist()] if method == "read_arrow" else table
        except Exception as error:
            # an error is a result that the engines must share
            return error

    async def end(self, session: str, ending: str) -> None:
        """End a transaction in the given way; the session ends too, unless ``ending`` is in `CONTINUING`."""
        if ending not in CONTINUING:
            await self._leave(session, _ENDINGS[ending])
            return
        opened = self._sessions[session][1]
        if ending == "commit":
            await opened.commit()
            return
        if ending == "rollback after an error of raw SQL":
            await self._fail(opened)
        await opened.rollback()

    async def _fail(self, opened: Any) -> None:
        try:
            await opened.execute(text("SELECT no_such_column FROM ohlcv"))
        except SQLAlchemyError:
            return
        raise AssertionError(f"{self.name} accepted a query of a column that does not exist")

    async def _leave(self, session: str, kind: type[BaseException] | None) -> None:
        context, _ = self._sessions.pop(session)
        if kind is None:
            await context.__aexit__(None, None, None)
            return
        error = kind()
        try:
            handed_on = not await context.__aexit__(kind, error, None)
        except kind as raised:
            handed_on = raised is error
        if not handed_on:
            raise AssertionError(f"{self.name} did not raise the exception that ended its session")

    async def audit(self, state: State) -> str | None:
        """Compare the committed rows, read by raw SQL, with a state of the model; describe the difference, or return None.

        Row counts of all tables are compared, and all positions, including closed ones.
        """
        counts = [len(getattr(state, item.name)) for item in fields(state)]
        if (found := [await raw.count(self._manager, table) for table in self._tables]) != counts[: len(self._tables)]:
            return f": {found} rows of {', '.join(self._tables)} instead of {counts}"
        if not self.keeps_records:
            return None
        names = ", ".join(item.name for item in fields(Position))
        stored = await raw.fetch(self._manager, f"SELECT {names} FROM positions ORDER BY id")
        positions = [Position(*map(_decode, fields(Position), row)) for row in stored]
        return self.difference(list(state.positions.values()), positions)

    def release(self, deleted: set[Number]) -> None:
        """Allow new rows to have the ids of deleted rows, which SQLite assigns again."""
        self._released |= deleted

    def forget(self, kept: set[Number]) -> None:
        """Remove all rows except ``kept`` from the mapping of ids, because SQLite assigns ids of deleted rows again."""
        self._ids = {number: found for number, found in self._ids.items() if number in kept}
        self._numbers = {(number.table, found): number for number, found in self._ids.items()}
        self._released &= kept

    def difference(self, expected: Any, found: Any) -> str | None:
        """Describe how an engine's answer differs from the model's answer; return None if they are equal."""
        if isinstance(expected, Exception) or isinstance(found, Exception):
            return self._difference_of_errors(expected, found)
        if isinstance(expected, list | tuple):
            if not isinstance(found, list | tuple) or len(expected) != len(found):
                return _describe_difference(expected, found)
            pairs = enumerate(zip(expected, found, strict=True))
            found_differences = (f"[{index}]{reason}" for index, pair in pairs if (reason := self.difference(*pair)))
            return next(found_differences, None)
        if is_dataclass(expected):
            if type(expected) is not type(found):
                return _describe_difference(expected, found)
            names = (item.name for item in fields(expected))
            return next(
                (
                    f".{name}{reason}"
                    for name in names
                    if (reason := self.difference(getattr(expected, name), getattr(found, name)))
                ),
                None,
            )
        if isinstance(expected, Number):
            return self._learn(expected, found)
        return None if _same(expected, found) else _describe_difference(expected, found)

    def _difference_of_errors(self, expected: Any, found: Any) -> str | None:
        if isinstance(expected, Duplicate):
            return None if type(found) is IntegrityError else _describe_difference("an IntegrityError", found)
        expected_text = _NUMBER.sub(lambda found: str(self._with_ids(Number(found[1], int(found[2])))), str(expected))
        if type(expected) is type(found) and str(found) == expected_text:
            return None
        return _describe_difference(
            f"{type(expected).__name__}({expected_text!r})" if isinstance(expected, Exception) else expected, found
        )

    def _learn(self, number: Number, found: Any) -> str | None:
        if type(found) is not int:
            return _describe_difference(number, found)
        known = self._ids.setdefault(number, found)
        owner = self._numbers.setdefault((number.table, found), number)
        if owner in self._released or number in self._released:
            # a session may still see a row that another session has deleted and whose id a new row has
            owner = self._numbers[number.table, found] = number
        if known != found or owner != number:
            return f": {number} had the id {known}, and now has {found}, which is the id of {owner}"
        return None

    def _with_ids(self, value: Any) -> Any:
        if isinstance(value, Number):
            return self._ids.get(value, _NOBODY + value)
        if getattr(value, "id", None) is not None and isinstance(value.id, Number):
            return replace(value, id=self._with_ids(value.id))
        return value

    async def _session(self, name: str) -> Any:
        if name not in self._sessions:
            own = name == APP and Capability.SQLALCHEMY in self._manager.capabilities
            context = _app_session(self._manager) if own else self._manager.get_session()
            self._sessions[name] = context, await context.__aenter__()
        return self._sessions[name][1]


@asynccontextmanager
async def _app_session(manager: DatabaseManager) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(manager.engine, expire_on_commit=False) as session:
        yield session
        await session.commit()


def _decode(column: Field[Any], stored: Any) -> Any:
    kind = str(column.type)
    if stored is None or not kind.startswith(("Decimal", "datetime")):
        return stored
    return raw.number(stored) if kind.startswith("Decimal") else raw.moment(stored)


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, datetime):
        return type(found) is datetime and found == expected and found.utcoffset() == timedelta(0)
    if isinstance(expected, dict):
        return isinstance(found, dict) and not unlike(expected, found)
    return type(expected) is type(found) and bool(expected == found)


def _describe_difference(expected: object, found: object) -> str:
    return f": {found!r} instead of {expected!r}"
