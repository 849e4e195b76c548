"""A store with the oddest possible rows, and all of its rows, with ids and kept times."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from iftb_store import (
    BalanceRepository,
    DatabaseManager,
    FillRepository,
    LedgerRepository,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
)
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TABLES as SPECS
from iftb_store.schema.table_spec import ColumnKind, RowFilter, TableSpec
from iftb_store.testing import raw
from iftb_store.testing.samples import (
    LARGEST,
    SMALLEST,
    T0,
    balance,
    bar,
    full_balance,
    full_bar,
    full_fill,
    full_ledger_entry,
    full_position,
    full_trade,
    ledger_entry,
    position,
    trade,
)
from iftb_store.testing.samples import fill as fill_of_order

TABLES = tuple(SPECS)
SYMBOLS = ("BTCUSDT", "BTC/USDT", "..", "%2E%2E", 'a,"b"\r\nc\'', " x ", "币安人生", "\N{ROCKET}", "NULL", "=1+1", "\\N")
TEXTS = (
    "", " ", '"', '""', ",", "\n", "\r", "\r\n", "NULL", "NaN", "\\", "\\n", "\ufeff", "\u2028", "\x85", "\x1b[31m", "é" * 500,
)  # fmt: skip

_DAY = timedelta(days=1)


async def fill(db: DatabaseManager) -> None:
    """Store rows in all tables: extremes, odd texts and NULL columns."""
    lowest = LARGEST.copy_negate()
    days = (0, 30, 31)
    bars = [bar(T0 + day * _DAY, symbol=symbol, close=Decimal(day).scaleb(-18)) for symbol in SYMBOLS for day in days]
    bars += [
        replace(full_bar(datetime(1, 1, 1, tzinfo=UTC)), open=LARGEST, high=LARGEST, low=lowest, close=SMALLEST, timeframe="1M"),
        replace(full_bar(datetime.max.replace(tzinfo=UTC)), volume=LARGEST, quote_volume=Decimal(0), trades_count=2**63 - 1),
        bar(T0 + timedelta(microseconds=1), exchange="okx", symbol="BTCUSDT", timeframe="1m", trades_count=0),
    ]
    await OHLCVRepository(db).upsert_many(bars)
    trades, positions, events = TradeRepository(db), PositionRepository(db), SystemEventRepository(db)
    await trades.insert(trade("T-1"))
    await trades.insert(replace(full_trade('T "2"\n,'), realized_pnl=lowest, fee=SMALLEST, decision_reasons={}))
    await positions.update_position(full_position())
    await positions.update_position(position(symbol="..", margin=LARGEST))
    await FillRepository(db).record_many([full_fill(), fill_of_order('F "2"\n,', price=LARGEST)])
    await LedgerRepository(db).record_many([full_ledger_entry(), ledger_entry("..", amount=lowest, details={})])
    await BalanceRepository(db).record_many([full_balance(), balance(currency="币安人生", total=lowest)])
    # the first text of a file may be mistaken for its byte order mark
    await events.log_event("\ufeff", "debug", "\ufeff")
    for text in TEXTS:
        await events.log_event("odd", "debug", text, {text: [text, {"deep": [1, 2.5, None, True]}]}, stack_trace=text)
    await events.log_event("plain", "critical", "no more")


async def everything_but_bar_ids(db: DatabaseManager) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table, bars without their ids, which are the store's own."""
    rows = await everything(db)
    for row in rows["ohlcv"]:
        del row["id"]
    return rows


async def everything(db: DatabaseManager) -> dict[str, list[dict[str, Any]]]:
    """Return the stored rows of each table; JSON is decoded."""
    async with db.get_session() as session:
        stores = get_stores(session)
        return {
            name: [_read(table, row) for row in (await stores.read_rows(RowFilter(table))).to_pylist()]
            for name, table in SPECS.items()
        }


async def empty(db: DatabaseManager) -> None:
    """Delete all rows."""
    for table in TABLES:
        await raw.run(db, f"DELETE FROM {table}")


def _read(table: TableSpec, row: dict[str, Any]) -> dict[str, Any]:
    names = [name for name, kind in table.kinds.items() if kind in (ColumnKind.JSON, ColumnKind.TEXTS)]
    return row | {name: json.loads(row[name]) for name in names if row[name] is not None}
