"""An SQLite connection of the store's: how it waits for the write lock, and how it ends."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import WeakSet

from iftb_store_sqlite.errors import RAISED

# milliseconds; a cancellation is noticed in so long a time
_STEP = 50


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
