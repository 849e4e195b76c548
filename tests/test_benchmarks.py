"""The benchmarks run, at sizes too small for timings, and their page is made of the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
from rich.console import Console

from benchmarks import fills, first_calls, growth
from benchmarks.__main__ import collect
from benchmarks.cases import fill_bars
from benchmarks.decimals import measure as measure_decimals
from benchmarks.growth_paths import PATHS
from benchmarks.objects import NewTrades, bars
from benchmarks.plan import QUICK
from benchmarks.report import render
from benchmarks.results import Results, Row
from benchmarks.run import ENGINES
from benchmarks.sqlite import SQLite
from benchmarks.timing import ratio
from iftb_store import OHLCVRepository

TINY = replace(QUICK, sizes=(20,), table=50, rounds=1, small_rounds=1, calls=1, naive=5, growth=(5, 20), growth_rounds=1)
ROWS = (
    "insert_many",
    "upsert_many",
    "waits",
    "get_range",
    "get_latest",
    "get_latest_blocking",
    "get_gaps",
    "get_statistics",
    "insert_trade",
    "get_performance",
    "disk",
)


@pytest.mark.one_of_each
@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
async def test_a_run_writes_its_samples_and_versions(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    await collect(Results.begun({"plan": "tiny"}), TINY, (engine,), ROWS, path, Console(quiet=True))
    written = Results.load(path)
    assert {row.name for row in written.rows} >= {"insert_many", "get_range", "get_gaps", "get_statistics", "get_performance"}
    assert [row.name for row in written.rows if row.seconds(row.subject) <= 0] == []
    assert written.versions["sqlalchemy"]


@pytest.mark.one_of_each
@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
async def test_the_first_call_of_a_process_is_measured_in_a_new_one(engine: str) -> None:
    (figure,) = [found async for found in first_calls.measure(engine, processes=1, calls=["get_latest"])]
    assert 0 < figure.values["median"] == figure.values["longest"]


async def test_the_page_is_made_only_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    await collect(Results.begun({"plan": "tiny"}), TINY, ("sqlite",), ("get_latest", "disk"), path, Console(quiet=True))
    page = render(Results.load(path), "Said by hand.\n<!-- results -->\nMore of it.\n")
    assert "| get_latest(100), session open | 50 |" in page
    assert (page.splitlines()[0], page.splitlines()[-1]) == ("Said by hand.", "More of it.")


@pytest.mark.one_of_each
@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
async def test_every_way_to_arrow_ends_in_the_table_that_ours_gives(engine: str, tmp_path: Path) -> None:
    whole = bars(100)
    made = ENGINES[engine]()
    async with made.opened(tmp_path):
        await OHLCVRepository(made.db).insert_many(whole)
        await made.write(whole)
        tables = [await OHLCVRepository(made.db).read_arrow()] + [await read() for read in made.arrow().values()]
    bare = [cast(pa.Table, table).drop_columns(["id", "created_at"]) for table in tables]
    assert all(table.equals(bare[0]) for table in bare)
    assert bare[0].num_rows == len(whole)


@pytest.mark.one_of_each
@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
async def test_the_reference_reads_and_finds_what_ours_does(engine: str, tmp_path: Path) -> None:
    whole = bars(100)
    del whole[40:43]
    made = ENGINES[engine]()
    async with made.opened(tmp_path):
        await OHLCVRepository(made.db).insert_many(whole)
        await made.write(whole)
        ours = OHLCVRepository(made.db)
        first, last = whole[0].timestamp, whole[-1].timestamp
        ranges = await ours.get_range("BTCUSDT", "1m", first, last), await made.read(first, last)
        gaps = await ours.get_gaps("BTCUSDT", "1m"), await made.gaps()
    assert [replace(bar, created_at=None, id=None) for bar in ranges[0]] == [
        replace(bar, created_at=None, id=None) for bar in ranges[1]
    ]
    assert gaps[0] == gaps[1] == [(whole[39].timestamp, whole[40].timestamp)]


@pytest.mark.full
async def test_only_the_text_that_sorts_and_the_blob_hold_every_decimal_in_order() -> None:
    lines = await measure_decimals(rows=10, rounds=1)
    right = [
        line["representation"] for line in lines if (line["exact over the range"], line["comparable in SQL"]) == ("yes", "yes")
    ]
    assert right == ["sortable TEXT (ours)", "BLOB of 16 bytes"]


def test_a_ratio_is_the_median_of_the_rounds_with_its_quartiles() -> None:
    assert ratio([1.0, 2.0, 6.0], [1.0, 1.0, 2.0]) == (2.0, 1.5, 2.5)


def test_a_target_is_met_at_the_ratio_that_it_names() -> None:
    row = Row("get_range", "SQLite", 10, {"ours": [1.2], "raw driver": [1.0]}, "raw driver", target=1.2)
    assert row.met()


async def test_adbc_keeps_the_files_of_the_other_sqlite_connections(tmp_path: Path) -> None:
    engine = SQLite()
    async with engine.opened(tmp_path):
        await fill_bars(engine, bars(100))
        for read in engine.arrow().values():
            await read()
        await engine.insert_trade(NewTrades().next())
        await engine.settle()
        assert len(await engine.latest(1_000)) == 100


@pytest.mark.full
@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_the_growth_of_every_path_is_measured_at_both_sizes(engine: str) -> None:
    lines = growth.measure([engine], (20, 40), rounds=1)
    assert [line["path"] for line in lines] == list(PATHS)
    assert [line["path"] for line in lines if not line["µs/row at 20"] > 0 < line["peak MiB at 40"]] == []


@pytest.mark.one_of_each
@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
async def test_fills_are_measured_and_writers_lose_none(engine: str) -> None:
    rows = await fills.measure(engine, rows=20, single=2, rounds=1, writers=2)
    assert [row["row"] for row in rows] == ["record_many", "record, one by one", "apply_fills, 2 writers"]
    assert rows[-1]["ratio"] == "fees lost: 0.0"
