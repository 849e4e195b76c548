"""Tests of list_series, delete_range and the report of upsert_many."""

from __future__ import annotations

import asyncio
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository, Series, SeriesSpan, UpsertReport
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, interrupted, needs, requires
from iftb_store.testing.samples import HOUR, T0, Clock, bar, hourly

_SERIES: Final = ("BTCUSDT", "1h")
_ALL = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


async def count_missing(db: DatabaseManager, bars: list[OHLCVBar]) -> int:
    """Store bars of one series and return the number of missing bars that list_series reports."""
    await OHLCVRepository(db).insert_many(bars)
    (series,) = await OHLCVRepository(db).list_series()
    return series.missing


class SeriesTests(SuiteFixtures):
    """list_series describes every stored series; delete_range deletes the bars of a time window."""

    async def test_an_empty_store_has_no_series(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).list_series() == []

    async def test_series_come_in_the_order_of_their_names_by_bytes(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(
            [*hourly(3), bar(T0, exchange="Kraken"), bar(T0, symbol="ETHUSDT"), bar(T0, timeframe="1d"), bar(T0, symbol="\xe4")]
        )
        assert await OHLCVRepository(db).list_series() == [
            Series("Kraken", "BTCUSDT", "1h", T0, T0, 1, 0),
            Series("binance", "BTCUSDT", "1d", T0, T0, 1, 0),
            Series("binance", "BTCUSDT", "1h", T0, T0 + 2 * HOUR, 3, 0),
            Series("binance", "ETHUSDT", "1h", T0, T0, 1, 0),
            Series("binance", "\xe4", "1h", T0, T0, 1, 0),
        ]

    async def test_series_are_listed_without_counts(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).list_series(counts=False) == []
        await OHLCVRepository(db).insert_many(
            [*hourly(3), bar(T0 + HOUR, symbol="ETHUSDT"), bar(T0, exchange="Kraken", symbol="\xe4")]
        )
        assert await OHLCVRepository(db).list_series(counts=False) == [
            SeriesSpan("Kraken", "\xe4", "1h", T0, T0),
            SeriesSpan("binance", "BTCUSDT", "1h", T0, T0 + 2 * HOUR),
            SeriesSpan("binance", "ETHUSDT", "1h", T0 + HOUR, T0 + HOUR),
        ]

    async def test_bars_are_missing_between_the_first_and_the_last(self, db: DatabaseManager) -> None:
        given = hourly(10)
        count = await count_missing(db, [*given[:2], *given[3:4], *given[7:]])
        assert count == 4, f"list_series must count the missing bars of all gaps, here 1 + 3; it counted {count}"

    async def test_bars_off_the_grid_fill_no_hole(self, db: DatabaseManager) -> None:
        assert await count_missing(db, [bar(T0), bar(T0 + 1.5 * HOUR), bar(T0 + 2 * HOUR), bar(T0 + 2.5 * HOUR)]) == 1

    async def test_months_are_missing_by_the_calendar(self, db: DatabaseManager) -> None:
        moments = [datetime(2023, 11, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)]
        assert await count_missing(db, [bar(moment, timeframe="1M") for moment in moments]) == 3

    @requires(Capability.RAW_WRITES)
    async def test_a_timeframe_that_raw_sql_stored_is_listed_too(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        await raw.run(db, "UPDATE ohlcv SET timeframe = '1H'")
        (series,) = await OHLCVRepository(db).list_series()
        assert (series.timeframe, series.count, series.missing) == ("1H", 3, 0)

    async def test_what_is_missing_is_what_the_gaps_hold(self, db: DatabaseManager) -> None:
        moments = [T0 + index * index * timedelta(minutes=7) for index in range(40)]
        count = await count_missing(db, [bar(moment, timeframe="5m") for moment in moments])
        gaps = await OHLCVRepository(db).get_gaps("BTCUSDT", "5m")
        assert count == sum(-((after - before) // -timedelta(minutes=5)) - 1 for before, after in gaps)

    async def test_a_session_lists_its_own_bars(self, db: DatabaseManager) -> None:
        async with interrupted(db) as session:
            await OHLCVRepository(session).insert_many(hourly(2))
            assert [series.count for series in await OHLCVRepository(session).list_series()] == [2]
        assert await OHLCVRepository(db).list_series() == []

    async def test_delete_range_deletes_both_ends_and_returns_the_count(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([*hourly(5), *hourly(5, exchange="kraken"), *hourly(5, timeframe="2h")])
        count = await OHLCVRepository(db).delete_range(*_SERIES, T0 + HOUR, (T0 + 3 * HOUR).replace(tzinfo=None))
        left = [(item.timestamp - T0) / HOUR for item in await OHLCVRepository(db).get_range(*_SERIES, *_ALL)]
        assert (count, left) == (3, [0, 4]), (
            f"delete_range must include the bars at its start and its end, here hours 1 to 3; it returned {count} and left {left}"
        )
        assert await raw.count(db, "ohlcv") == 12

    async def test_deleting_nothing_is_no_error(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).delete_range(*_SERIES, *_ALL) == 0

    async def test_what_a_session_deleted_is_back_after_its_rollback(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        async with interrupted(db) as session:
            assert await OHLCVRepository(session).delete_range(*_SERIES, *_ALL) == 3
            assert await OHLCVRepository(session).get_range(*_SERIES, *_ALL) == []
        assert await raw.count(db, "ohlcv") == 3

    async def test_deleted_bars_can_be_inserted_again_in_the_same_session(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        async with db.get_session() as session:
            await OHLCVRepository(session).delete_range(*_SERIES, *_ALL)
            await OHLCVRepository(session).insert_many(hourly(2))
        assert await raw.count(db, "ohlcv") == 2

    async def test_a_window_of_deletion_that_ends_before_it_starts_is_refused(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="is after end"):
            await OHLCVRepository(db).delete_range(*_SERIES, T0 + HOUR, T0)

    async def test_a_snapshot_deletes_nothing(self, db: DatabaseManager) -> None:
        needs(db, Capability.ISOLATION)
        await OHLCVRepository(db).insert_many(hourly(3))
        with pytest.raises(OperationalError, match=r"snapshot|read-only"):
            async with db.get_session(isolation="snapshot") as session:
                await OHLCVRepository(session).delete_range(*_SERIES, *_ALL)
        assert await raw.count(db, "ohlcv") == 3


class UpsertReportTests(SuiteFixtures):
    """upsert_many(report=True) returns how many bars were inserted, updated and unchanged."""

    @pytest.mark.parametrize("count", [5, 400, 2_500])
    async def test_inserted_updated_and_unchanged_bars_are_counted_separately(self, db: DatabaseManager, count: int) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many(hourly(count)[:3])
        batch = hourly(count)
        batch[1].volume += 1
        report = await repository.upsert_many(batch, report=True)
        assert report == UpsertReport(count - 3, 1, 2), (
            f"a report must count inserted, updated and unchanged bars, here {count - 3}, 1 and 2; it is {report}"
        )
        assert await repository.upsert_many(batch, report=True) == UpsertReport(0, 0, count)
        assert (await repository.get_range(*_SERIES, T0 + HOUR, T0 + HOUR))[0].volume == batch[1].volume

    async def test_a_duplicate_key_is_reported_once(self, db: DatabaseManager) -> None:
        batch = [bar(T0), bar(T0, volume=bar().volume + 1), bar(T0 - HOUR)]
        assert await OHLCVRepository(db).upsert_many(batch, report=True) == UpsertReport(2, 0, 0)
        assert await OHLCVRepository(db).upsert_many(batch[:1], report=True) == UpsertReport(0, 1, 0)

    async def test_an_equal_value_written_otherwise_is_unchanged(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(quote_volume=None)])
        same = bar(open=bar().open * 1, close=bar().close.normalize(), quote_volume=None)
        assert await OHLCVRepository(db).upsert_many([same], report=True) == UpsertReport(0, 0, 1)

    async def test_a_report_of_nothing_is_of_zeros(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).upsert_many([], report=True) == UpsertReport(0, 0, 0)

    async def test_a_reported_upsert_keeps_id_and_created_at(self, db: DatabaseManager, clock: Clock) -> None:
        repository = OHLCVRepository(db, clock=clock)
        await repository.insert_many([bar()])
        (before,) = await repository.get_range(*_SERIES, *_ALL)
        clock.advance(HOUR)
        await repository.upsert_many([bar(volume=before.volume + 1)], report=True)
        (after,) = await repository.get_range(*_SERIES, *_ALL)
        assert (after.id, after.created_at, after.volume) == (before.id, before.created_at, before.volume + 1)

    @pytest.mark.parametrize("count", [5, 2_500])
    async def test_a_reported_upsert_is_all_or_nothing(self, db: DatabaseManager, count: int) -> None:
        batch = hourly(count)
        batch[-1].high = batch[-1].low - 1
        async with db.get_session() as session:
            with pytest.raises(InvalidValueError, match=f"bar {count} of {count}"):
                await OHLCVRepository(session).upsert_many(batch, report=True)
        assert await raw.count(db, "ohlcv") == 0

    async def test_reports_of_two_writers_add_up(self, db: DatabaseManager) -> None:
        reports = await asyncio.gather(*(OHLCVRepository(db).upsert_many(hourly(50), report=True) for _ in range(4)))
        assert sorted(map(astuple, reports)) == [(0, 0, 50)] * 3 + [(50, 0, 0)]

    @pytest.mark.parametrize("report", [None, 1, "yes"])
    async def test_a_report_that_is_no_yes_or_no_is_refused(self, db: DatabaseManager, report: Any) -> None:
        with pytest.raises(InvalidValueError, match="report"):
            await OHLCVRepository(db).upsert_many(hourly(1), report=report)
