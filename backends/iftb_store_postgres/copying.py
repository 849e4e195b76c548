"""Bars in bulk to PostgreSQL: text COPY for many, one INSERT of arrays for few."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import date, datetime
from functools import lru_cache
from itertools import repeat
from operator import add, attrgetter, sub

import asyncpg

from iftb_store.bars import KEY, VALUES, BarBatch, BarColumns, in_key_order
from iftb_store.types import EPOCH

#: Up to this many rows one INSERT of arrays is faster than COPY.
FEW = 300

_COLUMNS = (*BarColumns._fields, "created_at")
_NAMES = ", ".join(_COLUMNS)
_ARRAYS = f"""
    SELECT exchange, symbol, timeframe, timestamp::timestamptz, open::numeric, high::numeric, low::numeric, close::numeric,
        volume::numeric, quote_volume::numeric, trades_count, $12::text::timestamptz
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::bigint[]) AS batch ({", ".join(_COLUMNS[:11])})"""
_ON_CONFLICT = f"""
    ON CONFLICT ({", ".join(KEY)}) DO UPDATE SET {", ".join(f"{column} = excluded.{column}" for column in VALUES)}
    WHERE ({", ".join(f"ohlcv.{column}" for column in VALUES)})
        IS DISTINCT FROM ({", ".join(f"excluded.{column}" for column in VALUES)})"""
# dropped rows, not a dropped table: creating one for each call would bloat the catalog
_STAGING = f"""
    CREATE TEMPORARY TABLE IF NOT EXISTS iftb_store_upsert ON COMMIT DELETE ROWS AS SELECT {_NAMES} FROM ohlcv WITH NO DATA"""

_INSERT_FEW = f"INSERT INTO ohlcv ({_NAMES}) {_ARRAYS} ORDER BY {', '.join(KEY)}"
_UPSERT_FEW = f"INSERT INTO ohlcv ({_NAMES}) {_ARRAYS} ORDER BY {', '.join(KEY)} {_ON_CONFLICT}"
_STAGED = f"INSERT INTO ohlcv ({_NAMES}) SELECT {_NAMES} FROM iftb_store_upsert"
_INSERT_SORTED = f"{_STAGED} ORDER BY {', '.join(KEY)}"
_UPSERT_ORDERED = f"{_STAGED} {_ON_CONFLICT}"
_UPSERT_SORTED = f"{_INSERT_SORTED} {_ON_CONFLICT}"

_DAYS, _SECONDS, _MICROSECONDS = attrgetter("days"), attrgetter("seconds"), attrgetter("microseconds")
_EPOCH_DAY = EPOCH.toordinal()

_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}


async def insert(connection: asyncpg.Connection, batch: BarBatch) -> None:
    """Insert bars in key order; a duplicate fails the statement."""
    if len(batch) <= FEW:
        await _arrays(connection, _INSERT_FEW, batch)
    elif await in_key_order(batch):
        await _copy(connection, "ohlcv", batch)
    else:
        await _stage(connection, batch)
        await connection.execute(_INSERT_SORTED)


async def upsert(connection: asyncpg.Connection, batch: BarBatch) -> None:
    """Insert bars or overwrite the values that differ, in key order."""
    if len(batch) <= FEW:
        await _arrays(connection, _UPSERT_FEW, batch)
        return
    await _stage(connection, batch)
    await connection.execute(_UPSERT_ORDERED if batch.ordered else _UPSERT_SORTED)


async def _stage(connection: asyncpg.Connection, batch: BarBatch) -> None:
    await connection.execute(_STAGING)
    await connection.execute("DELETE FROM iftb_store_upsert")
    await _copy(connection, "iftb_store_upsert", batch)


async def _arrays(connection: asyncpg.Connection, sql: str, batch: BarBatch) -> None:
    for columns in batch.chunks():
        times = [str(moment) for moment in columns.timestamp]
        await connection.execute(sql, *columns[:3], times, *columns[4:], str(batch.created_at))


async def _copy(connection: asyncpg.Connection, table: str, batch: BarBatch) -> None:
    """Run one COPY; where the server goes away while asyncpg waits for room to send, end it, as asyncpg would wait on."""
    copying = asyncio.ensure_future(connection.copy_to_table(table, source=_lines(batch), columns=_COLUMNS, format="text"))

    def end(_connection: object) -> None:
        copying.cancel()

    connection.add_termination_listener(end)
    try:
        await copying
    except asyncio.CancelledError:
        if connection.is_closed() and not _is_cancelled():
            raise asyncpg.ConnectionDoesNotExistError("the server ended the connection during a COPY") from None
        raise
    finally:
        connection.remove_termination_listener(end)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


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
        _escaped(columns.exchange),
        _escaped(columns.symbol),
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
    # days and times of day repeat from bar to bar; formatting each bar's anew would cost more than all the rest
    return map(add, map(_day, map(_DAYS, since)), map(_time_of_day, map(_SECONDS, since)))


@lru_cache(maxsize=4096)
def _day(days: int) -> str:
    return f"{date.fromordinal(_EPOCH_DAY + days)} "


@lru_cache(maxsize=86_400)
def _time_of_day(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}+00"


def _escaped(names: Sequence[str]) -> Sequence[str]:
    special = {name for name in set(names) if _SPECIAL.search(name)}
    if not special:
        return names
    escaped = {name: _SPECIAL.sub(lambda match: _ESCAPES[match[0]], name) for name in special}
    return [escaped.get(name, name) for name in names]
