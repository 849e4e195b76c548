"""A file on storage that cannot be written: what SQLite says of it, and when it can be read all the same.

A database with a write-ahead log needs an index of the log beside it, which SQLite makes even for a reader. Where it cannot, an
immutable file can be read without one. SQLite then takes no lock and looks at no log, so it must have none, and is opened
anew as soon as it has changed.
"""

from __future__ import annotations

import os
import sqlite3

from sqlalchemy.exc import OperationalError

from iftb_store.errors import operational_error

_LOGS = ("-wal", "-journal")
_REFUSED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}

#: What a change of a file changes, as far as the file system tells.
Version = tuple[int, ...]


def is_not_writable(path: str, error: BaseException) -> bool:
    """Tell whether a file that can be read failed to open because it, or its directory, cannot be written."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _REFUSED or not os.access(path, os.R_OK):
        return False
    return not (os.access(path, os.W_OK) and os.access(os.path.dirname(os.path.realpath(path)), os.W_OK))  # noqa: PTH120


def refused_error(path: str, error: BaseException) -> OperationalError:
    """Return the error for a file that was to be written."""
    return operational_error(
        f"the database file {path} cannot be written, or a log beside it cannot: its storage or permissions are read-only; "
        "to read it, add ?mode=ro to the URL",
        error,
    )


def require_no_log(path: str, error: BaseException) -> None:
    """Refuse to read a file as immutable where a log lies beside it, whose rows are not in the file.

    Raises:
        OperationalError: the message says what helps.
    """
    if (log := _log(path)) is not None:
        raise operational_error(
            f"the log {log} holds committed rows that are not in the database file yet, or parts to be undone, and it cannot be "
            "read here, where nothing can be written; open it once where it can be written, which brings them into the file, "
            "or copy both files to such a place",
            error,
        )


def read_version(path: str) -> Version | None:
    """Return the version of a file; None where a log lies beside it, or it is gone."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return None if _log(path) else (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _log(path: str) -> str | None:
    for suffix in _LOGS:
        # where a link leads to
        log = os.path.realpath(path) + suffix
        if os.path.exists(log) and os.path.getsize(log):  # noqa: PTH110, PTH202
            return log
    return None
