"""The objects that are written: bars and trades like a bot's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from operator import attrgetter
from random import Random
from typing import Any

from benchmarks.series import EXCHANGE, SYMBOL, TIMEFRAME, raw_bars
from iftb_store import OHLCVBar, Trade
from iftb_store.values.tags import encode_texts

#: The columns that a bar is written to, except created_at; the same order for every reference.
WRITTEN = (
    "exchange", "symbol", "timeframe", "timestamp", "open", "high", "low", "close", "volume", "quote_volume", "trades_count"
)  # fmt: skip
#: The columns that a bar is read from, in the order of OHLCVBar's fields.
READ = tuple(field.name for field in fields(OHLCVBar))
TRADE = tuple(field.name for field in fields(Trade) if field.name not in ("id", "created_at", "updated_at"))

written = attrgetter(*WRITTEN)


def bars(count: int) -> list[OHLCVBar]:
    """Return bars of one series, oldest first, with decimals of 2, 5 and 8 places."""
    return [
        OHLCVBar(
            SYMBOL,
            EXCHANGE,
            TIMEFRAME,
            raw.timestamp,
            _hundredths(raw.open),
            _hundredths(raw.high),
            _hundredths(raw.low),
            _hundredths(raw.close),
            Decimal(f"{raw.volume // 100_000}.{raw.volume % 100_000:05}"),
            Decimal(f"{raw.quote_volume // 100_000_000}.{raw.quote_volume % 100_000_000:08}"),
            raw.trades_count,
        )
        for raw in raw_bars(count)
    ]


def every_other(whole: Sequence[OHLCVBar], *, changed: bool) -> list[OHLCVBar]:
    """Return every second bar, to be stored before an upsert: unchanged, or with another volume."""
    return [replace(bar, volume=bar.volume + 1) for bar in whole[::2]] if changed else list(whole[::2])


def _hundredths(number: int) -> Decimal:
    return Decimal(f"{number // 100}.{number % 100:02}")


def trades(count: int) -> Iterator[Trade]:
    """Yield closed trades of the last 20 days, each with its result and fee."""
    draw = Random(20_260_102).random
    now = datetime.now(UTC)
    for index in range(count):
        closed = now - timedelta(seconds=int(draw() * 20 * 86_400) + 60)
        pnl = int(draw() * 200_000_000_000) - 90_000_000_000
        yield Trade(
            trade_id=f"T-{index:09}",
            symbol=SYMBOL,
            exchange=EXCHANGE,
            side="long" if index % 2 else "short",
            action="close",
            entry_price=Decimal("50000.25"),
            quantity=Decimal("0.015"),
            entry_time=closed - timedelta(hours=2),
            leverage=Decimal(5),
            exit_price=Decimal("50100.5"),
            exit_time=closed,
            realized_pnl=Decimal(pnl).scaleb(-8),
            realized_pnl_pct=Decimal("1.25"),
            fee=Decimal(int(draw() * 1_000_000)).scaleb(-6),
        )


def trade_values(trade: Trade) -> list[Any]:
    """Return a trade's values in the order of `TRADE`; the tags are text, as every engine stores them."""
    return [encode_texts(trade.tags) if name == "tags" else getattr(trade, name) for name in TRADE]


class NewTrades:
    """Makes new trades, one at a time."""

    def __init__(self) -> None:
        self._made = 0

    def next(self) -> Trade:
        """Return a trade that is not stored yet."""
        (trade,) = islice(trades(1), 1)
        self._made += 1
        trade.trade_id = f"N-{self._made:09}"
        return trade
