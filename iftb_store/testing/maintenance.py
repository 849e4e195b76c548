"""Tests of prune and rollup: what is deleted and what never is, and the bars of a longer timeframe that remain."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import (
    DatabaseManager,
    FillRepository,
    InvalidValueError,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
    prune,
    rollup,
)
from iftb_store.maintenance.reports import PruneReport
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import FILLS, POSITIONS, RowFilter, TableSpec
from iftb_store.testing.fixtures import SuiteFixtures, needs
from iftb_store.testing.samples import HOUR, T0, Clock, bar, fill, hourly, position, trade

_DAY = 24 * HOUR
_BEFORE = T0 + 10 * _DAY
_ALL = (T0 - 400 * _DAY, T0 + 400 * _DAY)
_RECORDS = ("trades", "positions", "system_events")


def count(report: PruneReport) -> dict[str, int]:
    """Return the number of rows of each part of a report, by its table and series."""
    return {f"{part.table} {part.series}".rstrip(): part.rows for part in report.parts}


async def read_bars(db: DatabaseManager, timeframe: Any) -> list[Any]:
    """Return the bars of BTCUSDT of a timeframe."""
    return await OHLCVRepository(db).get_range("BTCUSDT", timeframe, *_ALL)


async def list_ids(db: DatabaseManager, table: TableSpec) -> list[Any]:
    """Return the trade_ids of all rows of a table."""
    async with db.get_session() as session:
        return [row.trade_id for row in await get_stores(session).records.select(RowFilter(table))]


class PruneTests(SuiteFixtures):
    """`prune` deletes the selected old rows, counts them before, and keeps every open trade and position."""

    async def test_only_bars_that_begin_before_the_time_are_pruned(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([*hourly(300), *hourly(30, symbol="ETHUSDT"), *hourly(30, exchange="kraken")])
        plan = await prune(db, _BEFORE, "ohlcv", "binance", dry_run=True)
        report = await prune(db, _BEFORE, "ohlcv", "binance")
        assert count(report) == count(plan) == {"ohlcv binance BTCUSDT 1h": 240, "ohlcv binance ETHUSDT 1h": 30}
        left = await OHLCVRepository(db).list_series()
        assert [(one.exchange, one.symbol, one.first, one.count) for one in left] == [
            ("binance", "BTCUSDT", _BEFORE, 60),
            ("kraken", "BTCUSDT", T0, 30),
        ]
        assert (await prune(db, _BEFORE, "ohlcv", "binance")).parts == ()

    async def test_only_the_selected_timeframe_is_pruned(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([*hourly(5), bar(timeframe="1d"), bar(symbol="ETHUSDT")])
        report = await prune(db, _BEFORE, ["ohlcv"], symbol="BTCUSDT", timeframe="1h")
        assert count(report) == {"ohlcv binance BTCUSDT 1h": 5}
        assert len(await OHLCVRepository(db).list_series()) == 2

    async def test_daily_bars_are_kept_of_pruned_hours(self, db: DatabaseManager) -> None:
        bars = [one for one in hourly(300) if one.timestamp != T0 + 30 * HOUR]
        own = bar(T0 + 5 * _DAY, timeframe="1d")
        await OHLCVRepository(db).insert_many([*bars, own, bar(T0, timeframe="1w")])
        expected = await OHLCVRepository(db).resample("BTCUSDT", "1h", "1d", T0, _BEFORE - HOUR, partial=True)
        plan = await prune(db, _BEFORE + 5 * HOUR, "ohlcv", keep_daily=True, dry_run=True)
        report = await prune(db, _BEFORE + 5 * HOUR, "ohlcv", keep_daily=True)
        assert (count(report), report.daily_bars, report.before) == ({"ohlcv binance BTCUSDT 1h": 239}, 9, _BEFORE)
        assert (count(plan), plan.daily_bars, plan.before) == (count(report), 9, _BEFORE)
        values = [(one.timestamp, one.open, one.high, one.low, one.close, one.volume) for one in await read_bars(db, "1d")]
        # the stored daily bar is kept as it was
        assert values == [
            (one.timestamp, one.open, one.high, one.low, one.close, one.volume) for one in [*expected[:5], own, *expected[6:]]
        ]
        assert len(await read_bars(db, "1w")) == 1
        assert (await read_bars(db, "1h"))[0].timestamp == _BEFORE

    async def test_the_complete_day_of_a_longer_timeframe_makes_the_daily_bar(self, db: DatabaseManager) -> None:
        half_hours = [bar(T0 + index * HOUR / 2, timeframe="30m", close=Decimal(1)) for index in range(47)]
        await OHLCVRepository(db).insert_many([*half_hours, *hourly(24)])
        report = await prune(db, _BEFORE, "ohlcv", keep_daily=True)
        assert (report.rows, report.daily_bars) == (71, 1)
        assert [one.close for one in await read_bars(db, "1d")] == [hourly(24)[-1].close]

    async def test_a_closed_trade_goes_with_its_fills_and_closed_positions(self, db: DatabaseManager) -> None:
        needs(db, Capability.RECORDS)
        trades, fills, positions = TradeRepository(db), FillRepository(db), PositionRepository(db)
        closed: dict[str, Any] = {"action": "close", "exit_time": T0 + HOUR, "realized_pnl": Decimal(1)}
        for one in (
            trade("OLD", **closed),
            trade("NEW", **closed | {"exit_time": _BEFORE}),
            trade("OPEN"),
            trade("HELD", **closed),
        ):
            await trades.insert(one)
        for number, name in enumerate(("OLD", "OLD", "NEW", "OPEN", "HELD", None)):
            await fills.record(fill(f"F-{number}", trade_id=name))
        for name in ("OLD", "NEW", "OPEN", "HELD"):
            await positions.update_position(position(symbol=name, trade_id=name))
        for name in ("OLD", "NEW"):
            found = await positions.get_position(name)
            assert found is not None
            await positions.close_position(found.id or 0)
        plan = await prune(db, _BEFORE, "trades", dry_run=True)
        report = await prune(db, _BEFORE, "trades")
        assert count(report) == count(plan) == {"trades": 1, "positions": 1, "fills": 2}
        assert sorted(one.trade_id for one in await trades.get_recent()) == ["HELD", "NEW", "OPEN"]
        assert await list_ids(db, FILLS) == ["NEW", "OPEN", "HELD", None]
        assert sorted(await list_ids(db, POSITIONS)) == ["HELD", "NEW", "OPEN"]

    async def test_old_events_and_closed_positions_are_pruned(self, db: DatabaseManager) -> None:
        needs(db, Capability.RECORDS)
        clock = Clock(T0)
        events, positions = SystemEventRepository(db, clock=clock), PositionRepository(db, clock=clock)
        for number in range(20):
            clock.now = T0 + number * _DAY
            await events.log_event("tick", "info", str(number), exchange="binance" if number % 2 else None)
            await positions.update_position(position(symbol=f"S{number}"))
            if number % 5:
                found = await positions.get_position(f"S{number}")
                assert found is not None
                await positions.close_position(found.id or 0)
        plan = await prune(db, _BEFORE, ["system_events", "positions"], dry_run=True)
        report = await prune(db, _BEFORE, ["system_events", "positions"])
        assert count(report) == count(plan) == {"positions": 8, "system_events": 10}
        assert len(await positions.get_open_positions(None)) == 4
        assert [one.message for one in await events.get_recent_events()] == [str(number) for number in range(19, 9, -1)]
        assert count(await prune(db, T0 + 15 * _DAY, "system_events", "binance")) == {"system_events": 2}

    async def test_a_bot_writes_while_rows_are_pruned(self, db: DatabaseManager) -> None:
        needs(db, Capability.RECORDS)
        clock = Clock(T0)
        events, ohlcv = SystemEventRepository(db, clock=clock), OHLCVRepository(db)
        async with db.get_session() as session:
            for number in range(150):
                await SystemEventRepository(session, clock=clock).log_event("tick", "info", str(number))
        await ohlcv.insert_many(hourly(400))
        clock.now = _BEFORE + _DAY
        plan = await prune(db, _BEFORE, ["system_events", "ohlcv"], dry_run=True)
        over, written = asyncio.Event(), 0

        async def write_on() -> None:
            nonlocal written
            while not over.is_set():
                await events.log_event("bot", "info", "")
                await ohlcv.upsert_many([bar(T0 + (500 + written) * HOUR)])
                written += 1

        bot = asyncio.create_task(write_on())
        try:
            report = await prune(db, _BEFORE, ["system_events", "ohlcv"])
        finally:
            over.set()
            await bot
        assert count(report) == count(plan) == {"ohlcv binance BTCUSDT 1h": 240, "system_events": 150}
        assert len(await events.get_recent_events(limit=1_000)) == written > 0
        assert len(await read_bars(db, "1h")) == len({*range(240, 400), *range(500, 500 + written)} & {*range(400 * 24 + 1)})

    async def test_what_cannot_be_pruned_is_refused(self, db: DatabaseManager) -> None:
        for given, options, match in (
            ([], {}, "name the tables"),
            ("fills", {}, "the fills of a trade are deleted with it"),
            ("ledger_entries", {}, "cannot be pruned"),
            (["ohlcv", "trades"], {"timeframe": "1h"}, "no column timeframe"),
            ("trades", {"keep_daily": True}, "keep_daily"),
        ):
            with pytest.raises(InvalidValueError, match=match):
                await prune(db, "90d", given, **options)
        with pytest.raises(InvalidValueError, match="older_than"):
            await prune(db, timedelta(0), "ohlcv")


class RollupTests(SuiteFixtures):
    """`rollup` stores the bars that resample computes, once."""

    async def test_rolled_up_bars_equal_those_of_resample(self, db: DatabaseManager) -> None:
        ohlcv = OHLCVRepository(db)
        bars = [one for one in hourly(100) if one.timestamp != T0 + 30 * HOUR]
        await ohlcv.insert_many([*bars, *hourly(9, symbol="ETHUSDT")])
        expected = await ohlcv.resample("BTCUSDT", "1h", "4h", *_ALL)
        plan = await rollup(db, "1h", "4h", dry_run=True)
        assert await read_bars(db, "4h") == []
        report = await rollup(db, "1h", "4h")
        assert report.series == plan.series
        assert [(one.symbol, one.stored) for one in report.series] == [("BTCUSDT", 24), ("ETHUSDT", 2)]
        found = await read_bars(db, "4h")
        assert [_values(one) for one in found] == [_values(one) for one in expected]
        assert (await rollup(db, "1h", "4h")).stored == 0

    async def test_a_second_rollup_stores_only_what_is_missing_and_changes_nothing(self, db: DatabaseManager) -> None:
        ohlcv = OHLCVRepository(db)
        own = bar(T0 + 4 * HOUR, timeframe="4h", close=Decimal(7))
        await ohlcv.insert_many([*hourly(10), own])
        assert (await rollup(db, "1h", "4h")).stored == 1
        await ohlcv.insert_many(hourly(16)[10:])
        assert (await rollup(db, "1h", "4h", symbol="BTCUSDT", exchange="binance")).stored == 2
        await ohlcv.upsert_many([bar(T0, close=Decimal(1))])
        await ohlcv.delete_range("BTCUSDT", "1h", T0, T0 + 9 * HOUR)
        assert (await rollup(db, "1h", "4h", partial=True)).stored == 0
        found = await read_bars(db, "4h")
        assert [one.timestamp for one in found] == [T0 + number * 4 * HOUR for number in range(4)]
        assert found[1].close == own.close

    async def test_a_window_and_partial_bars(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([one for one in hourly(72) if one.timestamp.hour != 5])
        assert (await rollup(db, "1h", "1d")).stored == 0
        report = await rollup(db, "1h", "1d", start=T0 + HOUR, end=T0 + 3 * _DAY - 2 * HOUR, partial=True)
        # the first day has begun before the window, and the last one has not ended in it
        assert [one.timestamp for one in await read_bars(db, "1d")] == [T0 + _DAY]
        assert report.stored == 1

    async def test_a_timeframe_that_is_no_multiple_is_refused(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="cannot be computed"):
            await rollup(db, "3m", "5m")
        assert (await rollup(db, "1m", "5m")).series == ()


def _values(one: Any) -> tuple[Any, ...]:
    return (one.timestamp, one.open, one.high, one.low, one.close, one.volume, one.quote_volume, one.trades_count)
