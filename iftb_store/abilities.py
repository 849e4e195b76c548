"""The optional abilities of a backend, each a Protocol, and ConnectedStore, through which transfers and files use a store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

from sqlalchemy import URL, Connection

from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.health import Compaction, Encryption, Partitioning, SchemaStatus, StoreProblem, StoreSize
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
    """A backend with the capability MIGRATIONS; `iftb_store.relational.Migrated` implements all but with_connection."""

    #: The backend's DDL; None if its tables are those that the migrations of iftb-store create on its engine.
    schema: ClassVar[SchemaDialect | None]

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
class SupportsFiles(Protocol):
    """A backend class whose databases are files that connect() creates; optional.

    With it, a command that reads reports a mistyped path instead of creating an empty database there.
    """

    @classmethod
    def find_file(cls, url: URL) -> str | None:
        """Return the path of a URL's file or folder, as the URL gives it; None for a database in memory."""
        ...


@runtime_checkable
class SupportsStatus(Protocol):
    """A backend without MIGRATIONS that knows its engine's version and the size of its data; optional."""

    async def measure(self) -> StoreSize:
        """Return the version of the engine and the size of the data, for `iftb_store.DatabaseManager.status`.

        The number of series and rows may be None if they are not known without reading; then `BarStore.list_series` counts them.
        """
        ...


@runtime_checkable
class SupportsProblems(Protocol):
    """A backend that finds problems of its store which rows do not show, e.g. of its files; optional."""

    async def find_problems(self) -> list[StoreProblem]:
        """Return the problems; `iftb_store.doctor.examine` reports them."""
        ...


@runtime_checkable
class SupportsLargeBatches(Protocol):
    """A backend whose commits take long, so that copies and restores write larger batches; optional."""

    #: How many rows a batch has.
    batch_rows: ClassVar[int]
    #: How many bytes a batch has at most, or little more.
    batch_bytes: ClassVar[int]


@runtime_checkable
class SupportsWriteProof(Protocol):
    """A backend whose writes reach the store only at the commit, so that a write that is rolled back proves nothing; optional."""

    async def prove_writable(self) -> None:
        """Write something that no reader sees, and remove it; `iftb_store.DatabaseManager.health` calls it.

        Raises:
            OperationalError: the store does not accept writes.
        """
        ...


@runtime_checkable
class SupportsCompaction(Protocol):
    """A backend whose store is many files, which become small and many; optional."""

    async def compact(self, *, dry_run: bool, keep: timedelta, progress: Callable[[int, int], None]) -> Compaction:
        """Rewrite small files as few large ones, and delete files that have been out of use for longer than ``keep``.

        Readers and writers continue. What another client changes meanwhile is left for the next time.

        Args:
            dry_run: whether to change nothing, and report what would be done.
            keep: how long files out of use are kept: at least as long as the longest read takes.
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
        """Return how the table of bars is divided; see `iftb_store.list_partitions`."""
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
class SupportsStandby(Protocol):
    """A backend whose database can have standbys, which replay its commits later; optional.

    `iftb_store.DatabaseManager` with ``read_url`` has two backends of one class: that of the primary and that of the standby.
    """

    async def find_position(self) -> Any:
        """Return, on the primary, a position behind every commit of this backend whose end a caller can know.

        Before the first commit it is a position of the time of this call.

        Raises:
            OperationalError: the primary does not answer.
        """
        ...

    async def has_replayed(self, session: Any, position: Any) -> bool:
        """Return, on the standby, whether the server of a session, which has run no statement yet, has replayed a position.

        Then every later statement of the session sees the commits before that position.

        Raises:
            OperationalError: the server does not answer, or is no standby of the server that the position is of.
        """
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


class Lookups(Protocol):
    """Finds with a query in a session what a copy otherwise finds by reading every row; see `SupportsLookups`."""

    async def count_rows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Return the number of the selected rows of each series of bars, or of another table.

        Returns:
            For each series that has rows, (its values of the columns in ``selection.order`` but the last, number of rows). For
            another table, one item whose values are empty.
        """
        ...

    async def find_greatest_id(self, selection: RowFilter) -> int | None:
        """Return the greatest id of the selected rows, or None if no row is selected."""
        ...

    async def find_ids(self, table: TableSpec, column: str, values: Sequence[str]) -> dict[str, int]:
        """Return, for each of at most 500 values of a unique column of text that is stored, the id of its row."""
        ...


@runtime_checkable
class SupportsLookups(Protocol):
    """The stores of a session whose engine answers `Lookups`; optional. Without it, a copy reads more rows and is slower."""

    @property
    def lookups(self) -> Lookups | None:
        """The lookups in the session of these stores; None if this session has none."""
        ...


@runtime_checkable
class SupportsExchanges(Protocol):
    """Lookups, or a store of bars, that find the exchanges of a symbol; optional.

    Without it, a read of all exchanges, and one that finds nothing on the default exchange, lists every series first.
    """

    async def find_exchanges(self, window: RowFilter) -> list[str]:
        """Return the exchanges that have bars with a symbol and a timeframe in a time window, ordered by their bytes."""
        ...


@runtime_checkable
class SupportsFingerprints(Protocol):
    """Lookups whose engine computes fingerprints of bars where they are; optional. Without it, a copy reads the whole source."""

    async def fingerprint_days(self, window: RowFilter) -> list[tuple[int | None, int, str]] | None:
        """Return the fingerprint of each day (UTC) of a series in a window.

        Two fingerprints are equal if the days have the same bars with the same values, whichever store of this engine they are
        in, and otherwise differ but for one case in 2**64. They begin with a name for the way in which they are computed. Id
        and created_at, which are the store's own, do not belong to them.

        Returns:
            (Days since 1970-01-01, number of bars, fingerprint) for each day that has bars; the number is None for bars whose
            time is not in the calendar. None if the engine cannot compute fingerprints.
        """
        ...


@runtime_checkable
class SupportsSeries(Protocol):
    """Lookups, or a store of bars, that find the names of series; optional. Without it, `BarStore.list_series` finds them."""

    async def find_series(self, selection: RowFilter) -> list[tuple[str, str, str]]:
        """Return the series (exchange, symbol, timeframe) of an exchange, of a timeframe, of both or all, ordered by their bytes.

        ``selection`` has no time window.
        """
        ...


@runtime_checkable
class SupportsManySeries(Protocol):
    """A store of bars whose engine answers for many series in one query; optional.

    Without it, the repository asks for one series after the other.
    """

    def stream_gaps(self, window: RowFilter, edges: Mapping[str, Edges]) -> AsyncGenerator[pa.Table]:
        """Yield the gaps of all series of an exchange, of a timeframe, of both or all, as `BarStore.get_gaps` returns them.

        Args:
            window: the exchange and the timeframe, if they are given, and the time window.
            edges: the imaginary bars of each timeframe, see `BarStore.get_gaps`; other timeframes are left out.

        Yields:
            Tables with the schema `iftb_store.batches.arrow.GAPS`, altogether ordered by all columns.
        """
        ...

    def stream_buckets(self, window: RowFilter, buckets: Buckets) -> AsyncGenerator[list[tuple[str, str, Bucket]]]:
        """Yield the buckets of all series of a timeframe, as `BarStore.resample` returns them.

        Args:
            window: the timeframe, the exchange if it is given, and the time window.
            buckets: the buckets.

        Yields:
            Lists of (exchange, symbol, bucket), altogether ordered by exchange, symbol and the bucket's number.
        """
        ...


@runtime_checkable
class SupportsDigests(Protocol):
    """The stores of a session whose engine digests bars; optional. Without it, the bars are read and digested in this process."""

    async def digest_days(self, series: RowFilter) -> list[tuple[int, int, bytes]] | None:
        """Return the digests of the bars of a series in a time window, day by day.

        Returns:
            (day, number of bars, digest) for each day that has bars, in order, as `iftb_store.transfer.digests` defines them.
            None if this session does not digest, and its rows must be read.
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
    """An open store, on which transfers, files and reports work, e.g. an `iftb_store.DatabaseManager`."""

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


#: For each optional ability that `iftb_store.DatabaseManager.ability` returns: the capability that declares it, if one does, and
#: what to do without the ability.
ABILITIES: dict[type[Any], tuple[Capability | None, str]] = {
    SupportsMigrations: (Capability.MIGRATIONS, "it creates its tables by itself, so leave this call out"),
    SupportsBackup: (Capability.BACKUP, "use iftb_store.backup(db, path), which copies the rows to an SQLite file"),
    SupportsStatus: (None, "use db.status(), which counts the rows"),
    SupportsProblems: (None, "use iftb_store.doctor.examine(db), which examines the rows"),
    SupportsLargeBatches: (None, "it takes batches of any size, so leave this call out"),
    SupportsCompaction: (None, "only a lake has small files to compact"),
    SupportsPartitions: (None, "only PostgreSQL divides its table of bars, so leave this call out; a large file stays as it is"),
    SupportsEncryption: (None, "use db.health(), whose `encrypted` is None on such a backend"),
    SupportsPoolStatus: (None, "use db.health(), whose `pool` is None on such a backend"),
    SupportsWholeReads: (None, "its reads always return all rows, so leave this call out"),
}
