"""Tests of what was asked for: the states of bars, mark_covered, and how deletions and other sessions change them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from iftb_store import CoverageDay, CoverageRange, DatabaseManager, InvalidValueError, OHLCVRepository, Timeframe, Unsupported
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, lacks, requires
from iftb_store.testing.samples import HOUR, NOW, T0, Clock, bar, hourly

_QUIET = Decimal(0)


def make_repository(db: DatabaseManager, now: datetime = NOW) -> OHLCVRepository:
    """Return a repository of bars whose clock shows a fixed time."""
    return OHLCVRepository(db, clock=Clock(now))


async def read_states(db: DatabaseManager, start: datetime | None = None, end: datetime | None = None) -> list[tuple[str, int]]:
    """Return the states of BTCUSDT 1h with the number of bars of each range."""
    found = await make_repository(db).get_coverage("BTCUSDT", "1h", start=start, end=end)
    return [(one.state, one.bars) for one in found]


async def mark(db: DatabaseManager, first: int, last: int, *, source: str = "fetch", now: datetime = NOW) -> None:
    """Mark the bars of BTCUSDT 1h as asked for, from one hour after T0 to another."""
    await make_repository(db, now).mark_covered("BTCUSDT", "1h", T0 + first * HOUR, T0 + last * HOUR, source=source)


async def read_ranges(db: DatabaseManager) -> list[tuple[int, int, str]]:
    """Return the stored ranges as (first hour, last hour, source), as raw SQL reads them."""
    rows = await raw.fetch(db, "SELECT first, last, source FROM coverage ORDER BY exchange, symbol, timeframe, first")
    return [((raw.moment(first) - T0) // HOUR, (raw.moment(last) - T0) // HOUR, source) for first, last, source in rows]


@requires(Capability.RECORDS)
class CoverageTests(SuiteFixtures):
    """get_coverage and coverage_by_day."""

    async def test_a_new_database_knows_nothing(self, db: DatabaseManager) -> None:
        assert await make_repository(db).get_coverage("BTCUSDT", "1h") == []
        assert await read_states(db, T0, T0 + 4 * HOUR) == [("unknown", 5)]

    async def test_three_kinds_of_holes_are_told_apart(self, db: DatabaseManager) -> None:
        bars = [one for index, one in enumerate(hourly(12)) if index not in (2, 6)]
        await OHLCVRepository(db).insert_many(bars)
        await mark(db, 4, 11)
        # asked for and given, then deleted
        await make_repository(db).delete_range("BTCUSDT", "1h", T0 + 9 * HOUR, T0 + 9 * HOUR)
        found = await make_repository(db).get_coverage("BTCUSDT", "1h")
        traded = CoverageRange(T0, T0 + HOUR, "traded", 2)
        assert found[:3] == [traded, CoverageRange(T0 + 2 * HOUR, T0 + 2 * HOUR, "unknown", 1),
                             CoverageRange(T0 + 3 * HOUR, T0 + 5 * HOUR, "traded", 3)]  # fmt: skip
        assert found[3] == CoverageRange(T0 + 6 * HOUR, T0 + 6 * HOUR, "none", 1, NOW, "fetch")
        assert [(one.state, one.bars) for one in found[4:]] == [("traded", 2), ("unknown", 1), ("traded", 2)]

    async def test_bars_without_volume_are_quiet(self, db: DatabaseManager) -> None:
        quiet = (1, 2, 5)
        bars = [bar(T0 + hour * HOUR, volume=_QUIET if hour in quiet else Decimal("0.000000000000000001")) for hour in range(6)]
        await OHLCVRepository(db).insert_many(bars)
        assert await read_states(db) == [("traded", 1), ("quiet", 2), ("traded", 2), ("quiet", 1)]

    async def test_the_window_counts_missing_bars_at_its_edges(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        await mark(db, -2, 1)
        assert await read_states(db, T0 - 4 * HOUR, T0 + 4 * HOUR) == [("unknown", 2), ("none", 2), ("traded", 3), ("unknown", 2)]
        # times between two bars
        half = HOUR / 2
        assert await read_states(db, T0 - half, T0 + 3 * HOUR + half) == [("traded", 3), ("unknown", 1)]
        assert await read_states(db, T0 + half, T0 + half) == []

    async def test_without_a_window_the_ranges_begin_and_end_with_what_is_known(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(2))
        await mark(db, -3, -2)
        await mark(db, 4, 4)
        assert await read_states(db) == [("none", 2), ("unknown", 1), ("traded", 2), ("unknown", 2), ("none", 1)]

    async def test_bars_that_have_not_ended_are_left_out(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(5))
        repository = make_repository(db, T0 + 3 * HOUR)
        found = await repository.get_coverage("BTCUSDT", "1h", start=T0, end=T0 + 9 * HOUR)
        assert found == [CoverageRange(T0, T0 + 2 * HOUR, "traded", 3)]
        assert await make_repository(db, T0 + HOUR / 2).get_coverage("BTCUSDT", "1h", start=T0, end=T0 + 9 * HOUR) == []

    async def test_days_count_the_bars_of_each_state(self, db: DatabaseManager) -> None:
        bars = [one for index, one in enumerate(hourly(30)) if index != 25]
        bars[3].volume = _QUIET
        await OHLCVRepository(db).insert_many(bars)
        await mark(db, 24, 40)
        days = await make_repository(db).coverage_by_day("BTCUSDT", "1h", start=T0, end=T0 + 71 * HOUR)
        assert days == [
            CoverageDay(date(2024, 1, 1), 24, 23, 1, 0, 0),
            CoverageDay(date(2024, 1, 2), 24, 5, 0, 12, 7),
            CoverageDay(date(2024, 1, 3), 24, 0, 0, 0, 24),
        ]

    async def test_every_timeframe_counts_its_own_bars(self, db: DatabaseManager) -> None:
        steps: dict[Timeframe, timedelta] = {
            "1s": timedelta(seconds=1), "5m": timedelta(minutes=5), "1d": timedelta(days=1), "3d": timedelta(days=3),
            "1w": timedelta(weeks=1),
        }  # fmt: skip
        for timeframe, step in steps.items():
            await OHLCVRepository(db).insert_many([bar(T0 + place * step, timeframe=timeframe) for place in (0, 1, 4)])
            await make_repository(db).mark_covered("BTCUSDT", timeframe, T0 + 3 * step, T0 + 4 * step, source="stream")
            found = await make_repository(db).get_coverage("BTCUSDT", timeframe, start=T0, end=T0 + 5 * step)
            states = [(one.state, one.bars) for one in found]
            assert states == [("traded", 2), ("unknown", 1), ("none", 1), ("traded", 1), ("unknown", 1)], timeframe

    async def test_months_have_their_own_length(self, db: DatabaseManager) -> None:
        months = [datetime(2023, number, 1, tzinfo=UTC) for number in (1, 2, 3, 6)]
        await OHLCVRepository(db).insert_many([bar(moment, timeframe="1M") for moment in months])
        await make_repository(db).mark_covered("BTCUSDT", "1M", months[2], datetime(2023, 4, 1, tzinfo=UTC), source="stream")
        found = await make_repository(db).get_coverage("BTCUSDT", "1M")
        assert [(one.state, one.bars) for one in found] == [("traded", 3), ("none", 1), ("unknown", 1), ("traded", 1)]
        days = await make_repository(db).coverage_by_day("BTCUSDT", "1M", start=months[0], end=months[-1])
        assert [(day.day.month, day.traded, day.none) for day in days][2:5] == [(3, 1, 0), (4, 0, 1), (5, 0, 0)]

    async def test_series_are_apart(self, db: DatabaseManager) -> None:
        repository = make_repository(db)
        await repository.mark_covered("BTCUSDT", "1h", T0, T0 + HOUR, exchange="kraken", source="fetch")
        await repository.mark_covered("ETHUSDT", "1h", T0, T0 + HOUR, source="fetch")
        assert await read_states(db, T0, T0 + HOUR) == [("unknown", 2)]
        (found,) = await repository.get_coverage("BTCUSDT", "1h", "kraken")
        assert (found.state, found.bars) == ("none", 2)

    async def test_wrong_arguments_are_refused(self, db: DatabaseManager) -> None:
        repository = make_repository(db)
        for call in (
            lambda: repository.get_coverage("BTCUSDT", "1h", start=T0, end=T0 - HOUR),
            lambda: repository.get_coverage("BTCUSDT", "1x"),  # type: ignore[arg-type]
            lambda: repository.get_coverage("BTCUSDT", "1h", None),  # type: ignore[arg-type]
            lambda: repository.mark_covered("BTCUSDT", "1h", T0 + HOUR / 4, T0 + HOUR / 2, source="fetch"),
            lambda: repository.mark_covered("BTCUSDT", "1h", T0, T0, source=" "),
            lambda: repository.mark_covered("BTCUSDT", "1h", T0, T0, None, source="fetch"),  # type: ignore[arg-type]
        ):
            with pytest.raises(InvalidValueError):
                await call()
        assert await raw.count(db, "coverage") == 0


@requires(Capability.RECORDS)
class MarkCoveredTests(SuiteFixtures):
    """mark_covered, and what delete_range and writes of bars do to the ranges."""

    async def test_ranges_of_one_source_become_one_with_the_older_time(self, db: DatabaseManager) -> None:
        await mark(db, 0, 2)
        await mark(db, 3, 5, now=NOW + HOUR)
        await mark(db, 9, 9, now=NOW + HOUR)
        assert await read_ranges(db) == [(0, 5, "fetch"), (9, 9, "fetch")]
        await mark(db, 4, 8, now=NOW + 2 * HOUR)
        assert await read_ranges(db) == [(0, 9, "fetch")]
        (found,) = await make_repository(db).get_coverage("BTCUSDT", "1h")
        assert (found.asked_at, found.source) == (NOW, "fetch")

    async def test_a_range_of_another_source_is_replaced_where_it_overlaps(self, db: DatabaseManager) -> None:
        await mark(db, 0, 9)
        await mark(db, 3, 4, source="stream")
        assert await read_ranges(db) == [(0, 2, "fetch"), (3, 4, "stream"), (5, 9, "fetch")]
        await mark(db, 1, 6, source="file:x.csv")
        assert await read_ranges(db) == [(0, 0, "fetch"), (1, 6, "file:x.csv"), (7, 9, "fetch")]
        await mark(db, 0, 9)
        assert await read_ranges(db) == [(0, 9, "fetch")]

    async def test_what_has_not_ended_cannot_be_covered(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="has not ended"):
            await mark(db, 0, 3, now=T0 + 4 * HOUR - timedelta(microseconds=1))
        await mark(db, 0, 3, now=T0 + 4 * HOUR)
        assert await read_ranges(db) == [(0, 3, "fetch")]

    async def test_deleted_bars_are_unknown_again(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(10))
        await mark(db, 0, 9)
        assert await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0 + 2 * HOUR, T0 + 3 * HOUR) == 2
        assert await read_ranges(db) == [(0, 1, "fetch"), (4, 9, "fetch")]
        assert await read_states(db) == [("traded", 2), ("unknown", 2), ("traded", 6)]
        # a window without bars takes what is covered too, and times need not be opening times
        await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0 - HOUR / 2, T0 + HOUR / 2)
        assert await read_ranges(db) == [(1, 1, "fetch"), (4, 9, "fetch")]
        await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0 - 9 * HOUR, T0 + 99 * HOUR)
        assert await read_ranges(db) == []

    async def test_a_deletion_that_is_rolled_back_keeps_the_coverage(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        await mark(db, 0, 4)
        async with db.get_session() as session:
            await OHLCVRepository(session).delete_range("BTCUSDT", "1h", T0, T0 + 9 * HOUR)
            await session.rollback()
        assert await read_states(db) == [("traded", 3), ("none", 2)]

    async def test_a_deletion_leaves_other_series_covered(self, db: DatabaseManager) -> None:
        await make_repository(db).mark_covered("BTCUSDT", "1h", T0, T0, "kraken", source="fetch")
        await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, T0)
        assert await raw.count(db, "coverage") == 1

    async def test_writes_of_bars_change_no_range(self, db: DatabaseManager) -> None:
        await mark(db, 0, 4)
        await OHLCVRepository(db).insert_many(hourly(2))
        await OHLCVRepository(db).upsert_many(hourly(3))
        await OHLCVRepository(db).resample("BTCUSDT", "1h", "4h", T0, T0 + 9 * HOUR)
        assert await read_ranges(db) == [(0, 4, "fetch")]
        assert await read_states(db) == [("traded", 3), ("none", 2)]

    async def test_bars_and_their_range_are_stored_together_or_not_at_all(self, db: DatabaseManager) -> None:
        for fails in (True, False):
            try:
                async with db.get_session() as session:
                    repository = OHLCVRepository(session, clock=Clock())
                    await repository.upsert_many(hourly(2))
                    await repository.mark_covered("BTCUSDT", "1h", T0, T0 + 3 * HOUR, source="stream")
                    assert [(one.state, one.bars) for one in await repository.get_coverage("BTCUSDT", "1h")] == [
                        ("traded", 2),
                        ("none", 2),
                    ]
                    if fails:
                        raise RuntimeError
            except RuntimeError:
                assert await read_states(db) == []
        assert await read_states(db) == [("traded", 2), ("none", 2)]

    async def test_two_sessions_at_once_leave_ranges_without_overlaps(self, db: DatabaseManager) -> None:
        await asyncio.gather(*(mark(db, first, first + 6, source=f"source-{first % 3}") for first in range(0, 40, 4)))
        ranges = await read_ranges(db)
        assert (ranges[0][0], ranges[-1][1]) == (0, 42)
        assert all(one[1] + 1 == two[0] for one, two in pairwise(ranges))
        assert await read_states(db) == [("none", one[1] - one[0] + 1) for one in ranges]

    async def test_days_add_up_to_the_ranges(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(40))
        await mark(db, 30, 60)
        days = [asdict(day) for day in await make_repository(db).coverage_by_day("BTCUSDT", "1h", start=T0, end=T0 + 99 * HOUR)]
        for state, bars in await read_states(db, T0, T0 + 99 * HOUR):
            assert sum(day[state] for day in days) == bars


class NoCoverageTests(SuiteFixtures):
    """A backend that keeps only bars refuses, and says what to do."""

    async def test_a_backend_of_bars_keeps_no_coverage(self, db: DatabaseManager) -> None:
        lacks(db, Capability.RECORDS)
        repository = make_repository(db)
        await repository.insert_many(hourly(2))
        for call in (
            repository.get_coverage("BTCUSDT", "1h"),
            repository.coverage_by_day("BTCUSDT", "1h", start=T0, end=T0),
            repository.mark_covered("BTCUSDT", "1h", T0, T0, source="fetch"),
        ):
            with pytest.raises(Unsupported, match=r"keeps only bars.* PostgreSQL"):
                await call
        assert await repository.delete_range("BTCUSDT", "1h", T0, T0) == 1
