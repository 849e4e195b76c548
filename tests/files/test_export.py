"""Exports: complete rows to every format and back, exactly, on the three engines; a file is complete or does not exist."""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iftb_store import DatabaseManager, InvalidValueError, OHLCVRepository, SystemEventRepository
from iftb_store.cli import main
from iftb_store.files.export import export_table
from iftb_store.files.formats import FORMATS
from iftb_store.files.import_ import import_file
from iftb_store.files.options import Hints
from iftb_store.files.source import Source
from iftb_store.testing.samples import bar, hourly
from tests.support.whole_rows import SYMBOLS, TABLES, empty, everything_but_bar_ids, fill

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; returns its exit code and output."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def filled(sqlite_url: str) -> str:
    """URL of a store with rows of all tables."""

    async def make() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await db.create_tables()
            await fill(db)

    asyncio.run(make())
    return sqlite_url


@pytest.mark.parametrize("format", FORMATS)
async def test_whole_rows_of_every_table_come_back(url: str, tmp_path: Path, format: str) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await fill(db)
        before = await everything_but_bar_ids(db)
        for table in TABLES:
            await export_table(db, tmp_path / f"{table}.{format}", table=table)
        await empty(db)

        for table in TABLES:
            await import_file(db, Source(tmp_path / f"{table}.{format}", Hints()))

        assert await everything_but_bar_ids(db) == before


async def test_a_partitioned_folder_comes_back_whatever_the_names(url: str, tmp_path: Path) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await fill(db)
        before = await everything_but_bar_ids(db)
        done = await export_table(db, tmp_path / "bars", partitioned=True)
        await empty(db)

        files = sorted((tmp_path / "bars").rglob("*.parquet"))
        for file in files:
            await import_file(db, Source(file, Hints()))

        assert (await everything_but_bar_ids(db))["ohlcv"] == before["ohlcv"]
        assert (done.rows, done.files) == (len(before["ohlcv"]), len(files))


def test_other_tools_read_a_partitioned_folder(run: Run, filled: str, tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    run("export", filled, "-o", str(folder), "--partitioned", "--exchange", "binance", "--timeframe", "1h")

    polars, pandas = pl.scan_parquet(folder).collect(), pd.read_parquet(folder)

    assert set(polars["symbol"]) == {*SYMBOLS}
    assert set(pandas["symbol"]) == {*SYMBOLS}
    assert polars["close"].dtype == pl.Decimal(38, 18)
    assert set(polars.filter(symbol="..")["month"]) == {"2024-01", "2024-02", "9999-12"} - {"9999-12"}


def test_a_file_says_what_it_holds(run: Run, filled: str) -> None:
    run("export", filled, "-o", "bars.parquet")
    run("export", filled, "-o", "bars.feather")

    schemas = pq.read_schema("bars.parquet"), pa.ipc.open_file("bars.feather").schema

    assert [schema.metadata[b"iftb_store.table"] for schema in schemas] == [b"ohlcv", b"ohlcv"]
    assert {b"iftb_store.version", b"iftb_store.schema.revision"} <= schemas[0].metadata.keys() & schemas[1].metadata.keys()
    assert [str(schema.field("close").type) for schema in schemas] == ["decimal128(38, 18)"] * 2


def test_text_has_plain_digits_utc_times_and_an_empty_text_differs_from_null(run: Run, sqlite_url: str) -> None:
    async def store() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await db.create_tables()
            await OHLCVRepository(db).insert_many([bar(volume=Decimal("1E-7"))])
            await SystemEventRepository(db).log_event("x", "info", "", symbol=None, stack_trace='a "b",\nc')

    asyncio.run(store())
    bars = run("export", sqlite_url, "-o", "-", "--format", "csv")[1].splitlines()[1]
    event = run("export", sqlite_url, "-o", "-", "--format", "csv", "--table", "system_events")[1].split("\n", 1)[1]
    line = json.loads(run("export", sqlite_url, "-o", "-", "--format", "jsonl")[1])

    assert bars.startswith("BTCUSDT,binance,1h,2024-01-01T00:00:00.000000Z,50000.1,51000.2,49500.3,50500.4,0.0000001,,,1,")
    assert event.startswith('x,info,"",,,,,,"a ""b"",\nc",1,')
    assert (line["volume"], line["quote_volume"], line["timestamp"]) == ("0.0000001", None, "2024-01-01T00:00:00.000000Z")


def test_a_part_is_chosen_by_series_and_time(run: Run, sqlite_url: str) -> None:
    async def store() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await db.create_tables()
            await OHLCVRepository(db).insert_many([*hourly(5), *hourly(5, symbol="ETHUSDT"), *hourly(5, symbol="SOLUSDT")])

    asyncio.run(store())
    window = ["--start", "2024-01-01T01:00", "--end", "2024-01-01T03:00"]

    code, out, err = run("export", sqlite_url, "-o", "part.csv", "--symbol", "SOLUSDT", "--symbol", "BTCUSDT", *window)

    assert (code, out, err) == (0, "ohlcv: 6 rows to part.csv\n", "")
    symbols = [line.split(",")[0] for line in Path("part.csv").read_text().splitlines()[1:]]
    assert symbols == ["SOLUSDT"] * 3 + ["BTCUSDT"] * 3


async def test_an_export_shows_a_snapshot(sqlite_url: str, tmp_path: Path) -> None:
    import sqlite3

    reports: list[tuple[str, int, int | None]] = []

    def write_meanwhile(step: str, rows: int, total: int | None) -> None:
        reports.append((step, rows, total))
        if not rows:
            return
        with sqlite3.connect(tmp_path / "store.db") as other:
            other.execute("UPDATE ohlcv SET trades_count = 7")

    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many([bar(symbol="A"), bar(symbol="B")])
        await export_table(db, tmp_path / "x.parquet", progress=write_meanwhile, symbols=["A", "B"])
        stored = (await OHLCVRepository(db).read_arrow())["trades_count"].to_pylist()

    assert pq.read_table(tmp_path / "x.parquet")["trades_count"].to_pylist() == [None, None]
    assert stored == [7, 7]
    assert reports == [("ohlcv", 0, None), ("ohlcv", 1, 2), ("ohlcv", 2, 2)]


@pytest.mark.parametrize("words", [["-o", "there.csv"], ["-o", "there", "--partitioned"]])
def test_what_is_there_is_overwritten_on_demand_only(run: Run, filled: str, words: list[str]) -> None:
    run("export", filled, *words)
    before = sorted(Path().rglob("there*"))

    refused, again = run("export", filled, *words), run("export", filled, *words, "--overwrite")

    assert refused[0] == 2
    assert "already exists; give another name, or use --overwrite" in refused[2]
    assert again[0] == 0
    assert sorted(Path().rglob("there*")) == before


def test_no_folder_of_others_is_overwritten(run: Run, filled: str) -> None:
    Path("mine").mkdir()
    Path("mine/photo.jpg").write_text("dear")

    for words in (["-o", "mine", "--partitioned"], ["-o", "mine", "--format", "csv"]):
        code, _, err = run("export", filled, *words, "--overwrite")
        assert code == 2
        assert "so it is not overwritten" in err

    assert Path("mine/photo.jpg").read_text() == "dear"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such modes")
def test_what_is_written_belongs_only_to_its_owner(filled: str, tmp_path: Path) -> None:
    async def write() -> None:
        async with DatabaseManager(filled) as db:
            await export_table(db, tmp_path / "out" / "bars.jsonl")
            await export_table(db, tmp_path / "out" / "bars", partitioned=True)

    (tmp_path / "out").mkdir()
    before = os.umask(0)
    try:
        asyncio.run(write())
    finally:
        os.umask(before)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*")}
    assert modes == {0o600, 0o700}


@pytest.mark.parametrize("format", FORMATS)
async def test_nothing_is_left_of_an_export_that_fails(sqlite_url: str, tmp_path: Path, format: str) -> None:
    def fail(step: str, rows: int, total: int | None) -> None:
        if rows:
            raise RuntimeError("meanwhile")

    (tmp_path / "out").mkdir()
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many(hourly(3))
        for partitioned in (False, True):
            with pytest.raises(RuntimeError, match="meanwhile"):
                await export_table(
                    db,
                    tmp_path / "out" / f"bars.{format}",
                    format=None if not partitioned else "parquet",
                    partitioned=partitioned,
                    progress=fail,
                )

    assert list((tmp_path / "out").iterdir()) == []


async def test_an_export_that_is_cancelled_leaves_what_was_there(sqlite_url: str, tmp_path: Path) -> None:
    target = tmp_path / "bars.parquet"
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many(hourly(3))
        await export_table(db, target)
        before = target.read_bytes()

        def cancel(step: str, rows: int, total: int | None) -> None:
            if rows:
                running.cancel()

        running = asyncio.ensure_future(export_table(db, target, overwrite=True, progress=cancel))
        with pytest.raises(asyncio.CancelledError):
            await running

    assert target.read_bytes() == before
    assert not target.with_name("bars.parquet.partial").exists()


def test_a_text_too_long_for_a_line_is_refused_and_goes_to_parquet(run: Run, sqlite_url: str) -> None:
    async def store() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await db.create_tables()
            await SystemEventRepository(db).log_event("x", "info", "x" * (5 << 20))

    asyncio.run(store())
    events = ["--table", "system_events"]

    for name in ("events.csv", "events.jsonl"):
        code, _, err = run("export", sqlite_url, "-o", name, *events)
        assert code == 2
        assert "the maximum is 4,194,304 in text formats, 16,777,216 in Parquet and Feather" in err
        assert not Path(name).exists()
    assert run("export", sqlite_url, "-o", "events.parquet", *events)[0] == 0
    assert run("import", sqlite_url, "events.parquet")[0] == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "no FILE is given"),
        (["-o", ""], "no FILE is given"),
        (["-o", "bars"], "give the format, one of parquet, feather, csv, jsonl"),
        (["-o", "bars.csv", "--format", "xml"], "there is no format 'xml'"),
        (["-o", "-"], "output to stdout needs --format"),
        (["-o", "-", "--format", "parquet"], "parquet cannot be written to a stream"),
        (["-o", "x", "--partitioned", "--table", "trades"], "only bars can be partitioned"),
        (["-o", "x.csv", "--table", "candles"], "there is no table 'candles'"),
        (["-o", "x.csv", "--table", "trades", "--timeframe", "1h"], "the table trades has no column timeframe to select by"),
        (["-o", "x.csv", "--start", "2024-02-02", "--end", "2024-02-01"], "is after end"),
        (["-o", ".", "--format", "csv"], "is not a file name"),
    ],
)
def test_wrong_usage_of_export_is_one_line_and_writes_nothing(run: Run, filled: str, words: list[str], problem: str) -> None:
    before = sorted(Path().iterdir())

    code, out, err = run("export", filled, *words)

    assert (code, out) == (2, "")
    assert problem in err
    assert err.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def test_a_folder_that_is_not_there_is_named(run: Run, filled: str) -> None:
    code, out, err = run("export", filled, "-o", "absent/bars.csv")
    assert (code, out, err) == (2, "", "error: the folder 'absent' does not exist; create it first\n")


@pytest.mark.one_of_each
@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size can be set there")
@pytest.mark.parametrize("name", ["bars.csv", "bars.parquet"])
def test_a_full_disk_names_the_file_and_leaves_nothing(sqlite_url: str, tmp_path: Path, name: str) -> None:
    async def store() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await db.create_tables()
            await OHLCVRepository(db).insert_many(hourly(20_000))

    asyncio.run(store())
    # more than SQLite's files beside the database need
    limited = """
import resource, sys
from iftb_store.cli import main
size, most = resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(size, (60_000, most[1]))
code = main(sys.argv[1:])
# what measures the tests writes files too
resource.setrlimit(size, most)
sys.exit(code)
"""
    words = ["export", sqlite_url, "-o", name]

    done = subprocess.run([sys.executable, "-c", limited, *words], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr == f"error: {name}: File too large\n"
    assert list(tmp_path.glob("bars*")) == []


async def test_text_goes_to_a_stream(sqlite_url: str) -> None:
    stream = io.BytesIO()
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many(hourly(2))
        await export_table(db, stream, format="jsonl")
        with pytest.raises(InvalidValueError, match="parquet cannot be written to a stream"):
            await export_table(db, stream, format="parquet")

    assert [json.loads(line)["close"] for line in stream.getvalue().splitlines()] == ["12500", "12500.25"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
