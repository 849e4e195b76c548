"""Reads a database file on read-only storage: detects such storage, and checks that the file can be read as immutable.

A database with a write-ahead log needs an index of the log beside the file, which SQLite creates even for a reader. If SQLite
cannot create it, the file can still be opened as immutable. SQLite then takes no lock and reads no log. So the file must have no
log, and it is opened anew as soon as it has changed.
"""

from __future__ import annotations

import os
import sqlite3

from sqlalchemy.exc import OperationalError

from iftb_store.errors import operational_error

_LOGS = ("-wal", "-journal")
_REFUSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}

#: Attributes of a file that change when the file changes: device, inode number, size and time of modification.
Version = tuple[int, ...]


def is_not_writable(path: str, error: BaseException) -> bool:
    """Return whether a readable file failed to open because the file or its directory cannot be written."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _REFUSED or not os.access(path, os.R_OK):
        return False
    return not (os.access(path, os.W_OK) and os.access(os.path.dirname(os.path.realpath(path)), os.W_OK))  # noqa: PTH120


def refused_error(path: str, error: BaseException) -> OperationalError:
    """Return the error for a file that was opened for writing and cannot be written."""
    return operational_error(
        f"the database file {path} cannot be written to, or the log beside it cannot: its storage or permissions are read-only; "
        "to read it, add ?mode=ro to the URL",
        error,
    )


def require_no_log(path: str, error: BaseException) -> None:
    """Raise if there is a log beside a file that is to be read as immutable, because the log's rows are not in the file.

    Raises:
        OperationalError: there is a log; the message gives the remedy.
    """
    if (log := _log(path)) is not None:
        raise operational_error(
            f"the log {log} holds changes that are not in the database file yet, and SQLite cannot read the log on read-only "
            "storage; open the database once with write access, which moves the changes into the file, or copy both files to "
            "a writable directory",
            error,
        )


def read_version(path: str) -> Version | None:
    """Return a file's device, inode, size and modification time; None if the file is missing or has a log beside it."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return None if _log(path) else (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _log(path: str) -> str | None:
    for suffix in _LOGS:
        # SQLite puts the log beside the file that a symbolic link points to
        log = os.path.realpath(path) + suffix
        if os.path.exists(log) and os.path.getsize(log):  # noqa: PTH110, PTH202
            return log
    return None
