"""Base classes of the repositories; a repository has a session or a manager to work with, and a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args

from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError, Unsupported
from iftb_store.protocols import Capability, Session, Stores
from iftb_store.registry import get_backend, get_stores, require_arrow
from iftb_store.repositories.exchanges import sort_by_exchange, warn_of_records
from iftb_store.repositories.streams import Stream, record_batches
from iftb_store.schema.scope import make_filter
from iftb_store.schema.table_spec import RowFilter, TableSpec
from iftb_store.standby import StandbyReads
from iftb_store.values import checks
from iftb_store.values.choices import ReadDecimals
from iftb_store.values.display import show, type_name

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time as an aware datetime in UTC."""
    return datetime.now(UTC)


def check_fields(value: object, model: type[T], field_checks: Mapping[str, Callable[[object, str], Any]]) -> T:
    """Return a copy of a trade or another record with normalised values.

    Raises:
        InvalidValueError: the object has another type, or a value cannot be stored.
    """
    if not isinstance(value, model):
        raise InvalidValueError(f"{model.__name__.lower()} must be a {model.__name__}, not {type(value).__name__}")
    return model(**{name: check(getattr(value, name), name) for name, check in field_checks.items()})


class Repository:
    """Base class of the repositories; it works in a given session, or in a new transaction for each call."""

    def __init__(self, session: Session | AsyncSession | ConnectedStore, *, clock: Clock = utc_now) -> None:
        """Create a repository for a session or for a manager; with a manager, each call runs in a new transaction.

        Args:
            session: a session from ``db.get_session()``, an AsyncSession of the app (asyncpg or aiosqlite), or the manager.
            clock: function that returns the time for created_at, updated_at and last_updated; tests pass their own.

        Raises:
            Unsupported: the session has another type or driver, or its backend does not keep these rows.
            InvalidValueError: the clock is not callable.

        Example:
            async with db.get_session() as session:
                await TradeRepository(session).insert(new_trade)
                await SystemEventRepository(session).log_event("trade_opened", "info", "both are stored, or neither")
            (await TradeRepository(db).get_by_trade_id("T-3")).symbol  # -> 'ETHUSDT'
        """
        if not callable(clock):
            raise InvalidValueError(f"clock must be a function that returns the time, not {type_name(clock)}")
        self._clock = clock
        self._manager: ConnectedStore | None = None
        self._fixed: Stores | None = None
        # the backend of the session; with a manager, that of the last call
        self._backend: Any = None
        if isinstance(session, ConnectedStore):
            self._manager = session
            self._standby: StandbyReads | None = getattr(session, "_standby", None)
        else:
            self._fixed, self._backend = get_stores(session), get_backend(session)
        self._check_kept((self._manager or self._backend).capabilities)

    def _check_kept(self, capabilities: frozenset[Capability]) -> None:
        """Raise Unsupported if a backend with these capabilities does not keep the repository's rows."""

    @asynccontextmanager
    async def _stores(self, *, snapshot: bool = False) -> AsyncIterator[Stores]:
        """Yield the stores of the given session, or of a new one, which with ``snapshot`` reads a snapshot if it can."""
        if self._fixed is not None:
            yield self._fixed
        elif self._manager is not None:
            snapshot = snapshot and Capability.ISOLATION in self._manager.capabilities
            async with self._manager.get_session(isolation="snapshot" if snapshot else None) as session:
                self._backend = get_backend(session)
                yield get_stores(session)

    async def _read(self, work: Callable[[Stores], Awaitable[T]], *, snapshot: bool = False) -> T:
        """Run a read and return its result; if the manager has a standby, run it there if possible, else on the primary."""
        standby = None if self._manager is None else self._standby
        if standby is None:
            async with self._stores(snapshot=snapshot) as stores:
                return await work(stores)
        self._backend = standby.primary
        return await standby.read(lambda session: work(get_stores(session)), "snapshot" if snapshot else None)

    async def _count(self, work: Callable[[Stores], Awaitable[T]]) -> T:
        """Run a write that counts rows and return its result; with a manager, retry it after a conflict with another writer.

        Engines with one writer at a time have no such conflicts.
        """
        manager = self._manager
        if manager is not None and Capability.PARALLEL_WRITERS in manager.capabilities:

            async def run(session: Session) -> T:
                self._backend = get_backend(session)
                return await work(get_stores(session))

            return await manager.run(run)
        async with self._stores() as stores:
            return await work(stores)

    async def _table(self, selection: RowFilter, decimals: object) -> pa.Table:
        as_floats = check_decimals(decimals)
        require_arrow()
        rows = await self._read(lambda stores: stores.read_rows(selection))
        return await convert_to_floats(rows) if as_floats else rows

    def _stream(self, selection: RowFilter, batch_size: object, decimals: object) -> Stream[pa.RecordBatch]:
        as_floats = check_decimals(decimals)
        require_arrow()
        part = replace(selection, limit=checks.integer(batch_size, "batch_size", least=1))
        return Stream(self._batches(part, as_floats=as_floats))

    async def _batches(self, selection: RowFilter, *, as_floats: bool) -> AsyncGenerator[pa.RecordBatch]:
        async with self._stores(snapshot=True) as stores, aclosing(record_batches(stores, selection)) as batches:
            async for batch in batches:
                yield await convert_to_floats(batch) if as_floats else batch

    def _now(self) -> datetime:
        return checks.utc(self._clock(), "the clock's time")


def check_decimals(decimals: object) -> bool:
    """Return whether decimals are read as floats; raise InvalidValueError for an unknown word."""
    return checks.optional_choice(decimals, "decimals", get_args(ReadDecimals)) is not None


async def convert_to_floats(rows: Any) -> Any:
    """Return the rows of an Arrow table or record batch with their decimals as floats."""
    from iftb_store.batches import arrow

    return await asyncio.to_thread(arrow.to_floats, rows)


class AccountRepository(Repository):
    """Base class of the repositories of records; a repository can be that of one account."""

    _scanned: ClassVar[TableSpec]
    #: The column by which rows of all exchanges are ordered after the exchange.
    _second: ClassVar[str] = "symbol"

    def __init__(
        self, session: Session | AsyncSession | ConnectedStore, *, account: str | None = None, clock: Clock = utc_now
    ) -> None:
        """Create a repository for a session, or for a manager, with which each call runs in a new transaction.

        Args:
            session: a session from ``db.get_session()``, an AsyncSession of the app (asyncpg or aiosqlite), or the manager.
            account: the account whose rows the repository reads and writes, at most 255 bytes in UTF-8; the empty text: rows
                without an account. None: reads see the rows of all accounts, and a row is written to its own account, which
                is the empty text unless it is set.
            clock: function that returns the time for created_at, updated_at and last_updated; tests pass their own.

        Raises:
            Unsupported: the session has another type or driver, or its backend does not keep these rows.
            InvalidValueError: the account is not text that can be stored, or the clock is not callable.

        Example:
            async with db.get_session() as session:
                await TradeRepository(session, account="bot-a").insert(new_trade)
                await SystemEventRepository(session, account="bot-a").log_event("trade_opened", "info", "both, or neither")
            (await TradeRepository(db).get_by_trade_id("T-3")).account  # -> 'bot-a'
            await TradeRepository(db, account="bot-b").get_by_trade_id("T-3")  # -> None
        """
        self._account = checks.optional(checks.account, account, "account")
        super().__init__(session, clock=clock)

    def _choose_account(self, account: object = None) -> dict[str, str]:
        """Return the values of the rows to read: those of the repository's account, of the given one, or none for all.

        Raises:
            InvalidValueError: the account is not text that can be stored, or not that of the repository.
        """
        chosen = checks.optional(checks.account, account, "account")
        if chosen is None:
            chosen = self._account
        elif self._account not in (None, chosen):
            raise self._other_account_error(chosen)
        return {} if chosen is None else {"account": chosen}

    def _assign_account(self, row: T) -> T:
        """Return a row to write, in the repository's account if it names none.

        Raises:
            InvalidValueError: the row belongs to another account.
        """
        given: Any = row
        if self._account in (None, given.account):
            return row
        if given.account:
            raise self._other_account_error(given.account)
        assigned: T = replace(given, account=self._account)
        return assigned

    def _other_account_error(self, account: str) -> InvalidValueError:
        return InvalidValueError(
            f"the account {show(account)} is not {show(self._account)}, whose rows this repository reads and writes; create "
            "another one for it, or one without account= for all"
        )

    def _name_scope(self) -> str:
        """Return the words by which messages limit the rows to those of the repository's account; empty for all."""
        return "" if self._account is None else f" of the account {show(self._account)}"

    async def _select(self, rows: RowFilter, *, descending: bool = False) -> list[Any]:
        """Return the selected rows by time; those of all exchanges, oldest first, by exchange and `_second`, then time."""

        async def read(stores: Stores) -> list[Any]:
            selected = await stores.records.select(rows, descending=descending)
            if not selected:
                await warn_of_records(self._backend, stores, rows)
            return selected

        found = await self._read(read)
        return found if descending or "exchange" in rows.equal else sort_by_exchange(found, self._second)

    def _check_kept(self, capabilities: frozenset[Capability]) -> None:
        if Capability.RECORDS not in capabilities:
            raise Unsupported(f"this backend keeps only bars, no {self._scanned.name}; keep those on PostgreSQL")


class RecordRepository(AccountRepository):
    """Base class of the repositories of records that have a symbol; their rows can be read as Arrow tables."""

    async def read_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return all rows, or only those of a symbol, exchange or time window, as a pyarrow.Table, read from a snapshot.

        Columns are the fields of the dataclass, e.g. Trade, in their order: decimals as decimal128(38, 18), times as
        timestamp[us, UTC], JSON objects and tags as JSON text. Rows are ordered by id. The time window applies to entry_time of
        trades and positions, to created_at of events, and to timestamp of other rows.

        Args:
            symbol: only rows of this symbol; None: of all.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only rows of this exchange; None, the default here: of all.
            account: only rows of this account; None: of the repository's account, or of all.
            decimals: "float": read decimals as the nearest floats, for plots and models. None: exactly.

        Returns:
            The table, in memory as a whole; without rows, but with all columns, if no row matches.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end.

        Example:
            # the same for each of the three repositories
            (await trades.read_arrow("BTCUSDT", decimals="float"))["realized_pnl"].to_pylist()  # -> [0.775, None]
            (await positions.read_arrow("BTCUSDT", decimals="float"))["quantity"].to_pylist()  # -> [0.01]
            (await events.read_arrow("BTCUSDT"))["event_type"].to_pylist()  # -> ['trade_opened']
        """
        return await self._table(self._select_window(symbol, start, end, exchange, account), decimals)

    def stream_arrow(
        self,
        symbol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        account: str | None = None,
        batch_size: int = 65_536,
        decimals: ReadDecimals | None = None,
    ) -> Stream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory, as record batches.

        OHLCVRepository.stream_range explains which concurrent writes a stream shows, and how to close the stream.

        Args:
            symbol: only rows of this symbol; None: of all.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only rows of this exchange; None, the default here: of all.
            account: only rows of this account; None: of the repository's account, or of all.
            batch_size: the maximum number of rows of a batch, at least 1.
            decimals: "float": read decimals as the nearest floats. None: exactly.

        Returns:
            The stream of pyarrow.RecordBatch, ordered by id; no batch is empty, and if no row matches, the stream has no batch.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, or batch_size is below 1.

        Example:
            # the same for each of the three repositories
            async for batch in trades.stream_arrow():
                batch["trade_id"].to_pylist()  # -> ['T-1', 'T-2']
            async for batch in positions.stream_arrow():
                batch["trade_id"].to_pylist()  # -> ['T-2']
            async for batch in events.stream_arrow():
                batch["event_type"].to_pylist()  # -> ['trade_opened', 'order_refused']
        """
        return self._stream(self._select_window(symbol, start, end, exchange, account), batch_size, decimals)

    def _select_window(
        self, symbol: str | None, start: datetime | None, end: datetime | None, exchange: str | None, account: object
    ) -> RowFilter:
        return make_filter(self._scanned, start, end, symbol=symbol, exchange=exchange, **self._choose_account(account))
