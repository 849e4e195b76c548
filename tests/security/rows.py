"""What the tests of roles and rows share: how many rows there are, and statements of a superuser."""

from __future__ import annotations

import asyncpg

#: Trades, and bars, that the fixture ``owner`` stores.
ROWS = 10


async def execute(url: str, statements: str) -> None:
    """Execute statements as the user of a URL, without a parameter and in one transaction."""
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()
