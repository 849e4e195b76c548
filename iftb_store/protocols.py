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
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

from sqlalchemy import URL, Executable, Result, ScalarResult

from iftb_store.batches.bars import BarBatch
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.models import (
    BalanceSnapshot,
    Fill,
    LedgerEntry,
    OHLCVBar,
    Position,
    Series,
    SystemEvent,
    Trade,
    TradeTotals,
    WriteCounts,
)
from iftb_store.schema.table_spec import RowFilter, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

    # importing AsyncEngine takes a tenth of the import time of iftb_store, and a bot on DuckDB does not need it
    from sqlalchemy.ext.asyncio import AsyncEngine

Isolation = Literal["read committed", "snapshot", "repeatable read", "serializable"]
#: The isolations that a session can have, weakest first.
ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)

#: How `BarStore.write` treats a bar whose key is stored: "insert" refuses the bar; "upsert" overwrites the stored values; "count"
#: overwrites them too, and counts the inserted and the changed bars.
WriteMode = Literal["insert", "upsert", "count"]
#: A row of a table of records.
Record = Trade | Position | SystemEvent | Fill | LedgerEntry | BalanceSnapshot


class Capability(Enum):
    """Optional capabilities that a backend declares; the conformance suite selects its tests by the declared capabilities."""

    SQLALCHEMY = "sessions are SQLAlchemy AsyncSessions, `engine` is the AsyncEngine, and an AsyncSession of the app is accepted"
    MIGRATIONS = "the schema is migrated with Alembic and stamped with its revision"
    BAR_KEY = "the database itself rejects a second bar with the same key, also from raw SQL"
    CHOICES = "the database itself rejects an unknown side, action, status or severity, also from raw SQL"
    ISOLATION = "a session can have the isolation snapshot, repeatable read or serializable"
    BACKUP = "the engine can write a backup, a file that the same scheme opens, while sessions continue"
    RECORDS = "trades, positions and system events are kept beside the bars"
    VIEWS = "raw SQL reads the views of `iftb_store.schema.views`"
    RAW_WRITES = "`session.execute` may write"
    PARALLEL_WRITERS = "two sessions can hold uncommitted writes at the same time"


class Session(Protocol):
    """The session that `DatabaseManager.get_session` yields, with the members that every engine has.

    With the capability SQLALCHEMY it is an AsyncSession, which also has begin_nested, stream, connection and more.
    Several tasks may use one session, e.g. with `asyncio.gather`: its statements, and each fetch of a stream, run one after the
    other, as if awaited in turn (`iftb_store.relational.Turns`). The end of the session's block waits for the running statement;
    queued and later statements raise OperationalError, and nothing of them is stored. In another event loop or a
    forked process a session raises NotConnectedError. On an engine with one writer at a time, ``iftb_store_write_lock`` names
    the lock that the session holds, or is None: see `iftb_store.relational.check_own_lock`.
    """

    @property
    def iftb_store_backend(self) -> Backend:
        """The backend that opened the session; repositories and transfers get the stores and the capabilities from it."""
        ...

    async def execute(self, statement: Executable, params: Any = None, /) -> Result[*tuple[Any, ...]]:
        """Run one statement.

        Args:
            statement: the statement, e.g. ``text("SELECT … WHERE symbol = :symbol")``.
            params: the parameters by name, or a list of these for many rows; None: none. Pass values as
                parameters, never inside the SQL text.

        Returns:
            The result: its rows, or the number of changed rows as ``rowcount``.

        Raises:
            Unsupported: the statement may write, and the backend does not declare RAW_WRITES; see `errors.NO_RAW_WRITES`.
            IntegrityError: the statement violates a constraint; the session remains usable.
            OperationalError: the statement failed; a TransientError if a new transaction may succeed.

        Example:
            async with db.get_session() as session:
                sql = text("SELECT trade_id FROM trades WHERE symbol = :symbol ORDER BY id")
                rows = await session.execute(sql, {"symbol": "BTCUSDT"})
            [row.trade_id for row in rows]  # -> ['T-1', 'T-2']
        """
        ...

    async def scalar(self, statement: Executable, params: Any = None, /) -> Any:
        """Run one statement and return the first value of its first row, or None.

        Args:
            statement: the statement, as in `execute`.
            params: the parameters by name; None: none.

        Returns:
            The value, or None if the result has no row.

        Raises:
            Unsupported: as in `execute`; and the other errors of `execute`.

        Example:
            async with db.get_session() as session:
                await session.scalar(text("SELECT count(*) FROM trades"))  # -> 2
        """
        ...

    async def scalars(self, statement: Executable, params: Any = None, /) -> ScalarResult[Any]:
        """Run one statement and return the first value of each row.

        Args:
            statement: the statement, as in `execute`.
            params: the parameters by name; None: none.

        Returns:
            The values, in the order of the rows; empty if there are none.

        Raises:
            Unsupported: as in `execute`; and the other errors of `execute`.

        Example:
            async with db.get_session() as session:
                names = await session.scalars(text("SELECT trade_id FROM trades ORDER BY id"))
            names.all()  # -> ['T-1', 'T-2']
        """
        ...

    async def commit(self) -> None:
        """Commit the writes so far; the session continues in a new transaction.

        The end of the session's block commits too, so this call is needed only to keep earlier writes whatever happens next.

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

        Raises:
            OperationalError: the database failed; nothing since the last commit is stored.

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
        """Write all bars of a batch or none; return the counts in the mode "count", else None.

        Except in the mode "insert", the keys of the batch are distinct, and a stored bar keeps its ``id`` and ``created_at``. If
        two sessions can write at the same time, rows are written in key order, so that two writers do not deadlock.

        Raises:
            IntegrityError: in the mode "insert", a key is already stored or occurs twice in the batch.
            InvalidValueError: a bar cannot be stored; `BarBatch.chunks` raises this error.
        """
        ...

    async def delete(self, series: RowFilter) -> int:
        """Delete the bars of a series in a time window and return their number."""
        ...

    async def resample(self, series: RowFilter, buckets: Buckets) -> list[Bucket]:
        """Group the bars of a series into buckets, in the engine; return the buckets ordered by number.

        Sums are exact and may exceed the range of a column.
        """
        ...

    async def list_series(self) -> list[Series]:
        """Return all series, ordered by (exchange, symbol, timeframe), text compared by its bytes.

        ``missing`` is the number of missing bars: get_gaps returns the gaps of the series, and each gap counts as many bars as
        fit strictly between its two times. It is 0 for an unknown timeframe, which only raw SQL can have stored.
        """
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
    """Reads and writes trades, positions and system events, as objects of `TableSpec.model`, in one session."""

    async def select(self, rows: RowFilter, *, descending: bool = False) -> list[Any]:
        """Return the selected rows by (`TableSpec.time`, id), newest first if ``descending``; None in ``rows.equal`` is NULL."""
        ...

    async def insert(self, table: TableSpec, row: Record) -> int:
        """Insert a row and return its id, which the store assigns; all other values are stored unchanged.

        Raises:
            IntegrityError: a row with the same values in `TableSpec.unique` is stored, of positions an open one.
        """
        ...

    async def update(self, table: TableSpec, equal: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
        """Set the columns in ``changes`` in the rows that have the values ``equal`` (None: NULL); return their number.

        Raises:
            IntegrityError: another open position has the new (exchange, account, symbol, side).
        """
        ...

    async def upsert_position(self, position: Position, *, replace: bool) -> bool:
        """Update the open position with the same `TableSpec.unique`, or insert the position; return whether it did.

        Unless ``replace`` is set, nothing is written if the two positions have different trade_ids, neither of them None. A
        stored position keeps its id and created_at. The call is atomic, even if two sessions call at once.
        """
        ...

    async def get_totals(self, since: datetime, trades: RowFilter) -> TradeTotals:
        """Add up the selected trades whose realized_pnl is set and whose exit_time (or updated_at, if it is None) is >= since.

        ``trades`` has values in ``equal`` and ``tag`` only. Sums are exact and may exceed the range of a column.
        """
        ...


class Stores(Protocol):
    """The stores of one session, and the methods that work on whole rows of any table."""

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the selected rows of one table in the order of its key, read from a snapshot.

        The result has the schema of `iftb_store.batches.arrow.selection_schema`: decimals as decimal128(38, 18), times as
        timestamp[us, UTC], JSON objects as text. Text sorts by its bytes. If the selection has a limit, the result may have
        fewer rows, but it is empty only if no more rows follow. If the database does not keep a key unique, all rows with
        the same key are returned together, even if they exceed the limit. If the selection has a size, the texts of the rows
        have at most that many bytes in total, but the result has at least one row if any row is left.
        """
        ...

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store complete rows unchanged, including the times that the store otherwise sets; all rows or none.

        ``rows`` has the schema of `iftb_store.batches.arrow.arrow_schema`; the keys are distinct and in order. A row whose key
        is not stored is inserted. Of a stored row, the columns `TableSpec.overwritten` are overwritten: the id of a bar is the
        store's own and never written, and a stored bar keeps its created_at. The ids of other rows are written, and ids that
        the store assigns later are greater; or they are all NULL, and the store assigns them. A batch may close one position
        and open another one with the same exchange, account, symbol and side.

        Raises:
            IntegrityError: a row has the id of a different stored row, even if that row is committed during this call. Stored
                rows are different if they differ in `TableSpec.identity`. Or a row has the same id, or values in
                `TableSpec.unique`, as a stored row that is not overwritten, or as another row of the batch.
        """
        ...

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete the rows whose keys are in ``rows``, all or none; return the number of deleted rows.

        ``rows`` has at least the key columns, with the types of `iftb_store.batches.arrow.arrow_schema`; the keys are distinct.
        """
        ...

    @property
    def bars(self) -> BarStore:
        """The store of bars."""
        ...

    @property
    def records(self) -> RecordStore:
        """The store of trades, positions and system events; used only if the backend declares RECORDS."""
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
        capability ISOLATION): then the transaction begins with the first statement and has this isolation or a stronger one. With
        "snapshot" the session reads a snapshot taken at its first statement and cannot write (OperationalError); writers never
        wait for it. If an error was caught inside the block, even a serialization failure of a write, a clean exit either commits
        every write that returned, or rolls back and raises an OperationalError that names the first error; it is a TransientError
        if the first error was one.
        """
        ...

    @classmethod
    def stores(cls, session: Any) -> Stores:
        """Return the stores for a session of this backend or, with the capability SQLALCHEMY, for an AsyncSession of the app."""
        ...
