"""Drops the partitions of ohlcv whose bars are all older than a time."""

from __future__ import annotations

from datetime import datetime

import asyncpg

from iftb_store.health import BarPartition, DroppedPartition
from iftb_store_postgres.partitions import BarTable, attempt, find_table, quote, read_partitioning, transaction


async def drop_old(connection: asyncpg.Connection, before: datetime, *, dry_run: bool) -> list[DroppedPartition]:
    """Drop the partitions that end at or before a time, oldest first, each in its own transaction; return them.

    Raises:
        SchemaError: there is no table of bars.
        TransientError: other transactions kept a partition, or the table, locked for minutes.
    """
    table = await find_table(connection)
    partitioning = await read_partitioning(connection, table)
    found = [one for one in partitioning.partitions if one.end is not None and one.end <= before]
    if dry_run:
        return [DroppedPartition(one.name, ()) for one in found]
    dropped: list[DroppedPartition] = []
    for one in found:

        async def drop(one: BarPartition = one) -> DroppedPartition:
            async with transaction(connection, table):
                return await _drop_one(connection, table, one)

        dropped.append(await attempt(drop))
    return dropped


async def _drop_one(connection: asyncpg.Connection, table: BarTable, partition: BarPartition) -> DroppedPartition:
    name = f"{table.schema}.{quote(partition.name)}"
    # readers continue while the bars are counted, and writers that use other partitions
    await connection.execute(f"LOCK TABLE {name} IN SHARE MODE")
    rows = await connection.fetch(
        f"SELECT exchange, symbol, timeframe, count(*) AS bars FROM {name} GROUP BY exchange, symbol, timeframe"
    )
    await connection.execute(f"DROP TABLE {name}")
    return DroppedPartition(
        partition.name, tuple(((row["exchange"], row["symbol"], row["timeframe"]), row["bars"]) for row in rows)
    )
