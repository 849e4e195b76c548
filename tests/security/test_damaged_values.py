"""Values that do not fit their columns, in a damaged file: one error of iftb-store, never one of Python."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, StoreError, SystemEventRepository, TradeRepository
from iftb_store.testing.many_series import find_gaps, read_all
from iftb_store.testing.samples import HOUR, T0, bar
from iftb_store.transfer.copy import Copy
from tests.support.filled import fill


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("system_events", "details", '{"a": '),
        ("system_events", "details", "[" * 100_000),
        ("system_events", "created_at", 2**62),
        ("trades", "entry_price", "no number"),
        ("trades", "entry_price", ""),
        ("trades", "entry_price", 7),
        ("trades", "entry_time", "noon"),
        ("positions", "quantity", b"a1"),
        ("ohlcv", "close", "no number"),
        ("ohlcv", "created_at", "noon"),
    ],
)
async def test_a_value_that_cannot_be_read_is_one_error(sqlite_url: str, table: str, column: str, value: object) -> None:
    await fill(sqlite_url)
    with closing(sqlite3.connect(Path(sqlite_url.removeprefix("sqlite:///")))) as connection:
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
        connection.commit()
    async with DatabaseManager(sqlite_url) as db:
        reads = {
            "ohlcv": OHLCVRepository(db).get_latest("BTCUSDT", "1h"),
            "trades": TradeRepository(db).get_recent(),
            "positions": PositionRepository(db).get_open_positions(),
            "system_events": SystemEventRepository(db).get_recent_events(),
        }
        with pytest.raises(StoreError, match=f"a row of {table} has a value that cannot be read"):
            await reads.pop(table)
        for read in reads.values():
            await read


async def test_a_schema_that_is_damaged_is_one_error(sqlite_url: str) -> None:
    await fill(sqlite_url)
    with closing(sqlite3.connect(Path(sqlite_url.removeprefix("sqlite:///")))) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        page = "(SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_ohlcv_1')"
        connection.execute(f"UPDATE sqlite_master SET rootpage = {page} WHERE name = 'iftb_store_version'")
        connection.commit()
    async with DatabaseManager(sqlite_url) as db:
        for call in (TradeRepository(db).get_recent, db.status, db.migrate):
            with pytest.raises(OperationalError, match="damaged; restore it from a backup"):
                await call()


@pytest.mark.parametrize("table", ["trades", "positions", "system_events", "ohlcv"])
async def test_a_time_that_is_none_ends_a_copy_with_one_error(sqlite_url: str, tmp_path: Path, table: str) -> None:
    await fill(sqlite_url)
    time = {"ohlcv": "timestamp", "system_events": "created_at"}.get(table, "entry_time")
    with closing(sqlite3.connect(Path(sqlite_url.removeprefix("sqlite:///")))) as connection:
        connection.execute(f"UPDATE {table} SET {time} = 'noon' WHERE id = (SELECT max(id) FROM {table})")
        connection.commit()
    async with DatabaseManager(sqlite_url) as source, DatabaseManager(f"sqlite:///{tmp_path / 'other.db'}") as other:
        await other.migrate()
        with pytest.raises(StoreError, match=f"^(a row of )?{table}.* cannot be read"):
            await Copy(source, other).run()
        assert sum((await other.status()).tables.values()) == 0


async def test_a_time_that_is_none_ends_a_list_of_series_with_one_error(sqlite_url: str) -> None:
    await fill(sqlite_url)
    with closing(sqlite3.connect(Path(sqlite_url.removeprefix("sqlite:///")))) as connection:
        connection.execute("UPDATE ohlcv SET timestamp = 'noon' WHERE id = (SELECT max(id) FROM ohlcv)")
        connection.commit()
    async with DatabaseManager(sqlite_url) as db:
        with pytest.raises(StoreError, match="a row of ohlcv has a value that cannot be read"):
            await OHLCVRepository(db).list_series()


@pytest.mark.parametrize("moment", ["10001-01-01", "infinity"])
async def test_a_bar_outside_the_calendar_is_one_error_of_each_read_of_all_series(url: str, moment: str) -> None:
    # SQLite stores microseconds
    stored = {"infinity": 2**62, "10001-01-01": 253_433_836_800_000_000}[moment] if url.startswith("sqlite") else f"'{moment}'"
    async with DatabaseManager(url) as db:
        await db.migrate()
        repository = OHLCVRepository(db)
        await repository.insert_many([bar(T0), bar(T0 + 3 * HOUR), bar(T0 + HOUR), bar(T0, symbol="later")])
        async with db.get_session() as session:
            condition = "timestamp = (SELECT max(timestamp) FROM ohlcv)"
            await session.execute(text(f"UPDATE ohlcv SET timestamp = {stored} WHERE {condition}"))
        for read in (
            repository.list_series(),
            repository.get_gaps("BTCUSDT", "1h"),
            find_gaps(repository),
            find_gaps(repository, timeframe="1h", start=T0),
            read_all(repository.resample_all("2h", source="1h", partial=True)),
        ):
            with pytest.raises(StoreError):
                await read
        assert await find_gaps(repository, start=T0, end=T0) == []
        assert await repository.get_gaps("later", "1h") == []
