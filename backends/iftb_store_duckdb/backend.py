"""DuckDBBackend: opens one DuckDB database, opens sessions on it and runs migrations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar, NoReturn, SupportsIndex, TypeVar

import duckdb
from duckdb_engine import ConnectionWrapper
from sqlalchemy import URL, Connection, NullPool, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.log import InstanceLogger

from iftb_store.columnar import Cursor, SessionPool, SpillFolder, run_in_thread
from iftb_store.errors import operational_error, refuse_pickling
from iftb_store.protocols import Capability, Isolation
from iftb_store.relational import Migrated, blame_parent, check_own_lock, quote_url
from iftb_store.values.file_identity import file_identity
from iftb_store_duckdb.backups import back_up
from iftb_store_duckdb.connection import Database
from iftb_store_duckdb.errors import map_error
from iftb_store_duckdb.files import create_log
from iftb_store_duckdb.records import DuckDBStores
from iftb_store_duckdb.session import DuckDBSession
from iftb_store_duckdb.strangers import refuse_foreign_objects
from iftb_store_duckdb.url import Options, parse_options

T = TypeVar("T")

_LOGGER = "sqlalchemy.engine.duckdb"


class DuckDBBackend(Migrated):
    """One DuckDB database in a file or in memory.

    Sessions write one after the other and read concurrently; at most pool_size + max_overflow sessions are open at a time. The
    time zone of every connection to the database in this process is set to UTC. No extension is ever downloaded.

    The file may come from a stranger. So SQL cannot read or write other files, attach databases or change settings, unless the
    URL has ``external_access=true``. Triggers, generated columns and expressions that were added to the tables of iftb-store are
    refused, unless the URL has ``trusted=true``.
    """

    backup_scheme: ClassVar[str] = "duckdb"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.MIGRATIONS,
            Capability.CHOICES,
            Capability.ISOLATION,
            Capability.BACKUP,
            Capability.RECORDS,
            Capability.RAW_WRITES,
            Capability.VIEWS,
        }
    )

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        self._options: Options = parse_options(url)
        self._database = Database(self._options, quote_url(url))
        self._pool = SessionPool[DuckDBSession](pool_size + max_overflow)
        self._lock = self._database.lock
        self._spills = SpillFolder(self._options.spills, given="temp_directory" in url.query)
        self._logger = InstanceLogger(echo, _LOGGER) if echo else logging.getLogger(_LOGGER)
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._executor: ThreadPoolExecutor | None = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        refuse_pickling(self)

    @property
    def backup_query(self) -> dict[str, str]:
        """The URL options for opening a backup of this database: a backup of a trusted file is trusted too."""
        return {"trusted": "true"} if self._options.trusted else {}

    @property
    def in_use(self) -> int:
        """The number of sessions that hold a connection; the separate connections of migrations are not counted."""
        return self._pool.in_use

    @property
    def capacity(self) -> int:
        """The largest number of sessions that can be open at a time."""
        return self._pool.size

    @classmethod
    def find_file(cls, url: URL) -> str | None:
        """Return the path of a URL's file; None for a database in memory."""
        return None if parse_options(url).in_memory else url.database

    async def connect(self) -> None:
        """Open the file, or create it if it does not exist.

        If another process holds the file, wait at most connect_timeout seconds for it.

        Raises:
            OperationalError: the file cannot be opened; the message gives the reason.
        """
        # one thread per session, so that no session waits for another's statement, and one thread for migrations
        executor = ThreadPoolExecutor(self._pool.size + 1, thread_name_prefix="iftb-store-duckdb")
        deadline = asyncio.get_running_loop().time() + self._options.connect_timeout
        try:
            self._spills.check()
            self._connection = await self._database.open(executor, deadline)
        except BaseException:
            # whatever fails, a cancellation too: no thread may remain
            executor.shutdown(wait=False)
            raise
        self._executor = executor
        self._spills.enter()
        self._database.schema_checked = False

    async def disconnect(self, grace: float) -> None:
        """Wait at most ``grace`` seconds for open sessions, roll back and close the remaining ones, then close the database."""
        connection, executor = self._require_connected()
        try:
            await self._pool.end(grace)
        finally:
            self._connection = self._executor = None
            try:
                await run_in_thread(executor, connection.close)
            finally:
                self._spills.leave()
                executor.shutdown(wait=False)

    async def identity(self) -> str:
        """Return a text that identifies the database: the file's device and inode number, or for :memory: this object's id()."""
        return f"memory {id(self)}" if self._options.in_memory else file_identity(self._options.path)

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[DuckDBSession]:
        """Open a session: commit on a clean exit, roll back on an exception and on cancellation.

        Raises:
            OperationalError: the current task itself holds every session that may be open at a time; or all sessions were in
                use and none was closed within 30 seconds; or, on a clean exit, an error that the block caught had ended the
                transaction.
        """
        self._require_connected()

        def create() -> DuckDBSession:
            # not before the wait, because the manager may be disconnected during it
            connection, executor = self._require_connected()
            cursor = Cursor(connection.cursor(), self._logger)
            # a database that is open read-only does not change, so no isolation is needed
            wanted = isolation if isolation == "snapshot" or not self._options.read_only else None
            return DuckDBSession(self._database, cursor, executor, wanted)

        async with self._pool.session(self, create) as session:
            yield session

    @classmethod
    def stores(cls, session: Any) -> DuckDBStores:
        """Return the objects that read and write bars, trades, positions and events in a session of this backend."""
        return DuckDBStores(session)

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` with a SQLAlchemy connection in one transaction and return its result.

        Unless ``read_only`` is true, the transaction holds the write lock.

        Raises:
            SchemaError: something that is not a table, e.g. a view, has the name of an iftb-store table; or a table of
                iftb-store has a trigger, a generated column or an expression that iftb-store did not create.
            OperationalError: the lock was not free within busy_timeout, or a statement failed.
            IntegrityError: a statement violated a constraint.
        """
        self._require_connected()
        if not read_only:
            check_own_lock(self._lock)
            if not await self._lock.acquire(self._options.busy_timeout):
                late = operational_error(
                    f"another session of this process is writing and did not finish within {self._options.busy_timeout:g} s; "
                    "close it, then try again",
                    transient=True,
                )
                raise blame_parent(late, self._lock)

        def run_alone(cursor: duckdb.DuckDBPyConnection) -> T:
            if not read_only and not self._options.read_only and not self._options.in_memory:
                create_log(self._options.path)
            refuse_foreign_objects(lambda sql: cursor.execute(sql).fetchall(), trusted=self._options.trusted)
            return _with_sqlalchemy(cursor, work)

        try:
            # not before the wait, because the manager may be disconnected during it
            connection, executor = self._require_connected()
            cursor = connection.cursor()
            return await run_in_thread(executor, partial(run_alone, cursor), cursor.interrupt)
        except duckdb.Error as error:
            raise map_error(error) from error
        except DBAPIError as error:
            if isinstance(error.orig, duckdb.Error):
                raise map_error(error.orig) from error.orig
            raise
        finally:
            self._database.schema_checked = False
            if not read_only:
                self._lock.release()

    async def backup(self, path: str, progress: Callable[[int, int], None]) -> None:
        """Copy the tables of iftb-store, read from one snapshot, into a new database file.

        ``progress`` is called with the size of the copy and of the source in bytes. Tables and columns that
        do not belong to iftb-store are not copied, and a warning names them. See `iftb_store.protocols.Backend.backup`.
        """
        loop = asyncio.get_running_loop()

        def tell(done: int, total: int) -> None:
            loop.call_soon_threadsafe(progress, done, total)

        async with self.session("snapshot") as session:
            await session.run(partial(back_up, options=self._options, path=path, tell=tell))

    def _require_connected(self) -> tuple[duckdb.DuckDBPyConnection, ThreadPoolExecutor]:
        if self._connection is None or self._executor is None or self._pool.closing:
            raise operational_error("the database is not connected; await connect() first")
        return self._connection, self._executor


def _with_sqlalchemy(cursor: duckdb.DuckDBPyConnection, work: Callable[[Connection], T]) -> T:
    engine = create_engine("duckdb://", creator=lambda: ConnectionWrapper(cursor), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()
        cursor.close()
