"""Large upserts on PostgreSQL beside another writer of some of their bars; the tests wait for each step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.batches.arrow import DECIMAL
from iftb_store.batches.arrow_input import sort_rows
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.testing.arrow_writes import table_of, with_column
from iftb_store.testing.samples import HOUR, LARGEST, T0, bar, hourly
from iftb_store_postgres import arrow
from iftb_store_postgres.copying import send

_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
async def db(postgres_tables_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(postgres_tables_url) as manager:
        yield manager
        assert manager.in_use == 0


async def until_blocked(admin: Any, task: asyncio.Task[Any], count: int = 1) -> None:
    """Wait until so many sessions wait for a lock, or the task has ended."""
    async with asyncio.timeout(60):
        while not task.done() and await admin.fetchval(_BLOCKED) < count:
            pass


async def test_a_copy_whose_rows_come_too_slowly_is_a_timeout(postgres_tables_url: str) -> None:
    """The server has refused the row before the client's limit; asyncpg raises an AttributeError then."""

    async def rows() -> AsyncIterator[bytes]:
        yield b"binance\n"
        await asyncio.Event().wait()

    url = make_url(postgres_tables_url).update_query_dict({"statement_timeout": "200ms"})
    async with DatabaseManager(url) as db:
        async with db.get_session() as session:
            assert isinstance(session, AsyncSession)
            pooled: Any = await (await session.connection()).get_raw_connection()
            with pytest.raises(TimeoutError):
                await send(pooled.driver_connection, "ohlcv", ["exchange"], rows(), "text")
            await session.rollback()
        assert await OHLCVRepository(db).upsert_many(hourly(2)) == 2


@pytest.mark.parametrize(("between", "report"), [(False, False), (True, False), (False, True)])
async def test_a_large_upsert_and_a_small_one_over_stored_and_new_bars_do_not_deadlock(
    db: DatabaseManager, admin: Any, between: bool, report: bool
) -> None:
    """The large upsert waits for its first bar; meanwhile the small one runs and finds none of its bars locked."""
    await OHLCVRepository(db).insert_many([*hourly(200), *(hourly(401)[400:] if between else [])])
    async with db.get_session() as holder:
        await holder.execute(text("SELECT FROM ohlcv WHERE timestamp = :first FOR UPDATE"), {"first": T0})
        upsert: Any = OHLCVRepository(db).upsert_many
        large = asyncio.create_task(upsert(hourly(1_200, volume=Decimal(1)), report=report))
        await until_blocked(admin, large)
        small = asyncio.create_task(OHLCVRepository(db).upsert_many(hourly(450, volume=Decimal(2))[150:]))
        await until_blocked(admin, small, 2)
    await asyncio.gather(large, small)


async def test_a_large_upsert_overwrites_the_bars_of_a_writer_it_waited_for(db: DatabaseManager, admin: Any) -> None:
    """The first bar is stored as the second writer will write it; the first writer has overwritten it but not committed."""
    await OHLCVRepository(db).insert_many([*hourly(1, volume=Decimal(1)), *hourly(400)[1:]])
    async with db.get_session() as session:
        await OHLCVRepository(session).upsert_many(hourly(400, volume=Decimal(2)))
        second = asyncio.create_task(OHLCVRepository(db).upsert_many(hourly(400, volume=Decimal(1))))
        await until_blocked(admin, second)
    await second
    assert {found.volume for found in await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 400)} == {Decimal(1)}


async def test_a_large_upsert_of_unchanged_bars_locks_none_of_them(db: DatabaseManager) -> None:
    await OHLCVRepository(db).insert_many(hourly(400))
    async with db.get_session() as session:
        await OHLCVRepository(session).upsert_many(hourly(400))
        async with asyncio.timeout(60):
            await OHLCVRepository(db).upsert_many(hourly(400, volume=Decimal(1)))


async def test_whole_rows_overwrite_those_that_another_session_stored_meanwhile(db: DatabaseManager, admin: Any) -> None:
    """No bar was stored when COPY into the table was chosen; COPY then waits for those of the first writer."""
    await OHLCVRepository(db).insert_many(hourly(3, volume=Decimal(7)))
    async with db.get_session() as session:
        rows = await get_stores(session).read_rows(RowFilter(BARS))
        await get_stores(session).delete_rows(BARS, rows)
    async with db.get_session() as holder:
        await OHLCVRepository(holder).insert_many(hourly(3)[1:])

        async def write_rows() -> None:
            async with db.get_session() as session:
                await get_stores(session).write_rows(BARS, rows)

        task = asyncio.create_task(write_rows())
        await until_blocked(admin, task)
    await task
    values = [name for name in BARS.compared if name in rows.column_names]
    assert (await OHLCVRepository(db).read_arrow()).select(values) == rows.select(values)


@pytest.mark.parametrize("report", [False, True])
async def test_a_table_overwrites_bars_that_another_session_stored_meanwhile(
    db: DatabaseManager, admin: Any, report: bool
) -> None:
    """No bar was stored in the table's span when COPY was chosen; COPY then waits for those of the first writer."""
    table = table_of(hourly(400, volume=Decimal(2)))
    async with db.get_session() as holder:
        await OHLCVRepository(holder).insert_many(hourly(3)[1:])
        task: Any = asyncio.create_task(OHLCVRepository(db).write_arrow(table, report=report))  # type: ignore[call-overload]
        await until_blocked(admin, task)
    await task
    found = await OHLCVRepository(db).read_arrow()
    assert found["volume"].unique().to_pylist() == [Decimal(2)]
    assert found.num_rows == 400


@pytest.mark.parametrize("encoder", [True, False], ids=["pgpq", "CSV"])
async def test_tables_are_the_same_with_and_without_the_binary_encoder(
    db: DatabaseManager, monkeypatch: pytest.MonkeyPatch, encoder: bool
) -> None:
    if encoder:
        pytest.importorskip("pgpq")
    else:
        monkeypatch.setattr(arrow, "find_spec", lambda name: None)
    dice = random.Random(1)
    lengths = [(dice.randrange(1, 21), dice.randrange(1, 19)) for _ in range(6_000)]
    edges = ["0", "1e-18", "9999", "10000", "0.0001", f"{'9' * 20}.{'9' * 18}"]
    texts = [*edges, *(f"{dice.randrange(10**whole)}.{dice.randrange(10**places):0{places}}" for whole, places in lengths)]
    ends = [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        T0 + timedelta(microseconds=1),
    ]
    moments = [*ends, *(T0 + HOUR * index for index in range(1, len(texts) - 2))]
    table = table_of([bar(moment, symbol='a "b",\n\t\\c', high=LARGEST, trades_count=2**63 - 1) for moment in moments])
    for name, sign in (("low", "-"), ("volume", ""), ("quote_volume", "")):
        table = with_column(table, name, pa.array([sign + text for text in texts]).cast(DECIMAL))
    modes: list[Any] = ["upsert", "insert"]
    for mode in modes:
        await OHLCVRepository(db).write_arrow(table, mode)
        found = await OHLCVRepository(db).read_arrow()
        assert found.select(table.column_names) == sort_rows(table, last_wins=False)
        async with db.get_session() as session:
            await get_stores(session).delete_rows(BARS, found)
            await get_stores(session).write_rows(BARS, found)
        again = await OHLCVRepository(db).read_arrow()
        assert again.drop_columns(["id"]) == found.drop_columns(["id"])
        async with db.get_session() as session:
            await get_stores(session).delete_rows(BARS, found)
