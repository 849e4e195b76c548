"""Arrow reads on PostgreSQL: pieces of CSV, the settings of a session, an interrupted COPY."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pyarrow as pa
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.testing.arrow_writes import table_of
from iftb_store.testing.samples import T0, bar, full_bar, hourly
from iftb_store_postgres import arrow

_ODD = 'a "b",\n"c"\n,'


@pytest.fixture
async def db(postgres_tables_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(postgres_tables_url) as manager:
        yield manager
        assert manager.in_use == 0


async def copied(url: str, sql: str) -> bytes:
    connection = await asyncpg.connect(url)
    parts: list[bytes] = []

    async def take(part: bytes) -> None:
        parts.append(part)

    await connection.copy_from_query(sql, output=take, format="csv")
    await connection.close()
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
async def test_rows_are_whole_wherever_the_pieces_of_csv_are_cut(
    db: DatabaseManager, postgres_url: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    await OHLCVRepository(db).insert_many([full_bar(T0), *hourly(3, symbol=_ODD), *hourly(3, exchange='"\n')])
    order = "ORDER BY exchange, symbol, timeframe, timestamp"
    columns = ", ".join(BARS.columns).replace("timestamp", "timestamp AT TIME ZONE 'UTC'")
    text = await copied(
        postgres_url, f"SELECT {columns.replace('created_at', 'created_at AT TIME ZONE $$UTC$$')} FROM ohlcv {order}"
    )
    monkeypatch.setattr(arrow, "_PIECE", 1)
    monkeypatch.setattr(arrow, "_BLOCK", 300)
    parser = arrow._Parser(RowFilter(BARS))
    for first in range(0, len(text), size):
        await parser.take(text[first : first + size])
    assert await parser.table() == await OHLCVRepository(db).read_arrow()


@pytest.mark.parametrize("setting", ["DateStyle = 'German'", "DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Kolkata'"])
async def test_a_session_of_the_apps_own_may_show_times_as_it_likes(db: DatabaseManager, postgres_url: str, setting: str) -> None:
    moments = [datetime(1, 1, 1, tzinfo=UTC), T0 + timedelta(microseconds=1), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)]
    await OHLCVRepository(db).insert_many(list(map(bar, moments)))
    engine = create_async_engine(make_url(postgres_url).set(drivername="postgresql+asyncpg"))
    async with AsyncSession(engine) as session:
        await session.execute(text(f"SET {setting}"))
        found = await OHLCVRepository(session).read_arrow()
        written = await OHLCVRepository(session).write_arrow(table_of([bar(moment, symbol="COPY") for moment in moments]))
        again = await OHLCVRepository(session).read_arrow("COPY")
    await engine.dispose()
    assert (found["timestamp"].to_pylist(), again["timestamp"].to_pylist(), written) == (moments, moments, 3)


async def test_a_cancelled_read_gives_its_connection_back(db: DatabaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    await OHLCVRepository(db).insert_many(hourly(2_000))
    parsing = asyncio.Event()

    async def stuck(self: Any, *, whole: bool) -> None:
        parsing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(arrow._Parser, "_parse", stuck)
    monkeypatch.setattr(arrow, "_PIECE", 1)
    task = asyncio.create_task(OHLCVRepository(db).read_arrow())
    await parsing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    assert (await OHLCVRepository(db).read_arrow()).num_rows == 2_000


async def test_a_connection_lost_between_batches_of_a_stream_is_an_operational_error(
    db: DatabaseManager, postgres_url: str
) -> None:
    await OHLCVRepository(db).insert_many(hourly(10))
    stream = OHLCVRepository(db).stream_arrow(batch_size=4)
    first: pa.RecordBatch = await anext(stream)
    admin = await asyncpg.connect(postgres_url)
    await admin.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE state = 'idle in transaction'")
    await admin.close()
    with pytest.raises(OperationalError):
        await anext(stream)
    assert (first.num_rows, db.in_use) == (4, 0)


async def test_a_snapshot_does_not_change_while_others_write(db: DatabaseManager) -> None:
    async with db.get_session(isolation="snapshot") as session:
        (level, only_reads) = (
            await session.execute(
                text("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
            )
        ).one()
    assert (level, only_reads) == ("repeatable read", "on")
