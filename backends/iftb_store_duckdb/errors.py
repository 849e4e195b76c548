"""Translates DuckDB's exceptions by type into SQLAlchemy's IntegrityError and OperationalError."""

from __future__ import annotations

import re

import duckdb
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store.columnar import describe_failure, read_first_line
from iftb_store.errors import integrity_error, operational_error

_CLOSED = "disabled by configuration"
_LOCKED = "the configuration has been locked"
_MEMORY = "memory limit"
_HOLDER = re.compile(r"Conflicting lock is held in (.*?\(PID \d+\))")
_HELD = re.compile(r"Conflicting lock|set lock on file|used by another process")
_READ_ONLY = re.compile(r"Read-only file system|Permission denied")
FOREIGN = "not a valid DuckDB database file"


def map_error(error: duckdb.Error) -> IntegrityError | OperationalError:
    """Return the error to raise for an exception of DuckDB; its message contains no parameters."""
    message = describe_failure(error)
    if isinstance(error, duckdb.OutOfMemoryException) or (isinstance(error, duckdb.FatalException) and _MEMORY in str(error)):
        # DuckDB processes 2,048 rows at once, however long their texts are
        message = f"{message}; give DuckDB more memory in the URL, e.g. ?memory_limit=1GB"
    if isinstance(error, duckdb.PermissionException) and _CLOSED in message:
        message = f"{message}; your SQL needs ?external_access=true in the URL to work with files"
    if _LOCKED in message:
        message += (
            "; set threads, memory_limit or temp_directory in the URL, or add ?external_access=true to change other settings"
        )
    if isinstance(error, duckdb.ConstraintException):
        return integrity_error(message, error)
    # a TransactionException is a conflict with another transaction
    return operational_error(message, error, transient=isinstance(error, duckdb.TransactionException))


def is_held_elsewhere(error: duckdb.Error) -> bool:
    """Return whether a file could not be opened because another process has it open."""
    return isinstance(error, duckdb.IOException) and _HELD.search(str(error)) is not None


def cannot_open_error(path: str, error: duckdb.Error) -> OperationalError:
    """Return the error for a database that could not be opened; the message gives the reason and the remedy."""
    if is_held_elsewhere(error):
        found = _HOLDER.search(str(error))
        holder = found[1] if found else "a process that DuckDB does not name"
        reason = (
            f"another process has it open: {holder}; close it there (or call backup(db) in that process for a backup), "
            "or open the file with access_mode=read_only in every process"
        )
    elif isinstance(error, duckdb.ConnectionException):
        reason = (
            "this process has it open with other options (access_mode, external_access, memory_limit …); use the same URL options"
        )
    elif isinstance(error, duckdb.SerializationException) or FOREIGN in str(error):
        reason = "the file is damaged or not a DuckDB database"
    else:
        reason = read_first_line(error)
        if _READ_ONLY.search(reason):
            reason += "; to read it, add ?access_mode=read_only to the URL"
    return operational_error(f"cannot open {path}: {reason}", error)
