"""A bot that is killed in the middle of its work and finds everything again when it starts once more, on any engine.

    python examples/restart.py [URL]      (default: a new SQLite file in a temporary folder)

The script starts itself as a child, the bot, which opens trades on two exchanges until this process kills it (kill -9 on Unix).
Then the bot runs again: it finds its open trades, the trade of the order that it had sent, the events of that trade and the open
positions of all exchanges, completes what is missing, and closes one trade.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from iftb_store import (
    DatabaseManager,
    Position,
    PositionRepository,
    Session,
    SystemEventRepository,
    Trade,
    TradeRepository,
)

START = datetime(2024, 2, 1, 9, tzinfo=UTC)
#: The orders that the exchanges filled, whether the bot lived to see it or not; each order's id is the trade_id.
FILLS = {
    "R-1": ("BTCUSDT", "binance", Decimal("42600")),
    "R-2": ("ETHUSDT", "bybit", Decimal("2290.5")),
    "R-3": ("BTCUSDT", "bybit", Decimal("42610")),
}
QUANTITY = Decimal("0.01")


async def open_trade(session: Session, trade_id: str) -> None:
    """Store a filled order, its position and an event in one transaction: a kill leaves all three or none."""
    symbol, exchange, price = FILLS[trade_id]
    moment = START + timedelta(minutes=list(FILLS).index(trade_id))
    await TradeRepository(session).record(Trade(trade_id, symbol, exchange, "long", "open", price, QUANTITY, moment))
    position = Position(symbol, exchange, "long", price, QUANTITY, price * QUANTITY, moment, trade_id=trade_id)
    await PositionRepository(session).update_position(position)
    events = SystemEventRepository(session)
    await events.log_event("trade_opened", "info", f"long at {price}", None, symbol, exchange, trade_id, at=moment)


async def work(url: str) -> None:
    """Open two trades, and be killed while the third is not yet committed."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        for trade_id in ("R-1", "R-2"):
            async with db.get_session() as session:
                await open_trade(session, trade_id)
        async with db.get_session() as session:
            await open_trade(session, "R-3")
            print("in the middle", flush=True)
            await asyncio.sleep(60)


async def resume(url: str) -> None:
    """Find what the killed bot left, store what it could not commit, and close the first trade."""
    async with DatabaseManager(url) as db:
        trades, positions, events = TradeRepository(db), PositionRepository(db), SystemEventRepository(db)
        print("open trades:", *(trade.trade_id for trade in await trades.get_open(exchange=None)))
        for trade_id in FILLS:
            stored = await trades.get_by_trade_id(trade_id)
            logged = [event.event_type for event in await events.get_events(trade_id=trade_id)]
            print(f"{trade_id}:", "not stored" if stored is None else f"{stored.action} {stored.symbol}", *logged)
            if stored is None:
                async with db.get_session() as session:
                    await open_trade(session, trade_id)
        for position in await positions.get_open_positions(exchange=None):
            print(f"position: {position.exchange} {position.symbol} {position.quantity} of {position.trade_id}")
        await close_trade(db, "R-1", Decimal("42700"))
        today = await trades.get_range(START, START + timedelta(days=1), exchange=None)
        print("today:", *(f"{trade.trade_id} {trade.action}" for trade in today))
        print("events of R-1:", *(event.event_type for event in await events.get_events(trade_id="R-1")))


async def close_trade(db: DatabaseManager, trade_id: str, price: Decimal) -> None:
    """Close a trade that was found by its trade_id, and its position, in one transaction."""
    async with db.get_session() as session:
        trade = await TradeRepository(session).get_by_trade_id(trade_id)
        assert trade is not None
        position = await PositionRepository(session).get_position(trade.symbol, trade.exchange)
        # rows that were read always have an id; the type allows None
        assert position is not None
        assert trade.id is not None
        assert position.id is not None
        moment, pnl = START + timedelta(hours=1), (price - trade.entry_price) * trade.quantity
        await TradeRepository(session).update(trade.id, action="close", exit_price=price, exit_time=moment, realized_pnl=pnl)
        await PositionRepository(session).close_position(position.id)
        await SystemEventRepository(session).log_event(
            "trade_closed", "info", f"closed at {price}", {"pnl": pnl}, trade.symbol, trade.exchange, trade_id, at=moment
        )


def main(url: str) -> None:
    """Run the bot as a child, kill it in the middle, and run it again."""
    with subprocess.Popen([sys.executable, __file__, "--bot", url], stdout=subprocess.PIPE, text=True) as bot:
        assert bot.stdout is not None
        bot.stdout.readline()
        bot.kill()
    print("killed with", bot.returncode, flush=True)
    asyncio.run(resume(url))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bot"]:
        asyncio.run(work(sys.argv[2]))
    elif len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(f"sqlite:///{Path(folder, 'bot.db')}")
