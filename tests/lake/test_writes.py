"""How a lake writes: few commits, sorted files, and no read that a write does not need."""

from __future__ import annotations

import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVRepository, copy
from iftb_store.testing.samples import HOUR, T0, bar, hourly


def folder_of(url: str) -> Path:
    return Path(str(make_url(url).database))


async def test_a_copy_commits_many_rows_at_once(lake_url: str, sqlite_tables_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iftb_store.transfer.plan.ROWS", 10)
    async with DatabaseManager(sqlite_tables_url) as source, DatabaseManager(lake_url) as lake:
        await OHLCVRepository(source).insert_many([*hourly(95), *hourly(25, symbol="OTHER")])
        await copy(source, lake, tables=["ohlcv"])
        assert DeltaTable(folder_of(lake_url)).version() == 1
        assert [one.count for one in await OHLCVRepository(lake).list_series()] == [95, 25]


@pytest.mark.parametrize("names", [["ONE"], ["B", "A"]])
async def test_a_file_is_sorted_whatever_the_order_of_the_batch(lake_url: str, names: list[str]) -> None:
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many([bar(T0 - hour * HOUR, symbol=name) for hour in range(9) for name in names])
    for file in folder_of(lake_url).glob("part=*/*.parquet"):
        rows: Any = pq.ParquetFile(file).read(["symbol", "timestamp"])
        found = list(zip(rows["symbol"].to_pylist(), rows["timestamp"].to_pylist(), strict=True))
        assert found == sorted(found)


async def test_an_append_of_many_symbols_makes_files_of_different_symbols(lake_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iftb_store_lake.changes.LEAST", 8)
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many([bar(T0 + hour * HOUR, symbol=name) for hour in range(5) for name in "ABCDE"])
        found = [file["symbol"] for file in read_files(lake_url)]
        assert found == [("A", "B"), ("C", "D"), ("E", "E")]
        await OHLCVRepository(db).upsert_many([bar(T0, symbol="C", trades_count=7)])
        assert [file["symbol"] for file in read_files(lake_url)] == found


async def test_upserts_of_the_newest_bars_make_one_file_as_long_as_it_is_small(
    lake_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iftb_store_lake.changes.LEAST", 16)
    async with DatabaseManager(lake_url) as db:
        numbers = []
        for first in range(6):
            fresh = [bar(T0 + hour * HOUR, symbol=name, volume=Decimal(first)) for hour in (first, first + 1) for name in "ABC"]
            await OHLCVRepository(db).upsert_many(fresh)
            numbers.append(len(read_files(lake_url)))
        # then the file is full, and the new bars begin another
        assert numbers == [1, 1, 1, 1, 1, 2]
        assert [one.count for one in await OHLCVRepository(db).list_series()] == [7] * 3
        newest = await OHLCVRepository(db).get_latest("A", "1h", 7)
        assert [int(each.volume) for each in newest] == [5, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("most", [0, 1_000])
async def test_an_upsert_leaves_the_other_bars_of_a_file_alone(lake_url: str, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("iftb_store_lake.changes._MOST_LOADED", most)
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many([bar(T0 + hour * HOUR, symbol=name) for name in "AB" for hour in range(5)])
        before = {(row["symbol"], row["timestamp"]): row for row in await read_rows(db)}
        await OHLCVRepository(db).upsert_many([bar(T0 + HOUR, symbol="B", trades_count=7)])
        after = await read_rows(db)
        assert [(row["symbol"], row["timestamp"]) for row in after] == list(before)
        changed = before["B", T0 + HOUR] | {"trades_count": 7}
        assert after == [changed if key == ("B", T0 + HOUR) else row for key, row in before.items()]


async def read_rows(db: DatabaseManager) -> list[dict[str, Any]]:
    rows = await OHLCVRepository(db).read_arrow()
    return rows.to_pylist()


def read_files(url: str) -> list[dict[str, Any]]:
    actions: Any = DeltaTable(folder_of(url)).get_add_actions(flatten=True)
    lists = [actions[name].to_pylist() for name in ("min.symbol", "max.symbol")]
    return [{"symbol": pair} for pair in sorted(zip(*lists, strict=True))]


async def test_gaps_of_a_window_with_bars_are_one_read(lake_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many(hourly(10))
        with caplog.at_level(logging.INFO, "sqlalchemy.engine.delta"):
            for start, found in ((T0, 0), (T0 - HOUR, 1)):
                caplog.clear()
                gaps = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=start, end=T0 + 5 * HOUR)
                assert (len(gaps), sum(" VIEW ohlcv " in message for message in caplog.messages)) == (found, 1)


async def test_an_upsert_reads_only_at_its_commit(lake_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many(hourly(10))
        with caplog.at_level(logging.INFO, "sqlalchemy.engine.delta"):
            await OHLCVRepository(db).upsert_many(hourly(10, trades_count=7))
        assert not [message for message in caplog.messages if " VIEW ohlcv " in message]
