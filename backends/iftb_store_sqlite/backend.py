"""SQLiteBackend: opens one database file (or :memory:), keeps its connections and opens sessions."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeVar

from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from iftb_store.errors import operational_error
from iftb_store.protocols import Capability
from iftb_store.relational import (
    EngineBackend,
    RelationalStores,
    before_write,
    blame_parent,
    check_own_lock,
    find_session,
    is_isolated,
    is_read,
    is_snapshot,
    may_write,
    quote_url,
    run_to_end,
    watch,
)
from iftb_store.values.file_identity import file_identity
from iftb_store_sqlite.backups import Stopped, back_up
from iftb_store_sqlite.connection import Driver, Pool, StoreConnection, begin, check_before_commit, configure
from iftb_store_sqlite.errors import RAISED, translate, translate_any
from iftb_store_sqlite.gaps import SQLiteBars
from iftb_store_sqlite.session import SQLiteDriver
from iftb_store_sqlite.storage import is_not_writable, read_version, refused_error, require_no_log
from iftb_store_sqlite.strangers import refuse_foreign_objects
from iftb_store_sqlite.url import parse_options

T = TypeVar("T")

_MODES = ("ro", "rw", "rwc")
_AGAIN = 0.01


class SQLiteBackend(EngineBackend):
    """SQLite through SQLAlchemy and aiosqlite: WAL, synchronous FULL, foreign keys on, BEGIN IMMEDIATE at the first write.

    URLs: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite:///:memory:`` for one database that lives as long as
    the manager and allows one session at a time.

    Options of the URL:

    - ``timeout`` (or ``busy_timeout``): seconds to wait for another writer (default: 30);
    - ``mode``: ``ro``, ``rw`` (the file must exist) or ``rwc`` (the default); ``ro`` also reads a file on read-only storage;
    - ``cache_size``: KiB of pages that each connection may cache (default: 65536);
    - ``trusted=true``: run triggers, generated columns, expressions and defaults that were added to the tables of iftb-store.
      Without this option, a file with such additions is refused, because a stranger could have made the file.
    """

    probes = False
    isolates = False
    loop_bound = False
    backup_scheme: ClassVar[str] = "sqlite"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.SQLALCHEMY,
            Capability.MIGRATIONS,
            Capability.BAR_KEY,
            Capability.CHOICES,
            Capability.ISOLATION,
            Capability.BACKUP,
            Capability.RECORDS,
            Capability.RAW_WRITES,
            Capability.VIEWS,
        }
    )

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        super().__init__()
        self.shown_url = quote_url(url)
        self._options = parse_options(url)
        self._path = self._options.path
        self._memory = self._options.in_memory
        self.write_lock = f"memory {id(self)}" if self._memory else os.path.realpath(self._path)
        self.pool_options = (
            {"pool_size": 1, "max_overflow": 0} if self._memory else {"pool_size": pool_size, "max_overflow": max_overflow}
        )
        self._echo = echo

    @classmethod
    def find_file(cls, url: URL) -> str | None:
        """Return the path of a URL's file; None for a database in memory."""
        return None if parse_options(url).in_memory else url.database

    async def connect(self) -> None:
        """Create the engine and open the file; a missing file is created so that only its owner can read it."""
        engine = create_async_engine(
            "sqlite+aiosqlite://",
            async_creator=self.refuse_after_disconnect(self._open),
            poolclass=Pool,
            echo=self._echo,
            hide_parameters=True,
            **self.pool_options,
        )
        # before watch() listens, which takes a COMMIT as sent
        event.listen(engine.sync_engine, "commit", check_before_commit)
        watch(engine, translate_any, _transaction_is_gone)
        event.listen(engine.sync_engine, "before_cursor_execute", _begin_before_writes)
        await self.keep_engine(engine, "SELECT COUNT(*) FROM sqlite_master")

    @property
    def backup_query(self) -> dict[str, str]:
        """The URL options for opening a backup of this database: a backup of a trusted file is trusted too."""
        return {"trusted": "true"} if self._options.trusted else {}

    def interrupt(self, driver: Any) -> None:
        """Stop the statement that the connection's thread may be running, so that a cancelled task need not wait for it."""
        driver.interrupt_thread()

    async def identity(self) -> str:
        """Return a text that identifies the database: the file's device and inode number, or for :memory: this object's id()."""
        return f"memory {id(self)}" if self._memory else file_identity(self._path)

    @classmethod
    def stores(cls, session: AsyncSession) -> RelationalStores:
        """Return the objects that read and write rows in a session of a manager, or in an app's own session on aiosqlite."""
        driver = SQLiteDriver(session)
        stores = RelationalStores(driver)
        stores.bars = SQLiteBars(driver)
        return stores

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` in one transaction and return its result.

        Unless ``read_only`` is true, the transaction holds SQLite's write lock and waits at most the busy timeout for it.

        Raises:
            SchemaError: something that is not a table, e.g. a view, has the name of an iftb-store table; or a table of
                iftb-store has a trigger, a generated column or an expression that iftb-store did not create.
            OperationalError: the database is not connected, or the lock was not free in time.
        """
        if self._engine is None:
            raise operational_error("the database is not connected; await connect() first")
        self.schema_seen = False
        if not read_only:
            check_own_lock(self.write_lock)
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            if read_only:
                await connection.exec_driver_sql("BEGIN")
            else:
                try:
                    await driver._execute(begin, driver._conn)
                except RAISED as error:
                    raise blame_parent(translate(error), self.write_lock) from error
            try:
                await driver._execute(refuse_foreign_objects, driver._conn)
            except RAISED as error:
                raise translate(error) from error
            running = asyncio.ensure_future(connection.run_sync(work))
            try:
                result = await asyncio.shield(running)
            except asyncio.CancelledError:
                # the statement could run in its thread for minutes, and everything after it would wait
                self.interrupt(driver)
                running.cancel()
                with suppress(asyncio.CancelledError, DBAPIError):
                    await running
                raise
            await connection.commit()
        return result

    async def backup(self, path: str, progress: Callable[[int, int], None]) -> None:
        """Copy the database in steps, in a connection's thread; see `iftb_store.protocols.Backend.backup`."""
        if self._engine is None:
            raise operational_error("the database is not connected; await connect() first")
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def tell(done: int, total: int) -> None:
            loop.call_soon_threadsafe(progress, done, total)

        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            work = asyncio.ensure_future(driver._execute(back_up, driver._conn, path, stop.is_set, tell))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                stop.set()
                await run_to_end(_wait_until_done(work))
                raise
            except sqlite3.Error as error:
                raise translate(error) from error

    async def _open(self) -> Any:
        if not self._memory:
            self._create_file()
        try:
            return await self._open_target(self._options.target)
        except RAISED as error:
            if self._memory or not is_not_writable(self._path, error):
                raise translate(error) from error
            if self._options.mode != "ro":
                raise refused_error(self._path, error) from error
            require_no_log(self._path, error)
            version = read_version(self._path)
        try:
            connection = await self._open_target(f"{self._options.target}&immutable=1")
        except RAISED as error:
            raise translate(error) from error
        connection.read_as = (self._path, version)
        return connection

    async def _open_target(self, target: str) -> StoreConnection:
        opening = StoreConnection(partial(self._connect, target), iter_chunk_size=64)
        opening.write_lock = self.write_lock
        # a connection that nobody closes must not keep the process running
        opening._thread.daemon = True
        try:
            connection = await opening
            try:
                await self._configure(connection)
            except BaseException:
                # a cancellation too: the thread of the connection must end
                await connection.close()
                raise
        except RAISED:
            # the thread still has a result to deliver to this event loop, which may be closed next
            await asyncio.to_thread(opening._thread.join)
            raise
        return opening

    async def _configure(self, connection: Any) -> None:
        """Configure a connection, and retry within the timeout: SQLite refuses to switch to WAL while another process writes."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._options.timeout
        while True:
            try:
                await connection._execute(configure, connection._conn, self._options)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or now() >= deadline:
                    raise
            await asyncio.sleep(_AGAIN)

    def _connect(self, target: str) -> sqlite3.Connection:
        # no busy timeout yet, because a wait inside the thread would outlast a cancellation
        return sqlite3.connect(target, uri=not self._memory, isolation_level=None, timeout=0, factory=Driver)

    def _create_file(self) -> None:
        if self._options.mode != "rwc":
            return
        try:
            # create the file that a symbolic link points to; SQLite would create it with the permissions of the umask
            os.close(os.open(os.path.realpath(self._path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise operational_error(f"the database file {self._path} cannot be created: {error.strerror}", error) from error


async def _wait_until_done(work: asyncio.Future[Any]) -> None:
    with suppress(Stopped, sqlite3.Error, OSError):
        await work


def _begin_before_writes(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    """Begin a transaction with the write lock before the first write; reads run in autocommit and block nobody.

    A session with an isolation level takes the lock before its first statement, so that nothing that it reads changes before it
    commits. A snapshot session begins a transaction that only reads.
    """
    only_reads = is_snapshot(connection)
    reads = is_read(statement) or (only_reads and not may_write(statement))
    if reads and not is_isolated(connection):
        return
    driver = connection.connection.dbapi_connection
    if not only_reads and driver is not None and not driver.driver_connection.in_transaction:
        check_own_lock(driver.driver_connection.write_lock, find_session(connection))
    if not (reads and only_reads):
        before_write(connection)
    if driver is None or driver.driver_connection.in_transaction:
        return
    try:
        driver.run_async(_begin_to_read if only_reads else _begin)
    except RAISED as error:
        raise blame_parent(translate(error), driver.driver_connection.write_lock, find_session(connection)) from error


async def _begin(connection: Any) -> None:
    await connection._execute(begin, connection._conn)


async def _begin_to_read(connection: Any) -> None:
    await connection._execute(connection._conn.execute, "BEGIN")


def _transaction_is_gone(connection: Connection, error: BaseException) -> bool:
    """Return whether SQLite has rolled back the whole transaction, as it does e.g. when the disk is full."""
    if connection.invalidated:
        return True
    driver = connection.connection.driver_connection
    return driver is None or not driver.in_transaction
