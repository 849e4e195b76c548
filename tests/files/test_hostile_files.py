"""Damaged or malicious files: bounded memory, no crash, an error that names the file, no row stored."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import subprocess
import sys
import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.files.export import export_table
from iftb_store.files.import_ import import_file
from iftb_store.files.options import Hints
from iftb_store.files.readers import csv
from iftb_store.files.readers.binance import DumpError
from iftb_store.files.readers.texts import TextFile
from iftb_store.files.source import Source
from iftb_store.testing import raw
from iftb_store.testing.samples import hourly
from tests.faults.rounds import SOAK, rounds
from tests.files.test_hostile_dumps import damaged
from tests.support.whole_rows import TABLES, fill

_MEBIBYTE = 1 << 20

# reads every file of a folder under a memory limit, and prints the outcome of each and the growth of the memory; in a
# separate process, as a crash of Arrow would end the tests
_READER = """
import json, resource, sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
import pyarrow.csv, pyarrow.parquet
from iftb_store.errors import StoreError
from iftb_store.files.candles import Candles
from iftb_store.files.options import Hints
from iftb_store.files.batches import Batches
from iftb_store.files.source import Source

def peak():
    # the peak memory of this process only; getrusage includes that of its parent
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

pyarrow.set_io_thread_count(2)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]) * 2**20,) * 2)
before, said = peak(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        with closing(Batches(Source(path, Hints(symbol="X", timeframe="1h")))) as batches:
            said[path.name] = f"{sum(rows.num_rows for rows in batches)} rows"
    except StoreError as error:
        said[path.name] = str(error).removeprefix(str(path))
print(json.dumps({"said": said, "grown": (peak() - before) / 2**20}))
"""


def read(folder: Path, limit: int = 512) -> tuple[dict[str, str], float]:
    """Return the outcome of each file of a folder, and by how many mebibytes the memory grew."""
    done = subprocess.run([sys.executable, "-c", _READER, str(folder), str(limit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout)
    return found["said"], found["grown"]


def write_good(folder: Path) -> list[Path]:
    """Write one file of each supported kind."""

    async def write() -> None:
        async with DatabaseManager("sqlite:///:memory:") as db:
            await db.create_tables()
            await fill(db)
            for table in TABLES:
                for format in ("parquet", "feather", "csv", "jsonl"):
                    await export_table(db, folder / f"{table}.{format}", table=table)

    asyncio.run(write())
    times = pd.date_range("2024-02-01", periods=200, freq="1h", tz="UTC")
    frame = pd.DataFrame({"date": times, **dict.fromkeys(["open", "high", "low", "close", "volume"], 1.5)})
    frame.to_feather(folder / "freqtrade.feather")
    frame.to_parquet(folder / "freqtrade.parquet", compression="gzip")
    rows = [[int(moment.timestamp() * 1_000), 1.5, 2, 1, 1.25, 10] for moment in times]
    (folder / "ccxt.json").write_text(json.dumps(rows))
    (folder / "ccxt.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    frame.to_csv(folder / "plain.csv", index=False)
    return sorted(folder.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's own means")
@pytest.mark.soaks("damaged export", "importer")
@pytest.mark.timeout(36_000 if SOAK else 300)
def test_a_damaged_file_is_refused_or_every_row_can_be_stored(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    good = write_good(tmp_path / "good")
    dice = random.Random(None if SOAK else 5)
    for number in range(rounds("damaged export")):
        path = good[number % len(good)]
        (tmp_path / "bad" / f"{number} {path.name}").write_bytes(damaged(path.read_bytes(), dice))

    whole, _ = read(tmp_path / "good")
    said, grown = read(tmp_path / "bad")

    assert [name for name, word in whole.items() if not word.endswith(" rows")] == []
    assert len(said) == rounds("damaged export")
    assert [word for word in said.values() if not word.endswith(" rows") and word[:1] not in (":", ",")] == []
    assert sum(not word.endswith(" rows") for word in said.values()) > len(said) // 2
    assert grown < 128


def test_a_scale_that_no_decimal_has_is_refused(tmp_path: Path) -> None:
    names = ("time", "open", "high", "low", "close", "volume")
    values = pa.array([Decimal(1)], pa.decimal128(38, 0)).cast(pa.decimal128(38, 1))
    wrong = pa.Array.from_buffers(pa.decimal128(38, 33_639_248), 1, values.buffers())
    pyarrow.feather.write_feather(pa.table(dict.fromkeys(names, wrong)), tmp_path / "bars.feather", compression="uncompressed")
    said, _ = read(tmp_path)
    assert "not a type of decimals" in said["bars.feather"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's own means")
def test_bombs_and_lies_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    head = "time,open,high,low,close,volume\n"
    write_bomb(tmp_path / "spaces.json.gz", b"[", b" " * _MEBIBYTE, 1_000)
    write_bomb(tmp_path / "lines.csv.gz", head.encode(), b"1706745600,1,1,1,1,1\n" * 50_000, 1_000)
    write_bomb(tmp_path / "line.csv.gz", head.encode(), b"1" * _MEBIBYTE, 1_000)
    for name, begin in (("endless.json", "["), ("endless.jsonl", "{"), ("endless.csv", head), ("quoted.csv", f'{head}"')):
        with (tmp_path / name).open("w") as file:
            file.write(begin)
            file.truncate(1 << 30)
    (tmp_path / "columns.csv").write_text("time," + "x," * 3_000_000 + "open\n1\n")
    (tmp_path / "wide.csv").write_text(head + "1," * 3_000_000 + "\n")
    (tmp_path / "list.json").write_text("[[" + "1," * 10_000_000)
    (tmp_path / "lists.json").write_text("[" + "[[]," * 5_000_000)
    (tmp_path / "object.json").write_text('{"time": [' + "[]," * 5_000_000)
    write_repeated(tmp_path / "repeated.parquet", "x" * (8 * _MEBIBYTE), 1_000_000)
    write_repeated(tmp_path / "long.parquet", "".join(map(str, range(2_600_000))), 10)

    said, grown = read(tmp_path)

    assert "the content unpacks to more than " in said["repeated.parquet"]
    assert "a row contains" in said["long.parquet"]
    assert {said[name] for name in ("endless.csv", "quoted.csv")} == {": cannot be read (a row is longer than 4,194,304 bytes)"}
    assert "MemoryError" not in str(said)
    assert [name for name, word in said.items() if word.endswith(" rows")] == []
    assert [name for name, word in said.items() if word[:1] not in (":", ",")] == []
    assert grown < 256


def write_bomb(path: Path, head: bytes, again: bytes, times: int) -> None:
    with gzip.open(path, "wb", compresslevel=9) as packed:
        packed.write(head)
    packer = gzip.compress(again, 9)
    with path.open("ab") as file:
        for _ in range(times):
            file.write(packer)


def write_repeated(path: Path, symbol: str, rows: int) -> None:
    """Write a Parquet file whose only symbol is long and is in every row."""
    symbols = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([symbol]))
    columns = {name: pa.array([1_706_745_600] * rows) for name in ("time", "open", "high", "low", "close", "volume")}
    # without Arrow's schema a reader converts it to plain text
    pq.write_table(pa.table({"symbol": symbols, **columns}), path, compression="zstd", store_schema=False)


def test_no_thread_reads_a_csv_file_that_was_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class SlowFile(TextFile):
        def read(self, size: int | None = -1) -> bytes:
            calls.append("begin")
            time.sleep(0.1)
            data = super().read(size)
            calls.append("end")
            return data

    monkeypatch.setattr(csv, "TextFile", SlowFile)
    (tmp_path / "long.csv").write_text("open,close\n" + "1,2\n" * 6_000_000)
    with closing(csv.CsvReader(tmp_path / "long.csv")) as reader, closing(reader.tables(["open"])) as tables:
        assert next(tables).num_rows
    done = [*calls]
    # nothing shows that a thread has stopped; one that still reads would make five more calls meanwhile
    time.sleep(0.5)
    assert calls == done
    assert done[-1] == "end"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's own means")
def test_long_files_are_read_in_constant_memory(tmp_path: Path) -> None:
    count = 300_000
    hours = [1_000_000_000_000 + 3_600_000 * index for index in range(count)]
    (tmp_path / "long.json").write_text("[" + ",".join(f"[{hour},1.5,2.5,0.5,1.25,1000.123456]" for hour in hours) + "]")
    lines = [f"{hour},1.5,2.5,0.5,1.25,1000.123456" for hour in hours]
    (tmp_path / "long.csv").write_text("\n".join(["time,open,high,low,close,volume", *lines, ""]))
    times = pa.array(hours, pa.timestamp("ms", "UTC"))
    columns: dict[str, Any] = {"date": times, **dict.fromkeys(["open", "high", "low", "close", "volume"], [1.5] * count)}
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "long.parquet", row_group_size=count)
    pyarrow.feather.write_feather(table, str(tmp_path / "long.feather"))

    said, grown = read(tmp_path, limit=1_024)

    assert set(said.values()) == {f"{count} rows"}
    assert grown < 192


@pytest.mark.parametrize("format", ["parquet", "feather", "csv", "jsonl"])
async def test_nothing_of_a_file_that_is_refused_at_its_end_is_stored(url: str, tmp_path: Path, format: str) -> None:
    path = tmp_path / f"bars.{format}"
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many(hourly(12_000))
        await export_table(db, path)
        await raw.run(db, "DELETE FROM ohlcv")
        content, half = path.read_bytes(), path.stat().st_size // 2
        damage = content[:-200] if format in ("csv", "jsonl") else content[:half] + b"\0" * 64 + content[half + 64 :]
        path.write_bytes(damage)

        with pytest.raises(DumpError, match=f"^{path}"):
            await import_file(db, Source(path, Hints()))

        assert await raw.count(db, "ohlcv") == 0
