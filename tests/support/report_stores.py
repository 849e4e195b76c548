"""Stores of which a report is written: made-up bars and trades, hostile texts, and what is missing."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from iftb_store import OHLCVBar, Trade
from iftb_store.sync import SyncStore

START = datetime(2024, 2, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
#: A text that a page must show, and not run.
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">\'"&<!--'


def walk(count: int, symbol: str = "BTCUSDT", seed: int = 7) -> list[OHLCVBar]:
    """Return 1-minute bars whose prices walk at random, the same on every run."""
    draw, cents = random.Random(seed), 4_200_000
    bars: list[OHLCVBar] = []
    for index in range(count):
        opened, cents = cents, max(cents + draw.randrange(-2_000, 2_001), 1_000)
        high, low = max(opened, cents) + draw.randrange(500), min(opened, cents) - draw.randrange(500)
        first, most, least, last = (Decimal(value).scaleb(-2) for value in (opened, high, low, cents))
        volume = Decimal(draw.randrange(1, 10**9)).scaleb(-5)
        bars.append(OHLCVBar(symbol, "binance", "1m", START + index * MINUTE, first, most, least, last, volume))
    return bars


def make_trades(bars: list[OHLCVBar], count: int, seed: int = 11) -> list[Trade]:
    """Return closed trades between bars, the same on every run."""
    draw = random.Random(seed)
    trades: list[Trade] = []
    for index in range(count):
        entry = draw.randrange(len(bars) - 2)
        leave = draw.randrange(entry + 1, min(entry + 400, len(bars)))
        side, quantity = draw.choice(("long", "short")), Decimal(draw.randrange(1, 100)).scaleb(-3)
        begin, end = bars[entry], bars[leave]
        pnl = (end.close - begin.close) * quantity * (1 if side == "long" else -1)
        done = {"exit_price": end.close, "exit_time": end.timestamp, "realized_pnl": pnl, "fee": Decimal("0.25")}
        trades.append(
            Trade(f"T-{index}", begin.symbol, "binance", side, "close", begin.close, quantity, begin.timestamp, **done)  # type: ignore[arg-type]
        )
    return trades


def fill_store(db: SyncStore, bars: int = 3_000, trades: int = 40, symbol: str = "BTCUSDT", message: str = "refused") -> None:
    """Store bars with gaps, trades, and an event of severity error."""
    whole = walk(bars, symbol)
    if whole:
        db.ohlcv.insert_many([bar for place, bar in enumerate(whole) if not 1_000 <= place < 1_100])
    for trade in make_trades(whole, trades):
        db.trades.insert(trade)
    db.events.log_event("order", "error", message, symbol=symbol)
