"""An SQLite connection of the store's: how it waits for the write lock, and how it ends."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Hashable
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import WeakSet

import aiosqlite
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from iftb_store.relational import StorePool
from iftb_store_sqlite.errors import RAISED
from iftb_store_sqlite.storage import Version, read_version
from iftb_store_sqlite.url import Options

# milliseconds; a cancellation is noticed in so long a time
_STEP = 50
# seconds between two looks
_AGAIN = 0.01
# bytes; four times the log at which SQLite brings it into the file
_LOG_LIMIT = 16 << 20


class Driver(sqlite3.Connection):
    """Waits for the write lock in short steps, as SQLite's own wait heeds no interrupt; ends its transaction when it is closed.

    Attributes:
        patience: the seconds to wait for another writer.
        trusted: whether the URL says so of whoever made the file.
    """

    patience = 0.0
    trusted = False
    _interrupts = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Return a new cursor, which ends with the session that it is of."""
        cursor = super().cursor(*args, **options)
        self._cursors.add(cursor)
        return cursor

    def has_cursors(self) -> bool:
        """Whether a cursor is held that has not ended."""
        return len(self._cursors) > 0

    def close_cursors(self) -> None:
        """End what is read in part: it would keep its snapshot, and have SQLite refuse to roll back after an interrupt."""
        for cursor in list(self._cursors):
            with suppress(*RAISED):
                cursor.close()

    def interrupt(self) -> None:
        """Stop the statement that runs in another thread, or its wait for the write lock."""
        self._interrupts += 1
        super().interrupt()

    def begin(self) -> None:
        """Begin a transaction that may write.

        Raises:
            sqlite3.OperationalError: another writer kept the lock for all of ``patience``, or this wait was interrupted.
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
        """Close; an interrupted statement would keep its transaction, and the write lock, alive."""
        self.close_cursors()
        with suppress(*RAISED):
            self.rollback()
        super().close()


def begin(connection: sqlite3.Connection) -> None:
    """Begin a transaction that may write, also on an application's own connection."""
    if isinstance(connection, Driver):
        connection.begin()
    else:
        connection.execute("BEGIN IMMEDIATE")


def savepoint(connection: sqlite3.Connection) -> None:
    """Begin a savepoint, and the transaction that writes if none is open."""
    if not connection.in_transaction:
        begin(connection)
    connection.execute("SAVEPOINT iftb_store")


def release(connection: sqlite3.Connection) -> None:
    """Keep what was done since the savepoint."""
    connection.execute("RELEASE iftb_store")


def undo(connection: sqlite3.Connection) -> None:
    """Roll back to the savepoint and end it."""
    # the transaction may be gone already, or the savepoint released before a cancellation came
    with suppress(sqlite3.OperationalError):
        connection.execute("ROLLBACK TO iftb_store")
        connection.execute("RELEASE iftb_store")


class Pool(StorePool):
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


class StoreConnection(aiosqlite.Connection):
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
        return version is None or read_version(path) != version

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
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
        """Commit, if a transaction is open."""
        if self._lost:
            raise sqlite3.OperationalError("nothing was committed: the transaction was rolled back when a call was cancelled")
        if self.in_transaction or self._left_alone:
            self._left_alone = False
            await self._execute_to_end(self._conn.commit)

    def forget_loss(self) -> None:
        """Let the next session begin anew."""
        self._lost = False

    async def rollback(self) -> None:
        """Roll back, if a transaction is open."""
        self.forget_loss()
        if self.in_transaction or self._left_alone:
            self._left_alone = False
            await self._execute_to_end(self._conn.rollback)


def configure(connection: Driver, options: Options) -> None:
    """Set what every connection of the store has: WAL, synchronous FULL, foreign keys, and the wait for another writer."""
    # before the schema is read: what a stranger's file defines may call no function that could do more than compute
    connection.execute(f"PRAGMA trusted_schema = {'ON' if options.trusted else 'OFF'}")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    # KiB; a big batch then reaches the log once, not page by page as it outgrows the cache
    connection.execute(f"PRAGMA cache_size = -{options.cache}")
    if options.mode != "ro":
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # a log that grew while a reader stayed open would keep its size
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
    connection.execute(f"PRAGMA busy_timeout = {round(options.timeout * 1000)}")
    connection.patience = options.timeout
    connection.trusted = options.trusted


async def _close_cursors(connection: Any) -> None:
    if connection._connection is not None and connection._connection.has_cursors():
        await connection._execute_to_end(connection._conn.close_cursors)
