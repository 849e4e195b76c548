"""What a backend implements: Backend, Session, and one Protocol per repository. Their docstrings are the contract.

Repositories check and normalise every argument before they call a store: times are aware UTC, decimals are Decimals that
DECIMAL(38,18) holds exactly, text is storable, choices and timeframes are known, ``limit`` is at least 1 and ``start`` is
not after ``end``. A store never changes an object that it was given. The rules that hold for every store:

- A duplicate is `sqlalchemy.exc.IntegrityError`; every other failure of the engine is `sqlalchemy.exc.OperationalError`.
  The original is chained; messages hold no parameters. No driver's exception leaves a store.
- An OperationalError of a reason that passes, and that left nothing of the transaction, is its subclass
  `iftb_store.TransientError`; one that leaves open whether a COMMIT took effect is `iftb_store.CommitOutcomeUnknown`.
  `DatabaseManager.run` goes by these types alone; `iftb_store.errors` makes them.
- After an IntegrityError the session is usable and its earlier writes still commit.
- What is read holds aware UTC times with their microseconds, and Decimals equal to those that were written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

from sqlalchemy import URL, Connection, Executable, Result

from iftb_store.batches.bars import BarBatch
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.health import SchemaStatus
from iftb_store.models import OHLCVBar, Position, Series, SystemEvent, Trade
from iftb_store.schema.table_spec import RowFilter, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

    # its import takes a tenth of ours, and a bot on DuckDB has no use for it
    from sqlalchemy.ext.asyncio import AsyncEngine

A = TypeVar("A")
T = TypeVar("T")

Isolation = Literal["read committed", "snapshot", "repeatable read", "serializable"]
#: What can be asked for, weakest first.
ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)


class Capability(Enum):
    """What a backend may declare beyond the contract that all keep; the conformance suite selects its tests by it."""

    SQLALCHEMY = "sessions are SQLAlchemy AsyncSessions, `engine` is its AsyncEngine, and an app's own AsyncSession will do"
    MIGRATIONS = "the schema is migrated with Alembic and stamped with its revision"
    BAR_KEY = "the database itself refuses a second bar of one key, also to raw SQL"
    CHOICES = "the database itself refuses an unknown side, action, status or severity, also to raw SQL"
    ISOLATION = "a session can be asked to be repeatable read or serializable"
    BACKUP = "the engine has its own way to write a backup while sessions go on: a file that the same scheme opens"
    PARALLEL_WRITERS = "two sessions can hold uncommitted writes at the same time"


class Session(Protocol):
    """What `DatabaseManager.get_session` yields: an AsyncSession, or an object with this part of its life cycle.

    Several tasks may use one session, as with `asyncio.gather`: its statements, and each fetch of a stream, run one after the
    other, as if awaited in turn (`iftb_store._io.turns.Turns`). At the end of its block the statement that is running is awaited;
    those in line, and later ones, raise OperationalError, and nothing of them is stored. In another event loop or a forked
    process a session raises NotConnectedError. On an engine with one writer at a time, ``iftb_store_write_lock`` names the lock
    that a session holds, or is None: see `iftb_store.relational.open_sessions.check_own_lock`.
    """

    async def execute(self, statement: Executable, params: Any = None, /) -> Result[Any]:
        """Run one statement, e.g. ``text("SELECT … WHERE symbol = :symbol")`` with a dict of parameters."""
        ...

    async def commit(self) -> None:
        """Make what was written so far durable; the session goes on in a new transaction."""
        ...

    async def rollback(self) -> None:
        """Undo what was written since the last commit; the session goes on in a new transaction."""
        ...


class TradeTotals(NamedTuple):
    """Exact sums over realized trades, 0 where there is none; `iftb_store.analytics.statistics` makes the figures from them."""

    trades: int
    wins: int
    losses: int
    profit: Decimal
    loss: Decimal
    fees: Decimal
    largest_win: Decimal
    largest_loss: Decimal


class Encryption(NamedTuple):
    """Whether a connection is encrypted, and whether the server's certificate and its host name were verified."""

    encrypted: bool
    verified: bool


class OHLCVStore(Protocol):
    """Bars of one session. A series is (exchange, symbol, timeframe); with the timestamp it is the bar's key."""

    async def insert_many(self, batch: BarBatch) -> None:
        """Insert all bars or none.

        Where two sessions can write at once, writes go in key order, so that two writers of the same keys do not deadlock.

        Raises:
            IntegrityError: a key is stored already or stands twice in the batch.
            InvalidValueError: from the batch, which checks bar by bar as it is read; then nothing is inserted.
        """
        ...

    async def upsert_many(self, batch: BarBatch) -> None:
        """Insert the bars whose key is new and overwrite the values of the others; all or none.

        The keys of the batch are distinct. ``id`` and ``created_at`` of a stored bar stay. Writes go in key order, so
        that two writers of the same keys do not deadlock.
        """
        ...

    async def upsert_counted(self, batch: BarBatch) -> tuple[int, int]:
        """Do what upsert_many does; return how many bars were inserted, and of how many stored ones a value changed."""
        ...

    async def list_series(self) -> list[Series]:
        """Return all series by (exchange, symbol, timeframe), text by its bytes.

        ``missing`` sums up the holes of get_gaps: of a hole as many bars as steps fit strictly between its two times; 0 where
        raw SQL stored a timeframe whose step nobody knows.
        """
        ...

    async def resample(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, buckets: Buckets
    ) -> list[Bucket]:
        """Return the buckets of the bars with start <= timestamp <= end, by number, computed in the engine.

        Sums are exact and may pass the range of a column.
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
        """Return the first of the bars with start <= timestamp <= end, oldest first; fewer than ``limit`` only at the end."""
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
        """Return (last bar before, first bar after) of every hole, oldest first, computed in the engine.

        ``window`` is (start, end, before, after): only bars with start <= timestamp <= end count, where these are given;
        ``before`` and ``after`` are the two imagined bars one step outside. A hole is where two neighbours stand more
        than one step apart; for the timeframe 1M, two or more calendar months (in UTC).
        """
        ...


class TradeStore(Protocol):
    """Trades of one session."""

    async def insert(self, trade: Trade, now: datetime) -> int:
        """Insert one trade with created_at = updated_at = now and return its new id.

        Raises:
            IntegrityError: the trade_id is stored already.
        """
        ...

    async def update(self, trade_id: int, fields: Mapping[str, Any]) -> bool:
        """Set columns of one trade, not id nor trade_id; False where the id is unknown."""
        ...

    async def get_by_id(self, trade_id: int) -> Trade | None:
        """Return one trade by the store's id."""
        ...

    async def get_by_trade_id(self, trade_id: str) -> Trade | None:
        """Return one trade by the bot's own name for it, as the last committed state has it, or this session."""
        ...

    async def get_recent(self, limit: int) -> list[Trade]:
        """Return the newest trades of all exchanges by entry_time, then id; newest first."""
        ...

    async def get_by_symbol(self, symbol: str, limit: int, exchange: str) -> list[Trade]:
        """Return the newest trades of one symbol by entry_time, then id; newest first."""
        ...

    async def get_totals(self, since: datetime, exchange: str) -> TradeTotals:
        """Sum up the trades whose realized_pnl is set and whose exit_time (updated_at where that is None) is >= since.

        Sums are exact and may pass the range of a column.
        """
        ...


class PositionStore(Protocol):
    """Positions of one session. At most one is open per (exchange, symbol, side)."""

    async def get_open(self, exchange: str) -> list[Position]:
        """Return the open positions, oldest first by entry_time, then id."""
        ...

    async def find_open(self, symbol: str, exchange: str) -> list[Position]:
        """Return the open positions of one symbol: none, one, or one of each side."""
        ...

    async def upsert(self, position: Position, now: datetime) -> None:
        """Update every field of the open position of the same (exchange, symbol, side), or insert this one.

        created_at of a stored one stays; last_updated becomes now. Atomic also where two sessions do it at once.
        """
        ...

    async def update(self, position: Position, now: datetime) -> bool:
        """Update every field of the open position with this id; False where no open one has it.

        Raises:
            IntegrityError: another open position has the new (exchange, symbol, side).
        """
        ...

    async def close(self, position_id: int, now: datetime) -> bool:
        """Set status closed and last_updated now; False where no open position has this id."""
        ...

    async def exists(self, position_id: int) -> bool:
        """Tell whether any position, open or not, has this id."""
        ...


class EventStore(Protocol):
    """System events of one session."""

    async def insert(self, event: SystemEvent, now: datetime) -> None:
        """Insert one event with created_at = now."""
        ...

    async def get_recent(self, severity: str | None, limit: int) -> list[SystemEvent]:
        """Return the newest events by created_at, then id, of one severity or of all; newest first."""
        ...


class Stores(Protocol):
    """The four stores of one session."""

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the selected rows of one table, in the order of its key, from one state of the database.

        The table has the schema of `iftb_store.batches.arrow.schema`: decimals as decimal128(38, 18), times as
        timestamp[us, UTC],
        JSON objects as their text. Text sorts by its bytes. With a limit there may be fewer rows than that, but none only
        where no more follow; of a key that stands more than once, where the database does not keep it unique, all rows come
        together, be they more. With a size there are no more rows than hold so much text, but one at least.
        """
        ...

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store whole rows as they are, with their ids and the times that the store keeps; all or none.

        ``rows`` has the schema of `iftb_store.batches.arrow.schema`; no id and no kept time is NULL; the keys are distinct and
        in order.
        A row whose key is stored is overwritten in every column, the others are inserted. Bars of the batch may exchange their
        ids, and positions their place as the open one. The ids that the store gives from then on lie past every id written.

        Raises:
            IntegrityError: a row's id is that of another stored row, one that differs in `TableSpec.identity`: of a trade
                with another trade_id, a position with another created_at, an event with another created_at, type or message,
                be they committed while this runs. Or the trade_id of a row, its id or its place as the open position belongs
                to a stored row that is not overwritten, or to another row of the batch. Of bars the id does so only where the
                database itself keeps it unique or a look is cheap; elsewhere see to it before.
        """
        ...

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete the rows whose keys ``rows`` holds, all or none; return how many there were.

        ``rows`` has the key's columns at least, the keys distinct, typed as in `iftb_store.batches.arrow.schema`.
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
    """One engine. Its class is registered in the entry-point group ``iftb_store.backends`` under each scheme it serves."""

    capabilities: ClassVar[frozenset[Capability]]

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        """Check the URL and its options; connect to nothing yet.

        Raises:
            URLError: the URL lacks a part or holds an option that the backend does not know.
        """
        ...

    @property
    def engine(self) -> AsyncEngine | None:
        """The SQLAlchemy engine of a connected backend, where there is one."""
        ...

    @property
    def in_use(self) -> int:
        """The connections that are checked out by sessions and by `with_connection`; 0 before connect and when all are back."""
        ...

    @property
    def capacity(self) -> int:
        """The connections that sessions can have at a time."""
        ...

    async def connect(self) -> None:
        """Open the database and prove that it answers; needs no schema.

        Raises:
            OperationalError: it cannot be reached or opened; the message says why and holds no password.
        """
        ...

    async def identity(self) -> str:
        """Return what tells its tables from all others, while connected.

        Of two backends it is the same where they have the same tables, by whatever URLs they were opened, and only there.
        """
        ...

    async def disconnect(self, grace: float) -> None:
        """Wait at most ``grace`` seconds for open sessions to end, then roll back and close those left, then every connection.

        From the beginning on no new session is opened. A session that was closed so raises OperationalError at its later
        use, and at a clean exit where it had something to commit.
        """
        ...

    def session(self, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Session]:
        """Open a session: commit on a clean exit, roll back on an exception and on cancellation.

        Reads before the first write see the last committed state, unless a stronger ``isolation`` was asked for (only
        with the capability ISOLATION): then the transaction begins with the first statement and is at least that strong.
        A "snapshot" reads the state that its first statement saw, writes nothing (OperationalError) and keeps no writer
        waiting.
        Where an error was caught inside and the transaction is lost with it, a clean exit rolls back and raises
        OperationalError that names the first error; TransientError where that one was.
        """
        ...

    @classmethod
    def stores(cls, session: Any) -> Stores:
        """Return the stores that work in a session of this backend (or, with SQLALCHEMY, an app's own)."""
        ...


@runtime_checkable
class SupportsMigrations(Protocol):
    """A backend whose schema has revisions; with the capability MIGRATIONS. `iftb_store.relational.Migrated` has all but one."""

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` with a SQLAlchemy connection in one transaction, without a limit to the time of a statement.

        Where it may write (a migration), it works alone: other callers wait, bounded. Where ``read_only``, it waits for no
        writer and takes no lock (status).
        """
        ...

    async def migrate(self) -> None:
        """Bring the schema to this version's revision; see `iftb_store.DatabaseManager.migrate`."""
        ...

    async def create_tables(self) -> None:
        """Create the tables that are missing; see `iftb_store.DatabaseManager.create_tables`."""
        ...

    async def status(self) -> SchemaStatus:
        """Return the state of the schema; see `iftb_store.DatabaseManager.status`."""
        ...


@runtime_checkable
class SupportsBackup(Protocol):
    """A backend whose engine writes backups itself; with the capability BACKUP."""

    #: The scheme of the URL that opens a backup by its path.
    backup_scheme: ClassVar[str]

    async def backup(self, path: str, progress: Callable[[int, int], None]) -> None:
        """Write our tables, whole, into the new file ``path``, as one committed state.

        Readers and writers go on meanwhile. No file is at ``path``; the new one is its owner's alone, needs none beside it, and
        is opened by a URL of the same scheme with this path. Where this fails or is cancelled, part of it may stay. ``progress``
        is called now and then, in the event loop, with the bytes done and the bytes in all, where the engine tells them.

        Raises:
            OperationalError: the file cannot be written, or what is read is damaged.
        """
        ...


@runtime_checkable
class SupportsEncryption(Protocol):
    """What a backend whose connections pass a network may have besides: `DatabaseManager.health` asks for it."""

    async def read_encryption(self) -> Encryption:
        """Return what protects the connections of this connected backend.

        Raises:
            OperationalError: the server does not answer.
        """
        ...


@runtime_checkable
class SupportsWholeReads(Protocol):
    """A backend whose engine can hide rows from a role without an error, as PostgreSQL's row-level security does; optional."""

    async def require_whole(self, session: Any, tables: Sequence[str], *, insert: bool) -> None:
        """Let a session's transaction read all rows of some tables of ours, or none.

        It is called before the first read of each transaction of a backup, a copy, a restore, a verification or an export, and
        holds until that transaction ends: a later read fails, too, rather than return a part of the rows.

        Args:
            session: an open session of this backend.
            tables: the names of the tables; those that are not there are another error's.
            insert: whether rows are going to be inserted into them.

        Raises:
            OperationalError: rows are hidden from the session's role, or it may not read (or insert into) one of the tables.
                The message names the tables, the reason and the remedy.
        """
        ...


@runtime_checkable
class ConnectedStore(Protocol):
    """A store that is open: what transfers, files and reports work on. `iftb_store.DatabaseManager` is one."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What its backend declares beyond the contract."""
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
        """Return what tells its tables from all others."""
        ...

    async def status(self) -> SchemaStatus:
        """Return the state of its schema."""
        ...

    async def migrate(self) -> None:
        """Bring its schema to this version's revision."""
        ...

    async def create_tables(self) -> None:
        """Create the tables that are missing."""
        ...

    def ability(self, protocol: type[A]) -> A:
        """Return what its backend can do besides, as `SupportsBackup`.

        Raises:
            Unsupported: the backend does not declare it.
        """
        ...
