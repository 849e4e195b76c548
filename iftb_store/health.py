"""Whether a database can be worked with: what `DatabaseManager.health` finds and `iftb-store status` shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

_ADVICE = {
    "empty": "the database has no tables of iftb-store yet; `iftb-store migrate URL` creates them",
    "behind": "the schema is older than this version of iftb-store; `iftb-store migrate URL` brings it up to date",
    "ahead": "the schema is of a newer iftb-store than this one; install that version: pip install --upgrade iftb-store",
}


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The state of the schema in one database.

    ``state`` is current (at ``head``), behind (at an older revision), ahead (at one that this version does not know),
    unstamped (tables of ours without a revision) or empty (neither). ``tables`` holds the row count of those of our tables
    that are there; ``policies`` names those with row-level security, whose count is of the rows that this role is shown.
    ``encoding`` is that of the database's text on PostgreSQL; the other engines hold any Unicode and have None.
    ``missing_rights`` says into which of them this role may not insert, and the remedy; empty if it may into all.
    """

    engine: str
    version: str
    revision: str | None
    head: str
    tables: dict[str, int]
    state: str
    encoding: str | None
    policies: tuple[str, ...] = ()
    missing_rights: str = ""


@dataclass(frozen=True, slots=True)
class PoolState:
    """The connections of a manager: those that sessions hold at the moment, and how many there can be."""

    in_use: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Health:
    """What was found of a database.

    Attributes:
        healthy: it answers, its schema can be used, and it takes writes.
        reachable: it answers.
        round_trip: the seconds that a statement took; None where it did not answer.
        writable: a row can be written to each of our tables.
        pool: the manager's connections; None where it could not connect.
        schema: the engine, its version, the schema's revision and the rows of each table.
        problems: a line for each thing that is wrong.
        warnings: a line for each thing that will be wrong some day; the database is healthy all the same.
        encrypted: the connection to the server is encrypted; None without a server, and where it did not answer.
        verified: the server's certificate was verified, and that it is the host's; False without TLS, None as ``encrypted``.
    """

    healthy: bool
    reachable: bool
    round_trip: float | None
    writable: bool
    pool: PoolState | None
    schema: SchemaStatus | None
    problems: list[str]
    warnings: list[str]
    encrypted: bool | None = None
    verified: bool | None = None


def unreachable(problem: str) -> Health:
    """Return what is known of a database that could not be connected to."""
    return Health(False, False, None, False, None, None, [problem], [])


def advice(state: str) -> list[str]:
    """Return what is to be done where the state of a schema is not one that can be used."""
    return [_ADVICE[state]] if state in _ADVICE else []


def warnings_of(encoding: str | None) -> list[str]:
    """Return what there is to say of the encoding of a database's text, None where the engine has but one."""
    if encoding in (None, "UTF8"):
        return []
    return [
        f"the database's encoding is {encoding}, which cannot hold, or cannot count, every character of a symbol or an event; "
        "make a database with ENCODING 'UTF8' TEMPLATE template0, and bring this one there with `iftb-store copy`"
    ]


async def prove_writable(session: Any, tables: Iterable[str]) -> None:
    """Have the engine check that rows can be inserted, and take its locks for it, without one; roll back.

    Raises:
        OperationalError: they cannot; the message says why.
    """
    for table in tables:
        await session.execute(text(f"INSERT INTO {table} (created_at) SELECT created_at FROM {table} WHERE 1 = 0"))
    await session.rollback()
