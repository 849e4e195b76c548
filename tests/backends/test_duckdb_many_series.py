"""Calls over many series on DuckDB, where an exchange has more bars than one query takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository, export_table
from iftb_store.columnar import bar_store
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.testing.many_series import find_gaps, find_gaps_one_by_one, make_store, read_all, resample_one_by_one
from iftb_store.testing.samples import HOUR, T0, bar, hourly


@pytest.mark.parametrize("bars", [1, 25, 70])
async def test_queries_of_some_symbols_each_give_the_same_in_the_same_order(
    duckdb_tables_url: str, monkeypatch: pytest.MonkeyPatch, bars: int
) -> None:
    monkeypatch.setattr(bar_store, "_BARS", bars)
    start, end = T0 - HOUR, T0 + 30 * HOUR
    async with DatabaseManager(duckdb_tables_url) as db:
        repository = OHLCVRepository(db)
        await repository.insert_many(make_store())
        gaps = await find_gaps(repository, start=start, end=end)
        assert gaps == await find_gaps_one_by_one(repository, start, end)
        longer = await read_all(repository.resample_all("2h", source="1h", start=start, end=end, partial=True))
        expected = await resample_one_by_one(repository, "1h", "2h", start, end, partial=True)
        assert [OHLCVBar(**row) for row in longer] == expected


@pytest.mark.parametrize(("hours", "queries"), [(None, 3), (1, 1)])
async def test_a_query_takes_as_many_symbols_as_have_few_bars_in_the_window(
    duckdb_tables_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hours: int | None, queries: int
) -> None:
    monkeypatch.setattr(bar_store, "_BARS", 9)
    end = None if hours is None else T0 + hours * HOUR
    symbols = [f"S{number}" for number in range(5)]
    async with DatabaseManager(duckdb_tables_url, echo=True) as db:
        repository = OHLCVRepository(db)
        await repository.insert_many([bar(T0 + hour * HOUR, symbol=symbol) for symbol in symbols for hour in (1, 4, 5, 9)])
        caplog.clear()
        gaps = await find_gaps(repository, end=end)
    assert [symbol for _, symbol, *_ in gaps] == ([symbol for symbol in symbols for _ in range(2)] if end is None else [])
    assert sum("earlier" in record.getMessage() for record in caplog.records) == queries


@pytest.mark.parametrize("limit", [1, 7, 64, 5_000])
async def test_parts_of_many_series_are_those_of_the_whole(duckdb_tables_url: str, limit: int) -> None:
    bars = [
        one
        for number in range(24)
        for one in hourly((3, 1, 70, 6, 12)[number % 5], symbol=f"S{number % 16}", exchange=f"e{number % 3}")
    ]
    async with DatabaseManager(duckdb_tables_url) as db, db.get_session() as session:
        await OHLCVRepository(session).upsert_many(bars)
        stores = get_stores(session)
        for window in (RowFilter(BARS), RowFilter(BARS, {"exchange": "e1"}), RowFilter(BARS, start=T0 + 2 * HOUR)):
            parts, selection = list[pa.Table](), replace(window, limit=limit)
            while (part := await stores.read_rows(selection)).num_rows:
                parts.append(part)
                last = part.slice(part.num_rows - 1).to_pylist()[0]
                selection = replace(selection, after=tuple(last[name] for name in window.order))
            assert pa.concat_tables(parts) == await stores.read_rows(window)
            assert max(part.num_rows for part in parts) <= limit


async def test_an_export_of_many_series_equals_that_of_sqlite(
    duckdb_tables_url: str, sqlite_tables_url: str, tmp_path: Path
) -> None:
    bars = [
        one for number in range(300) for one in hourly(1 + number % 9, symbol=f"S{number * 7 % 300}", exchange=f"e{number % 2}")
    ]
    found = list[pa.Table]()
    for url in (duckdb_tables_url, sqlite_tables_url):
        path = tmp_path / f"{len(found)}.parquet"
        async with DatabaseManager(url) as db:
            await OHLCVRepository(db).insert_many(bars)
            await export_table(db, path)
        found.append(pq.read_table(path).drop_columns(["id", "created_at"]).replace_schema_metadata())
    assert found[0].num_rows == len(bars)
    assert found[0] == found[1]
