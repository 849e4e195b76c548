"""Packs candles for the page: columns of small differences in ticks, compressed; 100,000 of them are half a megabyte."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from iftb_store.models import OHLCVBar
from iftb_store.schema.types import to_epoch_us

#: The most candles of a chart.
MOST = 100_000
# the greatest whole number of JavaScript that is exact is 2**53 - 1; differences of two values must be, too
_EXACT = 2**52
_DIGITS = 6


def pack_candles(bars: Sequence[OHLCVBar]) -> dict[str, Any]:
    """Return candles as JSON values: how to read them, and the packed columns.

    The columns are time, open, high, low, close and volume: the time in seconds as the difference to the time before; the open as
    the difference to the close before; close, high and low as the difference to the open, the greater and the lesser of open and
    close; the volume as it is. Each is a whole number of ticks, written in groups of 7 bits after a zigzag, then all together
    compressed with zlib.
    """
    prices = [value for bar in bars for value in (bar.open, bar.high, bar.low, bar.close)]
    places = _find_places(prices)
    volume_places = _find_volume_places([bar.volume for bar in bars])
    times = [to_epoch_us(bar.timestamp) // 1_000_000 for bar in bars]
    opens, highs, lows, closes = (
        [_to_ticks(getattr(bar, name), places) for bar in bars] for name in ("open", "high", "low", "close")
    )
    columns = (
        _differences(times),
        [begin - before for begin, before in zip(opens, [0, *closes], strict=False)],
        [high - max(pair) for high, *pair in zip(highs, opens, closes, strict=True)],
        [min(pair) - low for low, *pair in zip(lows, opens, closes, strict=True)],
        [close - begin for begin, close in zip(opens, closes, strict=True)],
        [_to_ticks(bar.volume, volume_places) for bar in bars],
    )
    packed = zlib.compress(b"".join(_write_numbers(column) for column in columns), 9)
    return {
        "count": len(bars),
        "places": places,
        "volumePlaces": volume_places,
        "data": b64encode(packed).decode(),
    }


def _find_places(values: Iterable[Decimal]) -> int:
    """Return how many decimals show all values exactly, or as many as JavaScript's numbers hold; negative for huge values."""
    places, most = 0, 0
    for value in values:
        exponent = value.as_tuple().exponent
        places = max(places, -exponent if isinstance(exponent, int) else 0)
        most = max(most, value.adjusted() + 1 if value else 0)
    return min(places, len(str(_EXACT)) - 1 - most)


def _find_volume_places(values: Iterable[Decimal]) -> int:
    """Return how many decimals show the greatest volume with six digits: a bar of the chart has fewer pixels."""
    most = max((value.adjusted() + 1 for value in values if value), default=0)
    return _DIGITS - most


def _to_ticks(value: Decimal, places: int) -> int:
    return round(value.scaleb(places))


def _differences(values: Sequence[int]) -> list[int]:
    return [value - before for value, before in zip(values, [0, *values], strict=False)]


def _write_numbers(values: Iterable[int]) -> bytes:
    written = bytearray()
    for value in values:
        number = 2 * value if value >= 0 else -2 * value - 1
        while number > 127:
            written.append(number & 127 | 128)
            number >>= 7
        written.append(number)
    return bytes(written)
