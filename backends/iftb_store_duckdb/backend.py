"""The DuckDB backend: opens the file, hands out sessions, runs migrations."""

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
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.log import InstanceLogger

from iftb_store.errors import operational_error, refuse_pickling
from iftb_store.protocols import Capability, Isolation
from iftb_store.relational import (
    DISCONNECTED,
    FairSemaphore,
    Migrated,
    OpenSessions,
    blame_parent,
    check_own_lock,
    own_sessions,
    run_to_end,
)
from iftb_store.values.file_identity import file_identity
from iftb_store_duckdb.backups import back_up
from iftb_store_duckdb.connection import Database
from iftb_store_duckdb.driver import Cursor, run_in_thread
from iftb_store_duckdb.errors import map_error
from iftb_store_duckdb.files import SpillFolder, create_log
from iftb_store_duckdb.records import DuckDBStores
from iftb_store_duckdb.session import DuckDBSession
from iftb_store_duckdb.strangers import refuse_foreign_objects
from iftb_store_duckdb.url import Options, parse_options

T = TypeVar("T")

_LOGGER = "sqlalchemy.engine.duckdb"
_WAIT_FOR_SESSION = 30.0


class DuckDBBackend(Migrated):
    """One DuckDB database in a file or in memory.

    Sessions write one after the other and read side by side; at most pool_size + max_overflow are open at a time. The
    time zone of every connection to the database in this process is set to UTC, and no extension is ever downloaded. SQL reads
    and writes no other file, attaches no database and changes no setting, unless the URL has ``external_access=true``: the
    file may be a stranger's. Triggers, generated columns and expressions of one's own on our tables need ``trusted=true``.
    """

    backup_scheme: ClassVar[str] = "duckdb"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.MIGRATIONS, Capability.CHOICES, Capability.ISOLATION, Capability.BACKUP}
    )

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        self._options: Options = parse_options(url)
        self._database = Database(self._options)
        self._size = pool_size + max_overflow
        self._places = FairSemaphore(self._size)
        self._lock = self._database.lock
        self._spills = SpillFolder(self._options.spills, given="temp_directory" in url.query)
        self._logger = InstanceLogger(echo, _LOGGER) if echo else logging.getLogger(_LOGGER)
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._sessions = OpenSessions[DuckDBSession]()
        self._closing = False

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        refuse_pickling(self)

    @property
    def engine(self) -> AsyncEngine | None:
        """None: sessions are not SQLAlchemy's."""
        return None

    @property
    def backup_query(self) -> dict[str, str]:
        """A backup of a trusted file is as trustworthy."""
        return {"trusted": "true"} if self._options.trusted else {}

    @property
    def in_use(self) -> int:
        """The sessions that hold a connection; migrations have one of their own."""
        return self._places.taken

    @property
    def capacity(self) -> int:
        """The sessions that can be open at a time."""
        return self._size

    async def connect(self) -> None:
        """Open the file, waiting connect_timeout seconds for one that another process holds; create it where it is missing.

        Raises:
            OperationalError: it cannot be opened; the message says why.
        """
        # one thread a session, so that none waits for another's statement, and one for migrations
        executor = ThreadPoolExecutor(self._size + 1, thread_name_prefix="iftb-store-duckdb")
        deadline = asyncio.get_running_loop().time() + self._options.connect_timeout
        try:
            self._spills.check()
            self._connection = await self._database.open(executor, deadline)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        self._executor = executor
        self._spills.enter()
        self._database.schema_checked = False

    async def disconnect(self, grace: float) -> None:
        """Wait for open sessions at most ``grace`` seconds, roll back and close those left, then close the database."""
        connection, executor = self._connected()
        self._closing = True
        left: list[DuckDBSession] | None = None
        try:
            left = await self._sessions.end(grace)
        finally:
            # a cancelled wait is over too
            left = list(self._sessions) if left is None else left
            try:
                await asyncio.gather(*(session.close(DISCONNECTED, interrupt=True) for session in left))
            finally:
                self._connection = self._executor = None
                self._closing = False
                try:
                    await run_in_thread(executor, connection.close)
                finally:
                    self._spills.leave()
                    executor.shutdown(wait=False)

    async def identity(self) -> str:
        """The file by its device and number; in memory, this backend."""
        return f"memory {id(self)}" if self._options.in_memory else file_identity(self._options.path)

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[DuckDBSession]:
        """Open a session: commit on a clean exit, roll back on an exception and on cancellation.

        Raises:
            OperationalError: no place was free for 30 seconds; or, on a clean exit, an error that was caught inside took
                the transaction with it.
        """
        self._connected()
        if sum(session.iftb_store_backend is self for session in own_sessions()) >= self._size:
            raise operational_error(
                f"this task itself has all {self._size} sessions of the manager open, so that none would ever become free; "
                "use one of them, or raise pool_size"
            )
        if not await self._places.acquire(_WAIT_FOR_SESSION):
            raise operational_error(
                f"all {self._size} sessions of this manager are in use, and none was closed within {_WAIT_FOR_SESSION:g} s; "
                "close sessions sooner, or raise pool_size or max_overflow"
            )
        try:
            # not before the wait, in which the manager may have been disconnected
            connection, executor = self._connected()
            cursor = Cursor(connection.cursor(), self._logger)
            # nothing changes in a database that is open read-only
            wanted = isolation if isolation == "snapshot" or not self._options.read_only else None
            session = DuckDBSession(self._database, cursor, executor, wanted)
            session.iftb_store_backend = self
            with self._sessions.holding(session):
                try:
                    yield session
                    await session.finish()
                except BaseException as error:
                    # whatever comes meanwhile: the write lock is every session's of this process
                    await run_to_end(session.close(interrupt=isinstance(error, asyncio.CancelledError)))
                    if isinstance(error, OperationalError) and session.ended == DISCONNECTED:
                        # what a call says that was interrupted is no reason
                        raise operational_error(DISCONNECTED, error) from error
                    raise
                await run_to_end(session.close())
        finally:
            self._places.release()

    @classmethod
    def stores(cls, session: Any) -> DuckDBStores:
        """Return the stores that work in a session of this backend."""
        return DuckDBStores(session)

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` with a SQLAlchemy connection in one transaction, under the write lock unless it only reads.

        Raises:
            SchemaError: one of our names is something else than a table, or a table of ours runs what another wrote.
            OperationalError: the lock was not free within busy_timeout, or a statement failed.
            IntegrityError: a constraint refused a statement.
        """
        self._connected()
        if not read_only:
            check_own_lock(self._lock)
            if not await self._lock.acquire(self._options.busy_timeout):
                late = operational_error(
                    f"another session of this process is writing and did not finish within {self._options.busy_timeout:g} s; "
                    "close it, then try again",
                    transient=True,
                )
                raise blame_parent(late, self._lock)

        def alone(cursor: duckdb.DuckDBPyConnection) -> T:
            if not read_only and not self._options.read_only and not self._options.in_memory:
                create_log(self._options.path)
            refuse_foreign_objects(lambda sql: cursor.execute(sql).fetchall(), trusted=self._options.trusted)
            return _with_sqlalchemy(cursor, work)

        try:
            # not before the wait, in which the manager may have been disconnected
            connection, executor = self._connected()
            cursor = connection.cursor()
            return await run_in_thread(executor, partial(alone, cursor), cursor.interrupt)
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
        """Copy our tables from one snapshot into a database of their own; ``progress`` is called with its bytes and the source's.

        See `iftb_store.protocols.Backend.backup`. Tables and columns of others are not copied; a warning names them.
        """
        loop = asyncio.get_running_loop()

        def tell(done: int, total: int) -> None:
            loop.call_soon_threadsafe(progress, done, total)

        async with self.session("snapshot") as session:
            await session.run(partial(back_up, options=self._options, path=path, tell=tell))

    def _connected(self) -> tuple[duckdb.DuckDBPyConnection, ThreadPoolExecutor]:
        if self._connection is None or self._executor is None or self._closing:
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
