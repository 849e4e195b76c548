"""The health of a database: the results of `DatabaseManager.health` and `iftb-store status`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from sqlalchemy import text

SchemaState: TypeAlias = Literal["current", "behind", "ahead", "unstamped", "empty", "no revisions"]
#: `SchemaStatus.state` of a backend without migrations.
NO_REVISIONS: Final = "no revisions"

_ADVICE = {
    "empty": "the database has no tables of iftb-store yet; `iftb-store migrate URL` creates them",
    "behind": "the schema is older than this version of iftb-store; `iftb-store migrate URL` updates it",
    "ahead": "the schema was created by a newer version of iftb-store; install that version: pip install --upgrade iftb-store",
}


class Encryption(NamedTuple):
    """Whether a connection is encrypted, and whether the server's certificate and host name were verified."""

    encrypted: bool
    verified: bool


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The state of the schema in one database.

    Attributes:
        engine: the name of the engine.
        version: the version of the engine; empty if it is not known.
        revision: the revision of the schema in the database, or None.
        head: the newest revision that this version of iftb-store knows; empty if the backend has no migrations.
        tables: the row count of each existing table of iftb-store, by the table's name.
        state: "current" (at ``head``), "behind" (at an older revision), "ahead" (at a revision that this version does not
            know), "unstamped" (tables of iftb-store without a revision), "empty" (no tables of iftb-store), or "no revisions"
            (the backend has no migrations).
        encoding: the encoding of a PostgreSQL database; None on the other engines, which store any Unicode.
        policies: the names of the tables with row-level security; the counts of these tables include only the rows that
            this role can see.
        missing_rights: a text that names the tables into which this role may not insert, and the remedy; empty if the role
            may insert into all tables.
        series: the number of series of bars; None if it is not known.
        files: the number of data files; None if it is not known.
        bytes: the size of the data in bytes; None if it is not known.
    """

    engine: str
    version: str
    revision: str | None
    head: str
    tables: dict[str, int]
    state: SchemaState
    encoding: str | None
    policies: tuple[str, ...] = ()
    missing_rights: str = ""
    series: int | None = None
    files: int | None = None
    bytes: int | None = None


class StoreSize(NamedTuple):
    """The version of its engine and the size of its data that a backend without migrations reports; None if it is not known.

    Attributes:
        version: the version of the engine.
        series: the number of series of bars.
        rows: the number of bars.
        files: the number of data files.
        bytes: the size of the data in bytes.
    """

    version: str
    series: int | None = None
    rows: int | None = None
    files: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """A problem that a backend reports about its store, e.g. about its files; the doctor adds it to its findings.

    Attributes:
        kind: the problem in two or three words.
        severity: "error", "warning" or "note".
        where: the place, e.g. a table or a file; empty for the whole store.
        count: the number of items that have the problem, e.g. of files.
        remedy: what to do, as a sentence.
    """

    kind: str
    severity: Literal["error", "warning", "note"]
    where: str
    count: int
    remedy: str


class Compaction(NamedTuple):
    """What a compaction did, or with dry_run would do.

    Attributes:
        partitions: the number of partitions with several small files.
        rewritten: how many of these were rewritten; the others were changed by other clients meanwhile.
        files_before: the number of data files before.
        files_after: the number of data files after.
        bytes_before: the size of these files before.
        bytes_after: the size of these files after.
        deleted: the number of unused files that were deleted, or with dry_run would be deleted.
    """

    partitions: int
    rewritten: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    deleted: int


class BarPartition(NamedTuple):
    """One partition of the table of bars.

    Attributes:
        name: the name of the partition's table.
        start: the start of the partition's time, inclusive, in UTC; None if it has no such limit.
        end: the end of the partition's time, exclusive, in UTC; None if it has no such limit.
        bytes: its size on the disk, indexes included.
        is_default: whether it takes the bars that no other partition takes.
    """

    name: str
    start: datetime | None
    end: datetime | None
    bytes: int
    is_default: bool = False


class Partitioning(NamedTuple):
    """How the table of bars is divided into partitions.

    Attributes:
        by: "month", "year", "hash:N" with the number of partitions, "other" if iftb-store did not choose the partitions, or
            None if the table is not partitioned.
        partitions: the partitions, ordered by time, then name; the default partition is last. Empty if there are none.
    """

    by: str | None
    partitions: tuple[BarPartition, ...]


class DroppedPartition(NamedTuple):
    """A partition of bars that was dropped, see `iftb_store.abilities.SupportsPartitionDrops`.

    Attributes:
        name: the name of the partition's table.
        rows: the number of bars of each series, as ((exchange, symbol, timeframe), number); empty after a dry run.
    """

    name: str
    rows: tuple[tuple[tuple[str, str, str], int], ...]


@dataclass(frozen=True, slots=True)
class PoolState:
    """The connections of a manager: the number that sessions use at the moment, and the maximum number."""

    in_use: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a health check.

    Attributes:
        healthy: whether the database answers, its schema can be used, and it accepts writes.
        reachable: whether the database answers.
        round_trip: the duration of one statement in seconds; None if the database did not answer.
        writable: whether rows can be written to every table of iftb-store.
        pool: the manager's connections; None if the manager could not connect.
        schema: the engine, its version, the schema's revision and the row count of each table.
        problems: one line for each problem.
        warnings: one line for each problem that may arise later; warnings do not make ``healthy`` False.
        encrypted: whether the connection is encrypted; None if the engine has no server or the server did not answer.
        verified: whether the server's certificate and host name were verified; False without TLS, None if ``encrypted`` is None.
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


def describe_unreachable(problem: str) -> Health:
    """Return the health of a database that could not be reached."""
    return Health(False, False, None, False, None, None, [problem], [])


def advise(state: str) -> list[str]:
    """Return [a line that names the problem and the remedy] if a schema in this state cannot be used; otherwise []."""
    return [_ADVICE[state]] if state in _ADVICE else []


def find_warnings(encoding: str | None) -> list[str]:
    """Return the warnings about the encoding of a database; ``encoding`` is None if the engine has only one encoding."""
    if encoding in (None, "UTF8"):
        return []
    return [
        f"the database's encoding is {encoding}: some characters of symbols and events cannot be stored, or count as several; "
        "create a database with ENCODING 'UTF8' TEMPLATE template0, and copy this one to it with `iftb-store copy`"
    ]


async def prove_writable(session: Any, tables: Iterable[str]) -> None:
    """Check that rows can be inserted into tables: run an INSERT of zero rows into each, which takes write locks, and roll back.

    Raises:
        OperationalError: rows cannot be inserted; the message gives the reason.
    """
    for table in tables:
        await session.execute(text(f"INSERT INTO {table} (created_at) SELECT created_at FROM {table} WHERE 1 = 0"))
    await session.rollback()
