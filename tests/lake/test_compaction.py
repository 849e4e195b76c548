"""`iftb-store compact` on a lake: large files of small ones, with the same bars, beside readers and writers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository
from iftb_store.abilities import SupportsCompaction
from iftb_store.cli import main
from iftb_store.columnar import Cursor
from iftb_store.doctor import examine
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, bar
from iftb_store_lake import compaction
from iftb_store_lake.connection import Lake
from iftb_store_lake.storage import Storage
from iftb_store_lake.url import parse_options
from tests.conftest import Run

_FILES = 6


def bars_from(count: int, start: datetime, **values: Any) -> list[OHLCVBar]:
    """Return bars of consecutive hours."""
    return [bar(start + number * HOUR, **values) for number in range(count)]


async def fill(db: DatabaseManager) -> None:
    """Store bars of two closed years in many commits."""
    for number in range(_FILES):
        await OHLCVRepository(db).insert_many(bars_from(24, T0 + number * timedelta(days=1)))
        await OHLCVRepository(db).insert_many(bars_from(24, T0 + number * timedelta(days=1) - timedelta(days=365)))


async def digest(db: DatabaseManager) -> list[tuple[Any, ...]]:
    return await raw.fetch(db, "SELECT * FROM ohlcv ORDER BY exchange, symbol, timeframe, timestamp")


async def compact(db: DatabaseManager, *, dry_run: bool = False) -> Any:
    ability = db.ability(SupportsCompaction)
    return await ability.compact(dry_run=dry_run, keep=timedelta(days=7), progress=lambda done, total: None)


@pytest.mark.parametrize("place", ["lake_url", "s3_url"])
async def test_a_compaction_leaves_one_file_a_year_with_the_same_bars(place: str, request: pytest.FixtureRequest) -> None:
    async with DatabaseManager(request.getfixturevalue(place)) as db:
        await fill(db)
        before = await digest(db)
        found = await compact(db)
        assert (found.partitions, found.rewritten, found.files_before, found.files_after) == (2, 2, 2 * _FILES, 2)
        assert await digest(db) == before
        assert (await compact(db)).partitions == 0


async def test_a_dry_run_changes_nothing(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await fill(db)
        before = await db.status()
        found = await compact(db, dry_run=True)
        assert (found.partitions, found.rewritten, found.files_after) == (2, 0, 2 * _FILES)
        assert await db.status() == before


@pytest.mark.parametrize("place", ["lake_url", "s3_url"])
async def test_readers_and_writers_continue_beside_compactions(place: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(place)
    async with DatabaseManager(url) as db, DatabaseManager(url) as other:
        await fill(db)
        async with db.get_session(isolation="snapshot") as snapshot:
            before = await OHLCVRepository(snapshot).list_series()

            async def write() -> None:
                for number in range(8):
                    await OHLCVRepository(db).upsert_many(bars_from(3, T0 + number * HOUR, volume=Decimal(number)))
                    await OHLCVRepository(db).insert_many(bars_from(1, T0 + timedelta(days=400 + number)))

            async def compact_often() -> int:
                return sum([(await compact(other)).rewritten for _ in range(4)])

            rewritten, _ = await asyncio.gather(compact_often(), write())
            assert await OHLCVRepository(snapshot).list_series() == before
        assert rewritten > 0
        ((bars, keys),) = await raw.fetch(db, "SELECT count(*), count(DISTINCT (symbol, timestamp)) FROM ohlcv")
        assert bars == keys == 2 * _FILES * 24 + 8
        volumes = await raw.fetch(db, "SELECT volume FROM ohlcv WHERE timestamp >= :first ORDER BY timestamp LIMIT 10", first=T0)
        assert [volume for (volume,) in volumes] == [*range(7), 7, 7, 7]


def read_files(db: DatabaseManager) -> list[dict[str, Any]]:
    """Return the statistics of the files, in the order of their symbols."""
    actions: Any = pa.table(DeltaTable(str(make_url(db.url).database)).get_add_actions(flatten=True))
    found: list[dict[str, Any]] = actions.sort_by([("min.symbol", "ascending"), ("max.symbol", "ascending")]).to_pylist()
    return found


@pytest.mark.parametrize(("full", "most", "files"), [(8, 1_000, 12), (1, 1_000, 12), (60, 1_000, 2), (8, 7, 18)])
async def test_a_compaction_leaves_files_whose_ranges_do_not_overlap_and_the_next_leaves_them(
    lake_url: str, monkeypatch: pytest.MonkeyPatch, full: int, most: int, files: int
) -> None:
    for name, value in (("LEAST", full), ("MOST", most), ("ROW_GROUP", 3), ("CUT_FROM", most - 3)):
        monkeypatch.setattr(f"iftb_store_lake.files.{name}", value)
    monkeypatch.setattr("iftb_store_lake.compaction.CUT_FROM", most - 3)
    async with DatabaseManager(lake_url) as db:
        for day in range(3):
            for number in range(12):
                await OHLCVRepository(db).insert_many(bars_from(3, T0 + day * timedelta(days=1), symbol=f"S{number:02}"))
        before = await digest(db)
        assert (await compact(db)).rewritten == 1
        found = read_files(db)
        assert (len(found), await digest(db)) == (files, before)
        ranges = [(file["min.symbol"], file["max.symbol"]) for file in found]
        # a series that one file does not hold is in two
        assert all(end < first or (end == first and most == 7) for (_, end), (first, _) in pairwise(ranges))
        assert (await compact(db)).partitions == 0


async def test_a_new_file_of_a_symbol_between_others_is_compacted(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await OHLCVRepository(db).insert_many([*bars_from(3, T0, symbol="A"), *bars_from(3, T0, symbol="C")])
        await OHLCVRepository(db).insert_many(bars_from(3, T0, symbol="B"))
        assert (await compact(db)).rewritten == 1
        assert len(read_files(db)) == 1


def test_the_command_reports_what_it_did_and_deletes_what_is_out_of_use(lake_url: str, run: Run) -> None:
    async def prepare() -> None:
        async with DatabaseManager(lake_url) as db:
            await fill(db)

    asyncio.run(prepare())
    code, out, _ = run("compact", lake_url, "--dry-run")
    assert (code, out.splitlines()[0].split(" (")[0]) == (0, f"2 partitions with several small files, of {2 * _FILES} files")
    code, out, _ = run("compact", lake_url)
    assert (code, out.splitlines()[0]) == (0, "2 of 2 partitions rewritten; 0 files out of use deleted")
    orphan = leave_orphan(lake_url)
    code, out, _ = run("compact", lake_url, "--json")
    assert (code, json.loads(out)["deleted"], orphan.exists()) == (0, 1, False)


async def test_a_compaction_with_nothing_to_do_makes_no_commit(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await fill(db)
        await compact(db)
        before = await db.status()
        await compact(db)
        assert await db.status() == before


async def test_a_compaction_that_was_cancelled_deletes_nothing(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await fill(db)
    orphan = leave_orphan(lake_url)
    stop = threading.Event()
    stop.set()
    lake = Lake(Storage(parse_options(make_url(lake_url))))
    with duckdb.connect() as connection:
        cursor = Cursor(connection, logging.getLogger(__name__))
        keep = timedelta(days=7)
        done = compaction.compact(lake, cursor, dry_run=False, keep=keep, progress=lambda done, total: None, stop=stop)
    assert (done.rewritten, done.deleted, orphan.exists()) == (0, 0, True)


def leave_orphan(url: str) -> Path:
    """Leave a file as if a writer had been killed long ago."""
    orphan = next(Path(str(make_url(url).database)).glob("part=*")) / "part-00000-orphan.parquet"
    orphan.write_bytes(b"")
    os.utime(orphan, (0, 0))
    return orphan


def test_a_store_without_files_to_compact_says_so(sqlite_url: str, run: Run) -> None:
    assert main(["migrate", sqlite_url]) == 0
    code, _, err = run("compact", sqlite_url)
    assert code == 1
    assert "does not support compaction; only a lake has small files to compact" in err


async def test_the_doctor_reports_small_files_until_they_are_compacted(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await fill(db)
        found = {finding.kind: finding for finding in await examine(db)}
        assert (found["small files"].severity, found["small files"].count) == ("note", 2 * _FILES)
        await compact(db)
        assert "small files" not in {finding.kind for finding in await examine(db)}
