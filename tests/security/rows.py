"""Shared by the tests of roles and rows: the number of rows, and statements of a superuser."""

from __future__ import annotations

import asyncpg

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository
from iftb_store.testing.samples import hourly, trade

#: Trades, and bars, that the fixture ``owner`` stores.
ROWS = 10


async def fill(url: str, reader: str) -> None:
    """Create the tables of a PostgreSQL database, store rows, and let a role read and write them."""
    async with DatabaseManager(url) as db:
        await db.create_tables()
        async with db.get_session() as session:
            for number in range(ROWS):
                await TradeRepository(session).insert(trade(trade_id=str(number)))
            await OHLCVRepository(session).insert_many(hourly(ROWS))
    await execute(
        url,
        f"GRANT USAGE ON SCHEMA public TO {reader};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {reader};"
        f"GRANT UPDATE ON ALL SEQUENCES IN SCHEMA public TO {reader}",
    )


async def execute(url: str, statements: str) -> None:
    """Execute statements as the user of a URL, without a parameter and in one transaction."""
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()
