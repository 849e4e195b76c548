"""Tests of get_gaps_all and resample_all: they return for every series what get_gaps and resample return for one series."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pyarrow as pa
import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository, Timeframe
from iftb_store.repositories.streams import Stream
from iftb_store.testing.fixtures import SuiteFixtures
from iftb_store.testing.samples import HOUR, LARGEST, SMALLEST, T0, bar

_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
# names in the order of their bytes, which is not that of a locale, and with what SQL quotes
_SYMBOLS = ("BTC", "btc", "o'x", "É", "\N{CHART WITH DOWNWARDS TREND}")
_TARGETS: tuple[Timeframe, ...] = ("2h", "1d", "1M")
_WINDOWS = [(None, None), (T0 + HOUR, None), (None, T0 + 5 * HOUR), (T0 - 2 * HOUR, T0 + 26 * HOUR), (T0 + HOUR, T0 + HOUR)]

Gap = tuple[str, str, str, datetime, datetime]


async def read_all(stream: Stream[pa.RecordBatch]) -> list[dict[str, Any]]:
    """Return the rows of a stream."""
    async with stream:
        return [row async for batch in stream for row in batch.to_pylist()]


async def find_gaps(repository: OHLCVRepository, **options: Any) -> list[Gap]:
    """Return the gaps of get_gaps_all."""
    rows = await read_all(repository.get_gaps_all(**options))
    return [(row["exchange"], row["symbol"], row["timeframe"], row["first"], row["last"]) for row in rows]


async def find_gaps_one_by_one(
    repository: OHLCVRepository, start: datetime | None, end: datetime | None, **chosen: str
) -> list[Gap]:
    """Return the gaps that get_gaps returns for each series."""
    gaps = list[Gap]()
    for one in await repository.list_series():
        if all(getattr(one, name) == value for name, value in chosen.items()):
            found = await repository.get_gaps(one.symbol, one.timeframe, one.exchange, start=start, end=end)
            gaps += [(one.exchange, one.symbol, one.timeframe, *gap) for gap in found]
    return gaps


async def resample_one_by_one(
    repository: OHLCVRepository, source: Timeframe, target: Timeframe, start: datetime, end: datetime, **options: Any
) -> list[OHLCVBar]:
    """Return the bars that resample returns for each series."""
    bars = list[OHLCVBar]()
    for one in await repository.list_series():
        if one.timeframe == source:
            bars += await repository.resample(one.symbol, source, target, start, end, one.exchange, **options)
    return bars


def make_store() -> list[OHLCVBar]:
    """Return bars of many series, with gaps of several lengths; values differ from bar to bar."""
    bars = [
        bar(
            T0 + hour * HOUR,
            symbol=symbol,
            exchange=exchange,
            open=Decimal(hour) - place,
            low=Decimal(-hour) / 4,
            volume=Decimal(hour) + SMALLEST,
            quote_volume=None if hour == 9 else Decimal(hour) / 8,
            trades_count=None if place else hour,
        )
        for exchange in ("binance", "kraken")
        for place, symbol in enumerate(_SYMBOLS)
        for hour in (0, 1, 2, 3, 5, 8 + place, 9 + place, 24, 25, 26, 27, 50)
    ]
    bars += [bar(T0 + 24 * day * HOUR, timeframe="1d", symbol="BTC") for day in (0, 1, 5)]
    bars += [bar(datetime(2024, month, 1, tzinfo=UTC), timeframe="1M", symbol="BTC") for month in (1, 2, 5)]
    return [*bars, bar(_FIRST, symbol="old"), bar(_FIRST + HOUR, symbol="old"), bar(_LAST, symbol="old")]


class ManySeriesGapTests(SuiteFixtures):
    """get_gaps_all returns the gaps of every series, ordered by series and time."""

    @pytest.mark.parametrize(("start", "end"), _WINDOWS)
    async def test_get_gaps_all_equals_get_gaps_of_each_series(
        self, db: DatabaseManager, start: datetime | None, end: datetime | None
    ) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many(make_store())
        expected = await find_gaps_one_by_one(repository, start, end)
        assert len(expected) > 2
        assert await find_gaps(repository, start=start, end=end) == expected

    async def test_get_gaps_all_takes_an_exchange_and_a_timeframe(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many(make_store())
        for chosen in ({"exchange": "kraken"}, {"timeframe": "1d"}, {"exchange": "binance", "timeframe": "1M"}):
            expected = await find_gaps_one_by_one(repository, None, None, **chosen)
            assert expected
            assert await find_gaps(repository, **chosen) == expected
        assert await find_gaps(repository, exchange="nobody") == []
        assert await find_gaps(repository, timeframe="1w") == []

    async def test_get_gaps_all_of_an_empty_store_is_empty(self, db: DatabaseManager) -> None:
        assert await find_gaps(OHLCVRepository(db), start=T0, end=T0 + HOUR) == []

    async def test_a_series_without_bars_in_the_window_is_one_gap(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many([bar(T0), bar(T0, timeframe="1d", symbol="X")])
        day = 24 * HOUR
        assert await find_gaps(repository, start=T0 + day, end=T0 + 2 * day) == [
            ("binance", "BTCUSDT", "1h", T0 + 23 * HOUR, T0 + 49 * HOUR),
            ("binance", "X", "1d", T0, T0 + 3 * day),
        ]

    async def test_batches_of_gaps_have_columns_of_fixed_types(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(T0), bar(T0 + 3 * HOUR)])
        async with OHLCVRepository(db).get_gaps_all() as stream:
            (batch,) = [batch async for batch in stream]
        assert batch.schema.names == ["exchange", "symbol", "timeframe", "first", "last"]
        time = pa.timestamp("us", tz="UTC")
        assert batch.schema.types == [pa.string()] * 3 + [time, time]

    async def test_get_gaps_all_in_a_session_sees_its_own_writes(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            await repository.insert_many([bar(T0), bar(T0 + 3 * HOUR)])
            assert await find_gaps(repository) == [("binance", "BTCUSDT", "1h", T0, T0 + 3 * HOUR)]
            await repository.insert_many([bar(T0 + HOUR), bar(T0 + 2 * HOUR)])
            assert await find_gaps(repository) == []

    async def test_get_gaps_all_refuses_what_get_gaps_refuses(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        with pytest.raises(InvalidValueError, match="start"):
            repository.get_gaps_all(start=T0 + HOUR, end=T0)
        with pytest.raises(InvalidValueError, match="timeframe"):
            repository.get_gaps_all(timeframe=cast("Timeframe", "2d"))
        with pytest.raises(InvalidValueError, match="9999"):
            repository.get_gaps_all(start=T0, end=_LAST)
        with pytest.raises(InvalidValueError, match="exchange"):
            repository.get_gaps_all(exchange="")

    async def test_a_window_near_the_calendars_end_is_refused_only_for_the_timeframes_that_are_stored(
        self, db: DatabaseManager
    ) -> None:
        repository, end = OHLCVRepository(db), datetime(9999, 12, 31, tzinfo=UTC)
        await repository.insert_many([bar(T0), bar(T0 + 2 * HOUR), bar(T0, timeframe="1d", exchange="kraken")])
        for chosen in ({"exchange": "binance"}, {"timeframe": "1h"}):
            assert await find_gaps(repository, start=T0, end=end, **chosen) == [
                ("binance", "BTCUSDT", "1h", T0, T0 + 2 * HOUR),
                ("binance", "BTCUSDT", "1h", T0 + 2 * HOUR, end + HOUR),
            ]
        with pytest.raises(InvalidValueError, match="9999"):
            await find_gaps(repository, start=T0, end=end)


class ManySeriesResampleTests(SuiteFixtures):
    """resample_all returns the longer bars of every series of a timeframe, ordered by series and time."""

    @pytest.mark.parametrize("partial", [False, True])
    @pytest.mark.parametrize(("start", "end"), _WINDOWS)
    async def test_resample_all_equals_resample_of_each_series(
        self, db: DatabaseManager, start: datetime | None, end: datetime | None, partial: bool
    ) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many(make_store())
        for target in _TARGETS:
            whole = (start or _FIRST, end or _LAST)
            expected = await resample_one_by_one(repository, "1h", target, *whole, partial=partial)
            stream = repository.resample_all(target, source="1h", start=start, end=end, partial=partial)
            assert [OHLCVBar(**row) for row in await read_all(stream)] == expected

    async def test_resample_all_takes_an_exchange(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many(make_store())
        rows = await read_all(repository.resample_all("2h", source="1h", exchange="kraken"))
        assert {row["exchange"] for row in rows} == {"kraken"}
        assert await read_all(repository.resample_all("2h", source="1h", exchange="nobody")) == []

    async def test_sums_of_resample_all_are_exact(self, db: DatabaseManager) -> None:
        half = Decimal("49999999999999999999.5")
        given = [
            bar(T0, volume=half, quote_volume=SMALLEST),
            bar(T0 + HOUR, volume=half, quote_volume=Decimal("99999999999999999999.999999999999999998")),
        ]
        await OHLCVRepository(db).insert_many(given)
        (row,) = await read_all(OHLCVRepository(db).resample_all("2h", source="1h"))
        assert (row["volume"], row["quote_volume"]) == (2 * half, LARGEST)

    @pytest.mark.parametrize(("name", "value"), [("volume", LARGEST), ("quote_volume", LARGEST), ("trades_count", 2**63 - 1)])
    async def test_a_sum_of_resample_all_past_its_columns_range_is_an_error(
        self, db: DatabaseManager, name: str, value: Any
    ) -> None:
        await OHLCVRepository(db).insert_many([bar(T0, **{name: value}), bar(T0 + HOUR, **{name: value})])
        with pytest.raises(InvalidValueError, match=f"the sum of {name} in the bar of 2024-01-01 00:00:00"):
            await read_all(OHLCVRepository(db).resample_all("2h", source="1h"))

    async def test_batches_of_resample_all_can_be_written(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        await repository.insert_many(make_store())
        async with repository.resample_all("1d", source="1h", partial=True) as stream:
            batches = [batch async for batch in stream]
        await repository.write_arrow(batches)
        stored = [one for one in await repository.list_series() if one.timeframe == "1d" and one.exchange == "kraken"]
        assert [(one.symbol, one.count) for one in stored] == [(symbol, 3) for symbol in _SYMBOLS]

    async def test_resample_all_of_a_long_series_is_complete(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        start = T0 - 30_000 * HOUR
        hours = (*range(25_000), *range(90_000, 90_500))
        await repository.insert_many([bar(start + hour * HOUR, close=Decimal(hour)) for hour in hours])
        rows = await read_all(repository.resample_all("2h", source="1h"))
        assert [(row["timestamp"], row["close"]) for row in rows] == [
            (start + hour * HOUR, hour + 1) for hour in hours if hour % 2 == 0
        ]

    async def test_resample_all_refuses_what_resample_refuses(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        with pytest.raises(InvalidValueError, match="cannot be computed from"):
            repository.resample_all("1h", source="1h")
        with pytest.raises(InvalidValueError, match="start"):
            repository.resample_all("2h", source="1h", start=T0 + HOUR, end=T0)
        with pytest.raises(InvalidValueError, match="partial"):
            repository.resample_all("2h", source="1h", partial=cast("bool", "no"))


class ManySeriesTests(ManySeriesGapTests, ManySeriesResampleTests):
    """All tests of get_gaps_all and resample_all."""

    async def test_a_stream_of_a_closed_session_is_an_error(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(T0), bar(T0 + 3 * HOUR)])
        async with db.get_session() as session:
            stream = OHLCVRepository(session).get_gaps_all()
        with pytest.raises(OperationalError):
            await read_all(stream)
