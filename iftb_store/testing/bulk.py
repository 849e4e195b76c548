"""Tests of large batches, for which a backend may write bars in another way: with bars already stored, with unusual text."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, Inexact, localcontext

import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository
from iftb_store.testing.fixtures import SuiteFixtures
from iftb_store.testing.samples import HOUR, LARGEST, SMALLEST, T0, Clock, as_given, bar, full_bar, hourly

_ALL = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
#: Batch sizes around those at which the backends of iftb-store switch their method, and sizes that are read in several chunks.
_SIZES = [1, 299, 300, 301, 2_001, 10_001]
_AWKWARD = ["a\tb", "a\nb", "a\rb", "a\\b", r"\N", r"\.", "a'b", 'a"b', "$1", ":1", "%s", "Ünïcode\u202e✓", "\x01\x7f"]


class BulkTests(SuiteFixtures):
    """insert_many and upsert_many have the same results for small and for large batches."""

    @pytest.mark.parametrize("size", _SIZES)
    async def test_upsert_overwrites_stored_bars_and_inserts_new_ones(self, db: DatabaseManager, size: int) -> None:
        await OHLCVRepository(db).insert_many(hourly(size, volume=Decimal(7))[::2])
        fresh = [replace(bar, quote_volume=Decimal(index)) for index, bar in enumerate(hourly(size))]
        assert await OHLCVRepository(db).upsert_many(fresh) == size
        assert [as_given(found) for found in await _read_bars(db)] == fresh

    @pytest.mark.parametrize("size", _SIZES)
    async def test_a_second_upsert_of_the_same_bars_changes_nothing(self, db: DatabaseManager, clock: Clock, size: int) -> None:
        await OHLCVRepository(db).upsert_many(hourly(size))
        before = await _read_bars(db)
        clock.advance(HOUR)
        await OHLCVRepository(db).upsert_many(hourly(size))
        assert await _read_bars(db) == before

    @pytest.mark.parametrize("size", _SIZES)
    async def test_upsert_sets_optional_values_of_a_stored_batch_back_to_none(self, db: DatabaseManager, size: int) -> None:
        whole = [full_bar(T0 + index * HOUR) for index in range(size)]
        await OHLCVRepository(db).insert_many(whole)
        bare = [replace(bar, quote_volume=None, trades_count=None) for bar in whole]
        await OHLCVRepository(db).upsert_many(bare)
        assert [as_given(found) for found in await _read_bars(db)] == bare

    @pytest.mark.parametrize("size", [300, 1_000])
    async def test_upsert_finds_stored_bars_by_naive_times_too(self, db: DatabaseManager, size: int) -> None:
        await OHLCVRepository(db).insert_many(hourly(size)[::2])
        naive = [replace(bar, timestamp=bar.timestamp.replace(tzinfo=None), volume=Decimal(3)) for bar in hourly(size)]
        await OHLCVRepository(db).upsert_many(naive)
        assert [(found.timestamp, found.volume) for found in await _read_bars(db)] == [
            (T0 + index * HOUR, Decimal(3)) for index in range(size)
        ]

    async def test_upsert_finds_the_stored_bars_of_a_sparse_batch(self, db: DatabaseManager) -> None:
        dense = [bar(T0 + index * timedelta(minutes=1), timeframe="1m") for index in range(25_000)]
        await OHLCVRepository(db).insert_many(dense)
        changed = [replace(stored, volume=Decimal(9)) for stored in dense[::50]]
        await OHLCVRepository(db).upsert_many(changed)
        found = await OHLCVRepository(db).get_range("BTCUSDT", "1m", *_ALL)
        assert [(len(found), sum(stored.volume == 9 for stored in found))] == [(len(dense), len(changed))]

    async def test_upsert_writes_several_series_of_one_batch_in_any_order(self, db: DatabaseManager) -> None:
        mixed = [bar for pair in zip(hourly(400), hourly(400, symbol="ADABTC"), strict=True) for bar in reversed(pair)]
        await OHLCVRepository(db).insert_many(mixed[::3])
        await OHLCVRepository(db).upsert_many([replace(bar, volume=Decimal(4)) for bar in mixed])
        assert {found.volume for symbol in ("BTCUSDT", "ADABTC") for found in await _read_bars(db, symbol)} == {Decimal(4)}

    @pytest.mark.parametrize("method", ["insert_many", "upsert_many"])
    @pytest.mark.parametrize("size", [1, 301])
    async def test_awkward_text_names_a_series_in_bulk(self, db: DatabaseManager, method: str, size: int) -> None:
        for text in _AWKWARD:
            await getattr(OHLCVRepository(db), method)(hourly(size, symbol=text, exchange=text))
        for text in _AWKWARD:
            assert [as_given(found) for found in await _read_bars(db, text, text)] == hourly(size, symbol=text, exchange=text)

    @pytest.mark.parametrize("size", [300, 301, 2_500])
    async def test_a_large_upsert_names_the_place_of_a_bar_that_cannot_be_stored(self, db: DatabaseManager, size: int) -> None:
        await OHLCVRepository(db).insert_many(hourly(size)[::2])
        wrong = hourly(size, volume=Decimal(5))
        wrong[size - 2] = replace(wrong[size - 2], close=Decimal("NaN"))
        with pytest.raises(InvalidValueError, match=f"bar {size - 1} of {size} "):
            await OHLCVRepository(db).upsert_many(wrong)
        assert [as_given(found) for found in await _read_bars(db)] == hourly(size)[::2]

    @pytest.mark.parametrize("size", [300, 301, 2_500])
    async def test_a_refused_batch_leaves_the_earlier_writes_of_its_session(self, db: DatabaseManager, size: int) -> None:
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            await repository.upsert_many(hourly(size))
            with pytest.raises(IntegrityError):
                await repository.insert_many([*hourly(size, symbol="ADABTC"), hourly(size)[-1]])
        assert [len(await _read_bars(db)), len(await _read_bars(db, "ADABTC"))] == [size, 0]

    async def test_a_long_range_is_read_exactly_in_any_context_of_the_caller(self, db: DatabaseManager) -> None:
        times = (_FIRST, datetime(1827, 4, 1, 1, 2, 3, 456789, UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), _LAST)
        bars = [replace(full_bar(time), close=SMALLEST, high=LARGEST) for time in times]
        await OHLCVRepository(db).insert_many(bars)
        with localcontext(prec=3) as context:
            context.traps[Inexact] = True
            found = await OHLCVRepository(db).get_range("BTCUSDT", "1h", _FIRST, _LAST)
        assert [as_given(stored) for stored in found] == bars


async def _read_bars(db: DatabaseManager, symbol: str = "BTCUSDT", exchange: str = "binance") -> list[OHLCVBar]:
    return await OHLCVRepository(db).get_range(symbol, "1h", *_ALL, exchange)
