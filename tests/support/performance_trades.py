"""The trades of the suite's cases of performance, in a store."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from iftb_store import DatabaseManager, Trade, TradeRepository
from iftb_store.testing.performance import TRADES, make_trade
from iftb_store.testing.samples import Clock


async def store_cases(url: str, *trades: Trade) -> None:
    """Store the trades of the cases, and other trades."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        async with db.get_session() as session:
            for row in TRADES:
                given, written = make_trade(row)
                await TradeRepository(session, clock=Clock(written)).insert(given)
            for trade in trades:
                await TradeRepository(session).insert(trade)


def huge_trade() -> Trade:
    """Return a trade whose result has as many digits as a column holds."""
    large = Decimal("98765432109876543210.123456789012345678")
    done: dict[str, Any] = {"exit_time": datetime(2024, 2, 3, 5), "realized_pnl": large, "exit_price": large}
    return Trade("HUGE", "PEPEUSDT", "huge", "long", "close", Decimal(1), Decimal(1), datetime(2024, 2, 3), **done)
