"""The contract of a backend: Backend, its sessions, the stores of bars and records, and optional abilities.

The docstrings are the specification. Repositories check and normalise every argument before they call a store: times are
aware UTC, decimals are Decimals that DECIMAL(38,18) holds exactly, text is storable, choices and timeframes are known, limits
are at least 1. A store never changes its arguments. Rules for every store:

- A duplicate raises `sqlalchemy.exc.IntegrityError`; all other engine failures raise `sqlalchemy.exc.OperationalError`.
  The driver's exception is only the cause of the raised exception; messages contain no parameters.
- A transient error, after which nothing of the transaction is stored unless it is caught, is a `TransientError`; if it is
  unknown whether a COMMIT took effect, it is `iftb_store.CommitOutcomeUnknown`. `DatabaseManager.run` retries by these types.
- After an IntegrityError the session remains usable, and a later commit also stores its earlier writes.
- Reads return aware UTC times with their microseconds, and Decimals equal to those that were written.
- A write is atomic: it stores all of its rows or none, even if it is cancelled.
- Sums are exact and may exceed the range of a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from sqlalchemy import URL, Executable, Result, ScalarResult

from iftb_store.batches.bars import BarBatch, WriteMode
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.models import OHLCVBar, Position, Series, TradeTotals, WriteCounts
from iftb_store.schema.table_spec import Record, RowFilter, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

#: The isolations that a session can have, weakest first.
Isolation = Literal["read committed", "snapshot", "repeatable read", "serializable"]


class Capability(Enum):
    """Optional capabilities that a backend declares; the conformance suite selects its tests by the declared capabilities."""

    SQLALCHEMY = "sessions are SQLAlchemy AsyncSessions, and an AsyncSession of the application is accepted"
    MIGRATIONS = "the schema is migrated with Alembic and stamped with its revision"
    BAR_KEY = "the database itself rejects a second bar with the same key, also from raw SQL"
    CHOICES = "the database itself rejects an unknown side, action, status or severity, also from raw SQL"
    ISOLATION = "a session can have the isolation snapshot, repeatable read or serializable"
    BACKUP = "the engine can write a backup, a file that the same scheme opens, while sessions continue"
    RECORDS = "trades, positions and the other records are kept beside the bars"
    VIEWS = "raw SQL reads the views of `iftb_store.schema.views`"
    RAW_WRITES = "`session.execute` may write"
    PARALLEL_WRITERS = "two sessions can hold uncommitted writes at the same time"


class Session(Protocol):
    """The session that `DatabaseManager.get_session` yields, with the members that every engine has.

    With the capability SQLALCHEMY it is an AsyncSession, which also has begin_nested, stream, connection and more.
    Several tasks may use one session: its statements, and each fetch of a stream, run one after the other. The end of the
    session's block waits for the running statement; queued and later ones raise OperationalError and store nothing. In another
    event loop or a forked process a session raises NotConnectedError.
    """

    #: The backend that opened the session; repositories and transfers get the stores and the capabilities from it.
    iftb_store_backend: Backend

    async def execute(self, statement: Executable, params: Any = None, /) -> Result[*tuple[Any, ...]]:
        """Run one statement.

        Args:
            statement: the statement, e.g. ``text("SELECT … WHERE symbol = :symbol")``; values are passed in ``params``.
            params: the parameters by name, or a list of these for many rows; None: none.

        Returns:
            The result: its rows, or the number of changed rows as ``rowcount``.

        Raises:
            Unsupported: the statement may write, and the backend does not declare RAW_WRITES; see `errors.NO_RAW_WRITES`.
            IntegrityError: the statement violates a constraint; the session remains usable.
            OperationalError: the statement failed; a TransientError if a new transaction may succeed.

        Example:
            async with db.get_session() as session:
                rows = await session.execute(text("SELECT trade_id FROM trades WHERE side = :side"), {"side": "long"})
            [row.trade_id for row in rows]  # -> ['T-1', 'T-2']
        """
        ...

    async def scalar(self, statement: Executable, params: Any = None, /) -> Any:
        """Run one statement as `execute` does, and return the first value of its first row.

        Args:
            statement: the statement.
            params: the parameters by name; None: none.

        Returns:
            The value, or None if the result has no row.

        Example:
            async with db.get_session() as session:
                await session.scalar(text("SELECT count(*) FROM trades"))  # -> 2
        """
        ...

    async def scalars(self, statement: Executable, params: Any = None, /) -> ScalarResult[Any]:
        """Run one statement as `execute` does, and return the first value of each row.

        Args:
            statement: the statement.
            params: the parameters by name; None: none.

        Returns:
            The values, in the order of the rows; empty if there are none.

        Example:
            async with db.get_session() as session:
                names = await session.scalars(text("SELECT trade_id FROM trades ORDER BY id"))
            names.all()  # -> ['T-1', 'T-2']
        """
        ...

    async def commit(self) -> None:
        """Commit the writes so far, as the end of the session's block does too; the session continues in a new transaction.

        Raises:
            OperationalError: the commit failed, and nothing is stored.
            CommitOutcomeUnknown: the connection was lost during COMMIT; it is unknown whether the writes are stored.

        Example:
            async with db.get_session() as session:
                await TradeRepository(session).insert(new_trade)
                await session.commit()
                len(await trades.get_open())  # -> 2
        """
        ...

    async def rollback(self) -> None:
        """Roll back the writes since the last commit; the session continues in a new transaction.

        Example:
            async with db.get_session() as session:
                await TradeRepository(session).insert(new_trade)
                await session.rollback()
            len(await trades.get_open())  # -> 1
        """
        ...


class BarStore(Protocol):
    """Reads and writes bars in one session; the key of a bar is its series (exchange, symbol, timeframe) and timestamp.

    ``series`` is a `RowFilter` whose ``equal`` has exchange, symbol and timeframe, with or without a time window.
    """

    async def read(self, series: RowFilter, *, descending: bool = False) -> list[OHLCVBar]:
        """Return at most ``series.limit`` bars, and any others with the last bar's time; newest first if ``descending``."""
        ...

    async def write(self, batch: BarBatch, mode: WriteMode) -> WriteCounts | None:
        """Write the bars of a batch; return the counts in the mode "count", else None.

        In the mode "insert", a key that is already stored or occurs twice in the batch raises IntegrityError. In the other modes
        the keys of the batch are distinct, and a stored bar keeps its ``id`` and ``created_at``. If two sessions can write at the
        same time, rows are written in key order, so that two writers do not deadlock.
        """
        ...

    async def delete(self, series: RowFilter) -> int:
        """Delete the bars of a series in a time window and return their number."""
        ...

    async def resample(self, series: RowFilter, buckets: Buckets) -> list[Bucket]:
        """Group the bars of a series into buckets, in the engine; return the buckets ordered by number, with exact sums."""
        ...

    async def list_series(self) -> list[Series]:
        """Return all series by (exchange, symbol, timeframe), text compared by its bytes; `get_gaps` defines missing bars."""
        ...

    async def get_gaps(
        self, series: RowFilter, before: datetime | None, after: datetime | None
    ) -> list[tuple[datetime, datetime]]:
        """Return (time of the last bar before, time of the first bar after) for every gap, oldest first, computed in the engine.

        There is a gap between two consecutive bars that are more than one step apart; for the timeframe 1M, two or more calendar
        months (in UTC). Two imaginary bars count as bars of the series: one at ``before``, one step before the window, and one
        at ``after``, one step after the window. ``before`` is None if the window has no start, ``after`` if it has no end.
        """
        ...


class RecordStore(Protocol):
    """Reads and writes trades, positions and other records, as objects of `TableSpec.model`, in one session.

    None in ``equal`` selects NULL. Of positions, the values of `TableSpec.unique` are unique among the open ones.
    """

    async def select(self, rows: RowFilter, *, descending: bool = False) -> list[Any]:
        """Return the selected rows by (`TableSpec.time`, id), newest first if ``descending``."""
        ...

    async def insert(self, table: TableSpec, row: Record) -> int:
        """Insert a row, return the id that the store assigns; its values of `TableSpec.unique` must be new (IntegrityError)."""
        ...

    async def update(self, table: TableSpec, equal: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
        """Set the columns in ``changes`` in the rows with the values ``equal``; return their number. Errors: as in `insert`."""
        ...

    async def upsert_position(self, position: Position, *, replace: bool) -> bool:
        """Update the open position with the same `TableSpec.unique`, or insert the position; return whether it did.

        Unless ``replace`` is set, nothing is written if the two positions have different trade_ids, neither of them None. A
        stored position keeps its id and created_at. The call is atomic, even if two sessions call at once.
        """
        ...

    async def get_totals(self, since: datetime, trades: RowFilter) -> TradeTotals:
        """Add up the selected trades with a realized_pnl whose exit_time (updated_at, if it is None) is >= ``since``."""
        ...


class Stores(Protocol):
    """The stores of one session, and the methods that work on whole rows of any table."""

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the selected rows of one table in the order of its key, text compared by its bytes, read from a snapshot.

        The result has the schema of `iftb_store.batches.arrow.selection_schema`. With a limit or a size it may have fewer
        rows than are selected, but it is empty only if no row is left; docs/backends.md has the details.
        """
        ...

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store complete rows unchanged, including the times that the store otherwise sets; all rows or none.

        ``rows`` has the schema of `iftb_store.batches.arrow.arrow_schema`; the keys are distinct and in order. A row whose key
        is not stored is inserted; of a stored row, the columns `TableSpec.overwritten` are overwritten. docs/backends.md has the
        rules of ids, and when a conflict raises IntegrityError.
        """
        ...

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete the rows with the distinct keys in ``rows``, all or none; return their number. Types as in `write_rows`."""
        ...

    @property
    def bars(self) -> BarStore:
        """The store of bars."""
        ...

    @property
    def records(self) -> RecordStore:
        """The store of all tables but bars; used only if the backend declares RECORDS."""
        ...


class Backend(Protocol):
    """One engine; its class is registered in the entry-point group ``iftb_store.backends`` under each URL scheme it supports."""

    capabilities: ClassVar[frozenset[Capability]]

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        """Check the URL and do not connect yet; a missing part or an unknown option raises `iftb_store.URLError`."""
        ...

    async def connect(self) -> None:
        """Open the database, without a schema too; if it does not answer, raise OperationalError: the reason, but no password."""
        ...

    async def identity(self) -> str:
        """Return a text that two connected backends share if and only if they work on the same tables, whatever their URLs."""
        ...

    async def disconnect(self, grace: float) -> None:
        """Wait at most ``grace`` seconds for open sessions to end, roll back and close the others, then close every connection.

        From the start of this call, no new session can be opened. A session that this call closed raises OperationalError on
        later use, and on a clean exit if the session had something to commit.
        """
        ...

    def session(self, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Session]:
        """Open a session: commit on a clean exit, roll back on an exception and on cancellation.

        Without ``isolation``, reads before the first write see the latest committed data. With it (capability ISOLATION), the
        transaction begins with the first statement and has this isolation or a stronger one; with "snapshot" the session cannot
        write (OperationalError), and no writer waits for it. If an error was caught inside the block, a clean exit either commits
        every write that returned, or rolls back and raises an OperationalError that names the first error (transient if it was).
        """
        ...

    @classmethod
    def stores(cls, session: Any) -> Stores:
        """Return the stores for a session of this backend or, with the capability SQLALCHEMY, for an AsyncSession of the app."""
        ...
