"""Tests of get_gaps, in all timeframes and at the edges of the window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from iftb_store import DatabaseManager, InvalidValueError, OHLCVRepository, Timeframe
from iftb_store.testing.fixtures import SuiteFixtures
from iftb_store.testing.samples import HOUR, INDIA, T0, bar, hourly

_STEPS: dict[Timeframe, timedelta] = {
    "1s": timedelta(seconds=1),
    "1m": timedelta(minutes=1),
    "3m": timedelta(minutes=3),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "2h": timedelta(hours=2),
    "4h": timedelta(hours=4),
    "6h": timedelta(hours=6),
    "8h": timedelta(hours=8),
    "12h": timedelta(hours=12),
    "1d": timedelta(days=1),
    "3d": timedelta(days=3),
    "1w": timedelta(weeks=1),
}


def month(year: int, number: int, day: int = 1) -> datetime:
    """Return midnight UTC of a day of a month, by default of the first day."""
    return datetime(year, number, day, tzinfo=UTC)


async def insert_bars(db: DatabaseManager, *moments: datetime, timeframe: str = "1h") -> None:
    """Store one bar at each of the given times."""
    await OHLCVRepository(db).insert_many([bar(moment, timeframe=timeframe) for moment in moments])


class SeriesGapTests(SuiteFixtures):
    """get_gaps without start and end returns the gaps between stored bars."""

    async def test_a_complete_series_has_no_gaps(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(48))
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == []

    async def test_an_empty_series_has_no_gaps(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == []

    async def test_a_single_bar_has_no_gaps(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0)
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == []

    async def test_a_gap_is_the_bar_before_and_the_bar_after_it_in_every_timeframe(self, db: DatabaseManager) -> None:
        for timeframe, step in _STEPS.items():
            await insert_bars(db, T0, T0 + step, T0 + 4 * step, T0 + 5 * step, timeframe=timeframe)
        found = {timeframe: await OHLCVRepository(db).get_gaps("BTCUSDT", timeframe) for timeframe in _STEPS}
        assert found == {timeframe: [(T0 + step, T0 + 4 * step)] for timeframe, step in _STEPS.items()}

    async def test_one_missing_bar_is_a_gap_in_every_timeframe(self, db: DatabaseManager) -> None:
        for timeframe, step in _STEPS.items():
            await insert_bars(db, T0, T0 + 2 * step, T0 + 3 * step, timeframe=timeframe)
        found = {timeframe: await OHLCVRepository(db).get_gaps("BTCUSDT", timeframe) for timeframe in _STEPS}
        assert found == {timeframe: [(T0, T0 + 2 * step)] for timeframe, step in _STEPS.items()}

    async def test_gaps_are_oldest_first(self, db: DatabaseManager) -> None:
        await insert_bars(db, *(T0 + hour * HOUR for hour in (9, 0, 6, 3, 4)))
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == [
            (T0, T0 + 3 * HOUR),
            (T0 + 4 * HOUR, T0 + 6 * HOUR),
            (T0 + 6 * HOUR, T0 + 9 * HOUR),
        ]

    async def test_gaps_of_a_long_series_are_all_found(self, db: DatabaseManager) -> None:
        bars = hourly(5_000)
        await OHLCVRepository(db).insert_many([*bars[:1_000], *bars[1_001:4_000], *bars[4_500:]])
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == [
            (T0 + 999 * HOUR, T0 + 1_001 * HOUR),
            (T0 + 3_999 * HOUR, T0 + 4_500 * HOUR),
        ]

    async def test_times_in_gaps_are_aware_utc(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0, T0 + 2 * HOUR)
        ((before, after),) = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h")
        assert (before.utcoffset(), after.utcoffset()) == (timedelta(0), timedelta(0))

    async def test_other_series_neither_fill_nor_make_gaps(self, db: DatabaseManager) -> None:
        between = T0 + HOUR
        await insert_bars(db, T0, T0 + 2 * HOUR)
        await OHLCVRepository(db).insert_many(
            [bar(between, symbol="ETHUSDT"), bar(between, exchange="kraken"), bar(between, timeframe="1d")]
        )
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == [(T0, T0 + 2 * HOUR)]

    async def test_get_gaps_takes_an_exchange(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(T0, exchange="kraken"), bar(T0 + 3 * HOUR, exchange="kraken")])
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", "kraken") == [(T0, T0 + 3 * HOUR)]

    async def test_gaps_before_1970_are_found(self, db: DatabaseManager) -> None:
        early = datetime(1969, 12, 31, 22, tzinfo=UTC)
        await insert_bars(db, early, early + HOUR, early + 4 * HOUR)
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == [(early + HOUR, early + 4 * HOUR)]

    async def test_gaps_in_the_first_century_are_found(self, db: DatabaseManager) -> None:
        early = datetime(33, 4, 3, tzinfo=UTC)
        await insert_bars(db, early, early + 2 * timedelta(days=1), timeframe="1d")
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1d") == [(early, early + 2 * timedelta(days=1))]


class WindowGapTests(SuiteFixtures):
    """get_gaps with start or end also returns the gaps at the edges of the window."""

    async def test_a_full_window_has_no_gaps(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(5))
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0 + 4 * HOUR) == []

    async def test_what_is_missing_at_the_start_begins_one_step_before_it(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0 + 2 * HOUR, T0 + 3 * HOUR)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0 + 3 * HOUR)
        assert found == [(T0 - HOUR, T0 + 2 * HOUR)]

    async def test_what_is_missing_at_the_end_ends_one_step_after_it(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0, T0 + HOUR)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0 + 3 * HOUR)
        assert found == [(T0 + HOUR, T0 + 4 * HOUR)]

    async def test_one_bar_missing_at_either_end_is_a_gap(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0 + HOUR)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0 + 2 * HOUR)
        assert found == [(T0 - HOUR, T0 + HOUR), (T0 + HOUR, T0 + 3 * HOUR)]

    async def test_gaps_at_both_edges_and_inside_come_in_order(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0 + 2 * HOUR, T0 + 5 * HOUR)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0 + 7 * HOUR)
        assert found == [(T0 - HOUR, T0 + 2 * HOUR), (T0 + 2 * HOUR, T0 + 5 * HOUR), (T0 + 5 * HOUR, T0 + 8 * HOUR)]

    async def test_an_empty_window_is_one_gap(self, db: DatabaseManager) -> None:
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0 + 3 * HOUR)
        assert found == [(T0 - HOUR, T0 + 4 * HOUR)]

    async def test_bars_outside_a_window_do_not_count(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0 - HOUR, T0 - 9 * HOUR, T0 + 4 * HOUR, T0 + 9 * HOUR)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0 + 3 * HOUR)
        assert found == [(T0 - HOUR, T0 + 4 * HOUR)]

    async def test_a_window_of_one_moment_with_its_bar_has_no_gaps(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0)
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0) == []

    async def test_a_window_of_one_moment_without_a_bar_is_one_gap(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0) == [(T0 - HOUR, T0 + HOUR)]

    async def test_with_only_a_start_the_end_is_open(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0 - 5 * HOUR, T0 + 2 * HOUR, T0 + 4 * HOUR)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0)
        assert found == [(T0 - HOUR, T0 + 2 * HOUR), (T0 + 2 * HOUR, T0 + 4 * HOUR)]

    async def test_with_only_an_end_the_start_is_open(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0, T0 + 2 * HOUR, T0 + 9 * HOUR)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", end=T0 + 4 * HOUR)
        assert found == [(T0, T0 + 2 * HOUR), (T0 + 2 * HOUR, T0 + 5 * HOUR)]

    async def test_naive_ends_of_a_window_are_utc(self, db: DatabaseManager) -> None:
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=datetime(2024, 1, 1), end=datetime(2024, 1, 1, 3))
        assert found == [(T0 - HOUR, T0 + 4 * HOUR)]

    async def test_ends_of_a_window_may_stand_in_any_zone(self, db: DatabaseManager) -> None:
        await insert_bars(db, T0)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0.astimezone(INDIA), end=(T0 + HOUR).astimezone(INDIA))
        assert found == [(T0, T0 + 2 * HOUR)]

    async def test_a_window_across_1970_has_the_right_gaps(self, db: DatabaseManager) -> None:
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        await insert_bars(db, epoch)
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=epoch - 2 * HOUR, end=epoch + HOUR)
        assert found == [(epoch - 3 * HOUR, epoch), (epoch, epoch + 2 * HOUR)]

    async def test_a_window_that_starts_after_its_end_is_an_error(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="start"):
            await OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0 + HOUR, end=T0)

    async def test_a_window_at_the_edge_of_the_calendar_is_an_error(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="9999"):
            await OHLCVRepository(db).get_gaps("BTCUSDT", "1d", start=T0, end=datetime(9999, 12, 31, tzinfo=UTC))


class MonthGapTests(SuiteFixtures):
    """In the timeframe 1M, get_gaps counts calendar months."""

    async def test_months_in_a_row_across_a_leap_year_have_no_gaps(self, db: DatabaseManager) -> None:
        await insert_bars(db, *(month(year, number) for year in (2023, 2024, 2025) for number in range(1, 13)), timeframe="1M")
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1M") == []

    async def test_a_missing_month_is_a_gap(self, db: DatabaseManager) -> None:
        gaps = [
            (month(2024, 1), month(2024, 3)),
            (month(2023, 12), month(2024, 2)),
            (month(2023, 11), month(2024, 1)),
            (month(2022, 12), month(2024, 12)),
            (month(1969, 12), month(1970, 2)),
            (month(1899, 12), month(1900, 3)),
        ]
        await OHLCVRepository(db).insert_many(
            [bar(moment, timeframe="1M", symbol=f"S{index}") for index, gap in enumerate(gaps) for moment in gap]
        )
        found = [await OHLCVRepository(db).get_gaps(f"S{index}", "1M") for index in range(len(gaps))]
        assert found == [[gap] for gap in gaps]

    async def test_a_month_of_31_days_is_no_gap(self, db: DatabaseManager) -> None:
        await insert_bars(db, month(2024, 7), month(2024, 8), month(2024, 9), timeframe="1M")
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1M") == []

    async def test_february_is_missing_though_59_days_are_fewer_than_two_long_months(self, db: DatabaseManager) -> None:
        await insert_bars(db, month(2023, 1), month(2023, 3), month(2023, 4), timeframe="1M")
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1M") == [(month(2023, 1), month(2023, 3))]

    async def test_an_empty_window_of_months_ends_one_month_outside(self, db: DatabaseManager) -> None:
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1M", start=month(2024, 1), end=month(2024, 2))
        assert found == [(month(2023, 12), month(2024, 3))]

    async def test_months_missing_at_the_edges_of_a_window_are_gaps(self, db: DatabaseManager) -> None:
        await insert_bars(db, month(2024, 2), timeframe="1M")
        found = await OHLCVRepository(db).get_gaps("BTCUSDT", "1M", start=month(2024, 1), end=month(2024, 3))
        assert found == [(month(2023, 12), month(2024, 2)), (month(2024, 2), month(2024, 4))]

    async def test_a_full_window_of_months_has_no_gaps(self, db: DatabaseManager) -> None:
        await insert_bars(db, month(2023, 12), month(2024, 1), month(2024, 2), timeframe="1M")
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1M", start=month(2023, 12), end=month(2024, 2)) == []

    async def test_months_are_those_of_utc(self, db: DatabaseManager) -> None:
        # in the local time of a server in India, the bars would be in January, March and April, and February would be missing
        await insert_bars(
            db, month(2024, 1), datetime(2024, 2, 29, 23, tzinfo=UTC), datetime(2024, 3, 31, 23, tzinfo=UTC), timeframe="1M"
        )
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1M") == []


class GapTests(SeriesGapTests, WindowGapTests, MonthGapTests):
    """All tests of gaps."""
