"""Poolers such as PgBouncer: they refuse startup parameters, and may give each transaction another server connection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import asyncpg

#: What to do where statements that were prepared on one server connection are run on another.
REMEDY = "behind a pooler in transaction mode add statement_cache_size=0 to the URL"

#: The SQLSTATE of whatever PgBouncer says, also of what it passes on from a server that it could not log in to.
PGBOUNCER = "08P01"

_NOT_NOW = re.compile(
    "no more connections|too many clients|remaining connection slots|starting up|shutting down|in recovery mode|"
    "cannot connect to server|server login has been failing|(client_login|query_wait)_timeout"
)
_REFUSAL = re.compile(r"unsupported startup parameter(?: in options)?: (\w+)")
# as PostgreSQL splits a list of names: quoted, or up to the next comma
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s",]+))\s*(?:,|$)')


def find_refused_parameter(error: BaseException, sent: Iterable[str]) -> str | None:
    """Return which of the startup parameters sent a pooler refuses with this error, None if it says no such thing."""
    if not isinstance(error, asyncpg.PostgresError) or (match := _REFUSAL.search(str(error))) is None:
        return None
    return next((name for name in sent if name.lower() == match[1].lower()), None)


async def find_ignored_parameters(connection: asyncpg.Connection, sent: Mapping[str, str]) -> set[str]:
    """Return which of the startup parameters that matter have no effect: a pooler may be told to ignore some."""
    try:
        # or a pooler may prepare the statement on one server connection and run it on another
        async with connection.transaction():
            rows = await connection.fetch(
                "SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'search_path')"
            )
    except BaseException:
        connection.terminate()
        raise
    return {name for name, setting in rows if setting != sent.get(name, setting)}


def passes_parameter(message: str) -> bool:
    """Tell whether what PgBouncer says may be otherwise at the next try."""
    return _NOT_NOW.search(message) is not None


def set_local(settings: Mapping[str, str]) -> str:
    """Return the statements that set parameters for one transaction; a session's SET would reach other clients of a pooler."""
    return "".join(f" SET LOCAL {name} TO {_value(name, value)};" for name, value in settings.items())


def _value(name: str, value: str) -> str:
    if name != "search_path":
        return _literal(value)
    # one literal would be one schema's name
    schemas = [quoted.replace('""', '"') or bare.lower() for quoted, bare in _NAME.findall(value)]
    return ", ".join(map(_literal, schemas)) or "''"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
