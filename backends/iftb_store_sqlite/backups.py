"""A backup of an SQLite database: its own online backup within one read transaction, then looked through for damage."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

from iftb_store.errors import operational_error

# of a step, a few milliseconds each
_PAGES = 1_024
# bytes of a value that a generated column of others' tables may come to meanwhile
_LONGEST = 128 << 20
# steps of SQLite's machine between two looks at whether to stop
_STEPS = 100_000


class Stopped(Exception):
    """The backup was to stop."""


def back_up(connection: sqlite3.Connection, path: str, stop: Callable[[], bool], tell: Callable[[int, int], None]) -> None:
    """Copy a database, as its last commit left it, into a new file that needs none beside it.

    ``tell`` is called after each step with the bytes done and the bytes in all.

    Raises:
        OperationalError: the database is damaged.
        Stopped: ``stop`` said so.
    """
    size = connection.execute("PRAGMA page_size").fetchone()[0]

    def look(_: int, remaining: int, total: int) -> None:
        if stop():
            raise Stopped
        tell((total - remaining) * size, total * size)

    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        # without a transaction of its own it would begin anew after each commit of another session; no writer waits for this one
        connection.execute("BEGIN")
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            connection.backup(copy, pages=_PAGES, progress=look)
        finally:
            connection.execute("COMMIT")
        # a log is for those who write
        copy.execute("PRAGMA journal_mode = DELETE")
        check(copy, stop)


def check(connection: sqlite3.Connection, stop: Callable[[], bool]) -> None:
    """Look through a database for damage.

    Raises:
        OperationalError: there is some.
        Stopped: ``stop`` said so.
    """
    connection.set_progress_handler(stop, _STEPS)
    # a value that breaks a CHECK is no damage, and what tables of others compute in theirs is not to be run
    connection.execute("PRAGMA ignore_check_constraints = ON")
    usual = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        if stop():
            raise Stopped from None
        raise
    finally:
        connection.set_progress_handler(None, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, usual)
        connection.execute("PRAGMA ignore_check_constraints = OFF")
    if found != "ok":
        raise operational_error(f"the database is damaged, and its backup would be too: {found}; restore it from an older backup")
