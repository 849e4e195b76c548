"""Property tests: generated rows, with any valid decimals, text and times, are stored and read back unchanged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from iftb_store import (
    TIMEFRAMES,
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
    quantize,
)
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.arrow import rows_of
from iftb_store.testing.arrow_writes import table_of
from iftb_store.testing.fixtures import SuiteFixtures, requires
from iftb_store.testing.rows import delete_bars
from iftb_store.testing.samples import LARGEST, as_given

_few = settings(
    # fewer if the loaded profile of hypothesis has fewer
    max_examples=min(30, settings().max_examples),
    deadline=None,
    # these health checks do not apply: all examples share one database on purpose, and every subclass runs the same methods
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
    derandomize=True,
    database=None,
)

_zones: Any = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
#: Times at least one day away from the first and last valid time, so that no time zone moves them out of the calendar.
_times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30, 23, 59, 59, 999_999), timezones=_zones)
_units = st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-(10**20), 10**20) | st.integers(-1000, 1000)
_decimals = _units.map(lambda units: Decimal(f"{units}E-18"))
_positive = _decimals.map(Decimal.copy_abs)
_rounded = _decimals | st.decimals(-(10**19), 10**19, allow_nan=False, allow_infinity=False, places=25)
_quantities = _positive.map(lambda value: value or Decimal(1))
_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=255).filter(
    lambda name: not name.isspace()
)
_json = st.dictionaries(
    _texts,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@st.composite
def _bars(draw: st.DrawFn) -> OHLCVBar:
    low, high = sorted((draw(_decimals), draw(_decimals)))
    return OHLCVBar(
        symbol=draw(_names),
        exchange=draw(_names),
        timeframe=draw(st.sampled_from(TIMEFRAMES)),
        timestamp=draw(_times),
        open=draw(_decimals),
        high=high,
        low=low,
        close=draw(_decimals),
        volume=draw(_positive),
        quote_volume=draw(st.none() | _positive),
        trades_count=draw(st.none() | st.integers(0, 2**63 - 1)),
    )


_trades = st.builds(
    Trade,
    trade_id=_names.map(lambda name: f"{name[:200]}{uuid4()}"),
    symbol=_names,
    exchange=_names,
    side=st.sampled_from(["long", "short"]),
    action=st.sampled_from(["open", "close", "liquidated"]),
    entry_price=_rounded,
    quantity=_quantities,
    entry_time=_times,
    leverage=_rounded,
    exit_price=st.none() | _rounded,
    exit_time=st.none() | _times,
    realized_pnl=st.none() | _rounded,
    realized_pnl_pct=st.none() | _rounded,
    fee=_rounded,
    signal_score=st.none() | _rounded,
    technical_score=st.none() | _rounded,
    llm_score=st.none() | _rounded,
    xgb_confidence=st.none() | _rounded,
    stop_loss=st.none() | _rounded,
    take_profit=st.none() | _rounded,
    position_size_pct=st.none() | _rounded,
    decision_reasons=st.none() | _json,
    llm_analysis=st.none() | _json,
    id=st.none(),
    created_at=st.none(),
    updated_at=st.none(),
)

_positions = st.builds(
    Position,
    symbol=_names,
    exchange=_names,
    side=st.sampled_from(["long", "short"]),
    entry_price=_rounded,
    quantity=_quantities,
    margin=_rounded,
    entry_time=_times,
    current_price=st.none() | _rounded,
    unrealized_pnl=st.none() | _rounded,
    status=st.just("open"),
    leverage=_rounded,
    unrealized_pnl_pct=st.none() | _rounded,
    liquidation_price=st.none() | _rounded,
    stop_loss=st.none() | _rounded,
    take_profit=st.none() | _rounded,
    trailing_stop=st.none() | _rounded,
    trade_id=st.none() | _names,
    id=st.none(),
    last_updated=st.none(),
    created_at=st.none(),
)

_events = st.fixed_dictionaries(
    {
        "event_type": _names,
        "severity": st.sampled_from(["debug", "info", "warning", "error", "critical"]),
        "message": _texts,
        "details": st.none() | _json,
        "symbol": st.none() | _names,
        "exchange": st.none() | _names,
        "trade_id": st.none() | _names,
        "position_id": st.none() | st.integers(0, 2**63 - 1),
        "stack_trace": st.none() | _texts,
    }
)


def expected(given_row: Any) -> dict[str, Any]:
    """Return the fields of a row as they must be read back: naive times as UTC, decimals rounded."""
    return {name: _expected_value(getattr(given_row, name)) for name in given_row.__slots__}


def _expected_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    if isinstance(value, Decimal) and value.copy_abs() <= LARGEST:
        return quantize(value)
    return value


def fields_of(row: Any) -> dict[str, Any]:
    """Return the fields of a row as a dict in which the fields that the store sets are None."""
    bare = as_given(row)
    return {name: getattr(bare, name) for name in bare.__slots__}


class PropertyTests(SuiteFixtures):
    """Generated rows are read back unchanged; each example stores several rows."""

    @_few
    @given(bars=st.lists(_bars(), min_size=1, max_size=8))
    async def test_any_bar_makes_the_round_trip(self, db: DatabaseManager, bars: list[OHLCVBar]) -> None:
        await OHLCVRepository(db).upsert_many(bars)
        last = bars[-1]
        (found,) = await OHLCVRepository(db).get_range(last.symbol, last.timeframe, last.timestamp, last.timestamp, last.exchange)
        assert fields_of(found) == expected(last)

    @_few
    @given(bars=st.lists(_bars(), min_size=1, max_size=8, unique_by=lambda item: (item.exchange, item.symbol)))
    async def test_any_bar_inserted_makes_the_round_trip(self, db: DatabaseManager, bars: list[OHLCVBar]) -> None:
        await delete_bars(db)
        await OHLCVRepository(db).insert_many(bars)
        found = [(await OHLCVRepository(db).get_latest(item.symbol, item.timeframe, 1, item.exchange))[0] for item in bars]
        assert [fields_of(item) for item in found] == [expected(item) for item in bars]

    @_few
    @given(bars=st.lists(_bars(), min_size=1, max_size=8, unique_by=lambda item: (item.exchange, item.symbol)))
    async def test_any_bar_is_read_as_arrow(self, db: DatabaseManager, bars: list[OHLCVBar]) -> None:
        await delete_bars(db)
        await OHLCVRepository(db).insert_many(bars)
        table = await OHLCVRepository(db).read_arrow()
        in_order = sorted(bars, key=lambda item: (item.exchange.encode(), item.symbol.encode()))
        assert [fields_of(OHLCVBar(**row)) for row in table.to_pylist()] == [expected(item) for item in in_order]

    @_few
    @given(bars=st.lists(_bars(), min_size=1, max_size=8))
    async def test_any_bar_written_as_arrow_makes_the_round_trip(self, db: DatabaseManager, bars: list[OHLCVBar]) -> None:
        await delete_bars(db)
        table = table_of([OHLCVBar(**expected(item)) for item in bars])
        count = await OHLCVRepository(db).write_arrow(table)
        streamed = [row async for batch in OHLCVRepository(db).stream_arrow(batch_size=3) for row in batch.to_pylist()]
        last = {(item["exchange"], item["symbol"], item["timeframe"], item["timestamp"]): item for item in map(expected, bars)}
        found = [fields_of(OHLCVBar(**row)) for row in streamed]
        assert found == [last[key] for key in sorted(last, key=lambda key: (*(name.encode() for name in key[:3]), key[3]))]
        assert count == len(found)

    @requires(Capability.RECORDS)
    @_few
    @given(trades=st.lists(_trades, min_size=1, max_size=4))
    async def test_any_trade_is_read_as_arrow(self, db: DatabaseManager, trades: list[Trade]) -> None:
        await raw.run(db, "DELETE FROM trades")
        for item in trades:
            await TradeRepository(db).insert(item)
        found = rows_of(Trade, await TradeRepository(db).read_arrow())
        assert [fields_of(item) for item in found] == [expected(item) for item in trades]

    @requires(Capability.RECORDS)
    @_few
    @given(value=_decimals)
    async def test_any_decimal_is_stored_as_the_number_that_raw_sql_reads(self, db: DatabaseManager, value: Decimal) -> None:
        number = await TradeRepository(db).insert(
            Trade(str(uuid4()), "BTCUSDT", "binance", "long", "open", value, Decimal(1), datetime(2024, 1, 1))
        )
        assert raw.number(await raw.value(db, "SELECT entry_price FROM trades WHERE id = :id", id=number)) == value

    @requires(Capability.RECORDS)
    @_few
    @given(trades=st.lists(_trades, min_size=1, max_size=4))
    async def test_any_trade_makes_the_round_trip(self, db: DatabaseManager, trades: list[Trade]) -> None:
        async with db.get_session() as session:
            repository = TradeRepository(session)
            found = [await repository.get_by_id(await repository.insert(item)) for item in trades]
        assert [fields_of(item) for item in found] == [expected(item) for item in trades]

    @requires(Capability.RECORDS)
    @_few
    @given(given_position=_positions)
    async def test_any_position_makes_the_round_trip(self, db: DatabaseManager, given_position: Position) -> None:
        async with db.get_session() as session:
            repository = PositionRepository(session)
            # an earlier example may have opened one of the same names
            await repository.update_position(given_position, replace=True)
            found = await repository.get_position(given_position.symbol, given_position.exchange, side=given_position.side)
        assert fields_of(found) == expected(given_position)

    @requires(Capability.RECORDS)
    @_few
    @given(event=_events)
    async def test_any_event_makes_the_round_trip(self, db: DatabaseManager, event: dict[str, Any]) -> None:
        async with db.get_session() as session:
            await session.execute(text("DELETE FROM system_events"))
            await SystemEventRepository(session).log_event(**event)
            (found,) = await SystemEventRepository(session).get_recent_events()
        assert {name: getattr(found, name) for name in event} == event
