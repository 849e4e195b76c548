"""The bars of the benchmark as plain numbers, the same in every run; it imports only the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final, NamedTuple

SYMBOL, EXCHANGE = "BTCUSDT", "binance"
TIMEFRAME: Final = "1m"
START = datetime(2015, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=1)
#: After each group of this many bars there is a gap.
GAP_EVERY = 50_000


class RawBar(NamedTuple):
    """A bar of whole numbers: prices in hundredths, the volume in 1/100,000, the quote volume in 1/100,000,000."""

    timestamp: datetime
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    trades_count: int


def raw_bars(count: int) -> Iterator[RawBar]:
    """Yield one-minute bars of a random walk, oldest first."""
    draw = Random(20_260_101).random
    timestamp, price = START, 5_000_000
    for index in range(count):
        close = max(100, price + int(draw() * 2_001) - 1_000)
        high = max(price, close) + int(draw() * 500)
        low = min(price, close) - int(draw() * 50)
        volume = int(draw() * 10_000_000) + 1
        yield RawBar(timestamp, price, high, low, close, volume, volume * close * 10 + index % 10, volume % 5_000)
        price = close
        timestamp += STEP if (index + 1) % GAP_EVERY else 3 * STEP
