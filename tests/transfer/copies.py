"""Stores to copy, and what a copy moved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, SystemEventRepository, TradeRepository
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import RowFilter
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, NOW, T0, Clock, bar, position, trade
from tests.conftest import Run

ENGINES = ("postgres", "sqlite", "duckdb")


LATER = NOW + timedelta(days=1)


def moved(run: Run, *words: str) -> dict[str, tuple[int, int, int]]:
    """Copy; return (inserted, updated, deleted) of each table that changed."""
    code, out, err = run("copy", *words, "--json")
    assert (code, err) == (0, ""), err
    found = {f"{item['table']} {item['series']}".strip(): item for item in json.loads(out)["parts"]}
    assert all(item["equal"] for item in found.values())
    counts = {name: (item["inserted"], item["updated"], item["deleted"]) for name, item in found.items()}
    return {name: count for name, count in counts.items() if any(count)}


def contents(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row, bars without their ids."""

    async def read() -> dict[str, list[dict[str, Any]]]:
        async with DatabaseManager(url) as db, db.get_session() as session:
            found = {table: await get_stores(session).read_rows(RowFilter(table)) for table in TABLES.values()}
            return {table.name: rows.select(table.written).to_pylist() for table, rows in found.items()}

    return asyncio.run(read())


def change(url: str, *statements: str) -> None:
    """Run raw SQL."""

    async def work() -> None:
        async with DatabaseManager(url) as db:
            for sql in statements:
                await raw.run(db, sql)

    asyncio.run(work())


def write(url: str, work: Callable[[DatabaseManager, Clock], Any], now: Any = LATER) -> None:
    """Write through the repositories."""

    async def connected() -> None:
        async with DatabaseManager(url) as db:
            await db.migrate()
            await work(db, Clock(now))

    asyncio.run(connected())


async def grow(db: DatabaseManager, clock: Clock) -> None:
    """Make the writes of a bot's night."""
    bars = OHLCVRepository(db, clock=clock)
    await bars.upsert_many([bar(T0 + 3 * HOUR, close=Decimal(50_001)), bar(T0 + 50 * HOUR), bar(T0, symbol="NEWUSDT")])
    trades = TradeRepository(db, clock=clock)
    await trades.update(2, action="close", exit_price=Decimal(1))
    await trades.insert(trade("TRD-004"))
    positions = PositionRepository(db, clock=clock)
    for item in await positions.get_open_positions():
        await positions.close_position(item.id or 0)
    await positions.update_position(position(entry_time=LATER))
    await SystemEventRepository(db, clock=clock).log_event("tick", "info", "again")
