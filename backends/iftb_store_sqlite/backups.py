"""Backs up an SQLite database with SQLite's online backup in one read transaction, and checks the copy for damage."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

from iftb_store.errors import operational_error

# pages per step; a step takes a few milliseconds
_PAGES = 1_024
# the largest value in bytes that generated columns of other tables may compute during the check
_LONGEST = 128 << 20
# instructions of SQLite's virtual machine between two checks of whether to stop
_STEPS = 100_000


class Stopped(Exception):
    """Raised by `back_up` and `check` when their argument ``stop`` returns True."""


def back_up(connection: sqlite3.Connection, path: str, stop: Callable[[], bool], tell: Callable[[int, int], None]) -> None:
    """Copy a database, as of its last commit, into a new file that needs no log file beside it.

    Args:
        connection: the database to copy.
        path: the path of the new file.
        stop: returns whether to stop the backup.
        tell: called after each step with the number of bytes copied and the total number of bytes.

    Raises:
        OperationalError: the database is damaged.
        Stopped: ``stop`` returned True.
    """
    size = connection.execute("PRAGMA page_size").fetchone()[0]

    def report(_: int, remaining: int, total: int) -> None:
        if stop():
            raise Stopped
        tell((total - remaining) * size, total * size)

    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        # without a transaction, the backup would start again after each commit of another session; this one blocks no writer
        connection.execute("BEGIN")
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            connection.backup(copy, pages=_PAGES, progress=report)
        finally:
            connection.execute("COMMIT")
        # only a database that is written needs a write-ahead log
        copy.execute("PRAGMA journal_mode = DELETE")
        check(copy, stop)


def check(connection: sqlite3.Connection, stop: Callable[[], bool]) -> None:
    """Check a database for damage; ``stop`` returns whether to stop the check.

    Raises:
        OperationalError: the database is damaged.
        Stopped: ``stop`` returned True.
    """
    connection.set_progress_handler(stop, _STEPS)
    # a value that violates a CHECK is not damage, and expressions in the CHECKs of other tables must not run
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
        raise operational_error(f"the database is damaged, so its backup would be damaged too: {found}; restore an older backup")
