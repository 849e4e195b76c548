"""Translates asyncpg's exceptions by class and SQLSTATE into the errors of iftb-store."""

from __future__ import annotations

import re
import ssl

import asyncpg
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store.errors import integrity_error, operational_error, outcome_unknown
from iftb_store.schema.revision import OUR_TABLES
from iftb_store_postgres.poolers import PGBOUNCER, REMEDY, is_transient_message

_UNIQUE_VIOLATION, _CHECK_VIOLATION = "23505", "23514"
_INTEGRITY_CLASS = "23"
_DATA_CLASS = "22"
_UNTRANSLATABLE = "22P05"
_INVALID_TEXT = "22021"
_INSUFFICIENT_PRIVILEGE = "42501"
# errors of row security are recognised by the server's functions that raise them, because its messages may be in any language
_OF_POLICIES = ("ExecWithCheckOptions", "check_enable_rls")
_OURS = re.compile(rf"\b(?:{'|'.join(OUR_TABLES)})\b")
_ENCODING = re.compile(r"\b[A-Z][A-Z0-9]{2,}(?:_[A-Z0-9_]+)?\b")
_BYTE = re.compile(r"\b0x([0-9a-f]{2})\b")
_CLIENT = (asyncpg.InterfaceError, asyncpg.InternalClientError)

_MEANING = {
    "25P02": "the transaction was aborted by an earlier error",
    "25006": "the database does not accept writes: the transaction is read-only",
    "28P01": "the password was refused",
    "28000": "the server refuses this user",
    "3D000": "the database does not exist",
    "3F000": (
        "no schema has been selected to create in: the search_path has no schema that exists and that this role may use; "
        "create one, or as its owner: GRANT USAGE, CREATE ON SCHEMA … TO …"
    ),
    "40001": "the transaction conflicts with a concurrent one (serialization failure); run it again",
    "40P01": "the transaction was rolled back to resolve a deadlock; run it again",
    "53100": "the server's disk is full",
    "53300": "the server has no connection left (max_connections)",
    "55P03": "a lock was not granted in time",
    "57014": "the statement was canceled, by its timeout or by a user",
    "57P01": "the connection was terminated by an administrator",
    "57P02": "the server crashed and ended the connection",
    "57P03": "the server is starting up or shutting down",
}


#: SQLSTATEs of transient errors: the transaction is gone, and another attempt may succeed.
_TRANSIENT = frozenset(
    ("08000", "08001", "08003", "08006", "40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03", "57P05")
)
#: SQLSTATEs that leave the outcome of a COMMIT unknown: _OUTCOME_UNKNOWN always, _NO_ANSWER only while a COMMIT runs.
_OUTCOME_UNKNOWN = frozenset(("08007", "40003"))
_NO_ANSWER = frozenset(("08000", "08001", "08003", "08006", "57P01", "57P02", "57P03", "57P05")) | _OUTCOME_UNKNOWN
_GRANT = "connect as a role that has this right, or let the owner GRANT it to this role"
#: SQLSTATEs of errors about a prepared statement that does not exist, or that exists already.
_PREPARED = frozenset(("26000", "42P05"))


def translate(error: BaseException, *, lost: bool = False, committing: bool = False) -> IntegrityError | OperationalError | None:
    """Return the error to raise for an exception of the driver or the network; None for any other exception.

    The error quotes PostgreSQL's own one-line message, which names constraints and columns. Values appear only in PostgreSQL's
    DETAIL, which is not quoted.

    Args:
        error: the exception that was raised.
        lost: whether the connection is closed.
        committing: whether a COMMIT was running.
    """
    if isinstance(error, asyncpg.PostgresError):
        return _find_by_state(error, error.sqlstate or "", committing)
    if isinstance(error, asyncpg.DataError):
        return operational_error(f"a value does not fit the type of its column or parameter ({type(error).__name__})", error)
    if committing and (isinstance(error, OSError) or (lost and isinstance(error, _CLIENT))):
        return outcome_unknown(error)
    if isinstance(error, _CLIENT):
        message = f"the connection cannot be used: {error.args[0] if error.args else error}"
        return operational_error(message, error, transient=lost)
    if isinstance(error, TimeoutError):
        return operational_error("the server did not answer in time", error, transient=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return operational_error(f"the server's certificate was refused: {error.verify_message.rstrip('.')}", error)
    if isinstance(error, ssl.SSLError):
        return operational_error(f"TLS failed: {error.reason or error}", error)
    if isinstance(error, OSError):
        # the permissions of a file will still be wrong at the next attempt
        passes = not isinstance(error, PermissionError)
        return operational_error(f"the server cannot be reached: {error.strerror or error}", error, transient=passes)
    return None


def _find_by_state(error: asyncpg.PostgresError, state: str, committing: bool) -> IntegrityError | OperationalError:
    message = str(error.args[0]) if error.args else type(error).__name__
    if state in (_NO_ANSWER if committing else _OUTCOME_UNKNOWN):
        return outcome_unknown(error)
    if state == _UNIQUE_VIOLATION:
        return integrity_error("a row with this key is already stored", error)
    if state == _CHECK_VIOLATION and error.table_name and not error.constraint_name:
        # not an IntegrityError, because a bot would conclude that the row is already stored
        table = error.table_name
        return operational_error(
            f"{table} has no partition for the row; create it: CREATE TABLE … PARTITION OF {table} FOR VALUES …", error
        )
    if state.startswith(_INTEGRITY_CLASS):
        return integrity_error(message, error)
    if state == _UNTRANSLATABLE:
        return operational_error(_untranslatable(message), error)
    if state == _INVALID_TEXT:
        return operational_error(f"a text contains bytes that are not valid in its encoding ({type(error).__name__})", error)
    if state.startswith(_DATA_CLASS):
        # the server's message contains the value
        return operational_error(f"a value does not fit the type of its column or parameter ({type(error).__name__})", error)
    if state == _INSUFFICIENT_PRIVILEGE:
        by_policy = error.server_source_function in _OF_POLICIES
        remedy = "connect as the owner of the tables, or as a role with BYPASSRLS" if by_policy else _GRANT
        return operational_error(f"{message}; {remedy}", error)
    if state in _PREPARED:
        return operational_error(f"{message}; {REMEDY}", error)
    transient = state in _TRANSIENT or (state == PGBOUNCER and is_transient_message(message))
    return operational_error(_MEANING.get(state, message), error, transient=transient)


def describe_denied(error: asyncpg.InsufficientPrivilegeError, role: str, *, writes: bool) -> OperationalError | None:
    """Return an error that says which rights to GRANT to the role.

    Return None if the exception is not about missing rights on a table of iftb-store.

    Args:
        error: the exception that was raised.
        role: the name of the role, quoted as SQL.
        writes: whether the statement was to write rows.
    """
    table = None if error.server_source_function in _OF_POLICIES else _OURS.search(str(error))
    if table is None:
        return None
    rights = "SELECT, INSERT, UPDATE, DELETE" if writes else "SELECT"
    return operational_error(f"{error}; as the owner: GRANT {rights} ON {table[0]} TO {role}", error)


def _untranslatable(message: str) -> str:
    """Return a message about a text that cannot be converted between the database's encoding and the client's.

    The names of the encodings, and the character if the client sent it, are found in the server's message in any language.
    """
    source, target = [*_ENCODING.findall(message), "another", "another"][:2]
    if source != "UTF8":
        return f"a text that is stored in the database's encoding {source} has no equivalent in {target}"
    character = bytes.fromhex("".join(_BYTE.findall(message))).decode(errors="replace")
    numbers = " ".join(f"U+{ord(part):04X}" for part in character)
    return (
        f"the database's encoding {target} cannot hold {character!r} ({numbers}); "
        "create a database with ENCODING 'UTF8' TEMPLATE template0, and copy this one to it with `iftb-store copy`"
    )
