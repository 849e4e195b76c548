"""Bars in PostgreSQL partitions: rows of a missing or unreadable partition are never mistaken for absent."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.doctor import examine
from iftb_store.schema.scope import TableScope
from iftb_store.testing.samples import HOUR, T0, hourly
from iftb_store.transfer.copy import Copy
from tests.security.rows import ROWS, execute

_BARS = TableScope(["ohlcv"])
_MIDDLE = T0 + ROWS // 2 * HOUR
_PARTED = f"""
    ALTER TABLE ohlcv RENAME TO plain;
    CREATE TABLE ohlcv (LIKE plain INCLUDING DEFAULTS, PRIMARY KEY (exchange, symbol, timeframe, timestamp))
        PARTITION BY RANGE (timestamp);
    CREATE TABLE early PARTITION OF ohlcv FOR VALUES FROM (MINVALUE) TO ('{_MIDDLE}');
    CREATE TABLE late PARTITION OF ohlcv FOR VALUES FROM ('{_MIDDLE}') TO ('2100-01-01');
    INSERT INTO ohlcv SELECT * FROM plain;
    DROP TABLE plain CASCADE;
    CREATE SEQUENCE ids OWNED BY ohlcv.id;
    SELECT setval('ids', 1000);
    ALTER TABLE ohlcv ALTER COLUMN id SET DEFAULT nextval('ids')"""


@pytest.fixture
async def parted(owner: str, reader: str) -> str:
    """URL of a superuser, over bars in two partitions that the reader may read only through their table."""
    await execute(owner, f"{_PARTED}; GRANT SELECT, INSERT, UPDATE, DELETE ON ohlcv TO {reader}")
    return owner


async def copy_of(url: str, destination: str) -> int:
    async with DatabaseManager(url) as one, DatabaseManager(destination) as two:
        await two.create_tables()
        (bars,) = await Copy(one, two, _BARS).run()
    return bars.source.rows


async def test_rights_and_policies_of_a_partition_hide_no_row_of_its_table(parted: str, hidden: str, sqlite_url: str) -> None:
    await execute(parted, "ALTER TABLE late ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON late USING (false)")
    assert await copy_of(hidden, sqlite_url) == ROWS


async def test_a_partition_that_is_being_detached_ends_a_copy_and_is_reported(parted: str, sqlite_url: str) -> None:
    await detach_by_half(parted)
    async with DatabaseManager(parted) as db:
        # PostgreSQL itself reports nothing
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 2 * ROWS)) < ROWS
        (finding,) = (finding for finding in await examine(db) if finding.kind == "detached partition")
    with pytest.raises(OperationalError, match=r"the partition late of ohlcv is being detached.*DETACH PARTITION late FINALIZE"):
        await copy_of(parted, sqlite_url)
    assert finding.severity == "error"
    await execute(parted, finding.statements[0])
    assert await copy_of(parted, sqlite_url) == ROWS // 2


async def detach_by_half(url: str) -> None:
    """Interrupt a DETACH CONCURRENTLY that waits for a reader; its first half remains."""
    reader, owner, observer = [await asyncpg.connect(url) for _ in range(3)]
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("SELECT FROM ohlcv")
    detaching = asyncio.ensure_future(owner.execute("ALTER TABLE ohlcv DETACH PARTITION late CONCURRENTLY"))
    async with asyncio.timeout(60):
        while not await observer.fetchval("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)"):
            pass
    await observer.execute("SELECT pg_cancel_backend($1)", owner.get_server_pid())
    with pytest.raises(asyncpg.QueryCanceledError):
        await detaching
    await transaction.rollback()
    for connection in (reader, owner, observer):
        await connection.close()


async def test_a_partition_on_another_server_ends_a_copy(parted: str, sqlite_url: str) -> None:
    await execute(
        parted,
        "ALTER TABLE ohlcv DROP CONSTRAINT ohlcv_pkey; CREATE FOREIGN DATA WRAPPER elsewhere;"
        "CREATE SERVER cold FOREIGN DATA WRAPPER elsewhere;"
        "CREATE FOREIGN TABLE public.cold PARTITION OF ohlcv FOR VALUES FROM ('2100-01-01') TO ('2200-01-01') SERVER cold",
    )
    try:
        with pytest.raises(OperationalError, match="the partition cold of ohlcv is on another server"):
            await copy_of(parted, sqlite_url)
    finally:
        await execute(parted, "DROP FOREIGN DATA WRAPPER elsewhere CASCADE")


@pytest.mark.parametrize("count", [1, 400])
async def test_a_bar_that_no_partition_takes_is_no_bar_that_is_stored_already(parted: str, count: int) -> None:
    await execute(parted, "DROP TABLE late")
    bars = hourly(ROWS // 2 + count)[ROWS // 2 :]
    async with DatabaseManager(parted) as db:
        for write in (OHLCVRepository(db).insert_many, OHLCVRepository(db).upsert_many):
            with pytest.raises(OperationalError, match="ohlcv has no partition for the row; create it"):
                await write(bars)


async def test_a_copy_into_a_store_without_a_partition_says_so(parted: str, sqlite_url: str) -> None:
    await copy_of(parted, sqlite_url)
    await execute(parted, "DROP TABLE late")
    async with DatabaseManager(sqlite_url) as one, DatabaseManager(parted) as two:
        with pytest.raises(OperationalError, match="ohlcv has no partition for the row; create it"):
            await Copy(one, two, _BARS).run()
