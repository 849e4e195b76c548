"""Reads bars from PostgreSQL: few bars with a query, many bars with COPY, which creates no driver object per row."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from itertools import repeat
from typing import Any, Literal

import asyncpg

from iftb_store.models import OHLCVBar
from iftb_store.relational import Row, pause_gc
from iftb_store.schema.types import from_epoch_us
from iftb_store.values.decimals import CONTEXT

_NULL = r"\N"
# only columns of numbers: COPY escapes nothing in them
_COLUMNS = (
    "EXTRACT(EPOCH FROM timestamp)", "open", "high", "low", "close", "volume", "quote_volume", "trades_count", "id",
    "EXTRACT(EPOCH FROM created_at)",
)  # fmt: skip
_NAMES = ", ".join(field.name for field in fields(OHLCVBar))
_SERIES = ("symbol", "exchange", "timeframe")
# seconds since 1970 below this bound can be held by a float exactly enough to be rounded to microseconds
_EXACT_AS_FLOAT = 2.0**52 / 1_000_000


def to_bars(rows: Sequence[Row]) -> list[OHLCVBar]:
    """Convert rows to bars; the columns are OHLCVBar's fields in their order, with decimals as text."""
    symbol, exchange, timeframe, timestamp, open_, high, low, close, volume, quote, *rest = zip(*rows, strict=True)
    prices = (map(Decimal, column) for column in (open_, high, low, close, volume))
    quotes = map(Decimal, quote) if None not in quote else [None if text is None else Decimal(text) for text in quote]
    return list(map(OHLCVBar, symbol, exchange, timeframe, timestamp, *prices, quotes, *rest))


async def copy_bars(connection: asyncpg.Connection, sql: str, names: Sequence[str], args: Row) -> list[OHLCVBar]:
    """Run a query for bars of one series through COPY and return the bars in order of time.

    Args:
        connection: the driver's connection.
        sql: a query whose columns are OHLCVBar's fields, in the same order.
        names: the names of the query's parameters; exchange, symbol and timeframe are among them.
        args: the values of the parameters.
    """
    given = dict(zip(names, args, strict=True))
    series = tuple(str(given[name]) for name in _SERIES)
    bars: list[OHLCVBar] = []
    rest = b""

    async def take(data: bytes) -> None:
        nonlocal rest
        whole, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            with pause_gc():
                bars.extend(_parse(whole.decode(), series))

    query = f"SELECT {', '.join(_COLUMNS)} FROM ({sql}) AS bars ({_NAMES}) ORDER BY timestamp"
    await copy_out(connection, query, args, take)
    return bars


async def copy_out(
    connection: asyncpg.Connection,
    sql: str,
    args: Row,
    take: Callable[[bytes], Coroutine[Any, Any, None]],
    format: Literal["text", "csv"] = "text",
) -> None:
    """Run a query through COPY and pass the data to ``take``; if the COPY is interrupted, close the connection.

    asyncpg would otherwise start its next statement before the server has ended the COPY.
    """
    try:
        await connection.copy_from_query(sql, *args, output=take, format=format)
    except asyncpg.PostgresError:
        raise
    except BaseException:
        # a cancellation, or an error of ``take``: the COPY is still in progress
        connection.terminate()
        raise


def _parse(text: str, series: Sequence[str]) -> Iterable[OHLCVBar]:
    cells = text.replace("\n", "\t").split("\t")
    width = len(_COLUMNS)
    timestamp, *prices, quote, count, number, created = (cells[first::width] for first in range(width))
    created_at = dict(zip({*created}, _times(list({*created})), strict=True))
    return map(
        OHLCVBar,
        *map(repeat, series),
        _times(timestamp),
        *(map(Decimal, column) for column in prices),
        map(Decimal, quote) if _NULL not in quote else [None if cell == _NULL else Decimal(cell) for cell in quote],
        map(int, count) if _NULL not in count else [None if cell == _NULL else int(cell) for cell in count],
        map(int, number),
        map(created_at.__getitem__, created),
    )


def _times(seconds: Sequence[str]) -> Iterable[datetime]:
    numbers = list(map(float, seconds))
    if max(map(abs, numbers)) < _EXACT_AS_FLOAT:
        return map(datetime.fromtimestamp, numbers, repeat(UTC))
    return [from_epoch_us(int(CONTEXT.scaleb(Decimal(text), 6))) for text in seconds]
