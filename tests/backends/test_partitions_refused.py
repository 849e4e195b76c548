"""Partitions of ohlcv on PostgreSQL: where bars would be lost from sight, or settings of the table, the call is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    SchemaError,
    TradeRepository,
    TransientError,
    create_partitions,
    list_partitions,
    partition_bars,
)
from iftb_store.testing.samples import HOUR, T0, hourly
from iftb_store_postgres import partitions
from tests.backends.test_partitioning import connected, db, list_left

__all__ = ["db"]


async def store_old_bars(db: DatabaseManager) -> None:
    """Store ten bars of January 2019."""
    old = datetime(2019, 1, 1, tzinfo=UTC)
    await OHLCVRepository(db).upsert_many([replace(one, timestamp=old + place * HOUR) for place, one in enumerate(hourly(10))])


async def test_bars_are_not_moved_where_an_older_snapshot_would_miss_them(
    db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await partition_bars(db, "month", ahead=0)
    await store_old_bars(db)
    monkeypatch.setattr(partitions, "_PATIENCE", 0.0)
    async with db.get_session(isolation="snapshot") as session:
        assert await TradeRepository(session).get_range(T0, T0) == []
        with pytest.raises(TransientError, match="older snapshot"):
            await create_partitions(db, ahead=1)
        window = datetime(2019, 1, 1), datetime(2019, 1, 31)
        assert len(await OHLCVRepository(session).get_range("BTCUSDT", "1h", *window)) == 10
    # the coming one was created all the same
    assert await create_partitions(db, ahead=1) == ("ohlcv_2019_01",)
    assert len(await OHLCVRepository(db).get_range("BTCUSDT", "1h", *window)) == 10


async def test_a_detached_partition_does_not_prevent_the_others(db: DatabaseManager) -> None:
    await partition_bars(db, "month", ahead=0)
    await create_partitions(db, ahead=0, start=datetime(2019, 1, 1))
    async with db.get_session() as session:
        await session.execute(text("ALTER TABLE ohlcv DETACH PARTITION ohlcv_2019_01"))
    await store_old_bars(db)
    before = len((await list_partitions(db)).partitions)
    with pytest.raises(SchemaError, match=r"ohlcv_2019_01 already exists and is no partition of ohlcv"):
        await create_partitions(db, ahead=3)
    assert len((await list_partitions(db)).partitions) == before + 3
    async with db.get_session() as session:
        await session.execute(text("ALTER TABLE ohlcv_2019_01 RENAME TO archive"))
    assert await create_partitions(db, ahead=3) == ("ohlcv_2019_01",)


@pytest.mark.parametrize(
    ("statement", "obstacle"),
    [
        ("CREATE PUBLICATION everything FOR ALL TABLES", "its place in the publication everything"),
        ("ALTER TABLE ohlcv SET (fillfactor = 70)", "the storage parameter fillfactor=70"),
        ("ALTER TABLE ohlcv REPLICA IDENTITY FULL", "a replica identity"),
    ],
)
async def test_what_the_new_table_would_lose_is_refused(postgres_tables_url: str, statement: str, obstacle: str) -> None:
    async with connected(postgres_tables_url) as owner, DatabaseManager(postgres_tables_url) as db:
        await owner.execute(statement)
        try:
            with pytest.raises(SchemaError, match=obstacle):
                await partition_bars(db)
        finally:
            # a publication is in no schema, so the next test would have it too
            await owner.execute("DROP PUBLICATION IF EXISTS everything")
        assert await list_left(db) == []
