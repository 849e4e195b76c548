"""The functions export_table and import_files of iftb_store, on the three engines."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio

from iftb_store import (
    DatabaseManager,
    ExportReport,
    ImportedFile,
    ImportReport,
    InvalidValueError,
    OHLCVRepository,
    RefusedFilesError,
    export_table,
    import_files,
)
from iftb_store.testing.samples import HOUR, T0, hourly
from tests.conftest import Run

_HEADER = "timestamp,open,high,low,close,volume"
_ROW = "2024-02-01 00:00,1,2,1,1,5"


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path / "files")


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[DatabaseManager]:
    """A store with ten bars, on each of the three engines in turn."""
    async with DatabaseManager(url) as manager:
        await manager.migrate()
        await OHLCVRepository(manager).insert_many(hourly(10))
        yield manager


def write_file(name: str, *rows: str, header: str = _HEADER) -> Path:
    path = Path(name)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_table_goes_to_a_file_and_back(db: DatabaseManager) -> None:
    exported = await export_table(db, "bars.parquet", symbols="BTCUSDT", start=T0 + HOUR)
    assert exported == ExportReport(Path("bars.parquet"), "ohlcv", "parquet", 9, 1)
    await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, T0 + 20 * HOUR)
    imported = await import_files(db, "bars.parquet")
    (file,) = imported.files
    assert isinstance(file, ImportedFile)
    assert (file.rows, file.series, file.first) == (9, ("binance", "BTCUSDT", "1h"), T0 + HOUR)
    assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 20)) == 9


async def test_a_table_goes_to_a_stream(db: DatabaseManager) -> None:
    stream = io.BytesIO()
    report = await export_table(db, stream, table="trades", format="csv")
    assert (report.path, report.rows) == (None, 0)
    assert stream.getvalue().startswith(b"trade_id,symbol,")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"path": "bars.txt"}, "does not end in .parquet"),
        ({"path": "bars.parquet", "format": "xls"}, "there is no format 'xls'"),
        ({"path": "bars.parquet", "table": "candles"}, "there is no table 'candles'"),
        ({"path": "bars.parquet", "table": "trades", "partitioned": True}, "only bars can be partitioned"),
        ({"path": "bars.parquet", "overwrite": 1}, "overwrite must be True or False"),
        ({"path": 7}, "path must be a file name or a binary stream, not int"),
        ({"path": "bars\0.csv"}, "NUL"),
    ],
)
async def test_a_wrong_argument_of_an_export_is_refused(
    arguments: dict[str, Any], reason: str, sqlite_url: str, tmp_path: Path
) -> None:
    async with DatabaseManager(sqlite_url) as db:
        with pytest.raises(InvalidValueError, match=reason):
            await export_table(db, **arguments)
    assert names_in(tmp_path / "files") == []


async def test_files_are_given_as_names_patterns_and_paths(db: DatabaseManager) -> None:
    write_file("A-1h.csv", _ROW)
    write_file("B-1h.csv", _ROW)
    given: list[Any] = ["*.csv", Path("A-1h.csv"), ["A-1h.csv", Path("B-1h.csv"), "*.csv"]]
    for paths in given:
        report = await import_files(db, paths)
        assert report.refused == ()
        assert [file.rows for file in report.files] == [1] * (1 if isinstance(paths, Path) else 2)
    assert len(await OHLCVRepository(db).get_latest("B", "1h")) == 1


async def test_the_arguments_supply_what_a_file_lacks(db: DatabaseManager) -> None:
    write_file("candles.csv", "2024-07-01 02:00,1.5,2,1,1,5", header="Tag,Erster,high,low,close,volume")
    report = await import_files(
        db,
        "candles.csv",
        symbol="X",
        timeframe="1h",
        exchange="kraken",
        columns={"timestamp": "Tag", "open": "Erster"},
        tz=ZoneInfo("Europe/Berlin"),
    )
    assert report.files[0].series == ("kraken", "X", "1h")
    (stored,) = await OHLCVRepository(db).get_latest("X", "1h", exchange="kraken")
    assert stored.timestamp.isoformat() == "2024-07-01T00:00:00+00:00"


async def test_a_refused_file_does_not_stop_the_others(db: DatabaseManager) -> None:
    write_file("A-1h.csv", _ROW)
    write_file("B-1h.csv", "2024-02-01 00:00,1,2,1,1,NaN")
    write_file("C-1h.csv", _ROW)
    with pytest.raises(RefusedFilesError, match=r"1 of 3 files were not imported: B-1h.csv, row 1: volume") as caught:
        await import_files(db, "*.csv")
    report = caught.value.report
    assert isinstance(report, ImportReport)
    assert [file.path.name for file in report.files] == ["A-1h.csv", "C-1h.csv"]
    assert [file.path.name for file in report.refused] == ["B-1h.csv"]
    assert report.refused[0].reason.endswith("; no row of this file was stored")
    assert await OHLCVRepository(db).get_latest("B", "1h") == []


async def test_insert_refuses_stored_rows(db: DatabaseManager) -> None:
    write_file("A-1h.csv", _ROW)
    assert len((await import_files(db, "A-1h.csv", insert=True)).files) == 1
    with pytest.raises(RefusedFilesError, match="leave --insert out to overwrite stored bars"):
        await import_files(db, "A-1h.csv", insert=True)


async def test_the_progress_of_each_file_is_in_rows(db: DatabaseManager) -> None:
    path = write_file("A-1h.csv", _ROW)
    calls: list[tuple[str, int, int | None]] = []
    await import_files(db, path, progress=lambda step, done, total: calls.append((step, done, total)))
    assert (calls[0], calls[-1]) == (("A-1h.csv", 0, None), ("A-1h.csv", 1, 1))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"paths": "absent.csv"}, "there is no file at the path absent.csv"),
        ({"paths": ""}, "the path of a file is empty"),
        ({"paths": [7]}, "paths must be a file name or a list of file names, not int"),
        ({"paths": None}, "paths must be a file name or a list of file names, not None"),
        ({"paths": "A-1h.csv", "columns": {"price": "x"}}, "there is no column 'price' to map to 'x'"),
        ({"paths": "A-1h.csv", "columns": "open,high"}, "columns must be a dict or a list of names, not str"),
        ({"paths": "A-1h.csv", "columns": ["open", "open"]}, "two columns have the name 'open'"),
        ({"paths": "A-1h.csv", "columns": ["open", "high"]}, "has 6 columns, but --columns has 2 names"),
        ({"paths": "A-1h.csv", "on_conflict": "keep"}, "on_conflict must be one of source-wins, refuse"),
        ({"paths": "A-1h.csv", "skip_empty": 1}, "skip_empty must be True or False"),
        ({"paths": "A-1h.csv", "tz": "Nowhere"}, "tz 'Nowhere' is not a known time zone"),
        ({"paths": "A-1h.csv", "fold": "never"}, "fold must be one of earlier, later"),
        ({"paths": "A-1h.csv", "decimals": "round"}, "decimals must be one of from_float"),
        ({"paths": "A-1h.csv", "timeframe": "1d"}, "the file name contradicts --timeframe 1d"),
        ({"paths": "A-1h.csv", "insert": 1}, "insert must be True or False"),
        ({"paths": "A-1h.csv", "symbol": ""}, "symbol is empty"),
        ({"paths": "A-1h.csv", "progress": 7}, "progress must be a function"),
    ],
)
async def test_a_wrong_argument_of_an_import_is_refused(arguments: dict[str, Any], reason: str, sqlite_url: str) -> None:
    write_file("A-1h.csv", _ROW)
    async with DatabaseManager(sqlite_url) as db:
        await db.migrate()
        with pytest.raises(InvalidValueError, match=reason):
            await import_files(db, **arguments)
        assert await OHLCVRepository(db).list_series() == []


async def test_json_has_the_fields_of_the_reports(db: DatabaseManager, url: str, run: Run) -> None:
    write_file("A-1h.csv", _ROW)
    write_file("B-1h.csv", "2024-02-01 00:00,1,2,1,1,NaN")
    with pytest.raises(RefusedFilesError):
        await import_files(db, "*.csv")
    with pytest.raises(RefusedFilesError) as caught:
        await import_files(db, "*.csv")
    exported = await export_table(db, "bars.jsonl", symbols="A")
    await db.disconnect()
    code, out, err = await asyncio.to_thread(run, "import", url, "*.csv", "--json")
    assert (code, json.loads(out)) == (1, _to_json(caught.value.report))
    assert err == f"error: {caught.value.report.refused[0].reason}\n"
    out = (await asyncio.to_thread(run, "export", url, "-o", "bars.jsonl", "--symbol", "A", "--overwrite", "--json"))[1]
    assert json.loads(out) == _to_json(exported)


def _to_json(report: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(report), default=_as_text))


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
