"""A store with rows of every kind: every column set and not set, extremes, several series, text of all sorts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
)
from iftb_store.batches.arrow import to_rows
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BALANCES, FILLS, LEDGER, TableSpec
from iftb_store.testing.samples import (
    HOUR,
    LARGEST,
    NOW,
    SMALLEST,
    T0,
    Clock,
    balance,
    bar,
    full_balance,
    full_bar,
    full_fill,
    full_ledger_entry,
    full_position,
    full_trade,
    hourly,
    ledger_entry,
    position,
    trade,
)
from iftb_store.testing.samples import fill as fill_of_order

_MOMENTS = (
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    T0,
    T0 + timedelta(microseconds=1),
    datetime.max.replace(tzinfo=UTC),
)

#: Rows of `fill`, by table.
ROWS = {
    "ohlcv": 107,
    "trades": 3,
    "positions": 3,
    "system_events": 3,
    "fills": 2,
    "ledger_entries": 2,
    "balance_snapshots": 2,
}


async def fill(url: str, now: datetime = NOW) -> None:
    """Migrate an empty database and write the same rows into it on every engine."""
    clock = Clock(now)
    async with DatabaseManager(url) as db:
        await db.migrate()
        bars = OHLCVRepository(db, clock=clock)
        await bars.insert_many(hourly(50))
        await bars.insert_many(hourly(50, exchange="kraken", symbol="ΞTH/€", timeframe="1d"))
        await bars.insert_many([bar(T0, timeframe="1M"), full_bar(T0 - HOUR)])
        await bars.insert_many(
            [
                bar(moment, timeframe="1m", open=LARGEST, low=SMALLEST, close=Decimal(0), volume=LARGEST, quote_volume=SMALLEST)
                for moment in _MOMENTS
            ]
        )
        trades = TradeRepository(db, clock=clock)
        await trades.insert(full_trade())
        await trades.insert(trade("TRD-002"))
        await trades.insert(trade("TRD-003", realized_pnl=LARGEST.copy_negate(), fee=SMALLEST, decision_reasons={}))
        positions = PositionRepository(db, clock=clock)
        await positions.update_position(full_position())
        await positions.update_position(position())
        (opened,) = await positions.get_open_positions()
        assert opened.id is not None
        await positions.close_position(opened.id)
        clock.advance(timedelta(seconds=1))
        await positions.update_position(position(stop_loss=SMALLEST))
        events = SystemEventRepository(db, clock=clock)
        await events.log_event("tick", "info", "")
        await events.log_event("crash", "critical", "a\nb\t'\"\\,;Ω", {"b": [1, 2.5, None, "ü"], "a": {"x": 10**20}}, "BTCUSDT")
        await events.log_event("order", "error", "x" * 5_000, {}, "BTCUSDT", "binance", "TRD-001", 1, "Traceback\n  …")
        async with db.get_session() as session:
            records: list[tuple[TableSpec, list[Any]]] = [
                (FILLS, [full_fill(), fill_of_order("F-2", price=LARGEST)]),
                (LEDGER, [full_ledger_entry(), ledger_entry("L-2", amount=LARGEST.copy_negate())]),
                (BALANCES, [full_balance(), balance(total=SMALLEST)]),
            ]
            for table, rows in records:
                kept = [replace(row, id=number, created_at=now) for number, row in enumerate(rows, 1)]
                await get_stores(session).write_rows(table, to_rows(table, kept))
