"""Writes bars to PostgreSQL in bulk: COPY for many bars, one INSERT of arrays for few."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from functools import lru_cache
from itertools import repeat
from operator import add, attrgetter, sub
from typing import TYPE_CHECKING

import asyncpg

from iftb_store.batches.bars import KEY, VALUES, BarBatch, BarColumns, is_in_key_order
from iftb_store.errors import InvalidValueError
from iftb_store.models import OHLCVBar, WriteCounts
from iftb_store.relational import import_modules, run_to_end
from iftb_store.schema.table_spec import BARS
from iftb_store.schema.types import EPOCH, from_epoch_us
from iftb_store.values import checks
from iftb_store.values.timeframes import check_timeframe
from iftb_store_postgres import reading
from iftb_store_postgres.copying import send

if TYPE_CHECKING:
    import pyarrow as pa

#: Up to this many rows, one INSERT of arrays is faster than COPY.
FEW = 300

_COLUMNS = (*BarColumns._fields, "created_at")
_NAMES = ", ".join(_COLUMNS)
# only arrays of text: for an array of another type asyncpg queries the catalog, with names that a function or an operator in a
# schema of the search_path could take over
_ARRAYS = f"""
    SELECT exchange, symbol, timeframe, timestamp::timestamptz, open::numeric, high::numeric, low::numeric, close::numeric,
        volume::numeric, quote_volume::numeric, trades_count::bigint, $12::text::timestamptz
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::text[]) AS batch ({", ".join(_COLUMNS[:11])})"""


def read_key(table: str) -> str:
    """Return the SQL expressions for comparing the key of a bar in ``table``, separated by commas.

    Text columns are cast to text, so that no operator that another user defined is called; see `PostgresDriver.dialect`.
    """
    return ", ".join(f"{table}.{column}" if column == "timestamp" else f"CAST({table}.{column} AS text)" for column in KEY)


_ON_CONFLICT = f"""
    ON CONFLICT ({", ".join(KEY)}) DO UPDATE SET {", ".join(f"{column} = excluded.{column}" for column in VALUES)}
    WHERE ({", ".join(f"ohlcv.{column}" for column in VALUES)})
        IS DISTINCT FROM ({", ".join(f"excluded.{column}" for column in VALUES)})"""
# the rows are dropped at COMMIT, not the table: creating a table for each call would bloat the catalog
_STAGING = f"""
    CREATE TEMPORARY TABLE IF NOT EXISTS iftb_store_upsert ON COMMIT DELETE ROWS AS SELECT {_NAMES} FROM ohlcv WITH NO DATA"""

_INSERT_FEW = f"INSERT INTO ohlcv ({_NAMES}) {_ARRAYS} ORDER BY {', '.join(KEY)}"
_UPSERT_FEW = f"INSERT INTO ohlcv ({_NAMES}) {_ARRAYS} ORDER BY {', '.join(KEY)} {_ON_CONFLICT}"
_INSERT_SORTED = f"INSERT INTO ohlcv ({_NAMES}) SELECT {_NAMES} FROM pg_temp.iftb_store_upsert ORDER BY {', '.join(KEY)}"
_UPSERT_ORDERED = f"INSERT INTO ohlcv ({_NAMES}) SELECT {_NAMES} FROM pg_temp.iftb_store_upsert {_ON_CONFLICT}"
_UPSERT_SORTED = f"""
    INSERT INTO ohlcv ({_NAMES}) SELECT {_NAMES} FROM pg_temp.iftb_store_upsert ORDER BY {", ".join(KEY)} {_ON_CONFLICT}"""
# one statement, because two statements would not keep key order. It sees only bars that were stored when it began: if another
# writer stores a bar meanwhile, both writers count that bar as new
_UPSERT_COUNTED = f"""
    WITH written AS ({_UPSERT_SORTED} RETURNING EXISTS (
        SELECT FROM ohlcv AS stored WHERE ({read_key("stored")}) = ({read_key("ohlcv")})) AS was_stored)
    SELECT count(*) FILTER (WHERE NOT was_stored), count(*) FILTER (WHERE was_stored) FROM written"""
# Finds whether any staged bar is new or changed. Unchanged bars would be locked and written to the WAL only because they
# conflict. An update of only the changed bars of a batch would mix them with the values of another writer that holds the others.
# OFFSET 0 makes PostgreSQL look up each staged bar in the key's index; a join would depend on statistics, which a bulk load makes
# stale
_DIFFERS = f"""
    SELECT FROM pg_temp.iftb_store_upsert AS staged
    WHERE NOT EXISTS (
        SELECT FROM ohlcv
        WHERE ({read_key("ohlcv")}) = ({read_key("staged")})
            AND ({", ".join(f"ohlcv.{column}" for column in VALUES)})
                IS NOT DISTINCT FROM ({", ".join(f"staged.{column}" for column in VALUES)})
        OFFSET 0)
    LIMIT 1"""

# looks for a bar in the time span of any series; the first bar behind a key is one step in the key's index, while EXISTS between
# two keys may be planned as a scan of the table
_ANY_IN_SPANS = f"""
    SELECT true
    FROM ROWS FROM ({", ".join(f"pg_catalog.unnest(${place}::text[])" for place in range(1, 6))})
        AS span (exchange, symbol, timeframe, first, last)
    CROSS JOIN LATERAL (
        SELECT {", ".join(KEY)} FROM ohlcv
        WHERE ({read_key("ohlcv")}) >= (span.exchange, span.symbol, span.timeframe, span.first::timestamptz)
        ORDER BY {read_key("ohlcv")} LIMIT 1) AS behind
    WHERE ({read_key("behind")}) <= (span.exchange, span.symbol, span.timeframe, span.last::timestamptz)
    LIMIT 1"""

# compare this many bars at a time with the stored bars; give up if twice as many are stored between the first and the last
_COMPARED = 5_000
_STORED = f"""
    SELECT {", ".join(BARS.columns)} FROM ohlcv
    WHERE CAST(exchange AS text) = $1 AND CAST(symbol AS text) = $2 AND CAST(timeframe AS text) = $3
        AND timestamp BETWEEN $4::text::timestamptz AND $5::text::timestamptz
    LIMIT $6"""
_STORED_BY = ("exchange", "symbol", "timeframe", "first", "last", "limit")
_OLDEST_COPIED = 14

_GIVEN = attrgetter(*VALUES)
_DAYS, _SECONDS, _MICROSECONDS = attrgetter("days"), attrgetter("seconds"), attrgetter("microseconds")
_EPOCH_DAY = EPOCH.toordinal()

_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}


async def insert(connection: asyncpg.Connection, batch: BarBatch) -> None:
    """Insert bars in key order; a duplicate raises asyncpg.UniqueViolationError."""
    if len(batch) <= FEW:
        await _arrays(connection, _INSERT_FEW, batch)
    elif batch.ordered or await is_in_key_order(batch):
        await _copy(connection, "ohlcv", batch)
    else:
        await _stage(connection, batch)
        await connection.execute(_INSERT_SORTED)


async def upsert(connection: asyncpg.Connection, batch: BarBatch) -> None:
    """Insert new bars and overwrite the values of stored bars that differ, in key order.

    An Arrow table is copied straight into the table if no bar is stored in the time span of any of its series. If a batch of
    objects is one series in order of time, the new bars are copied straight into the table, which takes half the time of
    COPY by way of the staging table; the stored bars are compared in Python. The whole batch goes through the staging table
    if another writer has meanwhile stored one of the new bars, or if bars would not be written in key order.
    """
    if len(batch) <= FEW:
        await _arrays(connection, _UPSERT_FEW, batch)
        return
    if await _copy_new(connection, batch):
        return
    if batch.table is None:
        # the error for an invalid bar gives its position in the whole batch, so it is raised when the whole batch is staged
        with suppress(asyncpg.UniqueViolationError, InvalidValueError):
            async with savepoint(connection, "iftb_store_parts"):
                if await _upsert_parts(connection, batch):
                    return
    await _stage(connection, batch)
    if await _differs(connection):
        await _upsert_staged(connection, batch)


async def _copy_new(connection: asyncpg.Connection, batch: BarBatch) -> bool:
    """Copy an Arrow table straight into the table if no bar is stored in the time span of any of its series.

    Returns:
        False if bars are stored there, perhaps by another writer during the COPY, or the batch has objects; nothing has been
        written then.
    """
    if batch.table is None or await connection.fetchval(_ANY_IN_SPANS, *await asyncio.to_thread(_list_spans, batch.table)):
        return False
    with suppress(asyncpg.UniqueViolationError):
        async with savepoint(connection, "iftb_store_new"):
            await _copy(connection, "ohlcv", batch)
        return True
    return False


def _list_spans(table: pa.Table) -> list[list[str]]:
    """Return exchange, symbol, timeframe, first and last time of each series as lists of text."""
    from iftb_store.batches.arrow_series import find_spans

    columns: list[list[str]] = [[] for _ in range(5)]
    for series, first, last in find_spans(table):
        for column, value in zip(columns, (*series, str(from_epoch_us(first)), str(from_epoch_us(last))), strict=True):
            column.append(value)
    return columns


async def _upsert_parts(connection: asyncpg.Connection, batch: BarBatch) -> bool:
    """Write first the bars whose key is new, then the bars whose key is stored already.

    Returns:
        False if the batch must be written as a whole; nothing has been written then.
    """
    parts = await _split_known(connection, batch)
    if parts is None:
        return False
    new, known = (BarBatch(bars, batch.created_at, ordered=True) for bars in parts)
    if known:
        await _stage(connection, known)
        await _upsert_staged(connection, known)
    await insert(connection, new)
    return True


async def upsert_counted(connection: asyncpg.Connection, batch: BarBatch) -> WriteCounts:
    """Upsert bars in key order; return (number of new bars, number of overwritten bars)."""
    if len(batch) > FEW and await _copy_new(connection, batch):
        return WriteCounts(len(batch), 0)
    await _stage(connection, batch)
    ((inserted, updated),) = await connection.fetch(_UPSERT_COUNTED)
    return WriteCounts(inserted, updated)


def count_changed(status: str) -> int:
    """Return the number of rows in a command's status, e.g. 5 for ``INSERT 0 5``."""
    return int(status.rpartition(" ")[2])


async def _split_known(connection: asyncpg.Connection, batch: BarBatch) -> tuple[list[OHLCVBar], list[OHLCVBar]] | None:
    """Split a batch into the bars whose key is new and the bars whose key is stored already.

    Returns:
        (new bars, bars to overwrite): the second list has all bars whose key is stored, or is empty if none of them differs
        from the stored bar. None if the batch must be written as a whole: it is not one series in order of time; or far more
        bars are stored between its times than it has; or the server is too old; or writing one list after the other would
        break key order, because a new bar comes before a bar to overwrite.
    """
    try:
        series, last = (
            (checks.name_text(bar.exchange, "exchange"), checks.name_text(bar.symbol, "symbol"), check_timeframe(bar.timeframe))
            for bar in (batch.bars[0], batch.bars[-1])
        )
    except InvalidValueError:
        return None
    if not batch.ordered or series != last or connection.get_server_version().major < _OLDEST_COPIED:
        return None
    new, known, differ = list[OHLCVBar](), list[OHLCVBar](), False
    for start in range(0, len(batch), _COMPARED):
        bars = batch.bars[start : start + _COMPARED]
        moments = [bar.timestamp if bar.timestamp.tzinfo else bar.timestamp.replace(tzinfo=UTC) for bar in bars]
        window = str(moments[0]), str(moments[-1]), 2 * _COMPARED
        found = await reading.copy_bars(connection, _STORED, _STORED_BY, (*series, *window))
        if len(found) == 2 * _COMPARED:
            return None
        stored = {bar.timestamp: _GIVEN(bar) for bar in found}
        pairs = [(bar, stored.get(moment)) for moment, bar in zip(moments, bars, strict=True)]
        new += [bar for bar, values in pairs if values is None]
        given = [bar for bar, values in pairs if values is not None]
        known += given
        # a value may equal the stored one and still be of a type that is refused, so check these bars too
        for _ in BarBatch(given, batch.created_at).chunks():
            await asyncio.sleep(0)
        differ = differ or any(values is not None and values != _GIVEN(bar) for bar, values in pairs)
        if differ and new and known and known[-1] is not batch.bars[len(known) - 1]:
            return None
    return new, known if differ else []


@asynccontextmanager
async def savepoint(connection: asyncpg.Connection, name: str = "iftb_store") -> AsyncIterator[None]:
    """Run the block in a savepoint; if the block raises, roll back to the savepoint, so that the transaction stays usable."""
    await connection.execute(f"SAVEPOINT {name}")
    try:
        yield
    except BaseException as error:
        # a cancellation too: the transaction stays usable
        if not connection.is_closed():
            try:
                await run_to_end(connection.execute(f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}"))
            except Exception:
                # a cancellation is not replaced by the error of the rollback
                if isinstance(error, Exception):
                    raise
        raise
    # if a cancellation interrupted this, nobody would know whether the savepoint still exists
    await run_to_end(connection.execute(f"RELEASE SAVEPOINT {name}"))


async def _differs(connection: asyncpg.Connection) -> bool:
    """Return whether any bar in the staging table is new, or differs from the stored bar with the same key."""
    return count_changed(await connection.execute(_DIFFERS)) > 0


async def _upsert_staged(connection: asyncpg.Connection, batch: BarBatch) -> None:
    await connection.execute(_UPSERT_ORDERED if batch.ordered else _UPSERT_SORTED)


async def _stage(connection: asyncpg.Connection, batch: BarBatch) -> None:
    await connection.execute(_STAGING)
    await connection.execute("DELETE FROM pg_temp.iftb_store_upsert")
    await _copy(connection, "iftb_store_upsert", batch, schema="pg_temp")


async def _arrays(connection: asyncpg.Connection, sql: str, batch: BarBatch) -> None:
    for columns in batch.chunks():
        times = [str(moment) for moment in columns.timestamp]
        counts = [None if count is None else str(count) for count in columns.trades_count]
        await connection.execute(sql, *columns[:3], times, *columns[4:10], counts, str(batch.created_at))


async def _copy(connection: asyncpg.Connection, table: str, batch: BarBatch, schema: str | None = None) -> None:
    if batch.table is None:
        await send(connection, table, _COLUMNS, _lines(batch), "text", schema)
    else:
        await import_modules("pyarrow", "iftb_store_postgres.arrow")
        from iftb_store_postgres.arrow import send_rows

        await send_rows(connection, table, batch.table, schema, created_at=batch.created_at)


async def _lines(batch: BarBatch) -> AsyncIterator[bytes]:
    created_at = str(batch.created_at)
    for columns in batch.chunks():
        yield copy_text(columns, created_at)
        await asyncio.sleep(0)


def copy_text(columns: BarColumns, created_at: str) -> bytes:
    """Return checked bars in COPY's text format."""
    quotes = [r"\N" if text is None else text for text in columns.quote_volume]
    counts = [r"\N" if count is None else str(count) for count in columns.trades_count]
    rows = zip(
        _escape(columns.exchange),
        _escape(columns.symbol),
        columns.timeframe,
        _times(columns.timestamp),
        *columns[4:9],
        quotes,
        counts,
        repeat(created_at),
        strict=False,
    )
    return ("\n".join(map("\t".join, rows)) + "\n").encode()


def _times(moments: Sequence[datetime]) -> Iterable[str]:
    since = list(map(sub, moments, repeat(EPOCH)))
    if any(map(_MICROSECONDS, since)):
        return map(str, moments)
    # days and times of day repeat from bar to bar; formatting them anew for each bar would take longer than everything else
    return map(add, map(_day, map(_DAYS, since)), map(_time_of_day, map(_SECONDS, since)))


@lru_cache(maxsize=4096)
def _day(days: int) -> str:
    return f"{date.fromordinal(_EPOCH_DAY + days)} "


@lru_cache(maxsize=86_400)
def _time_of_day(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}+00"


def _escape(names: Sequence[str]) -> Sequence[str]:
    special = {name for name in set(names) if _SPECIAL.search(name)}
    if not special:
        return names
    escaped = {name: _SPECIAL.sub(lambda match: _ESCAPES[match[0]], name) for name in special}
    return [escaped.get(name, name) for name in names]
