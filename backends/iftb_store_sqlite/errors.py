"""Translates sqlite3's exceptions into the errors of iftb-store."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store.errors import integrity_error, operational_error

_DUPLICATE = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID}

_MEANING: dict[int | None, str] = {
    sqlite3.SQLITE_BUSY: "the database is locked by another writer, and the busy timeout has expired",
    sqlite3.SQLITE_LOCKED: "the database is locked by another writer",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened; check that its directory exists and is writable",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged; restore it from a backup",
    sqlite3.SQLITE_READONLY: "the database is read-only: it was opened with mode=ro, or its storage or permissions are read-only",
    sqlite3.SQLITE_FULL: "the disk is full, or a limit of the file's size was reached",
    sqlite3.SQLITE_IOERR: "the disk has failed, or is full",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
}

_NO_TEXT = "Could not decode to UTF-8"

#: The exceptions that sqlite3 raises; UnicodeDecodeError if its message would quote a damaged schema.
RAISED = (sqlite3.Error, UnicodeDecodeError)

#: The error codes of transient errors, which end when the other writer has finished.
_TRANSIENT = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translate(error: sqlite3.Error | UnicodeDecodeError) -> IntegrityError | OperationalError:
    """Return the error to raise for an exception of sqlite3."""
    if isinstance(error, UnicodeDecodeError):
        return operational_error(_MEANING[sqlite3.SQLITE_CORRUPT], error)
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, sqlite3.IntegrityError):
        message = (
            "a row with this key is already stored" if code in _DUPLICATE else "the row violates a constraint of the database"
        )
        return integrity_error(message, error)
    if code is None and _NO_TEXT in str(error):
        # sqlite3's own message quotes the text
        return operational_error("a text in the database is not UTF-8; the file may be damaged, see `iftb-store doctor`", error)
    primary = None if code is None else code & 0xFF
    return operational_error(_MEANING.get(primary) or str(error), error, transient=primary in _TRANSIENT)


def translate_any(error: BaseException, *, lost: bool, committing: bool) -> Exception | None:
    """Return the error to raise for an exception of sqlite3, or None for any other exception.

    ``lost`` and ``committing`` have no effect: there is no server whose connection could be lost.
    """
    return translate(error) if isinstance(error, RAISED) else None
