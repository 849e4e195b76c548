"""Support for poolers such as PgBouncer, which refuse startup parameters or use several server connections for a client."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import asyncpg

#: The remedy if a statement was prepared on one server connection and run on another.
REMEDY = "behind a pooler in transaction mode add statement_cache_size=0 to the URL"

#: The SQLSTATE of every error of PgBouncer, including errors of a server that PgBouncer could not log in to.
PGBOUNCER = "08P01"

_NOT_NOW = re.compile(
    "no more connections|too many clients|remaining connection slots|starting up|shutting down|in recovery mode|"
    "cannot connect to server|server login has been failing|(client_login|query_wait)_timeout"
)
_REFUSAL = re.compile(r"unsupported startup parameter(?: in options)?: (\w+)")
# splits a list of names as PostgreSQL does: a quoted name, or the text up to the next comma
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s",]+))\s*(?:,|$)')


def find_refused_parameter(error: BaseException, sent: Iterable[str]) -> str | None:
    """Return the name of the startup parameter that a pooler refused, or None if ``error`` reports something else.

    ``sent`` are the names of the startup parameters that were sent.
    """
    if not isinstance(error, asyncpg.PostgresError) or (match := _REFUSAL.search(str(error))) is None:
        return None
    return next((name for name in sent if name.lower() == match[1].lower()), None)


async def find_ignored_parameters(connection: asyncpg.Connection, sent: Mapping[str, str]) -> set[str]:
    """Return which of the startup parameters statement_timeout and search_path a pooler has ignored."""
    try:
        # without a transaction a pooler may prepare the statement on one server connection and run it on another
        async with connection.transaction():
            rows = await connection.fetch(
                "SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'search_path')"
            )
    except BaseException:
        # a cancellation too: the state of the connection is then unknown
        connection.terminate()
        raise
    return {name for name, setting in rows if setting != sent.get(name, setting)}


def is_transient_message(message: str) -> bool:
    """Return whether an error message of PgBouncer reports a transient condition, so that another attempt may succeed."""
    return _NOT_NOW.search(message) is not None


def set_local(settings: Mapping[str, str]) -> str:
    """Return the statements that set parameters for one transaction; a plain SET would affect other clients of a pooler."""
    return "".join(f" SET LOCAL {name} TO {_value(name, value)};" for name, value in settings.items())


def _value(name: str, value: str) -> str:
    if name != "search_path":
        return _literal(value)
    # a single literal would be the name of a single schema
    schemas = [quoted.replace('""', '"') or bare.lower() for quoted, bare in _NAME.findall(value)]
    return ", ".join(map(_literal, schemas)) or "''"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
