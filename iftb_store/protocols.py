"""The contract of a backend: the protocols Backend and Session, and one store protocol per repository.

The docstrings are the specification. Repositories check and normalise every argument before they call a store: times are
aware UTC, decimals are Decimals that DECIMAL(38,18) holds exactly, text is storable, choices and timeframes are known,
``limit`` is at least 1 and ``start`` is not after ``end``. A store never changes its arguments. Rules for every store:

- A duplicate raises `sqlalchemy.exc.IntegrityError`; every other failure of the engine `sqlalchemy.exc.OperationalError`.
  The driver's exception is chained but never raised itself; messages contain no parameters.
- A transient error, after which nothing of the transaction is stored, is the subclass `iftb_store.TransientError`. If it is
  unknown whether a COMMIT took effect, the error is `iftb_store.CommitOutcomeUnknown`. `DatabaseManager.run` decides only by
  these types; `iftb_store.errors` has functions that create them.
- After an IntegrityError the session remains usable, and its earlier writes are still committed.
- Rows that are read have aware UTC times with their microseconds, and Decimals equal to those that were written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_args, runtime_checkable

from sqlalchemy import URL, Connection, Executable, Result

from iftb_store.batches.bars import BarBatch
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.health import Encryption, SchemaStatus
from iftb_store.models import OHLCVBar, Position, Series, SystemEvent, Trade, TradeTotals
from iftb_store.schema.table_spec import RowFilter, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

    # its import takes a tenth of the import time of iftb_store, and a bot on DuckDB does not need it
    from sqlalchemy.ext.asyncio import AsyncEngine

A = TypeVar("A")
T = TypeVar("T")

Isolation = Literal["read committed", "snapshot", "repeatable read", "serializable"]
#: The isolations that a session can have, weakest first.
ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)


class Capability(Enum):
    """Optional capabilities that a backend declares; the conformance suite selects its tests by them."""

    SQLALCHEMY = "sessions are SQLAlchemy AsyncSessions, `engine` is the AsyncEngine, and an AsyncSession of the app is accepted"
    MIGRATIONS = "the schema is migrated with Alembic and stamped with its revision"
    BAR_KEY = "the database itself rejects a second bar with the same key, also from raw SQL"
    CHOICES = "the database itself rejects an unknown side, action, status or severity, also from raw SQL"
    ISOLATION = "a session can have the isolation snapshot, repeatable read or serializable"
    BACKUP = "the engine can write a backup, a file that the same scheme opens, while sessions continue"
    PARALLEL_WRITERS = "two sessions can hold uncommitted writes at the same time"


class Session(Protocol):
    """The session that `DatabaseManager.get_session` yields: an AsyncSession, or an object with these methods.

    Several tasks may use one session, e.g. with `asyncio.gather`: its statements, and each fetch of a stream, run one after the
    other, as if awaited in turn (`iftb_store._io.turns.Turns`). At the end of the session's block the running statement is
    awaited; waiting and later statements raise OperationalError, and nothing of them is stored. In another event loop or a
    forked process a session raises NotConnectedError. On an engine with one writer at a time, ``iftb_store_write_lock`` names
    the lock that the session holds, or is None: see `iftb_store.relational.open_sessions.check_own_lock`.
    """

    async def execute(self, statement: Executable, params: Any = None, /) -> Result[Any]:
        """Run one statement, e.g. ``text("SELECT … WHERE symbol = :symbol")`` with a dict of parameters."""
        ...

    async def commit(self) -> None:
        """Commit the writes so far; the session continues in a new transaction."""
        ...

    async def rollback(self) -> None:
        """Roll back the writes since the last commit; the session continues in a new transaction."""
        ...


class OHLCVStore(Protocol):
    """Bars of one session. A series is (exchange, symbol, timeframe); with the timestamp it is the bar's key."""

    async def insert_many(self, batch: BarBatch) -> None:
        """Insert all bars or none.

        If two sessions can write at the same time, rows are written in key order, so that two writers of the same keys do not
        deadlock.

        Raises:
            IntegrityError: a key is already stored or is a duplicate in the batch.
            InvalidValueError: from the batch, which checks each bar when it is read; nothing is inserted then.
        """
        ...

    async def upsert_many(self, batch: BarBatch) -> None:
        """Insert the bars whose key is new and overwrite the values of the others; all or none.

        The keys of the batch are distinct. ``id`` and ``created_at`` of a stored bar stay. Rows are written in key order,
        so that two writers of the same keys do not deadlock.
        """
        ...

    async def upsert_counted(self, batch: BarBatch) -> tuple[int, int]:
        """Do the same as upsert_many; return (number of inserted bars, number of stored bars with a changed value)."""
        ...

    async def list_series(self) -> list[Series]:
        """Return all series, ordered by (exchange, symbol, timeframe), text compared by its bytes.

        ``missing`` is the sum over the gaps of get_gaps of the number of bars that fit strictly between the two times of a
        gap. It is 0 for an unknown timeframe, which only raw SQL can have stored.
        """
        ...

    async def resample(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, buckets: Buckets
    ) -> list[Bucket]:
        """Return the buckets of the bars with start <= timestamp <= end, ordered by number, computed in the engine.

        Sums are exact and may exceed the range of a column.
        """
        ...

    async def delete_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str) -> int:
        """Delete the bars with start <= timestamp <= end; return their number."""
        ...

    async def get_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str) -> list[OHLCVBar]:
        """Return the bars with start <= timestamp <= end, oldest first."""
        ...

    async def get_page(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, limit: int
    ) -> list[OHLCVBar]:
        """Return the first ``limit`` bars with start <= timestamp <= end, oldest first; fewer only if there are no more."""
        ...

    async def get_latest(self, symbol: str, timeframe: str, limit: int, exchange: str) -> list[OHLCVBar]:
        """Return the newest bars, newest first."""
        ...

    async def get_gaps(
        self,
        symbol: str,
        timeframe: str,
        exchange: str,
        window: tuple[datetime | None, datetime | None, datetime | None, datetime | None],
    ) -> list[tuple[datetime, datetime]]:
        """Return (last bar before, first bar after) of every gap, oldest first, computed in the engine.

        ``window`` is (start, end, before, after), each of which may be None. Only bars with start <= timestamp <= end are
        used, plus two imaginary bars at ``before`` and ``after``, one step outside the window. There is a gap between two
        neighbours that are more than one step apart; for the timeframe 1M, two or more calendar months (in UTC).
        """
        ...


class TradeStore(Protocol):
    """Trades of one session."""

    async def insert(self, trade: Trade, now: datetime) -> int:
        """Insert one trade with created_at = updated_at = now and return its new id.

        Raises:
            IntegrityError: the trade_id is already stored.
        """
        ...

    async def update(self, trade_id: int, fields: Mapping[str, Any]) -> bool:
        """Set columns of one trade, except id and trade_id; return False if the id is unknown."""
        ...

    async def get_by_id(self, trade_id: int) -> Trade | None:
        """Return the trade with this id (assigned by the store), or None."""
        ...

    async def get_by_trade_id(self, trade_id: str) -> Trade | None:
        """Return the trade with this trade_id (assigned by the bot), committed or written by this session, or None."""
        ...

    async def get_recent(self, limit: int) -> list[Trade]:
        """Return the newest trades of all exchanges by entry_time, then id; newest first."""
        ...

    async def get_by_symbol(self, symbol: str, limit: int, exchange: str) -> list[Trade]:
        """Return the newest trades of one symbol by entry_time, then id; newest first."""
        ...

    async def get_totals(self, since: datetime, exchange: str) -> TradeTotals:
        """Sum up the trades whose realized_pnl is set and whose exit_time (or updated_at, if that is None) is >= since.

        Sums are exact and may exceed the range of a column.
        """
        ...


class PositionStore(Protocol):
    """Positions of one session. At most one is open per (exchange, symbol, side)."""

    async def get_open(self, exchange: str) -> list[Position]:
        """Return the open positions, oldest first by entry_time, then id."""
        ...

    async def find_open(self, symbol: str, exchange: str) -> list[Position]:
        """Return the open positions of one symbol: none, one, or one per side."""
        ...

    async def upsert(self, position: Position, now: datetime) -> None:
        """Update every field of the open position with the same (exchange, symbol, side), or insert the position.

        created_at of a stored position stays; last_updated becomes now. It is atomic, also if two sessions call it at once.
        """
        ...

    async def update(self, position: Position, now: datetime) -> bool:
        """Update every field of the open position with this id; return False if no open position has the id.

        Raises:
            IntegrityError: another open position has the new (exchange, symbol, side).
        """
        ...

    async def close(self, position_id: int, now: datetime) -> bool:
        """Set status to closed and last_updated to now; return False if no open position has the id."""
        ...

    async def exists(self, position_id: int) -> bool:
        """Return whether any position, open or not, has this id."""
        ...


class EventStore(Protocol):
    """System events of one session."""

    async def insert(self, event: SystemEvent, now: datetime) -> None:
        """Insert one event with created_at = now."""
        ...

    async def get_recent(self, severity: str | None, limit: int) -> list[SystemEvent]:
        """Return the newest events by created_at, then id, newest first; of one severity, or of all if it is None."""
        ...


class Stores(Protocol):
    """The four stores of one session."""

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the selected rows of one table in the order of its key, read from a snapshot.

        The result has the schema of `iftb_store.batches.arrow.arrow_schema`: decimals as decimal128(38, 18), times as
        timestamp[us, UTC], JSON objects as their text. Text sorts by its bytes. With a limit the result may have fewer rows
        than that, but it is empty only if no more rows follow. If the database does not keep a key unique, all rows with
        the same key are returned together, even if they exceed the limit. With a size the rows hold at most that many bytes
        of text, but there is at least one row.
        """
        ...

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store complete rows unchanged, with their ids and the times that the store otherwise sets; all or none.

        ``rows`` has the schema of `iftb_store.batches.arrow.arrow_schema`; no id and no such time is NULL; the keys are distinct
        and in order. Rows whose key is stored are overwritten in every column, the others are inserted. Bars of the batch may
        swap their ids, and positions may swap which of them is the open one. Ids that the store assigns later are greater
        than every id written.

        Raises:
            IntegrityError: a row has the id of another stored row, that is, one that differs in `TableSpec.identity`: a trade
                with another trade_id, a position with another created_at, an event with another created_at, type or message,
                even if it is committed while this runs. Or the trade_id of a row, its id, or its (exchange, symbol, side) as
                an open position belongs to a stored row that is not overwritten, or to another row of the batch. The id of a
                bar is checked only if the database keeps it unique or the check is cheap; otherwise check it before.
        """
        ...

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete the rows with the keys in ``rows``, all or none; return the number of deleted rows.

        ``rows`` has at least the columns of the key, typed as in `iftb_store.batches.arrow.arrow_schema`; the keys are distinct.
        """
        ...

    @property
    def ohlcv(self) -> OHLCVStore:
        """Bars."""
        ...

    @property
    def trades(self) -> TradeStore:
        """Trades."""
        ...

    @property
    def positions(self) -> PositionStore:
        """Positions."""
        ...

    @property
    def events(self) -> EventStore:
        """System events."""
        ...


class Backend(Protocol):
    """One engine. Its class is registered in the entry-point group ``iftb_store.backends`` under each URL scheme it supports."""

    capabilities: ClassVar[frozenset[Capability]]

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        """Check the URL and its options; do not connect yet.

        Raises:
            URLError: the URL lacks a required part or has an option that the backend does not know.
        """
        ...

    @property
    def engine(self) -> AsyncEngine | None:
        """The SQLAlchemy engine of a connected backend, or None if it has none."""
        ...

    @property
    def in_use(self) -> int:
        """The number of connections in use by sessions and `with_connection`; 0 before connect and when all are returned."""
        ...

    @property
    def capacity(self) -> int:
        """The maximum number of connections that sessions can have at a time."""
        ...

    async def connect(self) -> None:
        """Open the database and check that it answers; no schema is needed.

        Raises:
            OperationalError: it cannot be reached or opened; the message gives the reason and contains no password.
        """
        ...

    async def identity(self) -> str:
        """Return a text that identifies the tables of this connected backend.

        It is equal for two backends if and only if they work on the same tables, whatever URLs they were opened with.
        """
        ...

    async def disconnect(self, grace: float) -> None:
        """Wait at most ``grace`` seconds for open sessions, then roll back and close the rest, then close every connection.

        No new session is opened from the start of this call. A session that was closed by it raises OperationalError when it
        is used later, and on a clean exit if it had something to commit.
        """
        ...

    def session(self, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Session]:
        """Open a session: commit on a clean exit, roll back on an exception and on cancellation.

        Reads before the first write see the last committed data, unless a stronger ``isolation`` is given (only with the
        capability ISOLATION): then the transaction begins with the first statement and is at least that strong. With
        "snapshot" the session reads a snapshot taken at its first statement, cannot write (OperationalError) and makes no
        writer wait. If an error that was caught inside the block has ended the transaction, a clean exit rolls back and
        raises an OperationalError that names the first error; a TransientError if the first error was one.
        """
        ...

    @classmethod
    def stores(cls, session: Any) -> Stores:
        """Return the stores for a session of this backend or, with the capability SQLALCHEMY, of the app."""
        ...


@runtime_checkable
class SupportsMigrations(Protocol):
    """A backend with the capability MIGRATIONS. `iftb_store.relational.Migrated` implements all methods but one."""

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` with a SQLAlchemy connection in one transaction, without a statement timeout.

        Unless ``read_only`` (for a migration), only one caller works at a time; the others wait for a limited time. With
        ``read_only`` (for status), it waits for no writer and takes no lock.
        """
        ...

    async def migrate(self) -> None:
        """Create or update the schema; see `iftb_store.DatabaseManager.migrate`."""
        ...

    async def create_tables(self) -> None:
        """Create the missing tables; see `iftb_store.DatabaseManager.create_tables`."""
        ...

    async def status(self) -> SchemaStatus:
        """Return the state of the schema; see `iftb_store.DatabaseManager.status`."""
        ...


@runtime_checkable
class SupportsBackup(Protocol):
    """A backend with the capability BACKUP: its engine can write backups."""

    #: The scheme of the URL that opens a backup by its path.
    backup_scheme: ClassVar[str]

    @property
    def backup_query(self) -> dict[str, str]:
        """The options of the URL that opens a backup, besides those that open it read-only: whether it is trusted, say."""
        ...

    async def backup(self, path: str, progress: Callable[[int, int], None]) -> None:
        """Write all rows of the tables of iftb-store to the new file ``path``, from a snapshot.

        Readers and writers continue meanwhile. There is no file at ``path`` before the call. Only its owner can access the new
        file; it is complete without any file beside it, and a URL of the same scheme with this path opens it. If the backup
        fails or is cancelled, an incomplete file may remain. The callback ``progress`` is called repeatedly in the event loop
        with (bytes done, bytes in all), if the engine reports them.

        Raises:
            OperationalError: the file cannot be written, or the database is damaged.
        """
        ...


@runtime_checkable
class SupportsEncryption(Protocol):
    """A backend with network connections, which reports their encryption for `DatabaseManager.health`; optional."""

    async def read_encryption(self) -> Encryption:
        """Return whether the connections of this connected backend are encrypted and the server verified.

        Raises:
            OperationalError: the server does not answer.
        """
        ...


@runtime_checkable
class SupportsWholeReads(Protocol):
    """A backend whose engine can hide rows from a role without an error, like PostgreSQL's row-level security; optional."""

    async def require_whole(self, session: Any, tables: Sequence[str], *, insert: bool) -> None:
        """Make sure that a session's transaction reads all rows of some tables, or fails.

        It is called before the first read of each transaction of a backup, copy, restore, verification or export, and is in
        effect until that transaction ends: later reads also fail instead of returning only some of the rows.

        Args:
            session: an open session of this backend.
            tables: the names of the tables; tables that do not exist are ignored here.
            insert: whether rows are going to be inserted into them.

        Raises:
            OperationalError: rows are hidden from the session's role, or it may not read (or insert into) one of the tables.
                The message names the tables, the reason and the remedy.
        """
        ...


@runtime_checkable
class ConnectedStore(Protocol):
    """An open store, on which transfers, files and reports work, e.g. an `iftb_store.DatabaseManager`."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The optional capabilities that its backend declares."""
        ...

    def get_session(self, *, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Any]:
        """Open a session; see `iftb_store.DatabaseManager.get_session`."""
        ...

    async def run(
        self,
        work: Callable[[Any], Awaitable[T]],
        *,
        retries: int = 8,
        isolation: Isolation | None = None,
        idempotent: bool = False,
    ) -> T:
        """Run ``work(session)`` in a transaction; see `iftb_store.DatabaseManager.run`."""
        ...

    async def identity(self) -> str:
        """Return a text that identifies its tables; see `iftb_store.DatabaseManager.identity`."""
        ...

    async def status(self) -> SchemaStatus:
        """Return the state of its schema; see `iftb_store.DatabaseManager.status`."""
        ...

    async def migrate(self) -> None:
        """Create or update its schema; see `iftb_store.DatabaseManager.migrate`."""
        ...

    async def create_tables(self) -> None:
        """Create the missing tables; see `iftb_store.DatabaseManager.create_tables`."""
        ...

    def ability(self, protocol: type[A]) -> A:
        """Return its backend as an optional protocol, e.g. `SupportsBackup`; see `iftb_store.DatabaseManager.ability`."""
        ...
