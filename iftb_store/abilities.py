"""The optional abilities of a backend, each a Protocol, and ConnectedStore, through which transfers and files use a store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from sqlalchemy import URL, Connection

from iftb_store.health import Encryption, SchemaStatus, StoreSize
from iftb_store.protocols import Capability, Isolation, Session
from iftb_store.schema.dialect import SchemaDialect
from iftb_store.schema.table_spec import RowFilter, TableSpec

A = TypeVar("A")
T = TypeVar("T")


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
