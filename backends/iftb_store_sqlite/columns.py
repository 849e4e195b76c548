"""Bars to SQLite's rows and back, a column at a time: what runs once a value runs in C."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import repeat
from operator import add, floordiv, itemgetter, sub, truediv

from iftb_store.batches.bars import BarColumns
from iftb_store.models import OHLCVBar
from iftb_store.relational import Row
from iftb_store.schema.types import EPOCH, from_epoch_us
from iftb_store.values.decimals import from_sortable, to_sortable

_MICROSECOND = timedelta(microseconds=1)
# by the place of the point; texts without one are left to to_sortable
_PREFIXES = [None, *map(chr, range(ord("a"), ord("a") + 20)), None]
_DIGITS = itemgetter(slice(1, None))
# below this a float holds every microsecond since the epoch well enough to be rounded to it
_EXACT_AS_FLOAT = 2**52


def to_rows(columns: BarColumns, created_at: int) -> list[Row]:
    """Return checked bars as rows for the INSERT."""
    decimals = (sortable(column) for column in columns[4:9])
    quotes = optional(columns.quote_volume)
    times = map(floordiv, map(sub, columns.timestamp, repeat(EPOCH)), repeat(_MICROSECOND))
    names = columns.exchange, columns.symbol, columns.timeframe
    return list(zip(*names, times, *decimals, quotes, columns.trades_count, repeat(created_at), strict=False))


def optional(texts: Sequence[str | None]) -> Sequence[str | None]:
    """Return a column of plain decimals, some of them missing, as `to_sortable` writes them."""
    given = [text for text in texts if text is not None]
    if len(given) == len(texts):
        return sortable(given)
    return [None if text is None else to_sortable(text) for text in texts]


def sortable(texts: Sequence[str]) -> Sequence[str]:
    """Return a column of plain decimals as `to_sortable` writes them."""
    joined = "\n".join(texts)
    if "-" in joined:
        return list(map(to_sortable, texts))
    if "0\n" in joined or joined.endswith("0"):
        texts = [text.rstrip("0").rstrip(".") if text[-1] == "0" and "." in text else text for text in texts]
    try:
        return list(map(add, map(_PREFIXES.__getitem__, map(str.find, texts, repeat("."))), texts))
    except TypeError:
        return list(map(to_sortable, texts))


def to_bars(rows: Sequence[Row]) -> list[OHLCVBar]:
    """Return rows in the order of OHLCVBar's fields as bars."""
    symbol, exchange, timeframe, timestamp, open_, high, low, close, volume, quote, trades, ids, created = zip(*rows, strict=True)
    moments = {created_at: from_epoch_us(created_at) for created_at in set(created)}
    prices = (_decimals(column) for column in (open_, high, low, close, volume))
    quotes = _decimals(quote) if None not in quote else [None if text is None else from_sortable(text) for text in quote]
    times = map(moments.__getitem__, created)
    return list(map(OHLCVBar, symbol, exchange, timeframe, _times(timestamp), *prices, quotes, trades, ids, times))


def _decimals(texts: Sequence[str]) -> Iterable[Decimal]:
    if "~" in "".join(texts):
        return map(from_sortable, texts)
    return map(Decimal, map(_DIGITS, texts))


def _times(microseconds: Sequence[int]) -> Iterable[datetime]:
    if min(microseconds) > -_EXACT_AS_FLOAT and max(microseconds) < _EXACT_AS_FLOAT:
        return map(datetime.fromtimestamp, map(truediv, microseconds, repeat(1_000_000)), repeat(UTC))
    return map(from_epoch_us, microseconds)
