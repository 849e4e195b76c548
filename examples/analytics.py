"""Offline analytics on DuckDB: a month of one-minute bars, then your own SQL over exact decimals and UTC times.

python examples/analytics.py [URL]      (default: a database in memory; e.g. duckdb:///research.duckdb)
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import text

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository

START = datetime(2024, 2, 1, tzinfo=UTC)
MINUTES = 29 * 24 * 60

DAILY = """
    SELECT date_trunc('day', timestamp) AS day, arg_min(open, timestamp) AS open, max(high) AS high, min(low) AS low,
        arg_max(close, timestamp) AS close, sum(volume) AS volume, count(*) AS bars
    FROM ohlcv
    WHERE exchange = 'binance' AND symbol = :symbol AND timeframe = '1m'
    GROUP BY day
    ORDER BY volume DESC
    LIMIT 3"""
RANGES = """
    SELECT date_part('hour', timestamp) AS hour, avg((high - low) / low * 100) AS percent
    FROM ohlcv
    WHERE symbol = :symbol
    GROUP BY hour
    ORDER BY percent DESC
    LIMIT 3"""


def bars() -> list[OHLCVBar]:
    """Make bars; their prices and volumes are the same in every run."""
    series = []
    cents = 4_250_000
    for minute in range(MINUTES):
        before, cents = cents, cents + (minute * minute * 37 + minute * 101) % 4_001 - 2_000
        top, bottom = max(before, cents) + minute % 97, min(before, cents) - minute % 89
        opened, high, low, closed = (Decimal(price).scaleb(-2) for price in (before, top, bottom, cents))
        volume = Decimal(5_000 + minute * 7_919 % 20_000).scaleb(-3)
        series.append(OHLCVBar("BTCUSDT", "binance", "1m", START + timedelta(minutes=minute), opened, high, low, closed, volume))
    return series


async def main(url: str) -> None:
    """Load the bars, then query the busiest days and the widest hours."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        print(f"{await OHLCVRepository(db).upsert_many(bars()):,} bars stored")
        async with db.get_session() as session:
            print("busiest days:")
            for row in (await session.execute(text(DAILY), {"symbol": "BTCUSDT"})).mappings():
                print(f"  {row['day']:%Y-%m-%d}  close {row['close'].normalize():f}  volume {row['volume'].normalize():f}")
            print("widest hours:")
            for hour, percent in (await session.execute(text(RANGES), {"symbol": "BTCUSDT"})).all():
                print(f"  {hour:02}:00 UTC  {percent:.4f} % a minute")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "duckdb:///:memory:"))
