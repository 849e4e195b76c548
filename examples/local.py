"""Local development on SQLite: store bars, find and fill a gap, refuse a duplicate, roll back a failed batch.

python examples/local.py [URL]      (default: a database in memory)
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy.exc import IntegrityError

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository

START = datetime(2024, 2, 1, tzinfo=UTC)


def bar(hour: int, close: str = "50500.25") -> OHLCVBar:
    """Make an hourly bar."""
    prices = Decimal(50_000), Decimal(51_000), Decimal(49_500), Decimal(close)
    return OHLCVBar("BTCUSDT", "binance", "1h", START + timedelta(hours=hour), *prices, volume=Decimal("100.5"))


async def main(url: str) -> None:
    """Store a day of bars with a gap, and show what the contract promises."""
    async with DatabaseManager(url) as db:
        await db.create_tables()
        repo = OHLCVRepository(db)
        print("inserted", await repo.insert_many([bar(hour) for hour in range(24) if hour not in (7, 8)]))

        for before, after in await repo.get_gaps("BTCUSDT", "1h"):
            print(f"missing between {before:%H:%M} and {after:%H:%M}")
        print("upserted", await repo.upsert_many([bar(7), bar(8), bar(9, close="50501")]))
        print("gaps now", await repo.get_gaps("BTCUSDT", "1h"))

        async with db.get_session() as session:
            inside = OHLCVRepository(session)
            await inside.insert_many([bar(24)])
            try:
                await inside.insert_many([bar(25), bar(0)])
            except IntegrityError as error:
                print("refused:", error.orig)
        newest = await repo.get_latest("BTCUSDT", "1h", limit=1)
        print(f"newest {newest[0].timestamp:%d %H:%M}: the earlier bar is kept, no bar of the refused batch is stored")

        try:
            await repo.insert_many([bar(30, close="50500.1234567890123456789")])
        except InvalidValueError as error:
            print("refused:", error)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///:memory:"))
