"""Tests of reads that fill missing bars, and of upserts that leave out bars that have not ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository, Unsupported
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.coverage import mark
from iftb_store.testing.fixtures import SuiteFixtures, lacks, requires
from iftb_store.testing.samples import HOUR, T0, Clock, bar, hourly

_SERIES: dict[str, Any] = {"symbol": "BTCUSDT", "timeframe": "1h", "exchange": "binance", "fill": "previous"}


def hours(bars: list[OHLCVBar]) -> list[tuple[int, Decimal]]:
    """Return the bars as (hours after T0, close)."""
    return [((one.timestamp - T0) // HOUR, one.close) for one in bars]


@requires(Capability.RECORDS)
class FilledReadTests(SuiteFixtures):
    """get_range, stream_range, read_arrow and stream_arrow with fill="previous"."""

    async def _store(self, db: DatabaseManager) -> list[tuple[int, Decimal]]:
        """Store bars at 0, 1, 4, 5 and 9, of which 2 to 3 and 10 to 11 were not given; return what is read from 0 to 12."""
        closes = dict(enumerate(one.close for one in hourly(10)))
        await OHLCVRepository(db).insert_many([one for hour, one in enumerate(hourly(10)) if hour in (0, 1, 4, 5, 9)])
        await mark(db, 1, 4)
        await mark(db, 10, 11)
        filled = [0, 1, 2, 3, 4, 5, 9, 10, 11]
        return [(hour, closes[{2: 1, 3: 1, 10: 9, 11: 9}.get(hour, hour)]) for hour in filled]

    async def test_bars_that_were_not_given_are_filled_and_unknown_ones_are_not(self, db: DatabaseManager) -> None:
        expected = await self._store(db)
        bars = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + 12 * HOUR, fill="previous")
        assert hours(bars) == expected
        close = bars[1].close
        assert bars[2] == bar(
            T0 + 2 * HOUR,
            open=close,
            high=close,
            low=close,
            close=close,
            volume=Decimal(0),
            quote_volume=Decimal(0),
            trades_count=0,
        )
        assert await raw.count(db, "ohlcv") == 5

    async def test_the_close_before_the_window_is_looked_up(self, db: DatabaseManager) -> None:
        expected = dict(await self._store(db))
        repository = OHLCVRepository(db)
        for start, end in ((3, 3), (2, 4), (10, 20), (11, 11)):
            bars = await repository.get_range("BTCUSDT", "1h", T0 + start * HOUR, T0 + end * HOUR, fill="previous")
            assert hours(bars) == [(hour, close) for hour, close in expected.items() if start <= hour <= end]
        # half an hour later, the first bar is that of the next hour
        bars = await repository.get_range("BTCUSDT", "1h", T0 + 2.5 * HOUR, T0 + 3.5 * HOUR, fill="previous")
        assert hours(bars) == [(3, expected[3])]

    async def test_without_a_close_nothing_is_filled(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(T0 + 4 * HOUR)])
        await mark(db, 0, 6)
        bars = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + 9 * HOUR, fill="previous")
        assert [hour for hour, _ in hours(bars)] == [4, 5, 6]

    async def test_streams_and_tables_fill_alike(self, db: DatabaseManager) -> None:
        expected = await self._store(db)
        repository, end = OHLCVRepository(db), T0 + 12 * HOUR
        for size in (1, 2, 3, 100):
            lists = [bars async for bars in repository.stream_range("BTCUSDT", "1h", T0, end, batch_size=size, fill="previous")]
            assert hours([one for bars in lists for one in bars]) == expected
            assert all(0 < len(bars) <= size for bars in lists)
            batches = [batch async for batch in repository.stream_arrow(start=T0, end=end, batch_size=size, **_SERIES)]
            assert all(0 < batch.num_rows <= size for batch in batches)
            rows = [row for batch in batches for row in batch.to_pylist()]
            assert hours([OHLCVBar(**row) for row in rows]) == expected
        table = await repository.read_arrow(start=T0, end=end, **_SERIES)
        assert hours([OHLCVBar(**row) for row in table.to_pylist()]) == expected
        assert (await repository.read_arrow(**_SERIES)).num_rows == len(expected)
        floats = await repository.read_arrow(start=T0, end=end, decimals="float", **_SERIES)
        assert floats["close"].to_pylist() == [float(close) for _, close in expected]
        without = await repository.read_arrow("BTCUSDT", "1h", T0, end, "binance")
        assert table.schema == without.schema

    async def test_deleted_bars_are_not_filled(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(5))
        await mark(db, 0, 4)
        await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0 + 2 * HOUR, T0 + 2 * HOUR)
        bars = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + 5 * HOUR, fill="previous")
        assert [hour for hour, _ in hours(bars)] == [0, 1, 3, 4]

    async def test_fill_needs_one_series_and_a_known_word(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        with pytest.raises(InvalidValueError, match="fill"):
            await repository.get_range("BTCUSDT", "1h", T0, T0, fill="next")  # type: ignore[arg-type]
        with pytest.raises(InvalidValueError, match="fill works on one exchange"):
            await repository.get_range("BTCUSDT", "1h", T0, T0, None, fill="previous")
        with pytest.raises(InvalidValueError, match="give the timeframe and the exchange too"):
            await repository.read_arrow("BTCUSDT", fill="previous")


class ClosedBarTests(SuiteFixtures):
    """upsert_many with only_closed=True."""

    async def test_bars_that_have_not_ended_are_left_out(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db, clock=Clock(T0 + 2 * HOUR))
        assert await repository.upsert_many(hourly(5), only_closed=True) == 2
        assert hours(await repository.get_range("BTCUSDT", "1h", T0, T0 + 9 * HOUR)) == hours(hourly(2))
        report = await repository.upsert_many(hourly(3), report=True, only_closed=True)
        assert (report.inserted, report.unchanged) == (0, 2)
        naive = [replace(one, timestamp=one.timestamp.replace(tzinfo=None)) for one in hourly(3)]
        assert await repository.upsert_many(naive, only_closed=True) == 2

    async def test_without_it_every_bar_is_stored(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db, clock=Clock(T0)).upsert_many(hourly(3)) == 3

    async def test_what_is_no_bar_is_refused_as_ever(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db, clock=Clock(T0 - timedelta(days=9)))
        for wrong in ([1], [bar(timeframe="7h")], [replace(bar(), timestamp="now")]):  # type: ignore[arg-type]
            with pytest.raises(InvalidValueError):
                await repository.upsert_many(wrong, only_closed=True)  # type: ignore[arg-type]


class NoFilledReadTests(SuiteFixtures):
    """A backend that keeps only bars does not know which were not given."""

    async def test_a_backend_of_bars_fills_none(self, db: DatabaseManager) -> None:
        lacks(db, Capability.RECORDS)
        await OHLCVRepository(db).insert_many(hourly(2))
        with pytest.raises(Unsupported, match="keeps only bars"):
            await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0, fill="previous")
