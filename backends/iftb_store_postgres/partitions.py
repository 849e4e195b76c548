"""The partitions of ohlcv: lists them, creates the coming ones, and moves bars out of the default partition."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TypeVar

import asyncpg

from iftb_store.errors import SchemaError, operational_error
from iftb_store.health import BarPartition, Partitioning

T = TypeVar("T")

#: More partitions than this are not made: each query without a time window looks at every one of them.
MOST_PARTITIONS = 600
DEFAULT = "ohlcv_default"
# milliseconds to wait for a lock, as the statements of others queue behind such a wait; and seconds to try again and again
_LOCK_WAIT = 500
_PATIENCE = 300.0
# seconds between two attempts, at most
_PAUSE = 1.0


class OlderSnapshotError(Exception):
    """A transaction would not find the moved bars: its snapshot is older, but it would look for them in the new partition."""


_PASSING = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError, OlderSnapshotError)
# the transactions that have a snapshot: a repeatable read one keeps it, also while it is idle, a read committed one does not
_SNAPSHOTS = """
    SELECT pid, CAST(backend_xmin AS text), coalesce(state LIKE 'idle in transaction%', false) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL
        AND coalesce(backend_type, 'client backend') = 'client backend'"""

# before the search_path is set, so every operator is from pg_catalog
_TABLE = """
    SELECT pg_class.oid, CAST(relkind AS text) AS kind, pg_catalog.quote_ident(CAST(nspname AS text)) AS schema,
        pg_catalog.quote_ident(CAST(pg_catalog.pg_get_userbyid(relowner) AS text)) AS owner,
        pg_catalog.pg_get_partkeydef(pg_class.oid) AS key, (
            SELECT pg_catalog.array_agg(CAST(attname AS text) ORDER BY attnum) FROM pg_catalog.pg_attribute
            WHERE attrelid OPERATOR(pg_catalog.=) pg_class.oid AND attnum OPERATOR(pg_catalog.>) CAST(0 AS smallint)
                AND NOT attisdropped) AS columns
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid OPERATOR(pg_catalog.=) relnamespace
    WHERE pg_class.oid OPERATOR(pg_catalog.=) CAST(pg_catalog.to_regclass('ohlcv') AS oid)"""
_PARTITIONS = """
    SELECT CAST(relname AS text) AS name, pg_catalog.pg_get_expr(relpartbound, pg_class.oid) AS bound,
        pg_catalog.pg_total_relation_size(pg_class.oid) AS bytes
    FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class ON pg_class.oid OPERATOR(pg_catalog.=) inhrelid
    WHERE inhparent OPERATOR(pg_catalog.=) CAST(pg_catalog.to_regclass('ohlcv') AS oid)"""
_RANGE_KEY = re.compile(r'RANGE \("?timestamp"?\)')
_HASH_KEY = "HASH (exchange, symbol)"
_RANGE_BOUND = re.compile(r"FOR VALUES FROM \((?:'([^']*)'|MINVALUE)\) TO \((?:'([^']*)'|MAXVALUE)\)")
_HASH_BOUND = re.compile(r"FOR VALUES WITH \(modulus (\d+), remainder (\d+)\)")


@dataclass(frozen=True, slots=True)
class BarTable:
    """The table ohlcv: its schema and owner, quoted as SQL, its key of partitions, None if it has none, and its columns."""

    oid: int
    schema: str
    owner: str
    key: str | None
    columns: tuple[str, ...]

    @property
    def names(self) -> str:
        """The columns, separated by commas."""
        return ", ".join(map(quote, self.columns))


def quote(name: str) -> str:
    """Return a name quoted as SQL."""
    return '"' + name.replace('"', '""') + '"'


async def find_table(connection: asyncpg.Connection) -> BarTable:
    """Return the table ohlcv.

    Raises:
        SchemaError: it does not exist.
    """
    row = await connection.fetchrow(_TABLE)
    if row is None or row["kind"] not in ("r", "p"):
        raise SchemaError("the database has no tables of iftb-store; run `iftb-store migrate URL` or await db.migrate()")
    return BarTable(row["oid"], row["schema"], row["owner"], row["key"], tuple(row["columns"]))


@asynccontextmanager
async def transaction(connection: asyncpg.Connection, table: BarTable, *, lock_wait: int = _LOCK_WAIT) -> AsyncIterator[None]:
    """Run the block in a transaction as the owner of the table, with only built-in functions in the search_path.

    Args:
        connection: the driver's connection.
        table: the table ohlcv.
        lock_wait: milliseconds to wait for a lock.
    """
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(
            f"SET LOCAL ROLE {table.owner}; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL TimeZone = 'UTC'; "
            f"SET LOCAL DateStyle = 'ISO'; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {lock_wait}"
        )
        yield


async def attempt(work: Callable[[], Awaitable[T]]) -> T:
    """Call ``work`` until it gets its locks, for some minutes: the statements of others must not queue behind a long wait.

    Raises:
        TransientError: other transactions held the locks all the time.
    """
    until = monotonic() + _PATIENCE
    while True:
        try:
            return await work()
        except _PASSING as error:
            if monotonic() > until:
                raise operational_error(
                    f"other transactions have kept the table of bars locked or an older snapshot open for {_PATIENCE:.0f} s; end "
                    "them (pg_locks and pg_stat_activity show them), then run this again, which continues",
                    error,
                    transient=True,
                ) from error
        await asyncio.sleep(random.uniform(_PAUSE / 4, _PAUSE))  # noqa: S311 - not used for security


async def read_partitioning(connection: asyncpg.Connection, table: BarTable) -> Partitioning:
    """Return the partitions of ohlcv, and the method by which they were made."""
    rows = await connection.fetch(_PARTITIONS) if table.key is not None else []
    found = [_parse(row["name"], row["bound"] or "", row["bytes"]) for row in rows]
    # datetimes and None do not compare
    found.sort(key=lambda one: (one.is_default, one.start is not None, one.start or one.end or datetime.min, one.name))
    return Partitioning(_find_method(table.key, found, [row["bound"] or "" for row in rows]), tuple(found))


def _parse(name: str, bound: str, size: int) -> BarPartition:
    limits = _RANGE_BOUND.fullmatch(bound)
    if limits is None:
        return BarPartition(name, None, None, size, is_default=bound == "DEFAULT")
    return BarPartition(name, _parse_time(limits[1]), _parse_time(limits[2]), size)


def _parse_time(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        # a time outside of the years 1 to 9999 limits no bar
        return None


def _find_method(key: str | None, found: Sequence[BarPartition], bounds: Iterable[str]) -> str | None:
    if key is None:
        return None
    if key == _HASH_KEY:
        moduli = {int(bound[1]) for text in bounds if (bound := _HASH_BOUND.fullmatch(text))}
        return f"hash:{len(found)}" if moduli == {len(found)} else "other"
    if not _RANGE_KEY.fullmatch(key):
        return "other"
    # the newest one tells, as the method may have changed
    limits = [(one.start, one.end) for one in found if one.start is not None and one.end is not None]
    for by in ("month", "year"):
        if limits and (start := limits[-1][0]) == begin_period(start, by) and limits[-1][1] == end_period(start, by):
            return by
    return "other"


def begin_period(moment: datetime, by: str) -> datetime:
    """Return the start of the month or year of a time."""
    start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start if by == "month" else start.replace(month=1)


def end_period(start: datetime, by: str) -> datetime:
    """Return the end of the month or year that begins at ``start``."""
    if by == "year":
        return start.replace(year=start.year + 1)
    return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def name_period(start: datetime, by: str) -> str:
    """Return the name of the partition of the month or year that begins at ``start``."""
    return f"ohlcv_{start.year:04}_{start.month:02}" if by == "month" else f"ohlcv_{start.year:04}"


def list_periods(now: datetime, by: str, *, ahead: int, start: datetime | None = None) -> list[datetime]:
    """Return the starts of the months or years from ``start``, or now, to the one that is ``ahead`` of now."""
    last, found = begin_period(now, by), [begin_period(min(now, start or now), by)]
    for _ in range(ahead):
        last = end_period(last, by)
    while found[-1] < last:
        found.append(end_period(found[-1], by))
    return found


def stored_periods_sql(table: str, by: str) -> str:
    """Return the query for the months or years of a table's bars; times that are not in Python's calendar are left out."""
    return (
        f"SELECT DISTINCT date_trunc('{by}', timestamp AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS start FROM {table} "
        "WHERE timestamp >= CAST('0001-01-01 00:00:00+00' AS timestamptz) "
        "AND timestamp < CAST('9999-01-01 00:00:00+00' AS timestamptz) ORDER BY start"
    )


async def create_missing(connection: asyncpg.Connection, *, ahead: int, start: datetime | None) -> tuple[str, ...]:
    """Create the missing partitions of the periods from ``start`` to ``ahead``, and of those with bars in the default partition.

    Returns:
        The names of the new partitions; empty if none was missing, or the bars are divided by hash.

    Raises:
        SchemaError: ohlcv is not partitioned, or not by months or years; or a partition overlaps with a new one.
    """
    table = await find_table(connection)
    partitioning = await read_partitioning(connection, table)
    by = partitioning.by
    if by is None:
        raise SchemaError("ohlcv is not partitioned; `iftb-store migrate URL --partition-by month` divides it into partitions")
    if by.startswith("hash"):
        return ()
    if by == "other":
        raise SchemaError(
            "the partitions of ohlcv are neither months nor years, so iftb-store cannot tell which come next; create them with "
            "CREATE TABLE … PARTITION OF ohlcv FOR VALUES …"
        )
    starts = {*list_periods(datetime.now(UTC), by, ahead=ahead, start=start)}
    stored: set[datetime] = set()
    async with transaction(connection, table):
        for name in (one.name for one in partitioning.partitions if one.is_default):
            found = await connection.fetch(stored_periods_sql(f"{table.schema}.{quote(name)}", by))
            stored |= {row["start"] for row in found}
    missing = [one for one in starts | stored if not _is_covered(one, by, partitioning.partitions)]
    refuse_many(len(partitioning.partitions) + len(missing), by)
    created: list[datetime] = []
    refused: list[SchemaError] = []
    # first those without bars in the default partition: no older transaction can keep them waiting
    for one in sorted(missing, key=lambda one: (one in stored, one)):

        async def create(one: datetime = one) -> bool:
            async with transaction(connection, table):
                return await _create_one(connection, table, one, by)

        try:
            if await attempt(create):
                created.append(one)
        except SchemaError as error:
            refused.append(error)
    if refused:
        raise refused[0]
    return tuple(name_period(one, by) for one in sorted(created))


def refuse_many(count: int, by: str) -> None:
    """Raise SchemaError if there would be too many partitions."""
    if count > MOST_PARTITIONS:
        raise SchemaError(
            f"{count} partitions by {by} are more than {MOST_PARTITIONS}, and a query without a time window looks at each; "
            f"partition by {'year' if by == 'month' else 'hash:16'}, or delete bars with wrong times"
        )


def _is_covered(start: datetime, by: str, partitions: Iterable[BarPartition]) -> bool:
    """Return whether a partition takes the bars of a period.

    Raises:
        SchemaError: a partition takes only some of them.
    """
    end = end_period(start, by)
    for one in partitions:
        if one.is_default or (one.end is not None and one.end <= start) or (one.start is not None and one.start >= end):
            continue
        if (one.start is None or one.start <= start) and (one.end is None or one.end >= end):
            return True
        raise SchemaError(f"the partition {one.name} overlaps with the {by} that begins on {start:%Y-%m-%d}; nothing was created")
    return False


async def _create_one(connection: asyncpg.Connection, table: BarTable, start: datetime, by: str) -> bool:
    """Create the partition of a period, with its bars from the default partition; return False if there is one by now.

    Raises:
        OlderSnapshotError: another transaction with an older snapshot would see the bars neither there nor here.
        SchemaError: a table that is no partition has the name.
    """
    schema, name, end = table.schema, f"{table.schema}.{name_period(start, by)}", end_period(start, by)
    # it conflicts with itself, so that two calls run one after the other; readers and writers continue
    await connection.execute(f"LOCK TABLE ONLY {schema}.ohlcv IN SHARE UPDATE EXCLUSIVE MODE")
    partitions = [_parse(*row) for row in await connection.fetch(_partitions_of(table))]
    if _is_covered(start, by, partitions):
        return False
    if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name):
        raise SchemaError(
            f"{name} already exists and is no partition of ohlcv, e.g. because it was detached; attach it, rename it or drop it, "
            "then run this again. The other missing partitions were created"
        )
    await connection.execute(f"CREATE TABLE {name} (LIKE {schema}.ohlcv INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    window = f"timestamp >= '{start}' AND timestamp < '{end}'"
    snapshots, moved = [tuple(row) for row in await connection.fetch(_SNAPSHOTS)], 0
    for default in (f"{schema}.{quote(one.name)}" for one in partitions if one.is_default):
        await connection.execute(f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE")
        status = await connection.execute(
            f"WITH moved AS (DELETE FROM {default} WHERE {window} RETURNING {table.names}) "
            f"INSERT INTO {name} ({table.names}) SELECT {table.names} FROM moved"
        )
        moved += int(status.rpartition(" ")[2])
    # unlike CREATE TABLE … PARTITION OF, it does not keep readers of the other partitions waiting
    await connection.execute(f"ALTER TABLE {schema}.ohlcv ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')")
    if moved:
        now = [(pid, oldest, is_idle) for pid, oldest, is_idle in await connection.fetch(_SNAPSHOTS)]
        if any(is_idle or (pid, oldest) in {one[:2] for one in snapshots} for pid, oldest, is_idle in now):
            raise OlderSnapshotError
    return True


def _partitions_of(table: BarTable) -> str:
    return _PARTITIONS.replace("CAST(pg_catalog.to_regclass('ohlcv') AS oid)", f"CAST({table.oid} AS oid)")


def create_sql(parent: str, schema: str, method: str, starts: Iterable[datetime]) -> list[Any]:
    """Return the statements that create the partitions of a new, empty table.

    Args:
        parent: the table, as SQL.
        schema: the schema of the partitions, as SQL.
        method: "month", "year" or "hash:N".
        starts: the starts of the months or years.
    """
    if method.startswith("hash:"):
        count = int(method.removeprefix("hash:"))
        width = len(str(count - 1))
        return [
            f"CREATE TABLE {schema}.ohlcv_hash_{part:0{width}} PARTITION OF {parent} "
            f"FOR VALUES WITH (MODULUS {count}, REMAINDER {part})"
            for part in range(count)
        ]
    return [
        *(
            f"CREATE TABLE {schema}.{name_period(start, method)} PARTITION OF {parent} "
            f"FOR VALUES FROM ('{start}') TO ('{end_period(start, method)}')"
            for start in starts
        ),
        f"CREATE TABLE {schema}.{DEFAULT} PARTITION OF {parent} DEFAULT",
    ]
