"""Stores and dumps for the tests of the commands."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
)

START = datetime(2024, 2, 1, tzinfo=UTC)


MINUTE = timedelta(minutes=1)


def line(minute: int, price: str = "1.5") -> str:
    opened = 1706745600000 + minute * 60_000
    return f"{opened},{price},{price},{price},{price},10,{opened + 59_999},15,3,5,7.5,0\n"


def write_dump(name: str, *lines: str) -> Path:
    path = Path(name)
    path.write_text("".join(lines))
    return path


def bar(minute: int) -> OHLCVBar:
    price = Decimal("1.5")
    return OHLCVBar(
        "BTCUSDT", "binance", "1m", START + minute * MINUTE, price, price, price, price, Decimal("10.250"), trades_count=1_234
    )


def store_bars(url: str, *bars: OHLCVBar) -> None:
    async def insert() -> None:
        async with DatabaseManager(url) as db:
            await OHLCVRepository(db).insert_many(bars)

    asyncio.run(insert())
