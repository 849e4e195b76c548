"""Tests of resample: exact values, complete and incomplete buckets, and buckets by the calendar."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository, Timeframe
from iftb_store.testing.fixtures import SuiteFixtures
from iftb_store.testing.samples import HOUR, LARGEST, SMALLEST, T0, bar, hourly

_DAY = 24 * HOUR
_ALL = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
_REFUSED = [("1h", "1m"), ("1h", "1h"), ("3m", "5m"), ("3d", "1w"), ("1w", "1M"), ("1M", "1M"), ("1M", "1d"), ("2h", "3d ")]


async def store_and_resample(
    db: DatabaseManager, bars: list[OHLCVBar], source: Timeframe, target: Timeframe, **options: Any
) -> list[OHLCVBar]:
    """Store bars and return the bars that resample computes from them for the target timeframe."""
    await OHLCVRepository(db).insert_many(bars)
    return await OHLCVRepository(db).resample("BTCUSDT", source, target, *_ALL, **options)


def make_days(first: datetime, count: int, step: timedelta = _DAY) -> list[OHLCVBar]:
    """Return ``count`` daily bars from a time on, with different values in each bar; open is the bar's number, from 0."""
    return [
        bar(
            first + index * step,
            timeframe="1d",
            open=Decimal(index),
            high=Decimal(1_000 + index),
            low=Decimal(-index),
            close=Decimal(500 + index),
            volume=Decimal(index**2),
            quote_volume=Decimal(index),
            trades_count=index,
        )
        for index in range(count)
    ]


def make_whole(bars: list[OHLCVBar], timeframe: str) -> OHLCVBar:
    """Return the bar that resample must compute from these consecutive bars of `make_days`."""
    return bar(
        bars[0].timestamp,
        timeframe=timeframe,
        open=bars[0].open,
        high=bars[-1].high,
        low=bars[-1].low,
        close=bars[-1].close,
        volume=sum((item.volume for item in bars), Decimal(0)),
        quote_volume=sum((item.quote_volume or 0 for item in bars), Decimal(0)),
        trades_count=sum(item.trades_count or 0 for item in bars),
    )


class ResampleTests(SuiteFixtures):
    """resample returns bars with the first open, the highest high, the lowest low, the last close and exact sums."""

    async def test_a_bar_is_made_of_the_bars_in_its_bucket(self, db: DatabaseManager) -> None:
        given = [
            bar(T0, open=Decimal(5), high=Decimal(9), low=Decimal(4), close=Decimal(6), trades_count=3, quote_volume=Decimal(1)),
            bar(
                T0 + HOUR,
                open=Decimal(6),
                high=Decimal("10.5"),
                low=Decimal("-3.25"),
                close=Decimal(7),
                trades_count=4,
                quote_volume=Decimal("0.5"),
            ),
            bar(symbol="ETHUSDT"),
            bar(exchange="kraken"),
        ]
        assert await store_and_resample(db, given, "1h", "2h") == [
            bar(
                T0,
                timeframe="2h",
                open=Decimal(5),
                high=Decimal("10.5"),
                low=Decimal("-3.25"),
                close=Decimal(7),
                volume=Decimal(201),
                trades_count=7,
                quote_volume=Decimal("1.5"),
            )
        ]

    async def test_sums_are_exact(self, db: DatabaseManager) -> None:
        half = Decimal("49999999999999999999.5")
        given = [bar(T0, volume=half, quote_volume=SMALLEST), bar(T0 + HOUR, volume=half, quote_volume=LARGEST - 1)]
        given[1].quote_volume = Decimal("99999999999999999998.999999999999999999")
        (found,) = await store_and_resample(db, given, "1h", "2h")
        assert (found.volume, found.quote_volume) == (Decimal("99999999999999999999"), Decimal("99999999999999999999"))

    @pytest.mark.parametrize(("name", "value"), [("volume", LARGEST), ("quote_volume", LARGEST), ("trades_count", 2**63 - 1)])
    async def test_a_sum_past_its_columns_range_is_an_error(self, db: DatabaseManager, name: str, value: Any) -> None:
        given = [bar(T0, **{name: value}), bar(T0 + HOUR, **{name: value})]
        with pytest.raises(InvalidValueError, match=f"the sum of {name} in the bar of 2024-01-01 00:00:00"):
            await store_and_resample(db, given, "1h", "2h")

    async def test_a_sum_over_a_bar_that_has_none_is_none(self, db: DatabaseManager) -> None:
        given = [bar(T0, trades_count=1), bar(T0 + HOUR, quote_volume=Decimal(1))]
        (found,) = await store_and_resample(db, given, "1h", "2h")
        assert (found.quote_volume, found.trades_count) == (None, None)

    async def test_only_whole_buckets_come_unless_parts_are_asked_for(self, db: DatabaseManager) -> None:
        given = hourly(12)
        del given[5]
        whole = await store_and_resample(db, given[1:], "1h", "4h")
        parts = await OHLCVRepository(db).resample("BTCUSDT", "1h", "4h", *_ALL, partial=True)
        assert [item.timestamp for item in whole] == [T0 + 8 * HOUR]
        assert [(item.timestamp, item.open, item.volume) for item in parts] == [
            (T0, given[1].open, given[1].volume * 3),
            (T0 + 4 * HOUR, given[4].open, given[4].volume * 3),
            (T0 + 8 * HOUR, given[7].open, given[7].volume * 4),
        ]

    async def test_a_bar_off_the_grid_makes_no_bucket_whole(self, db: DatabaseManager) -> None:
        assert await store_and_resample(db, [bar(T0), bar(T0 + HOUR / 2)], "1h", "2h") == []

    async def test_the_ends_of_the_window_count_and_cut_buckets(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(8))
        found = await OHLCVRepository(db).resample("BTCUSDT", "1h", "2h", T0 + HOUR, T0 + 5 * HOUR)
        assert [item.timestamp for item in found] == [T0 + 2 * HOUR, T0 + 4 * HOUR]

    async def test_weeks_begin_on_monday(self, db: DatabaseManager) -> None:
        thursday = datetime(1969, 12, 25, tzinfo=UTC)
        days = make_days(thursday, 20)
        found = await store_and_resample(db, days, "1d", "1w")
        assert [item.timestamp for item in found] == [datetime(1969, 12, 29, tzinfo=UTC), datetime(1970, 1, 5, tzinfo=UTC)]
        assert found == [make_whole(days[4:11], "1w"), make_whole(days[11:18], "1w")], (
            f"a week must be computed from the days from Monday to Sunday; open is the number of days since a Thursday: {found}"
        )

    async def test_months_begin_on_the_first(self, db: DatabaseManager) -> None:
        days = make_days(datetime(1968, 1, 31, tzinfo=UTC), 60)
        found = await store_and_resample(db, days, "1d", "1M")
        assert found == [make_whole(days[1:30], "1M")], (
            f"a month must be computed from its first to its last day in UTC; open is the days since 31 January: {found}"
        )

    @pytest.mark.parametrize(("source", "target", "count"), [("1h", "4h", 4), ("6h", "1d", 4), ("8h", "3d", 9), ("1h", "1d", 24)])
    async def test_buckets_are_counted_from_1970(
        self, db: DatabaseManager, source: Timeframe, target: Timeframe, count: int
    ) -> None:
        step = int(source[:-1]) * HOUR
        # 1970-01-01 begins a bucket of every target, and so do the times that are whole buckets before and after it
        start = datetime(1970, 1, 1, tzinfo=UTC) - 2 * count * step
        given = [replace(item, timeframe=source) for item in make_days(start, 5 * count, step)]
        found = await store_and_resample(db, given, source, target)
        expected = [make_whole(given[first : first + count], target) for first in range(0, 5 * count, count)]
        assert found == expected, f"buckets of {target} must be counted from 1970-01-01 UTC: {found}"

    async def test_buckets_before_1970_and_at_the_calendars_ends_are_those_of_the_grid(self, db: DatabaseManager) -> None:
        starts = [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 20, tzinfo=UTC), datetime(9999, 12, 31, 20, tzinfo=UTC)]
        given = [bar(start + hour * HOUR, timeframe="2h") for start in starts for hour in (0, 2)]
        given.append(bar(_ALL[1], timeframe="2h"))
        assert [item.timestamp for item in await store_and_resample(db, given, "2h", "4h")] == starts

    async def test_a_bucket_that_begins_before_the_year_1_is_refused_unless_it_is_left_out(self, db: DatabaseManager) -> None:
        # the days of a bucket of 3d are counted from 1970, so that the first bucket of the year 1 begins in the year before
        assert await store_and_resample(db, [bar(_ALL[0], timeframe="1d")], "1d", "3d") == []
        with pytest.raises(InvalidValueError, match="would begin before the year 1"):
            await OHLCVRepository(db).resample("BTCUSDT", "1d", "3d", *_ALL, partial=True)

    async def test_a_session_resamples_its_own_bars_and_nothing_is_stored(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await OHLCVRepository(session).insert_many(hourly(4))
            assert len(await OHLCVRepository(session).resample("BTCUSDT", "1h", "2h", *_ALL)) == 2
        assert [series.timeframe for series in await OHLCVRepository(db).list_series()] == ["1h"]

    async def test_nothing_makes_nothing(self, db: DatabaseManager) -> None:
        assert await store_and_resample(db, [], "1h", "4h", partial=True) == []

    @pytest.mark.parametrize(("source", "target"), _REFUSED)
    async def test_a_target_that_is_no_multiple_is_refused(
        self, db: DatabaseManager, source: Timeframe, target: Timeframe
    ) -> None:
        with pytest.raises(InvalidValueError, match=r"timeframe|the target .* cannot be computed from"):
            await OHLCVRepository(db).resample("BTCUSDT", source, target, *_ALL)

    async def test_what_comes_out_can_be_written(self, db: DatabaseManager) -> None:
        made = await store_and_resample(db, hourly(48), "1h", "1d")
        await OHLCVRepository(db).insert_many(made)
        stored = await OHLCVRepository(db).get_range("BTCUSDT", "1d", T0, T0 + timedelta(days=2))
        assert [(item.close, item.volume) for item in stored] == [(item.close, item.volume) for item in made]
