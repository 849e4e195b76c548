"""Parquet and Feather bombs: refused before decoding, in bounded memory; a repeated bar is counted once."""

from __future__ import annotations

import os
import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iftb_store import DatabaseManager, InvalidValueError, SystemEventRepository
from iftb_store.files.earlier import EarlierFiles
from iftb_store.files.export import export_table
from iftb_store.files.import_ import import_file
from iftb_store.files.options import Hints
from iftb_store.files.source import Source
from iftb_store.files.spans import Spans, split_times
from iftb_store.testing import raw
from tests.files.test_hostile_files import read
from tests.support.bombs import feather_bombs, parquet_bombs


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's own means")
@pytest.mark.parametrize("format", ["parquet", "feather"])
def test_each_bomb_is_refused_in_bounded_memory(tmp_path: Path, format: str) -> None:
    bombs = parquet_bombs() if format == "parquet" else feather_bombs()
    for name, (content, _) in bombs.items():
        (tmp_path / f"{name}.{format}").write_bytes(content)

    said, grown = read(tmp_path, limit=3_000)

    wrong = {name: word for name, (_, words) in bombs.items() if not re.search(words, word := said[f"{name}.{format}"])}
    assert wrong == {}
    assert grown < 300


async def test_a_bar_in_very_many_rows_is_counted_once(url: str, tmp_path: Path) -> None:
    # in three batches as they are read
    count = 150_000
    columns = {name: pa.array([1] * count) for name in ("open", "high", "low", "close", "volume")}
    times = pa.array([1_706_745_600] * (count - 1) + [1_706_749_200])
    pq.write_table(pa.table({"time": times, **columns}), tmp_path / "x.parquet", use_dictionary=False, compression="none")
    async with DatabaseManager(url) as db:
        await db.create_tables()
        result = await import_file(db, Source(tmp_path / "x.parquet", Hints(symbol="X", timeframe="1h")))
    assert (result.rows, result.notes) == (2, ("149,998 more rows are duplicates of bars in the file",))


async def test_a_line_of_a_dump_that_comes_again_is_counted_once(sqlite_url: str, tmp_path: Path) -> None:
    line = "1704067200000,1,2,1,1,1,1704070799999,1,1,1,1,0\n"
    (tmp_path / "X-1h-2024-01.csv").write_text(line * 12_000)
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        result = await import_file(db, Source(tmp_path / "X-1h-2024-01.csv", Hints()))
    assert result.rows == 1


def test_times_between_two_steps_are_not_taken_for_others() -> None:
    spans = Spans()
    assert spans.add(split_times("X", [0, 10, 20, 30], 10)) == []
    assert spans.add(split_times("X", [5, 15], 10)) == []
    assert spans.add(split_times("X", [5, 20, 25], 10)) == [5, 20]


@pytest.mark.parametrize("seed", range(20))
def test_spans_contain_the_times_that_were_added_in_any_order(seed: int) -> None:
    choose = random.Random(seed)
    spans, other, known = Spans(), Spans(), set[int]()
    for _ in range(40):
        start = choose.randrange(2_000)
        times = sorted({10 * (start + choose.randrange(choose.choice((30, 2_000)))) for _ in range(choose.choice((1, 200)))})
        assert spans.add(split_times("X", times, 10)) == [time for time in times if time in known]
        known.update(times)
        other.update(spans)
    everything = list(range(0, 50_000, 10))
    assert spans.find(split_times("X", everything, 10)) == other.find(split_times("X", everything, 10)) == sorted(known)
    assert len(spans) == len(other) == sum(time - 10 not in known for time in known)
    assert spans.count_unknown(split_times("X", everything, 10)) == 0


def test_many_files_with_gaps_are_remembered_quickly() -> None:
    # reading all spans of the earlier files for each file would exceed the time limit of a test
    earlier = EarlierFiles()
    for file in range(2_000):
        times = Spans()
        times.add(split_times(("e", "X", "1m"), list(range(300 * file, 300 * file + 300, 2)), 1))
        earlier.add(Path(f"{file}"), times)
    assert earlier.find(split_times(("e", "X", "1m"), [0, 1, 302, 599_998, 599_999], 1)) == [0, 302, 599_998]
    assert "than 1; if the files" in earlier.explain(("e", "X", "1m"), 302, 1)


def test_after_very_many_gaps_rows_in_another_order_are_refused() -> None:
    spans = Spans()
    assert spans.add(split_times("X", list(range(0, 2_000_000, 4)), 1)) == []
    assert spans.add(split_times("X", [3_000_000], 1)) == []
    with pytest.raises(InvalidValueError, match="sort the rows by time"):
        spans.add(split_times("X", [2], 1))


def test_more_series_than_are_remembered_are_refused() -> None:
    spans = Spans()
    for number in range(100_000):
        spans.add(split_times(number, [0], 1))
    with pytest.raises(InvalidValueError, match="more than 100,000 series"):
        spans.add(split_times("X", [0], 1))


@pytest.mark.full
@pytest.mark.parametrize("format", ["parquet", "feather"])
async def test_an_export_of_long_texts_can_be_imported(sqlite_url: str, tmp_path: Path, format: str) -> None:
    # 240 MB in one batch as they are read from the store
    texts = [f"{number} " * 24_000 for number in range(1_000, 3_000)]
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        async with db.get_session() as session:
            events = SystemEventRepository(session)
            for text in texts:
                await events.log_event("long", "info", text)
        await export_table(db, tmp_path / f"x.{format}", table="system_events")
        await raw.run(db, "DELETE FROM system_events")
        result = await import_file(db, Source(tmp_path / f"x.{format}", Hints()))
        assert result.rows == len(texts)
        assert await raw.value(db, "SELECT sum(length(message)) FROM system_events") == sum(map(len, texts))


@pytest.mark.parametrize("format", ["parquet", "feather"])
async def test_a_text_that_no_import_takes_is_not_exported(sqlite_url: str, tmp_path: Path, format: str) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await SystemEventRepository(db).log_event("long", "info", "x" * (17 << 20))
        with pytest.raises(InvalidValueError, match=r"contains 17,\d+,\d+ bytes of text, more than the limit of 16,777,216"):
            await export_table(db, tmp_path / f"x.{format}", table="system_events")
    assert not os.path.exists(tmp_path / f"x.{format}")  # noqa: ASYNC240, PTH110 - nothing else runs
