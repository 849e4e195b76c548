"""The SQLite connections of iftb-store: how they wait for the write lock, are interrupted, and are closed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Hashable
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import WeakSet

import aiosqlite
from sqlalchemy import Connection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from iftb_store.errors import operational_error
from iftb_store.relational import StorePool
from iftb_store_sqlite.errors import RAISED
from iftb_store_sqlite.storage import Version, read_version
from iftb_store_sqlite.url import Options

# milliseconds of one wait for the write lock, after which a cancellation is noticed
_STEP = 50
# seconds between two attempts to interrupt the thread
_AGAIN = 0.01
# bytes; four times the log size at which SQLite copies the log into the database file
_LOG_LIMIT = 16 << 20


class Driver(sqlite3.Connection):
    """An sqlite3 connection that waits for the write lock in short steps and rolls back when it is closed.

    SQLite's own wait for the lock cannot be interrupted, so this class repeats short waits.

    Attributes:
        patience: seconds to wait for another writer.
        trusted: whether the URL has ``trusted=true``, which allows code that was added to the tables of iftb-store.
    """

    patience = 0.0
    trusted = False
    _interrupts = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Return a new cursor; it is recorded so that it can be closed when its session ends."""
        cursor = super().cursor(*args, **options)
        self._cursors.add(cursor)
        return cursor

    def has_cursors(self) -> bool:
        """Return whether any cursor of this connection is still referenced."""
        return len(self._cursors) > 0

    def close_cursors(self) -> None:
        """Close all cursors.

        A cursor that is read in part keeps its snapshot, and makes SQLite refuse a rollback after an interrupt.
        """
        for cursor in list(self._cursors):
            with suppress(*RAISED):
                cursor.close()

    def interrupt(self) -> None:
        """Stop the statement that runs in another thread, or that statement's wait for the write lock."""
        self._interrupts += 1
        super().interrupt()

    def begin(self) -> None:
        """Begin a transaction that may write.

        Raises:
            sqlite3.OperationalError: another writer held the lock for ``patience`` seconds, or this wait was interrupted.
        """
        interrupts, deadline = self._interrupts, monotonic() + self.patience
        self.execute(f"PRAGMA busy_timeout = {min(_STEP, self._timeout)}")
        try:
            while True:
                try:
                    self.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    is_over = monotonic() >= deadline or interrupts != self._interrupts
                    if is_over or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                        raise
        finally:
            self.execute(f"PRAGMA busy_timeout = {self._timeout}")

    @property
    def _timeout(self) -> int:
        return round(self.patience * 1000)

    def close(self) -> None:
        """Roll back and close the connection; an interrupted statement would otherwise keep the write lock."""
        self.close_cursors()
        with suppress(*RAISED):
            self.rollback()
        super().close()


def check_before_commit(connection: Connection) -> None:
    """Raise if the driver's connection was closed during a transaction: SQLAlchemy silently skips COMMIT on a closed connection.

    Raises:
        OperationalError: the transaction was rolled back when the connection was closed.
    """
    driver: Any = connection.connection.driver_connection
    if driver is not None and driver.has_lost_transaction:
        raise operational_error("nothing was committed: the connection was closed, which rolled the transaction back")


def begin(connection: sqlite3.Connection) -> None:
    """Begin a transaction that may write, on a connection of iftb-store or on an application's own."""
    if isinstance(connection, Driver):
        connection.begin()
    else:
        connection.execute("BEGIN IMMEDIATE")


def savepoint(connection: sqlite3.Connection) -> None:
    """Begin a savepoint; if no transaction is open, first begin one that may write."""
    if not connection.in_transaction:
        begin(connection)
    connection.execute("SAVEPOINT iftb_store")


def release(connection: sqlite3.Connection) -> None:
    """Release the savepoint and keep the changes made since it began."""
    connection.execute("RELEASE iftb_store")


def undo(connection: sqlite3.Connection) -> None:
    """Roll back to the savepoint and release it."""
    # the transaction may have ended, or the savepoint may have been released before a cancellation arrived
    with suppress(sqlite3.OperationalError):
        connection.execute("ROLLBACK TO iftb_store")
        connection.execute("RELEASE iftb_store")


class Pool(StorePool):
    """Discards a connection at checkout if it is closed, or if its file was opened as immutable and has changed."""

    def _check_connection(self, record: ConnectionPoolEntry) -> None:
        adapter: Any = record.dbapi_connection
        driver = adapter.driver_connection
        if not driver.is_usable or driver.is_outdated():
            raise DisconnectionError
        # SQLAlchemy's lock belongs to the event loop in which tasks last waited for it
        adapter._execute_mutex = asyncio.Lock()

    def _reset_connection(self, record: ConnectionPoolEntry) -> None:
        adapter: Any = record.dbapi_connection
        # a stream that was not read to its end would show its old snapshot to the next session
        adapter.run_async(_close_cursors)
        driver = adapter.driver_connection
        driver.forget_loss()
        if driver.in_transaction:
            # the COMMIT failed, and SQLAlchemy does not roll back after a failed COMMIT
            record.invalidate()


class StoreConnection(aiosqlite.Connection):
    """An aiosqlite connection that skips commits and rollbacks in its thread if no transaction is open.

    A call on a closed connection raises sqlite3.ProgrammingError.
    """

    write_lock: Hashable = None

    # whether a cancelled task left a call in the thread, which may still begin a transaction
    _left_alone = False
    # whether a transaction was rolled back when SQLite interrupted a write, or when the connection was closed; an application's
    # own session would not notice
    _lost = False
    #: The path and the version of a file that is read as immutable, or None.
    read_as: tuple[str, Version | None] | None = None

    def is_outdated(self) -> bool:
        """Return whether the file was opened as immutable and has changed since."""
        if self.read_as is None:
            return False
        path, version = self.read_as
        return version is None or read_version(path) != version

    @property
    def is_usable(self) -> bool:
        """Whether the connection is open and its thread runs."""
        return self._running and self._connection is not None and self._thread.is_alive()

    async def close(self) -> None:
        """Close the connection and remember whether that rolls back a transaction; see `check_before_commit`."""
        self._lost = self._lost or self.in_transaction
        await super().close()

    @property
    def has_lost_transaction(self) -> bool:
        """Whether the connection was closed while a transaction was open, which rolled the transaction back."""
        return self._lost and self._connection is None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        try:
            return self._connection is not None and self._connection.in_transaction
        except sqlite3.ProgrammingError:
            # the thread has just closed the connection
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
        """Interrupt the thread's calls until it has finished with the connection; only then is the transaction's state known."""
        self._left_alone = False
        stopped = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((stopped, lambda: None))
        while not stopped.done():
            self.interrupt_thread()
            # another cancellation changes nothing: the task is already cancelled
            with suppress(asyncio.CancelledError):
                await asyncio.wait([stopped], timeout=_AGAIN)

    async def _execute_to_end(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # the thread ends if it has a result for an event loop that has been closed
        if not self.is_usable:
            raise sqlite3.ProgrammingError("the connection was closed")
        try:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            self._left_alone = True
            raise

    def interrupt_thread(self) -> None:
        """Stop the call that the thread may be running, so that a cancelled task and later calls need not wait for that call."""
        with suppress(sqlite3.ProgrammingError):
            if self._connection is not None:
                self._connection.interrupt()

    async def commit(self) -> None:
        """Commit if a transaction is open; raise if it was rolled back when a call was cancelled."""
        if self._lost:
            raise sqlite3.OperationalError("nothing was committed: the transaction was rolled back when a call was cancelled")
        if self.in_transaction or self._left_alone:
            self._left_alone = False
            await self._execute_to_end(self._conn.commit)

    def forget_loss(self) -> None:
        """Forget that a transaction was rolled back, so that the next session starts normally."""
        self._lost = False

    async def rollback(self) -> None:
        """Roll back if a transaction is open."""
        self.forget_loss()
        if self.in_transaction or self._left_alone:
            self._left_alone = False
            await self._execute_to_end(self._conn.rollback)


def configure(connection: Driver, options: Options) -> None:
    """Configure a new connection: WAL, synchronous FULL, foreign keys, the cache, and the wait for another writer."""
    # before the schema is read, so that the schema of a stranger's file can call only functions without side effects
    connection.execute(f"PRAGMA trusted_schema = {'ON' if options.trusted else 'OFF'}")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    # in KiB; with a large cache, a big batch is written to the log once, and not page by page when it exceeds the cache
    connection.execute(f"PRAGMA cache_size = -{options.cache}")
    if options.mode != "ro":
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # otherwise a log that grew while a reader was open would keep its size
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
    connection.execute(f"PRAGMA busy_timeout = {round(options.timeout * 1000)}")
    connection.patience = options.timeout
    connection.trusted = options.trusted


async def _close_cursors(connection: Any) -> None:
    if connection._connection is not None and connection._connection.has_cursors():
        await connection._execute_to_end(connection._conn.close_cursors)
