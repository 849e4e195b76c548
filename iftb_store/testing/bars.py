"""Tests of the repository of bars: insert_many, upsert_many, get_range, get_latest, and which bars are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from sqlalchemy.exc import IntegrityError

from iftb_store import TIMEFRAMES, DatabaseManager, InvalidValueError, OHLCVBar, OHLCVRepository, Timeframe
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, describe_error, find_error
from iftb_store.testing.samples import HOUR, INDIA, NOW, T0, Clock, as_given, bar, full_bar, hourly

_ALL = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
#: Batch sizes around 2,000, the size of the chunks in which batches are checked, and one size of several chunks.
_SIZES = [1, 2, 1_999, 2_000, 2_001, 5_000]
_LIMITS = [0, -1, True, 1.5, None, "10"]
_REFUSED = [
    ("high", Decimal("49500.2")),
    ("volume", Decimal("-0.000000000000000001")),
    ("quote_volume", Decimal(-1)),
    ("trades_count", -1),
    ("trades_count", 2**63),
    ("trades_count", 1.0),
    ("timeframe", "7h"),
    ("symbol", ""),
    ("symbol", " \t"),
    ("symbol", "X" * 256),
    ("symbol", None),
    ("exchange", 5),
    ("open", None),
    ("close", 50500.5),
    ("timestamp", None),
]


async def stored(
    db: DatabaseManager, symbol: str = "BTCUSDT", timeframe: Timeframe = "1h", exchange: str = "binance"
) -> list[OHLCVBar]:
    """Return all committed bars of a series, oldest first."""
    return await OHLCVRepository(db).get_range(symbol, timeframe, *_ALL, exchange)


class InsertTests(SuiteFixtures):
    """insert_many inserts all bars or none; a duplicate raises IntegrityError."""

    async def test_a_bar_comes_back_as_it_went_in(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([full_bar()])
        (found,) = await stored(db)
        assert as_given(found) == full_bar()

    async def test_a_bar_with_nothing_optional_comes_back_with_none(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        (found,) = await stored(db)
        assert (found.quote_volume, found.trades_count) == (None, None)

    async def test_bars_with_and_without_optional_values_stand_in_one_batch(self, db: DatabaseManager) -> None:
        given = [
            full_bar(T0),
            bar(T0 + HOUR),
            bar(T0 + 2 * HOUR, trades_count=0),
            bar(T0 + 3 * HOUR, quote_volume=Decimal("0.5")),
        ]
        await OHLCVRepository(db).insert_many(given)
        assert [as_given(item) for item in await stored(db)] == given

    async def test_raw_sql_reads_the_values_that_insert_many_wrote(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([replace(full_bar(), low=Decimal("-49500.3"))])
        ((moment, low, quote, trades),) = await raw.fetch(db, "SELECT timestamp, low, quote_volume, trades_count FROM ohlcv")
        assert raw.moment(moment) == T0
        assert raw.number(low) == Decimal("-49500.3")
        assert raw.number(quote) == Decimal("5050000.123456789012345678")
        assert trades == 2**40

    async def test_insert_many_returns_the_number_of_bars(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).insert_many(hourly(3)) == 3

    async def test_inserting_no_bars_is_0(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).insert_many([]) == 0

    @pytest.mark.parametrize("size", _SIZES)
    async def test_insert_many_stores_every_bar_of_a_batch(self, db: DatabaseManager, size: int) -> None:
        assert await OHLCVRepository(db).insert_many(hourly(size)) == size
        found = [as_given(item) for item in await stored(db)]
        assert found == hourly(size), f"insert_many must store every bar of its batch, here {size}: {len(found)} are stored"

    async def test_bars_may_come_as_any_sequence_and_in_any_order(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(tuple(reversed(hourly(5))))
        assert [as_given(item) for item in await stored(db)] == hourly(5)

    async def test_bars_of_several_series_stand_in_one_batch(self, db: DatabaseManager) -> None:
        given = [bar(), bar(timeframe="1d"), bar(symbol="ETHUSDT"), bar(exchange="kraken")]
        await OHLCVRepository(db).insert_many(given)
        assert [as_given(item) for item in await stored(db, exchange="kraken")] == [given[3]]

    async def test_inserting_does_not_change_the_callers_bars(self, db: DatabaseManager) -> None:
        given = [bar(datetime(2024, 1, 1, 5), open=Decimal("50000.10"))]
        await OHLCVRepository(db).insert_many(given)
        assert given == [bar(datetime(2024, 1, 1, 5), open=Decimal("50000.10"))]
        assert given[0].timestamp.tzinfo is None

    async def test_created_at_is_the_clocks_time(self, db: DatabaseManager, clock: Clock) -> None:
        await OHLCVRepository(db, clock=clock).insert_many([bar()])
        (found,) = await stored(db)
        assert found.created_at == NOW

    async def test_created_at_and_id_of_the_given_bar_are_ignored(self, db: DatabaseManager, clock: Clock) -> None:
        await OHLCVRepository(db, clock=clock).insert_many([bar(id=987_654, created_at=T0)])
        (found,) = await stored(db)
        assert (found.id != 987_654, found.created_at) == (True, NOW)

    async def test_stored_bars_have_distinct_ids(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(10))
        ids = {item.id for item in await stored(db)}
        assert len(ids) == 10
        assert None not in ids

    async def test_a_bar_stored_already_is_an_integrity_error(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        error = await find_error(OHLCVRepository(db).insert_many([bar(close=Decimal(1), low=Decimal(1))]))
        assert isinstance(error, IntegrityError), (
            f"insert_many must raise IntegrityError if a bar of the batch is already stored: {describe_error(error)}"
        )

    async def test_a_stored_bar_in_a_batch_is_named_with_upsert_many(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(T0 + hour * HOUR) for hour in (7, 400)])
        error = await find_error(OHLCVRepository(db).insert_many(hourly(600)[::-1]))
        assert describe_error(error).endswith(
            "the bar 'binance' 'BTCUSDT' 1h 2024-01-01T07:00:00+00:00 is already stored; nothing was inserted; "
            "upsert_many overwrites it"
        )

    async def test_a_bar_between_many_stored_ones_is_named(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(700))
        among = [bar(T0 + timedelta(minutes=30)), bar(T0 + timedelta(minutes=30, hours=500)), bar(T0 + 650 * HOUR)]
        error = await find_error(OHLCVRepository(db).insert_many(among))
        assert " 2024-01-28T02:00:00+00:00 is already stored; " in describe_error(error)

    async def test_a_bar_twice_in_a_batch_is_named_as_such(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        given = [bar(T0 + HOUR), bar(T0 + 2 * HOUR), bar((T0 + HOUR).astimezone(INDIA))]
        error = await find_error(OHLCVRepository(db).insert_many(given))
        assert describe_error(error).endswith(
            "the bar 'binance' 'BTCUSDT' 1h 2024-01-01T01:00:00+00:00 occurs twice in the batch; nothing was inserted; "
            "upsert_many keeps the last one"
        )

    async def test_the_first_of_several_duplicates_is_named(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        error = await find_error(OHLCVRepository(db).insert_many([bar(T0 + HOUR), bar(T0 + HOUR), bar()]))
        assert " 2024-01-01T00:00:00+00:00 is already stored; " in describe_error(error)

    async def test_a_stored_bar_among_many_new_series_is_named(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(symbol="Z")])
        given = [bar(symbol=name) for name in ("Z", *(f"S{number}" for number in range(200)))]
        error = await find_error(OHLCVRepository(db).insert_many(given))
        assert "'Z' 1h 2024-01-01T00:00:00+00:00 is already stored; " in describe_error(error)

    async def test_after_a_named_duplicate_the_session_commits_its_other_bars(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await OHLCVRepository(session).insert_many([bar()])
            error = await find_error(OHLCVRepository(session).insert_many([bar(), bar(T0 + HOUR)]))
            assert " 2024-01-01T00:00:00+00:00 is already stored; " in describe_error(error)
            await OHLCVRepository(session).insert_many([bar(T0 + 2 * HOUR)])
        assert [item.timestamp for item in await stored(db)] == [T0, T0 + 2 * HOUR]

    async def test_a_refused_duplicate_leaves_the_stored_bar_unchanged(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        with pytest.raises(IntegrityError):
            await OHLCVRepository(db).insert_many([bar(volume=Decimal(7))])
        assert [as_given(item) for item in await stored(db)] == [bar()]

    async def test_a_batch_with_one_stored_bar_stores_nothing(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(T0 + 2_050 * HOUR)])
        with pytest.raises(IntegrityError):
            await OHLCVRepository(db).insert_many(hourly(2_100))
        assert len(await stored(db)) == 1

    async def test_a_bar_twice_in_a_batch_is_an_integrity_error_and_stores_nothing(self, db: DatabaseManager) -> None:
        with pytest.raises(IntegrityError):
            await OHLCVRepository(db).insert_many([bar(), bar(T0 + HOUR), bar(volume=Decimal(7))])
        assert await stored(db) == []

    async def test_a_bar_twice_far_apart_in_a_batch_stores_nothing(self, db: DatabaseManager) -> None:
        with pytest.raises(IntegrityError):
            await OHLCVRepository(db).insert_many([*hourly(2_500), bar(T0)])
        assert await stored(db) == []

    async def test_one_moment_written_in_two_zones_is_a_duplicate(self, db: DatabaseManager) -> None:
        in_india = T0.astimezone(INDIA)
        with pytest.raises(IntegrityError):
            await OHLCVRepository(db).insert_many([bar(T0), bar(in_india)])

    async def test_a_bar_that_cannot_be_stored_at_the_end_of_a_batch_stores_nothing(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError):
            await OHLCVRepository(db).insert_many([*hourly(2_001), bar(T0 - HOUR, close=Decimal("NaN"))])
        assert await stored(db) == []

    async def test_after_a_refused_bar_the_session_commits_only_its_earlier_bars(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            await repository.insert_many([bar(T0 - HOUR)])
            with pytest.raises(InvalidValueError):
                await repository.insert_many([*hourly(2_001), bar(T0 - 2 * HOUR, volume=Decimal(-1))])
        assert [item.timestamp for item in await stored(db)] == [T0 - HOUR]


class UpsertTests(SuiteFixtures):
    """In upsert_many, the last bar of a key wins, and a stored bar keeps its id and created_at."""

    async def test_upsert_inserts_what_is_new(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).upsert_many([full_bar(), bar(T0 + HOUR)])
        assert [as_given(item) for item in await stored(db)] == [full_bar(), bar(T0 + HOUR)]

    async def test_upsert_overwrites_every_value_of_a_stored_bar(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        changed = bar(
            open=Decimal("1.5"),
            high=Decimal("9.5"),
            low=Decimal("0.5"),
            close=Decimal("2.5"),
            volume=Decimal("3.5"),
            quote_volume=Decimal("4.5"),
            trades_count=6,
        )
        await OHLCVRepository(db).upsert_many([changed])
        assert [as_given(item) for item in await stored(db)] == [changed]

    async def test_upsert_can_set_optional_values_back_to_none(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([full_bar()])
        await OHLCVRepository(db).upsert_many([bar()])
        assert [as_given(item) for item in await stored(db)] == [bar()]

    async def test_in_one_upsert_the_last_bar_of_a_key_wins(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).upsert_many(
            [bar(volume=Decimal(1)), bar(volume=Decimal(2)), bar(T0 + HOUR), bar(volume=Decimal(3))]
        )
        assert [item.volume for item in await stored(db)] == [Decimal(3), Decimal("100.5")]

    async def test_the_last_bar_of_a_key_wins_over_a_stored_one_too(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        await OHLCVRepository(db).upsert_many([bar(volume=Decimal(2)), bar(volume=Decimal(1))])
        assert [item.volume for item in await stored(db)] == [Decimal(1), Decimal("100.5"), Decimal("100.5")]

    async def test_the_last_bar_of_a_key_wins_from_far_away_in_the_batch(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).upsert_many([*hourly(2_500), bar(volume=Decimal(7))]) == 2_500
        assert (await stored(db))[0].volume == Decimal(7)

    async def test_one_moment_in_two_zones_is_one_key_of_an_upsert(self, db: DatabaseManager) -> None:
        in_india = T0.astimezone(INDIA)
        assert await OHLCVRepository(db).upsert_many([bar(T0), bar(in_india, volume=Decimal(7))]) == 1
        assert [item.volume for item in await stored(db)] == [Decimal(7)]

    async def test_upsert_keeps_id_and_created_at_of_a_stored_bar(self, db: DatabaseManager, clock: Clock) -> None:
        repository = OHLCVRepository(db, clock=clock)
        await repository.insert_many([bar()])
        (before,) = await stored(db)
        clock.advance(HOUR)
        await repository.upsert_many([bar(volume=Decimal(7), id=before.id, created_at=T0)])
        (after,) = await stored(db)
        assert (after.id, after.created_at, after.volume) == (before.id, NOW, Decimal(7)), (
            f"a bar that is upserted must keep its id {before.id} and created_at {NOW}, and get the new values; it is {after}"
        )

    async def test_upsert_gives_new_bars_the_clocks_time_as_created_at(self, db: DatabaseManager, clock: Clock) -> None:
        repository = OHLCVRepository(db, clock=clock)
        await repository.insert_many([bar()])
        clock.advance(HOUR)
        await repository.upsert_many(hourly(2))
        assert [item.created_at for item in await stored(db)] == [NOW, NOW + HOUR]

    async def test_upsert_returns_the_number_of_distinct_keys(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(2))
        assert await OHLCVRepository(db).upsert_many([*hourly(5), *hourly(3)]) == 5

    async def test_upsert_counts_unchanged_bars(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        assert await OHLCVRepository(db).upsert_many(hourly(3)) == 3

    async def test_upserting_no_bars_is_0(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).upsert_many([]) == 0

    @pytest.mark.parametrize("size", _SIZES)
    async def test_upsert_stores_every_bar_of_a_batch(self, db: DatabaseManager, size: int) -> None:
        await OHLCVRepository(db).insert_many(hourly(size, volume=Decimal(1))[::2])
        assert await OHLCVRepository(db).upsert_many(hourly(size)) == size
        assert [as_given(item) for item in await stored(db)] == hourly(size)

    async def test_upsert_leaves_other_series_unchanged(self, db: DatabaseManager) -> None:
        others = [bar(symbol="ETHUSDT"), bar(timeframe="1m"), bar(exchange="kraken")]
        await OHLCVRepository(db).insert_many([bar(), *others])
        await OHLCVRepository(db).upsert_many([bar(volume=Decimal(7))])
        volumes = await raw.fetch(db, "SELECT volume FROM ohlcv")
        assert sorted(raw.number(volume) for (volume,) in volumes) == [Decimal(7), *[Decimal("100.5")] * 3]

    async def test_upserting_does_not_change_the_callers_bars(self, db: DatabaseManager) -> None:
        given = [bar(datetime(2024, 1, 1)), bar(datetime(2024, 1, 1), volume=Decimal("7.0"))]
        await OHLCVRepository(db).upsert_many(given)
        assert given == [bar(datetime(2024, 1, 1)), bar(datetime(2024, 1, 1), volume=Decimal("7.0"))]

    @pytest.mark.parametrize("timestamp", [T0, T0.replace(tzinfo=None)])
    async def test_a_bar_that_cannot_be_stored_is_refused_even_if_a_later_one_wins(
        self, db: DatabaseManager, timestamp: datetime
    ) -> None:
        bars = [bar(T0 - HOUR), bar(timestamp, volume=Decimal(-1)), bar(timestamp)]
        with pytest.raises(InvalidValueError, match=r"bar 2 of 3 .* is negative"):
            await OHLCVRepository(db).upsert_many(bars)
        assert await raw.count(db, "ohlcv") == 0

    async def test_a_refused_bar_is_named_by_its_place_in_the_batch_that_was_given(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="bar 3 of 3"):
            await OHLCVRepository(db).upsert_many([bar(), bar(), bar(T0 + HOUR, volume=Decimal(-1))])

    async def test_an_upsert_with_a_bar_that_cannot_be_stored_writes_nothing(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        with pytest.raises(InvalidValueError):
            await OHLCVRepository(db).upsert_many([*hourly(2_001, volume=Decimal(7)), bar(T0 - HOUR, volume=Decimal(-1))])
        assert [as_given(item) for item in await stored(db)] == [bar()]


class RangeTests(SuiteFixtures):
    """get_range returns bars oldest first, and get_latest newest first."""

    async def test_get_range_is_oldest_first_whatever_the_order_of_writing(self, db: DatabaseManager) -> None:
        bars = hourly(6)
        await OHLCVRepository(db).insert_many([bars[3], bars[0], bars[5]])
        await OHLCVRepository(db).insert_many([bars[4], bars[2], bars[1]])
        assert [as_given(item) for item in await stored(db)] == bars

    async def test_get_range_includes_both_ends(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(5))
        found = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0 + HOUR, T0 + 3 * HOUR)
        hours = [(item.timestamp - T0) / HOUR for item in found]
        assert hours == [1, 2, 3], (
            f"get_range must include the bars at its start and its end, here hours 1 to 3; it returned {hours}"
        )

    async def test_get_range_leaves_out_what_is_a_microsecond_outside(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        microsecond = timedelta(microseconds=1)
        found = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0 + microsecond, T0 + 2 * HOUR - microsecond)
        assert [item.timestamp for item in found] == [T0 + HOUR]

    async def test_a_range_of_one_moment_finds_its_bar(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        assert len(await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0)) == 1

    async def test_a_range_without_bars_is_empty(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + HOUR) == []

    async def test_naive_ends_of_a_range_are_utc(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        found = await OHLCVRepository(db).get_range("BTCUSDT", "1h", datetime(2024, 1, 1, 1), datetime(2024, 1, 1, 1, 30))
        assert [item.timestamp for item in found] == [T0 + HOUR]

    async def test_ends_of_a_range_may_stand_in_any_zone(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        tokyo = timezone(timedelta(hours=9))
        found = await OHLCVRepository(db).get_range(
            "BTCUSDT", "1h", datetime(2024, 1, 1, 10, tzinfo=tokyo), datetime(2024, 1, 1, 10, 59, tzinfo=tokyo)
        )
        assert [item.timestamp for item in found] == [T0 + HOUR]

    async def test_a_start_after_the_end_is_an_error(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="start"):
            await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0 + HOUR, T0)

    async def test_symbol_timeframe_and_exchange_identify_a_series(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(), bar(symbol="ETHUSDT"), bar(timeframe="1d"), bar(exchange="kraken")])
        assert len(await stored(db)) == 1

    async def test_get_latest_is_newest_first(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(5))
        found = await OHLCVRepository(db).get_latest("BTCUSDT", "1h")
        assert [as_given(item) for item in found] == hourly(5)[::-1]

    async def test_get_latest_gives_the_newest_up_to_the_limit(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(5))
        found = await OHLCVRepository(db).get_latest("BTCUSDT", "1h", limit=2)
        assert [item.timestamp for item in found] == [T0 + 4 * HOUR, T0 + 3 * HOUR]

    async def test_get_latest_gives_100_bars_by_default(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(101))
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h")) == 100

    async def test_get_latest_takes_any_large_limit(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", limit=2**63 - 1)) == 3

    async def test_get_latest_reads_only_one_series(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(), bar(symbol="ETHUSDT"), bar(timeframe="1d"), bar(exchange="kraken")])
        found = await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 10, "kraken")
        assert [as_given(item) for item in found] == [bar(exchange="kraken")]

    async def test_get_latest_of_an_unknown_series_is_empty(self, db: DatabaseManager) -> None:
        assert await OHLCVRepository(db).get_latest("NONE", "1h") == []

    async def test_get_latest_refuses_a_limit_that_is_no_whole_number_from_1(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        await assert_refused(
            lambda _, limit: repository.get_latest("BTCUSDT", "1h", limit), [("limit", limit) for limit in _LIMITS]
        )

    @pytest.mark.parametrize("method", ["get_latest", "get_gaps"])
    async def test_an_unknown_timeframe_is_an_error_that_lists_the_known_ones(self, db: DatabaseManager, method: str) -> None:
        with pytest.raises(InvalidValueError, match="7h") as caught:
            await getattr(OHLCVRepository(db), method)("BTCUSDT", "7h")
        assert all(timeframe in str(caught.value) for timeframe in TIMEFRAMES)

    async def test_get_range_refuses_an_unknown_timeframe(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="7h"):
            await OHLCVRepository(db).get_range("BTCUSDT", "7h", T0, T0)  # type: ignore[arg-type]


class RefusedBarTests(SuiteFixtures):
    """insert_many and upsert_many refuse invalid bars, and store unusual but valid bars."""

    @pytest.mark.parametrize("method", ["insert_many", "upsert_many"])
    async def test_a_bar_that_cannot_be_is_refused_and_named(self, db: DatabaseManager, method: str) -> None:
        write = getattr(OHLCVRepository(db), method)
        await assert_refused(
            lambda field, value: write([bar(), bar(**{"timestamp": T0 + HOUR, field: value})]), _REFUSED, remedy="bar 2 of 2"
        )
        assert await raw.count(db, "ohlcv") == 0

    async def test_what_is_no_bar_is_refused(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="OHLCVBar"):
            await OHLCVRepository(db).insert_many([{"symbol": "BTCUSDT"}])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]

    async def test_open_and_close_outside_the_range_of_low_and_high_are_stored(self, db: DatabaseManager) -> None:
        given = [bar(open=Decimal(99_999), close=Decimal(1))]
        await OHLCVRepository(db).insert_many(given)
        assert [as_given(item) for item in await stored(db)] == given

    async def test_high_may_equal_low(self, db: DatabaseManager) -> None:
        given = [bar(high=Decimal("5.0"), low=Decimal("5.00"))]
        await OHLCVRepository(db).insert_many(given)
        assert [as_given(item) for item in await stored(db)] == given

    async def test_prices_may_be_negative(self, db: DatabaseManager) -> None:
        given = [
            bar(open=Decimal("-36.98"), high=Decimal("-10.5"), low=Decimal("-40.32"), close=Decimal("-37.63"), volume=Decimal(0))
        ]
        await OHLCVRepository(db).insert_many(given)
        assert [as_given(item) for item in await stored(db)] == given


class BarTests(InsertTests, UpsertTests, RangeTests, RefusedBarTests):
    """All tests of bars, except those of gaps."""
