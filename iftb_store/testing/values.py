"""Tests of times, decimals and text: values are read back exactly; values that not every engine can store are refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, Inexact, localcontext
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from iftb_store import (
    DatabaseManager,
    InvalidValueError,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
)
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.bars import stored
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.positions import opened
from iftb_store.testing.samples import HOUR, INDIA, LARGEST, SMALLEST, T0, Clock, as_given, bar, position, trade
from iftb_store.testing.trades import by_id

_MOMENTS: list[tuple[datetime, datetime]] = [
    (datetime(2024, 5, 6, 7, 8, 9, 123456), datetime(2024, 5, 6, 7, 8, 9, 123456, UTC)),
    (datetime(2024, 5, 6, 7, 8, 9, 1, UTC), datetime(2024, 5, 6, 7, 8, 9, 1, UTC)),
    (
        datetime(2024, 5, 6, 7, 8, 9, 999_999, timezone(timedelta(hours=-9, minutes=-30))),
        datetime(2024, 5, 6, 16, 38, 9, 999_999, UTC),
    ),
    (datetime(2024, 5, 6, 3, tzinfo=timezone(timedelta(hours=14))), datetime(2024, 5, 5, 13, tzinfo=UTC)),
    (datetime(2024, 5, 6, 3, tzinfo=timezone(timedelta(seconds=1))), datetime(2024, 5, 6, 2, 59, 59, tzinfo=UTC)),
    (datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")), datetime(2024, 10, 27, 0, 30, tzinfo=UTC)),
    (datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1), datetime(2024, 10, 27, 1, 30, tzinfo=UTC)),
    (datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)),
    (datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)),
    (datetime(1, 1, 1), datetime(1, 1, 1, tzinfo=UTC)),
    (datetime(1582, 10, 10, tzinfo=UTC), datetime(1582, 10, 10, tzinfo=UTC)),
    (datetime.max, datetime.max.replace(tzinfo=UTC)),
]
_NO_MOMENTS: list[Any] = [
    "2024-01-01",
    1_704_067_200,
    date(2024, 1, 1),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
]

_DECIMALS = [
    Decimal("0"),
    Decimal("-0"),
    Decimal("0.000"),
    Decimal("1E+3"),
    Decimal("1E-18"),
    Decimal("-1E-18"),
    Decimal("100.10"),
    Decimal("0.1"),
    Decimal("-0.3"),
    Decimal("1.000000000000000001"),
    Decimal("123456789.123456789123456789"),
    Decimal("99999999999999999999.999999999999999999"),
    Decimal("-99999999999999999999.999999999999999999"),
    Decimal("10000000000000000000"),
    Decimal("9007199254740993"),
    Decimal("0.00000001000"),
    Decimal("12E+18"),
]
_TOO_FINE = [Decimal("0.0000000000000000001"), Decimal("1.1234567890123456789"), Decimal("1E-40")]
_TOO_LARGE = [
    Decimal("100000000000000000000"),
    Decimal("-1E+20"),
    Decimal("1E+400"),
    Decimal("99999999999999999999.9999999999999999995"),
]
_NOT_FINITE = list(map(Decimal, ["NaN", "-NaN", "sNaN", "Infinity", "-Infinity"]))
_BAR_DECIMALS = ["open", "high", "low", "close", "volume", "quote_volume"]
_TRADE_DECIMALS = [
    "entry_price",
    "quantity",
    "exit_price",
    "realized_pnl",
    "fee",
    "stop_loss",
    "take_profit",
    "leverage",
    "realized_pnl_pct",
    "signal_score",
    "technical_score",
    "llm_score",
    "xgb_confidence",
    "position_size_pct",
]
_POSITION_DECIMALS = [
    "entry_price",
    "quantity",
    "margin",
    "current_price",
    "unrealized_pnl",
    "liquidation_price",
    "stop_loss",
    "take_profit",
    "trailing_stop",
    "leverage",
    "unrealized_pnl_pct",
]

_TEXTS = [
    "plain",
    " leading and trailing ",
    "tab\there",
    "new\nline\r\nand return",
    "back\\slash \\N \\. \\t \\\\",
    "\\N",
    "\\.",
    "NULL",
    "'single' \"double\" `back`",
    "'; DROP TABLE trades; --",
    "comma,semicolon;pipe|percent%under_score",
    ":name $1 ? {x} %s",
    "\N{ROCKET}\N{FAMILY}\N{ZERO WIDTH JOINER}\N{VARIATION SELECTOR-16}",
    "\u00e9",
    "e\u0301",
    "日本語 العربية עברית ไทย",
    "\x01\x1f\x7f\x80\x9f",
    "\u200b\ufeff\u2028\u202e",
    "\U0010ffff\uffff\ufffe",
    "İıſßẞ",
]
_NO_TEXTS = ["nul\0", "\0", "lone \ud800", "\udfff"]


def _quantity(value: Decimal) -> Decimal:
    return value.copy_abs() or Decimal(1)


def _trade_of(trade_id: str, value: Decimal) -> Trade:
    return trade(trade_id, **dict.fromkeys(_TRADE_DECIMALS, value) | {"quantity": _quantity(value)})


class TimeTests(SuiteFixtures):
    """Aware times are converted to UTC, naive times are UTC; microseconds are kept; reads return aware times in UTC."""

    async def test_a_bars_timestamp_comes_back_in_utc(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(given, symbol=f"S{index}") for index, (given, _) in enumerate(_MOMENTS)])
        found = [(await OHLCVRepository(db).get_latest(f"S{index}", "1h"))[0].timestamp for index in range(len(_MOMENTS))]
        assert found == [expected for _, expected in _MOMENTS]
        assert {moment.utcoffset() for moment in found} == {timedelta(0)}

    @requires(Capability.RECORDS)
    async def test_a_trades_times_come_back_in_utc(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = TradeRepository(session)
            ids = [await repository.insert(trade(f"T{given!r}", entry_time=given, exit_time=given)) for given, _ in _MOMENTS]
        found = [await by_id(db, number) for number in ids]
        offsets = {moment.utcoffset() for item in found for moment in (item.entry_time, item.created_at or T0)}
        assert offsets == {timedelta(0)}, f"every time must be read back as an aware datetime in UTC; the offsets are {offsets}"
        assert [(item.entry_time, item.exit_time) for item in found] == [(expected, expected) for _, expected in _MOMENTS]

    async def test_times_are_stored_as_the_moment_that_raw_sql_reads(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).upsert_many([bar(given, symbol=f"S{index:02}") for index, (given, _) in enumerate(_MOMENTS)])
        rows = await raw.fetch(db, "SELECT timestamp FROM ohlcv ORDER BY symbol")
        assert [raw.moment(value) for (value,) in rows] == [expected for _, expected in _MOMENTS]

    @requires(Capability.RECORDS)
    async def test_a_trades_times_are_stored_as_the_moment_that_raw_sql_reads(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            for index, (given, _) in enumerate(_MOMENTS):
                await TradeRepository(session).insert(trade(f"T{index:02}", entry_time=given))
        rows = await raw.fetch(db, "SELECT entry_time FROM trades ORDER BY trade_id")
        assert [raw.moment(value) for (value,) in rows] == [expected for _, expected in _MOMENTS]

    @requires(Capability.RECORDS)
    async def test_a_positions_times_come_back_in_utc(self, db: DatabaseManager) -> None:
        found = await opened(db, position(entry_time=datetime(2024, 1, 1, 5, 30, tzinfo=INDIA)))
        assert found.entry_time == T0
        assert found.created_at is not None
        assert found.last_updated is not None
        assert {moment.utcoffset() for moment in (found.entry_time, found.created_at, found.last_updated)} == {timedelta(0)}

    @requires(Capability.RECORDS)
    async def test_a_clock_in_another_zone_gives_utc(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db, clock=lambda: T0.astimezone(INDIA)).insert(trade())
        found = await by_id(db, number)
        assert (found.created_at, found.updated_at) == (T0, T0)

    async def test_bars_a_microsecond_apart_are_two(self, db: DatabaseManager) -> None:
        moments = [
            T0,
            T0 + timedelta(microseconds=1),
            datetime(9999, 12, 31, 23, 59, 59, 999_998, UTC),
            datetime.max.replace(tzinfo=UTC),
        ]
        await OHLCVRepository(db).insert_many([bar(moment) for moment in moments])
        found = await OHLCVRepository(db).get_latest("BTCUSDT", "1h")
        assert [item.timestamp for item in found] == moments[::-1]

    @requires(Capability.RECORDS)
    async def test_what_is_no_time_of_the_calendar_is_refused(self, db: DatabaseManager) -> None:
        bars, trades = OHLCVRepository(db), TradeRepository(db)
        await assert_refused(lambda _, value: bars.insert_many([bar(value)]), [("timestamp", value) for value in _NO_MOMENTS])
        await assert_refused(
            lambda _, value: trades.insert(trade(entry_time=value)), [("entry_time", value) for value in _NO_MOMENTS]
        )
        await assert_refused(
            lambda _, value: bars.get_range("BTCUSDT", "1h", value, value), [("start", value) for value in _NO_MOMENTS]
        )


class DecimalTests(SuiteFixtures):
    """Decimals are read back exactly; a value that DECIMAL(38,18) cannot hold is refused."""

    async def test_a_bars_decimals_come_back_exactly(self, db: DatabaseManager) -> None:
        given = [
            bar(
                T0 + index * HOUR,
                open=value,
                high=value,
                low=value,
                close=value,
                volume=value.copy_abs(),
                quote_volume=value.copy_abs(),
            )
            for index, value in enumerate(_DECIMALS)
        ]
        await OHLCVRepository(db).insert_many(given)
        found = await stored(db)
        assert [as_given(item) for item in found] == given
        assert {type(item.close) for item in found} == {Decimal}

    @requires(Capability.RECORDS)
    async def test_a_trades_decimals_come_back_exactly(self, db: DatabaseManager) -> None:
        given = [_trade_of(str(value), value) for value in _DECIMALS]
        async with db.get_session() as session:
            ids = [await TradeRepository(session).insert(item) for item in given]
        found = [as_given(await by_id(db, number)) for number in ids]
        wrong = [pair for pair in zip(given, found, strict=True) if pair[0] != pair[1]]
        assert wrong == [], f"every decimal of a trade must be read back exactly; pairs (written, read) that differ: {wrong}"

    @requires(Capability.RECORDS)
    async def test_a_positions_decimals_come_back_exactly(self, db: DatabaseManager) -> None:
        given = [
            position(symbol=str(value), **dict.fromkeys(_POSITION_DECIMALS, value) | {"quantity": _quantity(value)})
            for value in _DECIMALS
        ]
        assert [as_given(await opened(db, item)) for item in given] == given

    async def test_a_bars_decimals_are_stored_as_the_number_that_raw_sql_reads(self, db: DatabaseManager) -> None:
        lowest = LARGEST.copy_negate()
        bars = [bar(T0 + index * HOUR, open=value, high=LARGEST, low=lowest) for index, value in enumerate(_DECIMALS)]
        await OHLCVRepository(db).upsert_many(bars)
        rows = await raw.fetch(db, 'SELECT "open", high, low FROM ohlcv ORDER BY timestamp')
        assert [tuple(map(raw.number, row)) for row in rows] == [(value, LARGEST, lowest) for value in _DECIMALS]

    @requires(Capability.RECORDS)
    async def test_a_trades_decimals_are_stored_as_the_number_that_raw_sql_reads(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            for index, value in enumerate(_DECIMALS):
                await TradeRepository(session).insert(trade(f"T{index:02}", entry_price=value))
        rows = await raw.fetch(db, "SELECT entry_price FROM trades ORDER BY trade_id")
        assert [raw.number(value) for (value,) in rows] == _DECIMALS

    @requires(Capability.RECORDS)
    async def test_decimals_are_exact_in_any_context_of_the_caller(self, db: DatabaseManager) -> None:
        given = bar(open=LARGEST, high=LARGEST, close=SMALLEST)
        with localcontext(prec=3) as context:
            context.traps[Inexact] = True
            await OHLCVRepository(db).insert_many([given])
            await OHLCVRepository(db).upsert_many([given])
            number = await TradeRepository(db).insert(trade(entry_price=LARGEST, signal_score=SMALLEST))
            (found,) = await stored(db)
            found_trade = await by_id(db, number)
        assert as_given(found) == given
        assert (found_trade.entry_price, found_trade.signal_score) == (LARGEST, SMALLEST)

    async def test_a_bars_decimal_that_is_too_fine_is_refused_naming_quantize(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        cases = [(field, value) for field in _BAR_DECIMALS for value in _TOO_FINE]
        await assert_refused(
            lambda field, value: repository.insert_many([bar(T0 - HOUR), bar(**{field: value})]), cases, "iftb_store.quantize"
        )
        assert await raw.count(db, "ohlcv") == 0

    async def test_a_decimal_too_large_to_store_is_refused_without_a_remedy(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match=r"open 1E\+20 has more than 20 digits before the point$"):
            await OHLCVRepository(db).upsert_many([bar(open=Decimal("1E+20"))])
        if Capability.RECORDS in db.capabilities:
            cases = [(field, value) for field in _TRADE_DECIMALS for value in _TOO_LARGE]
            await assert_refused(lambda field, value: TradeRepository(db).insert(trade(**{field: value})), cases, "20 digits")
            cases = [(field, value) for field in _POSITION_DECIMALS for value in _TOO_LARGE]
            await assert_refused(
                lambda field, value: PositionRepository(db).update_position(position(**{field: value})), cases, "20 digits"
            )

    async def test_nan_and_infinity_in_a_bar_are_refused(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        cases = [(field, value) for field in _BAR_DECIMALS for value in _NOT_FINITE]
        await assert_refused(lambda field, value: repository.upsert_many([bar(T0 - HOUR), bar(**{field: value})]), cases)
        assert await raw.count(db, "ohlcv") == 0

    @requires(Capability.RECORDS)
    async def test_nan_and_infinity_in_a_trade_are_refused(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        cases = [(field, value) for field in _TRADE_DECIMALS for value in _NOT_FINITE]
        await assert_refused(lambda field, value: repository.insert(trade(**{field: value})), cases)
        assert await raw.count(db, "trades") == 0

    @requires(Capability.RECORDS)
    async def test_nan_and_infinity_in_a_position_are_refused(self, db: DatabaseManager) -> None:
        repository = PositionRepository(db)
        cases = [(field, value) for field in _POSITION_DECIMALS for value in _NOT_FINITE]
        await assert_refused(lambda field, value: repository.update_position(position(**{field: value})), cases)
        assert await raw.count(db, "positions") == 0

    @requires(Capability.RECORDS)
    async def test_a_trades_decimals_are_rounded_half_even_to_18_places(self, db: DatabaseManager) -> None:
        fine = [Decimal("0.1234567890123456785"), Decimal("0.0000000000000000015"), Decimal("-0.0000000000000000015")]
        rounded = [Decimal("0.123456789012345678"), 2 * SMALLEST, -2 * SMALLEST]
        async with db.get_session() as session:
            repository = TradeRepository(session)
            ids = [await repository.insert(_trade_of(str(value), value)) for value in fine]
        expected = [_trade_of(str(value), kept) for value, kept in zip(fine, rounded, strict=True)]
        assert [as_given(await by_id(db, number)) for number in ids] == expected

    @requires(Capability.RECORDS)
    async def test_a_decimal_set_by_update_is_rounded_too(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(trade())
        changes: Any = dict.fromkeys(_TRADE_DECIMALS, Decimal(2) / 3)
        await TradeRepository(db).update(number, **changes)
        expected = trade("TRD-001", **dict.fromkeys(_TRADE_DECIMALS, Decimal("0.666666666666666667")))
        assert as_given(await by_id(db, number)) == expected

    @requires(Capability.RECORDS)
    async def test_a_positions_decimals_are_rounded_half_even_to_18_places(self, db: DatabaseManager) -> None:
        found = await opened(db, position(**dict.fromkeys(_POSITION_DECIMALS, Decimal("0.1234567890123456785"))))
        assert as_given(found) == position(**dict.fromkeys(_POSITION_DECIMALS, Decimal("0.123456789012345678")))

    @requires(Capability.RECORDS)
    async def test_the_average_price_of_two_fills_is_stored(self, db: DatabaseManager) -> None:
        average = (Decimal(100) + Decimal(90) * 2) / 3
        number = await TradeRepository(db).record(trade(entry_price=average))
        assert await TradeRepository(db).record(trade(entry_price=average)) == number
        assert (await by_id(db, number)).entry_price == Decimal("93.333333333333333333")

    async def test_whole_numbers_count_as_decimals(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(open=50_000, volume=0)])
        (found,) = await stored(db)
        assert (found.open, found.volume) == (Decimal(50_000), Decimal(0))
        assert isinstance(found.open, Decimal)


class TextTests(SuiteFixtures):
    """Any Unicode in names and messages is read back unchanged; NUL and lone surrogates are refused."""

    async def test_text_in_the_key_of_a_bar_comes_back_the_same(self, db: DatabaseManager) -> None:
        given = [bar(symbol=text, exchange=text) for text in _TEXTS]
        await OHLCVRepository(db).insert_many(given)
        await OHLCVRepository(db).upsert_many(given)
        assert [[as_given(item) for item in await stored(db, text, exchange=text)] for text in _TEXTS] == [
            [item] for item in given
        ]
        assert set(await raw.fetch(db, "SELECT symbol, exchange FROM ohlcv")) == {(text, text) for text in _TEXTS}

    @requires(Capability.RECORDS)
    async def test_text_in_a_trade_comes_back_the_same(self, db: DatabaseManager) -> None:
        given = [trade(text, symbol=text, exchange=text, decision_reasons={text: text}) for text in _TEXTS]
        async with db.get_session() as session:
            repository = TradeRepository(session)
            for item in given:
                await repository.insert(item)
            found = [(await repository.get_by_symbol(text, exchange=text))[0] for text in _TEXTS]
        assert [as_given(item) for item in found] == given

    @requires(Capability.RECORDS)
    async def test_text_in_an_event_comes_back_the_same(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = SystemEventRepository(session, clock=Clock())
            for text in _TEXTS:
                await repository.log_event(text, "info", text, {text: [text]}, stack_trace=text, trade_id=text, symbol=text)
            found = (await repository.get_recent_events())[::-1]
        assert [(item.event_type, item.message, item.stack_trace, item.trade_id, item.symbol) for item in found] == [
            (text,) * 5 for text in _TEXTS
        ]
        assert [item.details for item in found] == [{text: [text]} for text in _TEXTS]

    @requires(Capability.RECORDS)
    async def test_text_in_a_position_comes_back_the_same(self, db: DatabaseManager) -> None:
        given = [position(symbol=text, exchange=text, trade_id=text) for text in _TEXTS]
        assert [as_given(await opened(db, item)) for item in given] == given

    async def test_symbols_that_look_alike_are_kept_apart(self, db: DatabaseManager) -> None:
        symbols = ["btc", "BTC", "Btc", " btc", "btc ", "btc\t", "\u00e9", "e\u0301", "\uff22TC"]
        await OHLCVRepository(db).insert_many([bar(symbol=symbol) for symbol in symbols])
        found = [await stored(db, symbol) for symbol in symbols]
        assert [[item.symbol for item in items] for items in found] == [[symbol] for symbol in symbols]

    @requires(Capability.RECORDS)
    async def test_names_of_255_characters_are_stored(self, db: DatabaseManager) -> None:
        name = "\U0010ffff" * 255
        await OHLCVRepository(db).insert_many([bar(symbol=name, exchange=name)])
        await TradeRepository(db).insert(trade(name, symbol=name, exchange=name))
        await PositionRepository(db).update_position(position(symbol=name, exchange=name))
        assert [len(item.symbol) for item in await stored(db, name, exchange=name)] == [255]

    @requires(Capability.RECORDS)
    async def test_messages_may_be_long(self, db: DatabaseManager) -> None:
        message = "line\n" * 100_000
        await SystemEventRepository(db).log_event("x", "error", message, {"text": message}, stack_trace=message)
        (found,) = await SystemEventRepository(db).get_recent_events()
        assert (found.message, found.stack_trace) == (message, message)

    @requires(Capability.RECORDS)
    async def test_text_that_no_engine_holds_is_refused_everywhere(self, db: DatabaseManager) -> None:
        bars, trades, events = OHLCVRepository(db), TradeRepository(db), SystemEventRepository(db)
        await assert_refused(lambda _, text: bars.insert_many([bar(symbol=text)]), [("symbol", text) for text in _NO_TEXTS])
        await assert_refused(lambda _, text: bars.get_latest(text, "1h"), [("symbol", text) for text in _NO_TEXTS])
        await assert_refused(lambda _, text: trades.insert(trade(text)), [("trade_id", text) for text in _NO_TEXTS])
        await assert_refused(lambda _, text: events.log_event("x", "info", text), [("message", text) for text in _NO_TEXTS])


class ValueTests(DecimalTests, TimeTests, TextTests):
    """All tests of single values."""
