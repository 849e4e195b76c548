"""The rows of the model, and what its repositories share."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from iftb_store import BalanceSnapshot, Fill, InvalidValueError, LedgerEntry, OHLCVBar, Position, SystemEvent, Trade
from iftb_store.testing import model_values as values

BarKey = tuple[str, str, str, datetime]
#: The values of a row in its natural key.
Key = tuple[Any, ...]


class Duplicate(Exception):
    """Raised by the model if the repositories must raise SQLAlchemy's IntegrityError."""


class Number(int):
    """The number that the model gives a row of ``table``; results name rows by it, because their ids differ between engines."""

    table: str

    def __new__(cls, table: str, number: int) -> Number:
        made = super().__new__(cls, number)
        made.table = table
        return made

    def __repr__(self) -> str:
        return f"<{self.table} {int(self)}>"

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return repr(self)


@dataclass
class State:
    """The rows of all tables; rows are replaced but never modified, so a copy of the dicts is a full copy."""

    bars: dict[BarKey, OHLCVBar] = field(default_factory=dict)
    trades: dict[int, Trade] = field(default_factory=dict)
    positions: dict[int, Position] = field(default_factory=dict)
    events: list[SystemEvent] = field(default_factory=list)
    fills: dict[Key, Fill] = field(default_factory=dict)
    ledger: dict[Key, LedgerEntry] = field(default_factory=dict)
    balances: dict[Key, BalanceSnapshot] = field(default_factory=dict)

    def copy(self) -> State:
        """Return an independent copy."""
        return State(**{item.name: copy(getattr(self, item.name)) for item in fields(self)})

    def list_numbers(self) -> set[Number]:
        """Return the model's numbers of all rows."""
        kinds: list[Any] = [getattr(self, item.name) for item in fields(self)]
        rows = [row for kind in kinds for row in (kind.values() if isinstance(kind, dict) else kind)]
        return {row.id for row in rows if isinstance(row.id, Number)}


class Database:
    """The rows of a database with sessions.

    A session reads the committed rows until its first write, and afterwards its own copy.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self.committed = State()
        self.clock = clock
        self._working: dict[str, State] = {}
        self._numbers = 0

    def commit(self, session: str) -> None:
        """Make the session's copy the committed rows."""
        self.committed = self._working.pop(session, self.committed)

    def rollback(self, session: str) -> None:
        """Discard the session's copy."""
        self._working.pop(session, None)

    def list_numbers(self) -> set[Number]:
        """Return the numbers of all rows that are committed or in a session's copy."""
        return self.committed.list_numbers().union(*(state.list_numbers() for state in self._working.values()))

    def seen_by(self, session: str | None) -> State:
        """Return the rows that a session reads: its copy after its first write, otherwise the committed rows."""
        return self._working.get(session or "", self.committed)

    def written_by(self, session: str | None) -> State:
        """Return the rows that a session writes to: its copy, created if necessary; for None, the committed rows."""
        if session is None:
            return self.committed
        return self._working.setdefault(session, self.committed.copy())

    def number(self, table: str) -> Number:
        """Return the next number, for a new row of a table."""
        self._numbers += 1
        return Number(table, self._numbers)


class Repository:
    """What the model's repositories share."""

    def __init__(self, model: Database, session: str | None, account: str | None = None) -> None:
        self._model = model
        self._session = session
        self._account = account

    @property
    def _seen(self) -> State:
        return self._model.seen_by(self._session)

    @property
    def _write(self) -> State:
        return self._model.written_by(self._session)

    def _now(self) -> datetime:
        return values.moment(self._model.clock(), "the clock's time")

    @property
    def _whose(self) -> str:
        return "" if self._account is None else f" of the account {values.shown(self._account)}"

    def _is_own(self, row: Any) -> bool:
        return self._account in (None, row.account)

    def _require_own(self, account: str | None) -> None:
        if account is not None and self._account not in (None, account):
            raise InvalidValueError(
                f"the account {values.shown(account)} is not {values.shown(self._account)}, whose rows this repository reads and "
                "writes; create another one for it, or one without account= for all"
            )

    def _assigned(self, row: Any) -> Any:
        self._require_own(row.account or None)
        return row if self._account is None else replace(row, account=self._account)
