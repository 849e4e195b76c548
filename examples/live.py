"""A small bot's loop on PostgreSQL: each bar is stored in one transaction with the trade, position and event that it causes.

    python examples/live.py postgresql://user:password@localhost/iftb

Without a URL it reads the settings: IFTB_STORE_URL, or DB_HOST, DB_DATABASE, DB_USERNAME and DB_PASSWORD.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    Session,
    SystemEventRepository,
    Timeframe,
    Trade,
    TradeRepository,
    get_settings,
)

SYMBOL, EXCHANGE = "BTCUSDT", "example"
TIMEFRAME: Timeframe = "1m"
QUANTITY = Decimal("0.01")
CLOSES = ["60000", "60010.5", "60030", "60075.25", "60120", "60090", "60040.75", "59990"]


async def feed() -> AsyncIterator[OHLCVBar]:
    """Simulate an exchange's stream of closed bars."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    for index, close in enumerate(map(Decimal, CLOSES)):
        minute = now + timedelta(minutes=index - len(CLOSES))
        yield OHLCVBar(SYMBOL, EXCHANGE, TIMEFRAME, minute, close - 5, close + 10, close - 10, close, Decimal("12.5"))


async def open_long(session: Session, bar: OHLCVBar) -> None:
    """Store the trade, its position and an event."""
    trade = Trade(
        trade_id=f"LIVE-{bar.timestamp:%Y%m%d%H%M}",
        symbol=bar.symbol,
        exchange=bar.exchange,
        side="long",
        action="open",
        entry_price=bar.close,
        quantity=QUANTITY,
        entry_time=bar.timestamp,
    )
    await TradeRepository(session).insert(trade)
    margin = bar.close * QUANTITY
    position = Position(bar.symbol, bar.exchange, "long", bar.close, QUANTITY, margin, bar.timestamp, trade_id=trade.trade_id)
    await PositionRepository(session).update_position(position)
    await SystemEventRepository(session).log_event(
        "trade_opened", "info", f"long at {bar.close}", symbol=bar.symbol, trade_id=trade.trade_id
    )
    print(f"{bar.timestamp:%H:%M}  close {bar.close}: opened {trade.trade_id}")


async def close_long(session: Session, bar: OHLCVBar, position: Position) -> None:
    """Store the trade's result, close the position and log an event."""
    (trade,) = await TradeRepository(session).get_by_symbol(bar.symbol, limit=1, exchange=bar.exchange)
    # rows that were read always have an id; the type allows None
    assert trade.id is not None
    assert position.id is not None
    pnl = (bar.close - position.entry_price) * position.quantity
    await TradeRepository(session).update(
        trade.id, action="close", exit_price=bar.close, exit_time=bar.timestamp, realized_pnl=pnl, fee=Decimal("0.05")
    )
    await PositionRepository(session).close_position(position.id)
    await SystemEventRepository(session).log_event(
        "trade_closed", "info", f"closed at {bar.close}", symbol=bar.symbol, trade_id=trade.trade_id, details={"pnl": pnl}
    )
    print(f"{bar.timestamp:%H:%M}  close {bar.close}: closed {trade.trade_id}, pnl {pnl.normalize():f}")


async def main(url: str) -> None:
    """Trade one rise and fall: open after three rising closes, close after two falling ones."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        async for bar in feed():
            async with db.get_session() as session:
                await OHLCVRepository(session).upsert_many([bar])
                latest = await OHLCVRepository(session).get_latest(SYMBOL, TIMEFRAME, limit=3, exchange=EXCHANGE)
                position = await PositionRepository(session).get_position(SYMBOL, EXCHANGE)
                closes = [item.close for item in latest]
                if position is None and len(closes) == 3 and closes[0] > closes[1] > closes[2]:
                    await open_long(session, bar)
                elif position is not None and len(closes) == 3 and closes[0] < closes[1] < closes[2]:
                    await close_long(session, bar, position)
        stats = await TradeRepository(db).get_statistics(days=1, exchange=EXCHANGE)
        print(f"trades {stats.total_trades}, win rate {stats.win_rate} %, net pnl {stats.net_pnl}, fees {stats.total_fees}")
        for event in reversed(await SystemEventRepository(db).get_recent_events(limit=2)):
            print(f"event {event.event_type}: {event.message}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else get_settings().database.get_async_url()))
