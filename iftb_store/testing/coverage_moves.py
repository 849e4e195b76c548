"""Tests of what transfers, imports and the doctor do with what was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVRepository, RefusedFilesError, copy, examine, import_files, verify
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import COVERAGE, SERIES, AskedRange, RowFilter
from iftb_store.testing.coverage import make_repository, mark, read_ranges, read_states
from iftb_store.testing.fixtures import SuiteFixtures, requires
from iftb_store.testing.samples import HOUR, NOW, T0, hourly

_SERIES = dict(zip(SERIES, ("binance", "BTCUSDT", "1h"), strict=True))


def asked(first: int, last: int) -> AskedRange:
    """Return a range of BTCUSDT 1h, in hours after T0."""
    return AskedRange(**_SERIES, first=T0 + first * HOUR, last=T0 + last * HOUR, asked_at=NOW, source="fetch")


async def store_ranges(db: DatabaseManager, *ranges: AskedRange) -> None:
    """Store ranges as raw SQL could, unchecked."""
    async with db.get_session() as session:
        stores = get_stores(session)
        await stores.coverage.replace(RowFilter(COVERAGE, _SERIES), ranges)  # type: ignore[attr-defined]


@requires(Capability.RECORDS)
class CoverageCopyTests(SuiteFixtures):
    """copy and verify."""

    @pytest_asyncio.fixture
    async def copied(self, second_url: str) -> AsyncIterator[DatabaseManager]:
        """A second database with tables."""
        async with DatabaseManager(make_url(second_url)) as manager:
            await self.make_tables(manager)
            yield manager

    async def test_a_copy_takes_the_coverage_with_the_bars(self, db: DatabaseManager, copied: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(4))
        await mark(db, 0, 6)
        await copy(db, copied)
        assert await read_states(copied) == [("traded", 4), ("none", 3)]
        assert (await verify(db, copied)).equal

    async def test_a_copy_adds_to_what_the_destination_knows(self, db: DatabaseManager, copied: DatabaseManager) -> None:
        await mark(db, 0, 3)
        await mark(copied, 2, 8)
        await mark(copied, 20, 21, source="stream")
        await copy(db, copied)
        assert await read_ranges(copied) == [(0, 8, "fetch"), (20, 21, "stream")]

    async def test_a_copy_of_a_window_cuts_the_ranges(self, db: DatabaseManager, copied: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(10))
        await mark(db, 0, 9)
        await copy(db, copied, start=T0 + 2 * HOUR, end=T0 + 5 * HOUR)
        assert await read_ranges(copied) == [(2, 5, "fetch")]
        await copy(db, copied, symbols=["ETHUSDT"])
        assert await read_ranges(copied) == [(2, 5, "fetch")]

    async def test_a_synced_copy_makes_the_ranges_equal(self, db: DatabaseManager, copied: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        await mark(db, 1, 4)
        await OHLCVRepository(copied).insert_many(hourly(8))
        await mark(copied, 0, 12)
        await make_repository(copied).mark_covered("ETHUSDT", "1h", T0, T0, source="fetch")
        await copy(db, copied, delete=True, symbols=["BTCUSDT"], end=T0 + 9 * HOUR)
        assert await read_states(copied) == [("traded", 3), ("none", 2), ("unknown", 5), ("none", 3)]
        await copy(db, copied, delete=True)
        assert await read_ranges(copied) == [(1, 4, "fetch")]
        assert (await verify(db, copied)).equal

    async def test_a_dry_run_copies_no_coverage(self, db: DatabaseManager, copied: DatabaseManager) -> None:
        await mark(db, 0, 3)
        await copy(db, copied, dry_run=True)
        assert await read_ranges(copied) == []

    async def test_verify_names_a_range_that_differs(self, db: DatabaseManager, copied: DatabaseManager) -> None:
        await mark(db, 0, 3)
        await mark(db, 4, 6, source="stream")
        await mark(copied, 0, 5)
        report = await verify(db, copied)
        (part,) = [part for part in report.parts if part.table == "coverage"]
        assert not report.equal
        assert (part.series, part.equal) == ("binance BTCUSDT 1h", False)
        assert [(one.row["last"], one.source, one.destination) for one in part.differences] == [
            (T0 + 5 * HOUR, 0, 1),
            (T0 + 6 * HOUR, 1, 0),
        ]
        # neighbours count as one range, whatever their source
        await mark(copied, 6, 6)
        assert (await verify(db, copied)).equal


@requires(Capability.RECORDS)
class CoverageImportTests(SuiteFixtures):
    """import_files."""

    @pytest.fixture
    def candles(self, tmp_path: Path) -> Path:
        """A file of candles with a hole of two bars."""
        lines = ["timestamp,open,high,low,close,volume"]
        lines += [f"{(T0 + hour * HOUR).isoformat()},1,2,1,1.5,{hour}" for hour in (0, 1, 4)]
        path = tmp_path / "candles.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    async def test_a_file_covers_its_first_to_its_last_bar(self, db: DatabaseManager, candles: Path) -> None:
        await import_files(db, candles, symbol="BTCUSDT", timeframe="1h")
        assert await read_ranges(db) == [(0, 4, "file:candles.csv")]
        assert await read_states(db) == [("quiet", 1), ("traded", 1), ("none", 2), ("traded", 1)]

    async def test_a_file_covers_what_its_name_promises(self, db: DatabaseManager, candles: Path) -> None:
        window = T0 - HOUR / 2, T0 + 23 * HOUR
        await import_files(db, candles, symbol="BTCUSDT", timeframe="1h", covers=window)
        assert await read_ranges(db) == [(0, 23, "file:candles.csv")]

    async def test_a_dump_of_klines_covers_its_bars(self, db: DatabaseManager, tmp_path: Path) -> None:
        lines = []
        for hour in (0, 1, 3):
            opened = int((T0 + hour * HOUR).timestamp() * 1000)
            lines.append(f"{opened},1,2,1,1.5,10,{opened + 3_599_999},15,3,5,7,0")
        path = tmp_path / "BTCUSDT-1h-2024-01.csv"
        path.write_text("\n".join(lines) + "\n")
        await import_files(db, path)
        assert await read_ranges(db) == [(0, 3, "file:BTCUSDT-1h-2024-01.csv")]
        assert await read_states(db) == [("traded", 2), ("none", 1), ("traded", 1)]

    async def test_a_refused_file_covers_nothing(self, db: DatabaseManager, candles: Path) -> None:
        with candles.open("a") as file:
            file.write("2024-01-01T00:00:00+00:00,9,9,9,9,9\n")
        with pytest.raises(RefusedFilesError):
            await import_files(db, candles, symbol="BTCUSDT", timeframe="1h")
        assert await read_ranges(db) == []


@requires(Capability.RECORDS)
class CoverageDoctorTests(SuiteFixtures):
    """examine."""

    async def _find(self, db: DatabaseManager) -> list[tuple[str, int]]:
        return sorted((one.kind, one.count) for one in await examine(db) if one.table == "coverage")

    async def test_sound_ranges_are_no_problem(self, db: DatabaseManager) -> None:
        await mark(db, 0, 3)
        await mark(db, 4, 5, source="stream")
        assert await self._find(db) == []

    async def test_wrong_ranges_are_found(self, db: DatabaseManager) -> None:
        year = 24 * 366
        for ranges, kind in (
            ([asked(0, 5), asked(5, 9)], "ranges overlap"),
            ([asked(3, 1)], "range ends before it begins"),
            ([replace(asked(0, 5), last=T0 + timedelta(minutes=90))], "range off the grid"),
            ([asked(0, 90 * year)], "range ends in the future"),
        ):
            await store_ranges(db, *ranges)
            assert await self._find(db) == [(kind, 1)]
        await store_ranges(db)
        async with db.get_session() as session:
            strange = replace(asked(0, 1), timeframe="7h")
            await get_stores(session).coverage.replace(RowFilter(COVERAGE, _SERIES | {"timeframe": "7h"}), [strange])  # type: ignore[attr-defined]
        assert await self._find(db) == [("unknown timeframe", 1)]
