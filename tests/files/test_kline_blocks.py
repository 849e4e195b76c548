"""Dumps as Arrow tables: the same bars and the same words as the line parser's, whatever the lines contain."""

from __future__ import annotations

import asyncio
import random
import threading
import zipfile
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iftb_store import DatabaseManager
from iftb_store.batches.arrow import to_record_batch
from iftb_store.batches.bars import BarColumns, to_columns
from iftb_store.files import klines
from iftb_store.files.ahead import ReadAhead
from iftb_store.files.import_files import FileImport, RefusedFilesError
from iftb_store.files.klines import import_klines
from iftb_store.files.options import Hints
from iftb_store.files.readers import kline_blocks
from iftb_store.files.readers.binance import DumpError, KlineDump
from iftb_store.testing import raw
from iftb_store.testing.lifecycle import wait_until
from iftb_store.transfer.progress import report_nothing
from tests.faults.rounds import SOAK, rounds
from tests.files.test_hostile_dumps import NAME, content, damaged, pack

_HEADER = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
_LINE = "1706745660000,2.5,3.5,1.25,2.75,124314.5,1706745719999,351525.351,986,1,2,0"

Read = tuple[pa.Table | str, int, int, int, int]


def read_objects(path: Path) -> Read:
    dump = KlineDump(path, from_float=True)
    try:
        bars = [bar for batch in dump.batches() for bar in batch]
    except DumpError as error:
        return str(error), 0, 0, 0, 0
    return pa.table(to_record_batch(to_columns(bars))), dump.bytes_read, dump.size, dump.header_lines, dump.rounded


def read_tables(path: Path, size: int = 100_000) -> Read:
    dump = KlineDump(path, from_float=True)
    try:
        tables = [rows.table for rows in dump.tables(size)]
    except DumpError as error:
        return str(error), 0, 0, 0, 0
    return pa.concat_tables(tables).combine_chunks(), dump.bytes_read, dump.size, dump.header_lines, dump.rounded


@pytest.fixture
def shorten(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def shorten_blocks(size: int) -> None:
        monkeypatch.setattr(kline_blocks, "_BLOCK", size)
        monkeypatch.setattr(kline_blocks, "_READ", 100)

    return shorten_blocks


@pytest.mark.timeout(36_000 if SOAK else 300)
@pytest.mark.parametrize("kind", ["csv", "csv in short blocks", "deflated", "stored"])
def test_a_damaged_dump_gives_the_same_bars_or_words_in_tables(tmp_path: Path, kind: str, shorten: Callable[[int], None]) -> None:
    if "blocks" in kind:
        shorten(2_000)
    compressions = {"deflated": zipfile.ZIP_DEFLATED, "stored": zipfile.ZIP_STORED}
    whole = pack(compressions[kind]) if kind in compressions else content(120)
    path = tmp_path / (f"{NAME}.zip" if kind in compressions else f"{NAME}.csv")
    dice = random.Random(None if SOAK else kind)
    for _ in range(rounds("damaged dump")):
        damage = damaged(whole, dice)
        path.write_bytes(damage)
        assert read_tables(path) == read_objects(path), damage


@pytest.mark.parametrize(
    "value",
    ["", "0", "00", "01.5", ".5", "1.", "1..5", "1.2.3", "-1", "+1", "1e3", "1E-18", "1e-19", " 1", "1 ", '"1"', "1\0", "1\r",
     "٣", "NaN", "9" * 20 + "." + "9" * 18, "1" + "0" * 20, "1." + "0" * 19, "0.1234567890123456785", "9" * 18, "9" * 19,
     "9223372036854775808", "1706745660000", "1706745660000000", "0706745660000", "1706745660000.0", "1,1", "1\n1"],
)  # fmt: skip
def test_an_odd_field_gives_the_same_bar_or_words_in_tables(tmp_path: Path, value: str) -> None:
    path = tmp_path / f"{NAME}.csv"
    for column in range(12):
        fields = list[str](_LINE.split(","))
        fields[column] = value
        path.write_text("\n".join([_LINE.replace("170674566", "170674560"), ",".join(fields), ""]))

        assert read_tables(path) == read_objects(path)


@pytest.mark.parametrize("head", ["", "\ufeff", f"{_HEADER}\n", f"\ufeff{_HEADER}\n", "x\n", "\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n", "\n\n"])
@pytest.mark.parametrize("size", [1 << 20, 2_000])
def test_odd_ends_of_lines_give_the_same_bars_or_words_in_tables(
    tmp_path: Path, head: str, end: str, size: int, shorten: Callable[[int], None]
) -> None:
    shorten(size)
    path = tmp_path / f"{NAME}.csv"
    for last in ("", "\n", "\n\n\n", "\n\n1", ","):
        path.write_text(head + content(60).decode().rstrip("\n").replace("\n", end) + last, newline="")

        assert read_tables(path) == read_objects(path)


@pytest.mark.parametrize("second", [_LINE, _LINE.replace("2.75", "2.76"), _LINE.replace("1706745660000", "1706745660000000")])
@pytest.mark.parametrize("lines", [1, 2, 100])
def test_a_repeated_time_gives_the_same_bars_or_words_across_blocks(
    tmp_path: Path, shorten: Callable[[int], None], second: str, lines: int
) -> None:
    first = "".join(f"{line}\n" for line in content(lines).decode().splitlines())
    path = tmp_path / f"{NAME}.csv"
    path.write_text(f"{first}{_LINE}\n{second}\n")
    for size in range(len(first), len(first) + 3 * len(_LINE), 20):
        shorten(size)
        assert read_tables(path) == read_objects(path)


def test_tables_have_about_the_size_and_name_their_first_line(tmp_path: Path, shorten: Callable[[int], None]) -> None:
    shorten(1_000)
    path = tmp_path / f"{NAME}.csv"
    path.write_text(f"{_HEADER}\n{content(200).decode()}")

    found = list(KlineDump(path).tables(50))

    counts = [rows.table.num_rows for rows in found]
    assert sum(counts) == 200
    assert max(counts) < 70
    assert [rows.first_line for rows in found] == [2 + sum(counts[:place]) for place in range(len(counts))]
    assert found[-1].bytes_read == path.stat().st_size


def test_ordinary_lines_do_not_reach_the_line_parser(tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.csv"
    path.write_bytes(content(1_000).replace(b"\n", b"\r\n"))
    dump = KlineDump(path)
    parsed: list[int] = []
    usual = dump._bar
    dump._bar = lambda line, number: parsed.append(number) or usual(line, number)  # type: ignore[method-assign,func-returns-value]

    assert sum(rows.table.num_rows for rows in dump.tables()) == 1_000
    assert parsed == [1, 1_000]


async def test_without_pyarrow_the_same_bars_are_stored(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"{NAME}.csv"
    path.write_bytes(content(300))
    stored = []
    for spec in (find_spec, lambda name: None):
        monkeypatch.setattr(klines, "find_spec", spec)
        async with DatabaseManager(sqlite_url) as db:
            await db.create_tables()
            report = await import_klines(db, KlineDump(path))
            rows = await raw.fetch(db, f"SELECT {', '.join(BarColumns._fields)} FROM ohlcv ORDER BY timestamp")
            stored.append((report, rows))
            await raw.run(db, "DELETE FROM ohlcv")
    assert stored[0] == stored[1]


async def test_the_next_file_is_read_while_the_last_part_of_one_is_stored(sqlite_url: str, tmp_path: Path) -> None:
    names = [tmp_path / f"{symbol}-1m-2024-02.csv" for symbol in ("A", "B", "C")]
    for path in names:
        path.write_bytes(content(100))
    names[1].write_bytes(content(100) + b"damaged\n")
    importing = FileImport([str(path) for path in names], Hints())
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        with pytest.raises(RefusedFilesError, match=r"B-1m-2024-02.csv, line 101"):
            await importing.run(db, report_nothing)
        assert await raw.count(db, "ohlcv") == 200
    assert [done.path for done in importing.files] == [names[0], names[2]]


async def test_a_reader_ahead_reads_one_item_ahead_and_waits_for_its_thread() -> None:
    release, items, ended = threading.Event(), list[int](), list[bool]()

    def read() -> Generator[int, None, None]:
        try:
            for number in range(5):
                items.append(number)
                yield number
                release.wait(10)
        finally:
            ended.append(True)

    ahead: ReadAhead[Any] = ReadAhead(read())
    assert await ahead.take() == 0
    taking = asyncio.ensure_future(ahead.take())
    await wait_until(lambda: items == [0, 1])
    taking.cancel()
    closing = asyncio.ensure_future(ahead.close())
    # close() has begun, and waits for the thread
    await asyncio.sleep(0)
    assert not ended
    release.set()
    await closing
    await ahead.close()
    assert (items, ended) == ([0, 1], [True])


async def test_a_reader_ahead_raises_what_its_generator_raises() -> None:
    def read() -> Generator[int, None, None]:
        yield 1
        raise DumpError("damaged")

    ahead, ends = ReadAhead(read()), list[int]()
    ahead.at_end = lambda: ends.append(1)
    assert await ahead.take() == 1
    with pytest.raises(DumpError):
        await ahead.take()
    await ahead.close()
    assert ends == []
