"""Batches of bars, checked column by column in chunks, so that a million bars do not block the event loop for long."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from operator import attrgetter, lt
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy.exc import IntegrityError

from iftb_store.errors import InvalidValueError, integrity_error
from iftb_store.models import OHLCVBar
from iftb_store.values import checks
from iftb_store.values.decimals import format_plain
from iftb_store.values.display import show
from iftb_store.values.timeframes import SECONDS, check_timeframe

if TYPE_CHECKING:
    import pyarrow as pa

#: The number of rows that are checked and encoded in one step on the event loop; a step takes a few milliseconds.
CHUNK = 2_000

#: The remedy for a row that is not an OHLCVBar.
FROM_CCXT = "OHLCVBar.from_ccxt(row, symbol=…, timeframe=…, exchange=…) converts a row of ccxt or a dict"

_DECIMALS = re.compile(r"(?:\d{1,20}+(?:\.\d{1,18}+)?+\n)*+", re.ASCII)
_PLAIN_BYTES = b"0123456789.\n"
# a text of at most this length cannot have more than 18 digits after the point or more than 20 before it
_SHORT = 20
_INT64_MAX = 2**63 - 1

#: How a store treats a bar whose key is stored: "insert" refuses the bar; "upsert" overwrites the stored values; "count"
#: overwrites them too, and counts the inserted and the changed bars.
WriteMode = Literal["insert", "upsert", "count"]
#: A series of bars: exchange, symbol and timeframe.
SeriesKey = tuple[str, str, str]
_Key = tuple[str, str, str, datetime]


class BarColumns(NamedTuple):
    """Checked bars as columns; decimals are plain text: digits, at most one point, possibly a minus sign, no exponent."""

    exchange: Sequence[str]
    symbol: Sequence[str]
    timeframe: Sequence[str]
    timestamp: Sequence[datetime]
    open: Sequence[str]
    high: Sequence[str]
    low: Sequence[str]
    close: Sequence[str]
    volume: Sequence[str]
    quote_volume: Sequence[str | None]
    trades_count: Sequence[int | None]


#: The key columns of a bar, and the columns that an upsert overwrites.
KEY, VALUES = BarColumns._fields[:4], BarColumns._fields[4:]
_COLUMNS, _KEY = attrgetter(*BarColumns._fields), attrgetter(*KEY)


class BarBatch:
    """Bars to write; a store reads them in chunks, which are checked when read. The caller's bars are never changed.

    Attributes:
        bars: the caller's bars.
        created_at: the created_at that new bars get.
        ordered: whether the keys are known to be in ascending order.
        table: the rows as a checked Arrow table with the columns of `BarColumns`, if the caller passed Arrow data; then
            ``bars`` is empty.
    """

    __slots__ = ("bars", "created_at", "ordered", "table")

    def __init__(self, bars: Sequence[OHLCVBar], created_at: datetime, *, ordered: bool = False) -> None:
        self.bars = bars
        self.created_at = created_at
        self.ordered = ordered
        self.table: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.bars)

    def chunks(self, size: int = CHUNK) -> Iterator[BarColumns]:
        """Check the bars and yield them in order, as columns of at most ``size`` rows.

        Raises:
            InvalidValueError: during the iteration, if a bar cannot be stored; the message names the first such bar.
        """
        for first in range(0, len(self.bars), size):
            yield to_columns(self.bars[first : first + size], first, len(self.bars))


def to_columns(bars: Sequence[OHLCVBar], first: int = 0, total: int | None = None) -> BarColumns:
    """Check bars and return them as columns.

    Args:
        bars: the bars, which may be a part of a batch.
        first: the index of the first of these bars in the whole batch, for error messages.
        total: the number of bars in the whole batch, for error messages; None if ``bars`` is the whole batch.

    Raises:
        InvalidValueError: a bar cannot be stored; the message contains the bar's number in the whole batch.
    """
    try:
        columns = _fast_columns(bars)
    except Exception:
        # hashing and comparing values runs foreign code, e.g. of a tzinfo; the slower check below raises a clear error
        columns = None
    if columns is not None:
        return columns
    of = len(bars) if total is None else total
    rows = [_row(bar, first + index, of) for index, bar in enumerate(bars)]
    return BarColumns._make(zip(*rows, strict=True))


def _fast_columns(bars: Sequence[OHLCVBar]) -> BarColumns | None:
    """Check one column at a time and return the columns; None if any value is invalid or needs the slower check."""
    exchange, symbol, timeframe, timestamp, open_, high, low, close, volume, quote_volume, trades_count = zip(
        *map(_COLUMNS, bars), strict=True
    )
    named = all(_is_plain_name(name) for name in {*exchange, *symbol}) and SECONDS.keys() >= set(timeframe)
    if not named or set(map(type, timestamp)) != {datetime}:
        return None
    zones = {moment.tzinfo for moment in timestamp}
    if zones != {UTC}:
        if zones != {None}:
            return None
        timestamp = tuple(moment.replace(tzinfo=UTC) for moment in timestamp)
    prices = open_ + high + low + close + volume
    if set(map(type, prices)) != {Decimal}:
        return None
    texts = _plain_texts(prices)
    if texts is None or any(map(lt, high, low)):
        return None
    quotes = _optional_texts(quote_volume)
    if quotes is None or not _counts(trades_count):
        return None
    count = len(bars)
    columns = (texts[first : first + count] for first in range(0, 5 * count, count))
    return BarColumns._make((exchange, symbol, timeframe, timestamp, *columns, quotes, trades_count))


def _plain_texts(column: Sequence[Decimal]) -> tuple[str, ...] | None:
    """Return decimals as plain text; None if any is negative, has an exponent, is not finite or has too many digits."""
    texts = tuple(map(str, column))
    joined = "\n".join(texts) + "\n"
    if max(map(len, texts)) <= _SHORT and not joined.encode().translate(None, _PLAIN_BYTES):
        return texts
    return texts if _DECIMALS.fullmatch(joined) else None


def _is_plain_name(name: Any) -> bool:
    is_plain = type(name) is str and name.isascii() and name.isprintable() and not name.isspace()
    return is_plain and 0 < len(name) <= checks.LONGEST_NAME


def _optional_texts(column: Sequence[Decimal | None]) -> Sequence[str | None] | None:
    kinds = set(map(type, column))
    if kinds == {type(None)}:
        return [None] * len(column)
    if not kinds <= {Decimal, type(None)}:
        return None
    given = _plain_texts([value for value in column if value is not None])
    if given is None or len(given) == len(column):
        return given
    rest = iter(given)
    return [None if value is None else next(rest) for value in column]


def _counts(column: Sequence[int | None]) -> bool:
    if not {int, type(None)} >= set(map(type, column)):
        return False
    given = [count for count in column if count is not None]
    return not given or (min(given) >= 0 and max(given) <= _INT64_MAX)


def _row(bar: OHLCVBar, index: int, total: int) -> tuple[object, ...]:
    try:
        checked = check_bar(bar)
    except InvalidValueError as error:
        key = " ".join(show(getattr(bar, name, None)) for name in KEY)
        label = f" ({key})" if isinstance(bar, OHLCVBar) else ""
        raise InvalidValueError(f"bar {index + 1} of {total}{label}: {error}") from error
    decimals = (None if value is None else format_plain(value) for value in _COLUMNS(checked)[4:-1])
    return *_KEY(checked), *decimals, checked.trades_count


def check_bar(bar: OHLCVBar, remedy: str = checks.QUANTIZE) -> OHLCVBar:
    """Check a bar and return a copy with normalised values; ``remedy`` is the advice for a value with too many places.

    Raises:
        InvalidValueError: a value cannot be stored, high is below low, or a volume is negative.
    """
    if not isinstance(bar, OHLCVBar):
        remedy = f"; {FROM_CCXT}" if isinstance(bar, list | tuple | dict) else ""
        raise InvalidValueError(f"a bar must be an OHLCVBar, not {type(bar).__name__}{remedy}")
    prices: dict[str, Any] = {name: checks.exact_decimal(getattr(bar, name), name, remedy) for name in VALUES[:5]}
    if prices["high"] < prices["low"]:
        raise InvalidValueError(f"high {prices['high']} is below low {prices['low']}")
    quote = checks.optional(partial(checks.exact_decimal, remedy=remedy), bar.quote_volume, "quote_volume")
    for name, value in (("volume", prices["volume"]), ("quote_volume", quote)):
        if value is not None and value < 0:
            raise InvalidValueError(f"{name} {value} is negative")
    return replace(
        bar,
        exchange=checks.name_text(bar.exchange, "exchange"),
        symbol=checks.name_text(bar.symbol, "symbol"),
        timeframe=check_timeframe(bar.timeframe),
        timestamp=checks.utc(bar.timestamp, "timestamp"),
        quote_volume=quote,
        trades_count=checks.optional(checks.integer, bar.trades_count, "trades_count"),
        **prices,
    )


def duplicate_bar_error(key: tuple[str, str, str, datetime], *, twice: bool, cause: Exception | None = None) -> IntegrityError:
    """Return the error for a bar that cannot be inserted, because the batch has it twice or it is already stored."""
    exchange, symbol, timeframe, timestamp = key
    label = f"the bar {show(exchange)} {show(symbol)} {timeframe} {timestamp.isoformat()}"
    if twice:
        return integrity_error(f"{label} occurs twice in the batch; nothing was inserted; upsert_many keeps the last one", cause)
    return integrity_error(f"{label} is already stored; nothing was inserted; upsert_many overwrites it", cause)


async def make_batch(bars: Sequence[OHLCVBar], created_at: datetime) -> BarBatch:
    """Return a batch with one bar per key; of several bars with the same key, the last one is kept.

    Raises:
        InvalidValueError: the key of a bar cannot be stored. If a key occurs twice, all values of all bars are checked too.
    """
    last: dict[_Key, int] = {}
    previous: list[_Key] = []
    ordered = True
    for first in range(0, len(bars), CHUNK):
        keys = _keys(bars[first : first + CHUNK], first, len(bars))
        ordered = ordered and _rise(previous, keys)
        previous = keys
        last.update(zip(keys, range(first, len(bars)), strict=False))
        await asyncio.sleep(0)
    if len(last) < len(bars):
        # check all bars here: a replaced bar must be valid too, and errors must name the index in the caller's batch
        for first in range(0, len(bars), CHUNK):
            to_columns(bars[first : first + CHUNK], first, len(bars))
            await asyncio.sleep(0)
        bars = [bars[index] for index in last.values()]
    return BarBatch(bars, created_at, ordered=ordered)


async def is_in_key_order(batch: BarBatch) -> bool:
    """Return whether the keys of a batch are in ascending order; False also if a key is invalid, as keys are not yet checked."""
    previous: list[_Key] = []
    for first in range(0, len(batch), CHUNK):
        try:
            keys = list(map(_KEY, batch.bars[first : first + CHUNK]))
            if not _rise(previous, keys):
                return False
        except Exception:
            # a bar whose key is missing or cannot be compared is refused later, when the batch is read
            return False
        previous = keys
        await asyncio.sleep(0)
    return True


def _rise(previous: list[_Key], keys: list[_Key]) -> bool:
    return all(map(lt, keys, keys[1:])) and (not previous or previous[-1] < keys[0])


def _keys(bars: Sequence[OHLCVBar], first: int, total: int) -> list[_Key]:
    try:
        keys = list(map(_KEY, bars))
        *names, moments = zip(*keys, strict=True)
        usual = {type(name) for column in names for name in column} == {str} and set(map(type, moments)) == {datetime}
        if usual and {moment.tzinfo for moment in moments} == {UTC}:
            return keys
    except Exception:  # noqa: S110 - to_columns, called below, raises a clear error
        pass
    return list(zip(*to_columns(bars, first, total)[:4], strict=True))
