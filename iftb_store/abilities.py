"""The optional abilities of a backend, each a Protocol, and ConnectedStore, through which transfers and files use a store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

from sqlalchemy import URL, Connection

from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.health import Compaction, DroppedPartition, Encryption, Partitioning, SchemaStatus, StoreProblem, StoreSize
from iftb_store.models import SeriesSpan
from iftb_store.protocols import Capability, Isolation, Session
from iftb_store.schema.dialect import SchemaDialect
from iftb_store.schema.table_spec import RowFilter, TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

A = TypeVar("A")
T = TypeVar("T")

#: The imaginary bars one step before and one step after a window; None if the window has no start or no end.
Edges: TypeAlias = tuple[datetime | None, datetime | None]


@runtime_checkable
class SupportsMigrations(Protocol):
    """A backend with `Capability.MIGRATIONS`; `iftb_store.relational.Migrated` implements all methods except with_connection."""

    #: The backend's own DDL; None if the migrations of iftb-store create its tables.
    schema: ClassVar[SchemaDialect | None]

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` with a SQLAlchemy connection in one transaction, without a statement timeout.

        Migrations call this method without ``read_only``: only one such call runs at a time, and further ones wait for a limited
        time. `status` calls it with ``read_only``: such a call takes no lock and does not wait for writers.
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
class SupportsFiles(Protocol):
    """A backend class whose databases are files, which connect() creates if they do not exist; optional.

    If a backend has `find_file`, a command that only reads reports a mistyped path instead of creating an empty database there.
    """

    @classmethod
    def find_file(cls, url: URL) -> str | None:
        """Return the path of the file or folder that a URL names, as written in the URL; None for a database in memory."""
        ...


@runtime_checkable
class SupportsStatus(Protocol):
    """A backend without `Capability.MIGRATIONS` that knows the version of its engine and the size of its data; optional."""

    async def measure(self) -> StoreSize:
        """Return the version of the engine and the size of the data, for `iftb_store.DatabaseManager.status`.

        The number of series and the number of rows may be None if the backend would have to read the bars to find them; the
        caller then counts them with `BarStore.list_series`.
        """
        ...


@runtime_checkable
class SupportsProblems(Protocol):
    """A backend that finds problems that cannot be found by reading rows, e.g. problems of the store's files; optional."""

    async def find_problems(self) -> list[StoreProblem]:
        """Return the problems, which `iftb_store.doctor.examine` reports; an empty list if there are none."""
        ...


@runtime_checkable
class SupportsLargeBatches(Protocol):
    """A backend whose commits are slow: copies and restores write it batches of the size that it declares; optional."""

    #: The number of rows in a batch.
    batch_rows: ClassVar[int]
    #: The approximate maximum size of a batch in bytes.
    batch_bytes: ClassVar[int]


@runtime_checkable
class SupportsWriteProof(Protocol):
    """A backend that sends its writes to the store only at COMMIT, so that a test write cannot be rolled back; optional."""

    async def prove_writable(self) -> None:
        """Check that the store accepts writes: write something that no reader sees, and remove it.

        Raises:
            OperationalError: the store does not accept writes.
        """
        ...


@runtime_checkable
class SupportsCompaction(Protocol):
    """A backend that stores rows in files and can merge many small files into few large ones; optional."""

    async def compact(self, *, dry_run: bool, keep: timedelta, progress: Callable[[int, int], None]) -> Compaction:
        """Rewrite small files as few large ones, and delete files that have been out of use for longer than ``keep``.

        Readers and writers continue. A partition that another client changes meanwhile is skipped; the next call rewrites it.

        Args:
            dry_run: whether to change nothing, and report what would be done.
            keep: how long a file is kept after it goes out of use; at least the duration of the longest read.
            progress: called in the event loop with (bytes done, bytes in total).

        Returns:
            What was done, or would be done; its numbers are 0 if there is nothing to do.

        Raises:
            OperationalError: the store cannot be read or written.

        Example:
            from iftb_store.abilities import SupportsCompaction

            async with DatabaseManager("delta:///lake") as lake:
                await OHLCVRepository(lake).insert_many(new_bars)
                lake_files = lake.ability(SupportsCompaction)
                done = await lake_files.compact(dry_run=True, keep=timedelta(days=7), progress=lambda done, total: None)
            (done.partitions, done.rewritten)  # -> (0, 0)
        """
        ...


@runtime_checkable
class SupportsPartitions(Protocol):
    """A backend whose engine can divide the table of bars into partitions; optional.

    `iftb_store.maintenance.partitions` has the functions for users, which check their arguments.
    """

    async def list_partitions(self) -> Partitioning:
        """Return the partitions of the table of bars; see `iftb_store.list_partitions`."""
        ...

    async def partition_bars(self, by: str, *, ahead: int, progress: Callable[[str, int, int | None], None]) -> Partitioning:
        """Divide the table of bars into partitions; see `iftb_store.partition_bars`.

        Args:
            by: "month", "year" or "hash:N".
            ahead: how many coming months or years get a partition.
            progress: called in the event loop with (step, rows done, rows in total or None).
        """
        ...

    async def create_partitions(self, *, ahead: int, start: datetime | None) -> tuple[str, ...]:
        """Create the missing partitions and return their names; see `iftb_store.create_partitions`."""
        ...


@runtime_checkable
class SupportsPartitionDrops(Protocol):
    """A backend that can drop old partitions of the table of bars whole, which costs less than deleting the bars; optional."""

    async def drop_partitions(self, before: datetime, *, dry_run: bool) -> list[DroppedPartition]:
        """Drop the partitions whose time ends at or before ``before``, each in its own transaction; see `iftb_store.prune`.

        Args:
            before: the time, aware UTC.
            dry_run: whether to drop nothing, and return the partitions that would be dropped, without their numbers of bars.

        Returns:
            The partitions, oldest first; empty if none is so old, or the table is not partitioned by time.

        Raises:
            OperationalError: the database failed; a TransientError if others kept a partition locked for minutes.
        """
        ...


@runtime_checkable
class SupportsStandby(Protocol):
    """A backend whose database can have standbys, which replay its commits later; optional.

    `iftb_store.DatabaseManager` with ``read_url`` has two backends of one class: that of the primary and that of the standby.
    """

    async def find_position(self) -> Any:
        """Return, on the primary, a position in its log after every commit of this backend that has returned to a caller.

        Before the first commit, the position is the one at the time of this call.

        Raises:
            OperationalError: the primary does not answer.
        """
        ...

    async def has_replayed(self, session: Any, position: Any) -> bool:
        """Return, on the standby, whether the server has replayed the primary's log up to ``position``, from `find_position`.

        The session has run no statement yet. If the result is True, its later statements see the commits before the position.

        Raises:
            OperationalError: the server does not answer, or is not a standby of the primary that returned the position.
        """
        ...


@runtime_checkable
class SupportsBackup(Protocol):
    """A backend with `Capability.BACKUP`: its engine can write backups."""

    #: The scheme of the URL that opens a backup by its path.
    backup_scheme: ClassVar[str]

    @property
    def backup_query(self) -> dict[str, str]:
        """The URL options for opening a backup, e.g. that the file is trusted; the caller adds that for read-only access."""
        ...

    async def backup(self, path: str, progress: Callable[[int, int], None]) -> None:
        """Write all rows of the tables of iftb-store to the new file ``path``, from a snapshot.

        Readers and writers continue during the backup. The caller ensures that no file exists at ``path``. Only its owner can
        access the new file; all data is in this one file, and a URL with `backup_scheme` and this path opens it. If the
        backup fails or is cancelled, an incomplete file may remain. The callback ``progress`` is called repeatedly in the event
        loop with (bytes done, bytes in total), if the engine reports these numbers.

        Raises:
            OperationalError: the file cannot be written, or the database is damaged.
        """
        ...


@runtime_checkable
class SupportsEncryption(Protocol):
    """A backend whose connections use a network, and which reports to `DatabaseManager` if they are encrypted; optional."""

    async def read_encryption(self) -> Encryption:
        """Return whether this backend's connections are encrypted, and whether the server's certificate was verified.

        Raises:
            OperationalError: the server does not answer.
        """
        ...


@runtime_checkable
class SupportsWholeReads(Protocol):
    """A backend whose engine can hide rows from a role without an error, e.g. by row-level security; optional."""

    async def require_whole(self, session: Any, tables: Sequence[str], *, insert: bool) -> None:
        """Make sure that the session's transaction either reads all rows of the given tables, or fails.

        Backups, copies, restores, verifications and exports call this method before the first read of each transaction. Its
        effect lasts until the transaction ends: later reads also fail instead of returning only some of the rows.

        Args:
            session: an open session of this backend.
            tables: the names of the tables; names of tables that do not exist are ignored.
            insert: whether the transaction is going to insert rows into these tables.

        Raises:
            OperationalError: rows are hidden from the session's role, or the role may not read (or insert into) one of the
                tables. The message names the tables, the reason and the remedy.
        """
        ...


class Lookups(Protocol):
    """Queries that run in one session and save a copy from reading every row; see `SupportsLookups`."""

    async def count_rows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Count the selected rows: of the table of bars, the rows of each series; of another table, all rows.

        Returns:
            For bars, one item (key, number of rows) for each series with rows; the key has the series' values of the columns in
            ``selection.order`` without the last column. For another table, the only item ((), number of rows).
        """
        ...

    async def find_greatest_id(self, selection: RowFilter) -> int | None:
        """Return the greatest id of the selected rows, or None if no row is selected."""
        ...

    async def find_ids(self, table: TableSpec, column: str, values: Sequence[str]) -> dict[str, int]:
        """Find rows by the values of a unique text column, at most 500; return {value: id of the row} for the values found."""
        ...


@runtime_checkable
class SupportsLookups(Protocol):
    """The stores of a session whose engine can run `Lookups`; optional. Without lookups, a copy reads more rows and is slower."""

    @property
    def lookups(self) -> Lookups | None:
        """The lookups that run in the session of these stores; None if this session cannot run them."""
        ...


@runtime_checkable
class SupportsExchanges(Protocol):
    """An optional ability of `Lookups` or of a `BarStore`: it finds the exchanges that have bars of a symbol.

    Without this ability, the repository lists every series to find them. It needs the exchanges for a read of all exchanges,
    and for the warning after a read that found nothing on the default exchange.
    """

    async def find_exchanges(self, window: RowFilter) -> list[str]:
        """Return the exchanges that have bars with the symbol and timeframe of ``window`` in its time, ordered by their bytes."""
        ...


@runtime_checkable
class SupportsValues(Protocol):
    """Lookups that find the different values of columns of text; optional. Without it, the latest balances need all snapshots."""

    async def find_values(self, selection: RowFilter, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """Return the different values that the selected rows have in columns of text, in any order."""
        ...


@runtime_checkable
class SupportsFingerprints(Protocol):
    """Lookups whose engine computes fingerprints of bars in a query; optional. Without it, a copy reads the whole source."""

    async def fingerprint_days(self, window: RowFilter) -> list[tuple[int | None, int, str]] | None:
        """Return the fingerprint of each day (UTC) of a series in a window.

        Two fingerprints are equal if the days have the same bars with the same values, in any two stores of this engine. If
        the bars differ, the fingerprints are equal by chance only once in 2**64 cases. A fingerprint begins with the name of
        its algorithm. It does not depend on id and created_at, which each store sets itself.

        Returns:
            (Days since 1970-01-01, number of bars, fingerprint) for each day that has bars; the number is None for bars whose
            time is not in the calendar. None if the engine cannot compute fingerprints.
        """
        ...


@runtime_checkable
class SupportsSeries(Protocol):
    """An optional ability of `Lookups` or of a `BarStore`: it finds series without counting their bars, unlike list_series."""

    async def find_series(self, selection: RowFilter) -> list[tuple[str, str, str]]:
        """Return (exchange, symbol, timeframe) of every selected series, ordered by these; text compares by its bytes.

        ``selection`` may name an exchange, a timeframe, both or neither; it has no time window.
        """
        ...

    async def find_spans(self, selection: RowFilter) -> list[SeriesSpan]:
        """Return the series of find_series with the times of their first and last bars."""
        ...


@runtime_checkable
class SupportsManySeries(Protocol):
    """A store of bars whose engine can read many series in one query; optional.

    Without this ability, the repository runs one query for each series.
    """

    def stream_gaps(self, window: RowFilter, edges: Mapping[str, Edges]) -> AsyncGenerator[pa.Table]:
        """Yield the gaps of all selected series, each defined as in `BarStore.get_gaps`.

        Args:
            window: the time window; it may also name an exchange, a timeframe or both, to which the series are restricted.
            edges: for each timeframe, the imaginary bars of `BarStore.get_gaps`; series of other timeframes are skipped.

        Yields:
            Tables with the schema `iftb_store.batches.arrow.GAPS`; the rows of all tables together are ordered by all columns.
        """
        ...

    def stream_buckets(self, window: RowFilter, buckets: Buckets) -> AsyncGenerator[list[tuple[str, str, Bucket]]]:
        """Yield the buckets of all series of a timeframe, each computed as in `BarStore.resample`.

        Args:
            window: the timeframe and the time window; it may also name an exchange.
            buckets: the buckets.

        Yields:
            Lists of (exchange, symbol, bucket); all items together are ordered by exchange, symbol and the bucket's number.
        """
        ...


@runtime_checkable
class SupportsDigests(Protocol):
    """The stores of a session whose engine computes digests of bars; optional. Otherwise the bars are read and digested here."""

    async def digest_days(self, series: RowFilter) -> list[tuple[int, int, bytes]] | None:
        """Return the digests of the bars of a series in a time window, day by day.

        Returns:
            (day, number of bars, digest) for each day that has bars, oldest first, as `iftb_store.transfer.digests` defines
            them. None if this session cannot compute digests, so that the caller must read the bars.
        """
        ...


@runtime_checkable
class SupportsPoolStatus(Protocol):
    """A backend that reports how many of its connections are in use; optional."""

    @property
    def in_use(self) -> int:
        """The number of connections that sessions and `with_connection` use at the moment; 0 before connect."""
        ...

    @property
    def capacity(self) -> int:
        """The maximum number of connections that sessions can use at the same time."""
        ...


@runtime_checkable
class ConnectedStore(Protocol):
    """An open store, as transfers, files and reports use it, e.g. an `iftb_store.DatabaseManager`."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The optional capabilities that the backend of the store declares."""
        ...

    def get_session(self, *, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Session]:
        """Open a session; see `iftb_store.DatabaseManager.get_session`."""
        ...

    async def run(
        self,
        work: Callable[[Session], Awaitable[T]],
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


#: For each optional ability that `iftb_store.DatabaseManager.ability` returns: the capability that declares the ability, or None,
#: and what a caller does if a backend does not have it.
ABILITIES: dict[type[Any], tuple[Capability | None, str]] = {
    SupportsMigrations: (Capability.MIGRATIONS, "it creates its tables itself, so omit this call"),
    SupportsBackup: (Capability.BACKUP, "use iftb_store.backup(db, path), which copies the rows to an SQLite file"),
    SupportsStatus: (None, "use db.status(), which counts the rows"),
    SupportsProblems: (None, "use iftb_store.doctor.examine(db), which examines the rows"),
    SupportsLargeBatches: (None, "it accepts batches of any size, so omit this call"),
    SupportsCompaction: (None, "only a lake has small files to compact"),
    SupportsPartitions: (None, "only PostgreSQL divides its table of bars into partitions, so omit this call"),
    SupportsPartitionDrops: (None, "only PostgreSQL divides its table of bars into partitions; delete the bars instead"),
    SupportsEncryption: (None, "use db.health(), whose `encrypted` is None on such a backend"),
    SupportsPoolStatus: (None, "use db.health(), whose `pool` is None on such a backend"),
    SupportsWholeReads: (None, "its reads always return all rows, so omit this call"),
}
