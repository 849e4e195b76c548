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

from iftb_store.bars import BarBatch, BarColumns
from iftb_store.types import EPOCH

#: Up to this many rows one INSERT of arrays is faster than COPY.
FEW = 300

_COLUMNS = (*BarColumns._fields, "created_at")
_NAMES = ", ".join(_COLUMNS)
_KEY = "exchange, symbol, timeframe, timestamp"
_VALUES = _COLUMNS[4:11]
_ARRAYS = f"""
    SELECT exchange, symbol, timeframe, timestamp::timestamptz, open::numeric, high::numeric, low::numeric, close::numeric,
        volume::numeric, quote_volume::numeric, trades_count, $12::text::timestamptz
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::bigint[]) AS batch ({", ".join(_COLUMNS[:11])})"""
_ON_CONFLICT = f"""
    ON CONFLICT ({_KEY}) DO UPDATE SET {", ".join(f"{column} = excluded.{column}" for column in _VALUES)}
    WHERE ({", ".join(f"ohlcv.{column}" for column in _VALUES)})
        IS DISTINCT FROM ({", ".join(f"excluded.{column}" for column in _VALUES)})"""
# dropped rows, not a dropped table: creating one for each call would bloat the catalog
_STAGING = f"""
    CREATE TEMPORARY TABLE IF NOT EXISTS iftb_store_upsert ON COMMIT DELETE ROWS AS SELECT {_NAMES} FROM ohlcv WITH NO DATA"""

_INSERT_FEW = f"INSERT INTO ohlcv ({_NAMES}) {_ARRAYS}"
_UPSERT_FEW = f"INSERT INTO ohlcv ({_NAMES}) {_ARRAYS} ORDER BY {_KEY} {_ON_CONFLICT}"
_UPSERT_STAGED = f"INSERT INTO ohlcv ({_NAMES}) SELECT {_NAMES} FROM iftb_store_upsert {{}} {_ON_CONFLICT}"
_UPSERT_ORDERED = _UPSERT_STAGED.format("")
_UPSERT_SORTED = _UPSERT_STAGED.format(f"ORDER BY {_KEY}")

_DAYS, _SECONDS, _MICROSECONDS = attrgetter("days"), attrgetter("seconds"), attrgetter("microseconds")
_EPOCH_DAY = EPOCH.toordinal()

_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}


async def insert(connection: asyncpg.Connection, batch: BarBatch) -> None:
    """Insert bars; a duplicate fails the statement."""
    if len(batch) <= FEW:
        await _arrays(connection, _INSERT_FEW, batch)
    else:
        await connection.copy_to_table("ohlcv", source=_lines(batch), columns=_COLUMNS, format="text")


async def upsert(connection: asyncpg.Connection, batch: BarBatch) -> None:
    """Insert bars or overwrite the values that differ, in key order."""
    if len(batch) <= FEW:
        await _arrays(connection, _UPSERT_FEW, batch)
        return
    await connection.execute(_STAGING)
    await connection.execute("DELETE FROM iftb_store_upsert")
    await connection.copy_to_table("iftb_store_upsert", source=_lines(batch), columns=_COLUMNS, format="text")
    await connection.execute(_UPSERT_ORDERED if batch.ordered else _UPSERT_SORTED)


async def _arrays(connection: asyncpg.Connection, sql: str, batch: BarBatch) -> None:
    for columns in batch.chunks():
        times = [str(moment) for moment in columns.timestamp]
        await connection.execute(sql, *columns[:3], times, *columns[4:], str(batch.created_at))


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
