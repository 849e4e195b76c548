"""What an exception of asyncpg means to a user of the store, by its class and SQLSTATE."""

from __future__ import annotations

import asyncpg
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store.errors import integrity_error, operational_error

_UNIQUE_VIOLATION = "23505"
_INTEGRITY_CLASS = "23"
_DATA_CLASS = "22"

_MEANING = {
    "25P02": "the transaction was aborted by an earlier error",
    "25006": "the database takes no writes: the transaction is read-only",
    "28P01": "the password was refused",
    "28000": "the server refuses this user",
    "3D000": "the database does not exist",
    "40001": "the transaction conflicts with a concurrent one (serialization failure); run it again",
    "40P01": "the transaction was ended to resolve a deadlock; run it again",
    "53100": "the server's disk is full",
    "53300": "the server has no connection left (max_connections)",
    "55P03": "a lock was not granted in time",
    "57014": "the statement was canceled, by its timeout or by a user",
    "57P01": "the connection was terminated by an administrator",
    "57P02": "the server crashed and ended the connection",
    "57P03": "the server is starting up or shutting down",
}


def translate(error: BaseException) -> IntegrityError | OperationalError | None:
    """Return the error to raise for one of the driver's or the network's, None for any other.

    PostgreSQL's own one-line message stands in it, which names constraints and columns; values stand in its DETAIL only.
    """
    if isinstance(error, asyncpg.PostgresError):
        return _of_state(error, error.sqlstate or "")
    if isinstance(error, asyncpg.DataError):
        return operational_error(f"a value does not fit the type of its column or parameter ({type(error).__name__})", error)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return operational_error(f"the connection cannot be used: {error.args[0] if error.args else error}", error)
    if isinstance(error, TimeoutError):
        return operational_error("the server did not answer in time", error)
    if isinstance(error, OSError):
        return operational_error(f"the server cannot be reached: {error.strerror or error}", error)
    return None


def _of_state(error: asyncpg.PostgresError, state: str) -> IntegrityError | OperationalError:
    message = str(error.args[0]) if error.args else type(error).__name__
    if state == _UNIQUE_VIOLATION:
        return integrity_error("a row with this key is stored already, or stands twice in the batch", error)
    if state.startswith(_INTEGRITY_CLASS):
        return integrity_error(message, error)
    if state.startswith(_DATA_CLASS):
        # the server's own words hold the value
        return operational_error(f"a value does not fit the type of its column or parameter ({type(error).__name__})", error)
    return operational_error(_MEANING.get(state, message), error)
