"""The contract of a backend: the protocols Backend and Session, and one store protocol per repository.

The docstrings are the specification. Repositories check and normalise every argument before they call a store: times are
aware UTC, decimals are Decimals that DECIMAL(38,18) holds exactly, text is storable, choices and timeframes are known,
``limit`` is at least 1 and ``start`` is not after ``end``. A store never changes its arguments. Rules for every store:

- A duplicate raises `sqlalchemy.exc.IntegrityError`; all other engine failures raise `sqlalchemy.exc.OperationalError`.
  The driver's exception is only the cause of the raised exception; messages contain no parameters.
- A transient error, after which nothing of the transaction is stored, is the subclass `iftb_store.TransientError`; if it is
  unknown whether a COMMIT took effect, it is `iftb_store.CommitOutcomeUnknown`. `DatabaseManager.run` retries by these types.
- After an IntegrityError the session remains usable, and a later commit also stores its earlier writes.
- Reads return aware UTC times with their microseconds, and Decimals equal to those that were written.
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

    # importing AsyncEngine takes a tenth of the import time of iftb_store, and a bot on DuckDB does not need it
    from sqlalchemy.ext.asyncio import AsyncEngine

A = TypeVar("A")
T = TypeVar("T")

Isolation = Literal["read committed", "snapshot", "repeatable read", "serializable"]
#: The isolations that a session can have, weakest first.
ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)


class Capability(Enum):
    """Optional capabilities that a backend declares; the conformance suite selects its tests by the declared capabilities."""

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
    other, as if awaited in turn (`iftb_store._io.turns.Turns`). The end of the session's block waits for the running statement;
    queued and later statements raise OperationalError, and nothing of them is stored. In another event loop or a
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
    """Reads and writes bars in one session; the key of a bar is its series (exchange, symbol, timeframe) and timestamp."""

    async def insert_many(self, batch: BarBatch) -> None:
        """Insert all bars or none.

        If two sessions can write at the same time, rows are written in key order, so that two writers of the same keys do not
        deadlock.

        Raises:
            IntegrityError: a key is already stored or is a duplicate in the batch.
            InvalidValueError: a bar cannot be stored; `BarBatch.chunks` raises this error; nothing is inserted.
        """
        ...

    async def upsert_many(self, batch: BarBatch) -> None:
        """Insert the bars whose key is new and overwrite the values of the stored ones; write all bars or none.

        The keys of the batch are distinct. A stored bar keeps its ``id`` and ``created_at``. Rows are written in key order,
        so that two writers of the same keys do not deadlock.
        """
        ...

    async def upsert_counted(self, batch: BarBatch) -> tuple[int, int]:
        """Upsert as upsert_many does; return (number of inserted bars, number of stored bars of which a value changed)."""
        ...

    async def list_series(self) -> list[Series]:
        """Return all series, ordered by (exchange, symbol, timeframe), text compared by its bytes.

        ``missing`` is the number of missing bars: get_gaps returns the gaps of the series, and each gap counts as many bars as
        fit strictly between its two times. It is 0 for an unknown timeframe, which only raw SQL can have stored.
        """
        ...

    async def resample(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, buckets: Buckets
    ) -> list[Bucket]:
        """Group the bars with start <= timestamp <= end into buckets, in the engine; return the buckets ordered by number.

        Sums are exact and may exceed the range of a column.
        """
        ...

    async def delete_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str) -> int:
        """Delete the bars with start <= timestamp <= end and return the number of deleted bars."""
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
        """Return (time of the last bar before, time of the first bar after) for every gap, oldest first, computed in the engine.

        ``window`` is (start, end, before, after), each of which may be None. Only bars with start <= timestamp <= end are
        used, plus two imaginary bars at ``before`` and ``after``, one step outside the window. There is a gap between two
        consecutive bars that are more than one step apart; for the timeframe 1M, two or more calendar months (in UTC).
        """
        ...


class TradeStore(Protocol):
    """Reads and writes trades in one session."""

    async def insert(self, trade: Trade, now: datetime) -> int:
        """Insert one trade with created_at = updated_at = now and return its new id.

        Raises:
            IntegrityError: the trade_id is already stored.
        """
        ...

    async def update(self, trade_id: int, fields: Mapping[str, Any]) -> bool:
        """Set the columns in ``fields``, never id or trade_id, of one trade; return False if no trade has the id."""
        ...

    async def get_by_id(self, trade_id: int) -> Trade | None:
        """Return the trade with this id, which the store assigned, or None if there is no such trade."""
        ...

    async def get_by_trade_id(self, trade_id: str) -> Trade | None:
        """Return the trade with this trade_id (assigned by the bot) if it is committed or written by this session, or None."""
        ...

    async def get_recent(self, limit: int) -> list[Trade]:
        """Return the newest trades of all exchanges, ordered by entry_time, then id; newest first."""
        ...

    async def get_by_symbol(self, symbol: str, limit: int, exchange: str) -> list[Trade]:
        """Return the newest trades of one symbol, ordered by entry_time, then id; newest first."""
        ...

    async def get_totals(self, since: datetime, exchange: str) -> TradeTotals:
        """Add up the trades whose realized_pnl is set and whose exit_time (or updated_at, if exit_time is None) is >= since.

        Sums are exact and may exceed the range of a column.
        """
        ...


class PositionStore(Protocol):
    """Reads and writes positions in one session; at most one position is open per (exchange, symbol, side)."""

    async def get_open(self, exchange: str) -> list[Position]:
        """Return the open positions of one exchange, ordered by entry_time, then id; oldest first."""
        ...

    async def find_open(self, symbol: str, exchange: str) -> list[Position]:
        """Return the open positions of one symbol: at most one long and one short position."""
        ...

    async def upsert(self, position: Position, now: datetime) -> None:
        """Update every field of the open position with the same (exchange, symbol, side), or insert the position.

        A stored position keeps its created_at; last_updated becomes now. The call is atomic, even if two sessions call at once.
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
    """Reads and writes system events in one session."""

    async def insert(self, event: SystemEvent, now: datetime) -> None:
        """Insert one event with created_at = now."""
        ...

    async def get_recent(self, severity: str | None, limit: int) -> list[SystemEvent]:
        """Return the newest events, ordered by created_at, then id, newest first; all severities if ``severity`` is None."""
        ...


class Stores(Protocol):
    """The four stores of one session."""

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the selected rows of one table in the order of its key, read from a snapshot.

        The result has the schema of `iftb_store.batches.arrow.arrow_schema`: decimals as decimal128(38, 18), times as
        timestamp[us, UTC], JSON objects as text. Text sorts by its bytes. If the selection has a limit, the result may have
        fewer rows, but it is empty only if no more rows follow. If the database does not keep a key unique, all rows with
        the same key are returned together, even if they exceed the limit. If the selection has a size, the texts of the rows
        have at most that many bytes in total, but the result has at least one row if any row is left.
        """
        ...

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store complete rows unchanged, including their ids and the times that the store otherwise sets; all rows or none.

        ``rows`` has the schema of `iftb_store.batches.arrow.arrow_schema`; the ids and these times are never NULL; the keys are
        distinct and in order. If the key of a row is stored, every column is overwritten; otherwise the row is inserted. Bars
        of the batch may swap their ids, and the batch may close one position and open another one with the same exchange,
        symbol and side. Ids that the store assigns later are greater than every id written.

        Raises:
            IntegrityError: a row has the id of a different stored row, even if that row is committed during this call. Stored
                rows are different if they differ in `TableSpec.identity`: a trade with another trade_id, a position with
                another created_at, an event with another created_at, type or message. Or a row has the same id, trade_id, or
                (of open positions) exchange, symbol and side as a stored row that is not overwritten, or as another row of the
                batch. The ids of bars are checked only if the database keeps them unique or the check is cheap; otherwise the
                caller checks them.
        """
        ...

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete the rows whose keys are in ``rows``, all or none; return the number of deleted rows.

        ``rows`` has at least the key columns, with the types of `iftb_store.batches.arrow.arrow_schema`; the keys are distinct.
        """
        ...

    @property
    def ohlcv(self) -> OHLCVStore:
        """The store of bars."""
        ...

    @property
    def trades(self) -> TradeStore:
        """The store of trades."""
        ...

    @property
    def positions(self) -> PositionStore:
        """The store of positions."""
        ...

    @property
    def events(self) -> EventStore:
        """The store of system events."""
        ...


class Backend(Protocol):
    """One engine; its class is registered in the entry-point group ``iftb_store.backends`` under each URL scheme it supports."""

    capabilities: ClassVar[frozenset[Capability]]

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        """Check the URL and its options; do not connect yet.

        Raises:
            URLError: the URL lacks a required part or has an option that the backend does not know.
        """
        ...

    @property
    def engine(self) -> AsyncEngine | None:
        """The SQLAlchemy engine of a connected backend, or None if the backend has no SQLAlchemy engine."""
        ...

    @property
    def in_use(self) -> int:
        """The number of connections that sessions and `with_connection` use at the moment; 0 before connect."""
        ...

    @property
    def capacity(self) -> int:
        """The maximum number of connections that sessions can use at the same time."""
        ...

    async def connect(self) -> None:
        """Open the database and check that it answers; no schema is needed.

        Raises:
            OperationalError: the database cannot be reached or opened; the message gives the reason, but no password.
        """
        ...

    async def identity(self) -> str:
        """Return a text that identifies the tables of this connected backend.

        Two backends return the same text if and only if they work on the same tables, even if their URLs differ.
        """
        ...

    async def disconnect(self, grace: float) -> None:
        """Wait at most ``grace`` seconds for open sessions to end, roll back and close the others, then close every connection.

        From the start of this call, no new session can be opened. A session that this call closed raises OperationalError on
        later use, and on a clean exit if the session had something to commit.
        """
        ...

    def session(self, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Session]:
        """Open a session: commit on a clean exit, roll back on an exception and on cancellation.

        Reads before the first write see the latest committed data, unless a stronger ``isolation`` is given (only with the
        capability ISOLATION): then the transaction begins with the first statement and is at least that strong. With
        "snapshot" the session reads a snapshot taken at its first statement and cannot write (OperationalError); writers never
        wait for it. If an error that was caught inside the block has ended the transaction, a clean exit rolls back and
        raises an OperationalError that names the first error, or a TransientError if the first error was a TransientError.
        """
        ...

    @classmethod
    def stores(cls, session: Any) -> Stores:
        """Return the stores for a session of this backend or, with the capability SQLALCHEMY, for an AsyncSession of the app."""
        ...


@runtime_checkable
class SupportsMigrations(Protocol):
    """A backend with the capability MIGRATIONS; `iftb_store.relational.Migrated` implements all but with_connection."""

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` with a SQLAlchemy connection in one transaction, without a statement timeout.

        A migration calls it without ``read_only``: only one caller works at a time, and the others wait for a limited time.
        `status` calls it with ``read_only``: it waits for no writer and takes no lock.
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
        """The URL options for opening a backup, e.g. that the file is trusted; the option for read-only access is left out."""
        ...

    async def backup(self, path: str, progress: Callable[[int, int], None]) -> None:
        """Write all rows of the tables of iftb-store to the new file ``path``, from a snapshot.

        Readers and writers continue during the backup. There is no file at ``path`` before the call. Only its owner can access
        the new file; it needs no other file beside it, and a URL with `backup_scheme` and this path opens it. If the
        backup fails or is cancelled, an incomplete file may remain. The callback ``progress`` is called repeatedly in the event
        loop with (bytes done, bytes in total), if the engine reports these numbers.

        Raises:
            OperationalError: the file cannot be written, or the database is damaged.
        """
        ...


@runtime_checkable
class SupportsEncryption(Protocol):
    """A backend whose connections use a network; it reports to `DatabaseManager.health` whether they are encrypted; optional."""

    async def read_encryption(self) -> Encryption:
        """Return whether this backend's connections are encrypted, and whether the server's certificate was verified.

        Raises:
            OperationalError: the server does not answer.
        """
        ...


@runtime_checkable
class SupportsWholeReads(Protocol):
    """A backend whose engine can hide rows from a role without an error, like PostgreSQL's row-level security; optional."""

    async def require_whole(self, session: Any, tables: Sequence[str], *, insert: bool) -> None:
        """Make sure that the session's transaction either reads all rows of the given tables, or fails.

        Backups, copies, restores, verifications and exports call it before the first read of each transaction. It has effect
        until that transaction ends: later reads also fail instead of returning only some of the rows.

        Args:
            session: an open session of this backend.
            tables: the names of the tables; names of tables that do not exist are ignored.
            insert: whether the transaction is going to insert rows into these tables.

        Raises:
            OperationalError: rows are hidden from the session's role, or the role may not read (or insert into) one of the
                tables. The message names the tables, the reason and the remedy.
        """
        ...


@runtime_checkable
class ConnectedStore(Protocol):
    """An open store, on which transfers, files and reports work, e.g. an `iftb_store.DatabaseManager`."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The optional capabilities that the backend of the store declares."""
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
        """Return a text that identifies the tables; see `iftb_store.DatabaseManager.identity`."""
        ...

    async def status(self) -> SchemaStatus:
        """Return the state of this store's schema; see `iftb_store.DatabaseManager.status`."""
        ...

    async def migrate(self) -> None:
        """Create or update this store's schema; see `iftb_store.DatabaseManager.migrate`."""
        ...

    async def create_tables(self) -> None:
        """Create the missing tables; see `iftb_store.DatabaseManager.create_tables`."""
        ...

    def ability(self, protocol: type[A]) -> A:
        """Return the backend, typed as an optional protocol, e.g. `SupportsBackup`; see `DatabaseManager.ability`."""
        ...
