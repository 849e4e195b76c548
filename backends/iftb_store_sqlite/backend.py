"""SQLiteBackend: one database file (or :memory:), its engine, sessions and life cycle."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import aiosqlite
from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from iftb_store.errors import URLError, operational_error
from iftb_store.identity import file_identity
from iftb_store.open_sessions import blame_parent, check_own_lock
from iftb_store.protocols import Capability
from iftb_store.relational import (
    EngineBackend,
    RelationalStores,
    StorePool,
    before_write,
    is_read,
    isolated,
    may_write,
    session_of,
    snapshot,
    uncancelled,
    watch,
)
from iftb_store_sqlite.backups import Stopped, back_up
from iftb_store_sqlite.connection import Driver, begin
from iftb_store_sqlite.driver import SQLiteDriver
from iftb_store_sqlite.errors import RAISED, translate, translate_any
from iftb_store_sqlite.storage import Version, cannot_be_written, refused, require_no_log, version_of
from iftb_store_sqlite.strangers import refuse_foreign_objects

T = TypeVar("T")

_OPTIONS = ("timeout", "busy_timeout", "mode", "cache_size", "trusted")
_BOOLEANS = {"true": True, "false": False}
_MODES = ("ro", "rw", "rwc")
_AGAIN = 0.01
# bytes; four times the log at which SQLite brings it into the file
_LOG_LIMIT = 16 << 20


class SQLiteBackend(EngineBackend):
    """SQLite through SQLAlchemy and aiosqlite: WAL, synchronous FULL, foreign keys on, BEGIN IMMEDIATE at the first write.

    URLs: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite:///:memory:`` (one database for the life of the
    manager, one session at a time). Options: ``timeout`` (or ``busy_timeout``), the seconds to wait for another writer,
    30 by default; ``mode``, one of ro, rw (the file must exist) and rwc; ro reads a file on storage that cannot be written, too;
    ``trusted=true``: triggers, generated columns, expressions and defaults of one's own on our tables are run, which else refuse
    the file as a stranger's.
    """

    probes = False
    isolates = False
    loop_bound = False
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            Capability.SQLALCHEMY,
            Capability.MIGRATIONS,
            Capability.BAR_KEY,
            Capability.CHOICES,
            Capability.ISOLATION,
            Capability.BACKUP,
        }
    )

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        super().__init__()
        if url.host or url.username or url.password or url.port:
            raise URLError("an SQLite URL has no host or user; write sqlite:///relative.db or sqlite:////absolute.db")
        unknown = set(url.query) - set(_OPTIONS)
        if unknown:
            raise URLError(f"unknown option {sorted(unknown)[0]!r} in the SQLite URL; the known ones are {', '.join(_OPTIONS)}")
        self._memory = url.database in (None, "", ":memory:")
        self._path = os.fspath(Path(url.database or "").absolute())
        self._mode = _mode(url)
        self._target = ":memory:" if self._memory else f"file:{quote(self._path)}?mode={self._mode}"
        self.write_lock = f"memory {id(self)}" if self._memory else os.path.realpath(self._path)
        self._timeout = _seconds(url)
        self._cache = _cache(url)
        self._trusted = _trusted(url)
        self._pool = (
            {"pool_size": 1, "max_overflow": 0} if self._memory else {"pool_size": pool_size, "max_overflow": max_overflow}
        )
        self._echo = echo

    async def connect(self) -> None:
        """Open the file, creating it readable by its owner alone where it is missing."""
        engine = create_async_engine(
            "sqlite+aiosqlite://",
            async_creator=self._opening(self._open),
            poolclass=_Pool,
            echo=self._echo,
            hide_parameters=True,
            **self._pool,
        )
        watch(engine, translate_any, _transaction_is_gone)
        event.listen(engine.sync_engine, "before_cursor_execute", _begin_before_writes)
        await self._keep(engine, "SELECT COUNT(*) FROM sqlite_master")

    def interrupt(self, driver: Any) -> None:
        """Stop the statement that the connection's thread may be running: a cancelled task would wait for its end."""
        driver.interrupt_thread()

    async def identity(self) -> str:
        """The file by its device and number; in memory, this backend."""
        return f"memory {id(self)}" if self._memory else file_identity(self._path)

    @classmethod
    def stores(cls, session: AsyncSession) -> RelationalStores:
        """Return the stores of a session, a manager's or an app's own on aiosqlite."""
        return RelationalStores(SQLiteDriver(session))

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` in one transaction; under SQLite's write lock, waiting for it as long as the busy timeout, or reading.

        Raises:
            SchemaError: one of our names is something else than a table, or a table of ours runs what another wrote.
        """
        if self._engine is None:
            raise operational_error("the database is not connected")
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
                # the statement would go on in its thread, be it for minutes, and all that follows would wait for it
                self.interrupt(driver)
                running.cancel()
                with suppress(asyncio.CancelledError, DBAPIError):
                    await running
                raise
            await connection.commit()
        return result

    async def backup(self, path: str, progress: Callable[[int, int], None]) -> None:
        """Copy the database in steps of a connection's thread; see `iftb_store.protocols.Backend.backup`."""
        if self._engine is None:
            raise operational_error("the database is not connected")
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
                await uncancelled(_ended(work))
                raise
            except sqlite3.Error as error:
                raise translate(error) from error

    async def _open(self) -> Any:
        if not self._memory:
            self._create_file()
        try:
            return await self._opened(self._target)
        except RAISED as error:
            if self._memory or not cannot_be_written(self._path, error):
                raise translate(error) from error
            if self._mode != "ro":
                raise refused(self._path, error) from error
            require_no_log(self._path, error)
            version = version_of(self._path)
        try:
            connection = await self._opened(f"{self._target}&immutable=1")
        except RAISED as error:
            raise translate(error) from error
        connection.read_as = (self._path, version)
        return connection

    async def _opened(self, target: str) -> _Connection:
        opening = _Connection(partial(self._connect, target), iter_chunk_size=64)
        opening.write_lock = self.write_lock
        # a connection that nobody closes must not keep the process alive
        opening._thread.daemon = True
        try:
            connection = await opening
            try:
                await self._configured(connection)
            except BaseException:
                await connection.close()
                raise
        except RAISED:
            # its thread still has a word for this event loop, which may be closed next
            await asyncio.to_thread(opening._thread.join)
            raise
        return opening

    async def _configured(self, connection: Any) -> None:
        """Set up a connection; while another one writes a file without a write-ahead log, SQLite refuses the switch to it."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._timeout
        while True:
            try:
                await connection._execute(_configure, connection._conn, self)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or now() >= deadline:
                    raise
            await asyncio.sleep(_AGAIN)

    def _connect(self, target: str) -> sqlite3.Connection:
        # no busy timeout yet: a wait in the thread would outlast a cancellation
        return sqlite3.connect(target, uri=not self._memory, isolation_level=None, timeout=0, factory=Driver)

    def _create_file(self) -> None:
        if self._mode != "rwc":
            return
        try:
            # where a link leads, or SQLite would make that file by the umask
            os.close(os.open(os.path.realpath(self._path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise operational_error(f"the database file {self._path} cannot be created: {error.strerror}", error) from error


async def _ended(work: asyncio.Future[Any]) -> None:
    with suppress(Stopped, sqlite3.Error, OSError):
        await work


class _Pool(StorePool):
    """Gives no connection out whose thread has ended, or whose immutable file has changed since it was opened."""

    def _look(self, record: ConnectionPoolEntry) -> None:
        adapter: Any = record.dbapi_connection
        driver = adapter.driver_connection
        if not driver._thread.is_alive() or driver.is_outdated():
            raise DisconnectionError
        # SQLAlchemy's belongs to the event loop in which tasks last waited for it
        adapter._execute_mutex = asyncio.Lock()

    def _settle(self, record: ConnectionPoolEntry) -> None:
        adapter: Any = record.dbapi_connection
        # a stream that was left would show its old snapshot to the next session
        adapter.run_async(_close_cursors)
        driver = adapter.driver_connection
        driver.forget_loss()
        if driver.in_transaction:
            # its COMMIT was refused, and SQLAlchemy rolls none back after that
            record.invalidate()


class _Connection(aiosqlite.Connection):
    """Leaves out the trips to its thread that would end no transaction; closed, it says so in sqlite3's way."""

    write_lock: Hashable = None

    # what a cancelled task has left in the thread may begin one yet
    _left_alone = False
    # whether SQLite has rolled a transaction back with an interrupted write, which an application's session would not know
    _lost = False
    #: The path and the version of a file that is read as immutable.
    read_as: tuple[str, Version | None] | None = None

    def is_outdated(self) -> bool:
        """Whether the file was taken for one that does not change, and has changed."""
        if self.read_as is None:
            return False
        path, version = self.read_as
        return version is None or version_of(path) != version

    @property
    def in_transaction(self) -> bool:
        try:
            return self._connection is not None and self._connection.in_transaction
        except sqlite3.ProgrammingError:
            # its thread has just closed it
            return False

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        had_begun = self.in_transaction
        try:
            return await self._execute_to_end(fn, *args, **kwargs)
        except asyncio.CancelledError:
            await self._stop_thread()
            self._lost = had_begun and not self.in_transaction
            raise

    async def _stop_thread(self) -> None:
        """Interrupt what the thread runs until it has let go of the connection, whose transaction is known only then."""
        self._left_alone = False
        stopped = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((stopped, lambda: None))
        while not stopped.done():
            self.interrupt_thread()
            # cancelled once more meanwhile, the task is as cancelled as before
            with suppress(asyncio.CancelledError):
                await asyncio.wait([stopped], timeout=_AGAIN)

    async def _execute_to_end(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # its thread ends where it has an answer for an event loop that was closed meanwhile
        if not self._running or self._connection is None or not self._thread.is_alive():
            raise sqlite3.ProgrammingError("the connection was closed")
        try:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            self._left_alone = True
            raise

    def interrupt_thread(self) -> None:
        """Stop what the thread may be running: a cancelled task, and all that follows, would wait for its end."""
        with suppress(sqlite3.ProgrammingError):
            if self._connection is not None:
                self._connection.interrupt()

    async def commit(self) -> None:
        if self._lost:
            raise sqlite3.OperationalError("nothing was committed: the transaction was rolled back when a call was cancelled")
        if self.in_transaction or self._left_alone:
            self._left_alone = False
            await self._execute_to_end(self._conn.commit)

    def forget_loss(self) -> None:
        """Let the next session begin anew."""
        self._lost = False

    async def rollback(self) -> None:
        self.forget_loss()
        if self.in_transaction or self._left_alone:
            self._left_alone = False
            await self._execute_to_end(self._conn.rollback)


def _configure(connection: Driver, backend: SQLiteBackend) -> None:
    connection.trusted = backend._trusted
    # before the schema is read: what a stranger's file defines may call no function that could do more than compute
    connection.execute(f"PRAGMA trusted_schema = {'ON' if backend._trusted else 'OFF'}")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    # KiB; a big batch then reaches the log once, not page by page as it outgrows the cache
    connection.execute(f"PRAGMA cache_size = -{backend._cache}")
    if backend._mode != "ro":
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # a log that grew while a reader stayed open would keep its size
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
    connection.execute(f"PRAGMA busy_timeout = {round(backend._timeout * 1000)}")
    connection.patience = backend._timeout


def _begin_before_writes(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    """Take the write lock before the first write, not before reads, which run in autocommit and block nobody.

    A session that asked for more isolation takes it at once: nothing that it read changes before it commits.
    """
    only_reads = snapshot(connection)
    reads = is_read(statement) or (only_reads and not may_write(statement))
    if reads and not isolated(connection):
        return
    driver = connection.connection.dbapi_connection
    if not only_reads and driver is not None and not driver.driver_connection.in_transaction:
        check_own_lock(driver.driver_connection.write_lock, session_of(connection))
    if not (reads and only_reads):
        before_write(connection)
    if driver is None or driver.driver_connection.in_transaction:
        return
    try:
        driver.run_async(_begin_to_read if only_reads else _begin)
    except RAISED as error:
        raise blame_parent(translate(error), driver.driver_connection.write_lock, session_of(connection)) from error


async def _close_cursors(connection: Any) -> None:
    if connection._connection is not None and connection._connection.has_cursors():
        await connection._execute_to_end(connection._conn.close_cursors)


async def _begin(connection: Any) -> None:
    await connection._execute(begin, connection._conn)


async def _begin_to_read(connection: Any) -> None:
    await connection._execute(connection._conn.execute, "BEGIN")


def _transaction_is_gone(connection: Connection, error: BaseException) -> bool:
    """Tell whether SQLite has rolled the whole transaction back, as it does when the disk is full, say."""
    if connection.invalidated:
        return True
    driver = connection.connection.driver_connection
    return driver is None or not driver.in_transaction


def _mode(url: URL) -> str:
    mode = url.query.get("mode", "rwc")
    if mode not in _MODES:
        raise URLError(f"mode must be one of {', '.join(_MODES)} in the SQLite URL, not {str(mode)[:20]!r}")
    return str(mode)


def _trusted(url: URL) -> bool:
    given = str(url.query.get("trusted", "false"))
    if given.lower() not in _BOOLEANS:
        raise URLError(f"trusted must be true or false in the SQLite URL, not {given[:20]!r}")
    return _BOOLEANS[given.lower()]


def _cache(url: URL) -> int:
    """Return how many KiB of pages a connection may keep."""
    given = url.query.get("cache_size", "65536")
    if not re.fullmatch(r"[1-9]\d{0,8}", str(given), re.ASCII):
        raise URLError(f"cache_size must be a number of KiB, at least 1, in the SQLite URL, not {str(given)[:20]!r}")
    return int(str(given))


def _seconds(url: URL) -> float:
    given = url.query.get("timeout", url.query.get("busy_timeout", "30"))
    try:
        seconds = float(str(given))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise URLError(f"timeout must be seconds between 0 and 3600 in the SQLite URL, not {str(given)[:20]!r}")
    return seconds
