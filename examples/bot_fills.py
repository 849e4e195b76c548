"""Two accounts whose orders are filled in parts, killed in the middle: the next start records each fill and payment once.

    python examples/bot_fills.py [URL]      (default: a new SQLite file in a temporary folder)

The script starts itself as a child, the bot, and kills it (kill -9 on Unix) when some fills are stored and others are not. Then
the bot starts again. It does not ask how far it came: it records all that the exchange reports, and applies the fills to the
trades. What was stored already is not stored twice.
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
    BalanceRepository,
    BalanceSnapshot,
    DatabaseManager,
    Fill,
    FillRepository,
    FillSide,
    LedgerEntry,
    LedgerRepository,
    Trade,
    TradeRepository,
)

START = datetime(2024, 2, 1, 9, tzinfo=UTC)
ACCOUNTS = ("alice", "bob")
#: What the exchange reports for each account: the side, price and quantity of each fill, and its fee and the fee's currency.
EXECUTIONS: list[tuple[FillSide, str, str, str, str]] = [
    ("buy", "42600", "0.006", "0.1278", "USDT"),
    ("buy", "42500", "0.004", "0.00021", "BNB"),
    ("sell", "42700", "0.004", "0.0854", "USDT"),
    ("sell", "42800", "0.006", "0.1284", "USDT"),
]
FUNDING = Decimal("-0.0426")


def fetch_fills(account: str, count: int) -> list[Fill]:
    """Return the first fills of an account's trade, as an exchange would report them."""
    return [
        Fill(
            f"{account}-{number}",
            "BTCUSDT",
            "binance",
            side,
            Decimal(price),
            Decimal(quantity),
            START + timedelta(minutes=number),
            trade_id=f"T-{account}",
            fee=Decimal(fee),
            fee_currency=currency,
            account=account,
        )
        for number, (side, price, quantity, fee, currency) in enumerate(EXECUTIONS[:count])
    ]


async def book(db: DatabaseManager, account: str, fills: list[Fill]) -> int:
    """Store the trade, and the fills that are new, and set the trade's figures; return the number of new fills."""
    first = fills[0]
    opened = Trade(f"T-{account}", "BTCUSDT", "binance", "long", "open", first.price, first.quantity, first.timestamp)
    async with db.get_session() as session:
        trades = TradeRepository(session, account=account)
        if await trades.get_by_trade_id(opened.trade_id) is None:
            await trades.record(opened)
        new = await FillRepository(session, account=account).record_many(fills)
        await trades.apply_fills(opened.trade_id)
    return sum(new)


async def pay_funding(db: DatabaseManager, account: str) -> bool:
    """Store a funding payment and the balance after it; return whether the payment was new."""
    moment = START + timedelta(hours=7)
    paid = LedgerEntry(
        "funding", "USDT", FUNDING, moment, "binance", "BTCUSDT", f"T-{account}", external_id="P-1", account=account
    )
    balance = BalanceSnapshot("binance", "USDT", moment, Decimal(1000) + FUNDING, unrealized_pnl=Decimal("1.5"), account=account)
    async with db.get_session() as session:
        await BalanceRepository(session).record(balance)
        return await LedgerRepository(session).record(paid)


async def work(url: str) -> None:
    """Book some of the fills, and be killed while others are stored but not committed."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        await book(db, "alice", fetch_fills("alice", 3))
        await pay_funding(db, "alice")
        await book(db, "bob", fetch_fills("bob", 1))
        async with db.get_session() as session:
            await FillRepository(session).record_many(fetch_fills("bob", 2))
            print("in the middle", flush=True)
            await asyncio.sleep(60)


async def resume(url: str) -> None:
    """Record all that the exchange reports, and show what each account has."""
    async with DatabaseManager(url) as db:
        for trade in await TradeRepository(db).get_open():
            print(f"open: {trade.trade_id} of {trade.account}, {trade.quantity} at {trade.entry_price}")
        for account in ACCOUNTS:
            new = await book(db, account, fetch_fills(account, len(EXECUTIONS)))
            print(f"{account}: {new} new fills, funding {'new' if await pay_funding(db, account) else 'stored already'}")
        for account in ACCOUNTS:
            [trade] = await TradeRepository(db, account=account).get_recent()
            summary = await TradeRepository(db).apply_fills(trade.trade_id)
            print(f"{trade.trade_id}: {trade.action}, {trade.quantity} from {trade.entry_price} to {trade.exit_price}")
            print(f"  pnl {trade.realized_pnl}, fee {trade.fee}, other fees {summary.other_fees['BNB']} BNB")
        sums = await LedgerRepository(db).get_sums(kind="funding")
        print("funding of both:", sums["USDT"]["funding"])
        for snapshot in await BalanceRepository(db).get_latest():
            print(f"balance of {snapshot.account}: {snapshot.total} {snapshot.currency}")


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
