"""The plans of the reads that a bot repeats: an index finds their rows, and no other rows are read."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
)
from iftb_store.relational import RelationalStores, Row, Statement, bind
from iftb_store.relational.scans import scan_sql
from iftb_store.schema.table_spec import BARS, EVENTS, POSITIONS, TRADES, RowFilter
from iftb_store_postgres.session import PostgresDriver
from iftb_store_sqlite.session import DIALECT, SQLiteDriver

START = datetime(2024, 1, 1, tzinfo=UTC)
SYMBOLS = ("ADAUSDT", "BTCUSDT", "ETHUSDT", "NEARUSDT", "XRPUSDT")

Read = Callable[[RelationalStores], Awaitable[object]]

_BARS = RowFilter(BARS, {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1m"})
_RANGE = replace(_BARS, start=START + timedelta(minutes=100), end=START + timedelta(minutes=109))
_MARKET = {"exchange": "binance", "symbol": "BTCUSDT"}

READS: dict[str, Read] = {
    "latest bars": lambda stores: stores.bars.read(replace(_BARS, limit=10), descending=True),
    "a range of bars": lambda stores: stores.bars.read(_RANGE),
    "trades by symbol": lambda stores: stores.records.select(RowFilter(TRADES, _MARKET, limit=10), descending=True),
    "recent trades": lambda stores: stores.records.select(RowFilter(TRADES, limit=10), descending=True),
    "a trade by id": lambda stores: stores.records.select(RowFilter(TRADES, {"id": 7})),
    "a trade by trade_id": lambda stores: stores.records.select(RowFilter(TRADES, {"trade_id": "T7"})),
    "trades of a window": lambda stores: stores.records.select(RowFilter(TRADES, _MARKET, START, START + timedelta(minutes=9))),
    "open positions": lambda stores: stores.records.select(RowFilter(POSITIONS, {"exchange": "binance", "status": "open"})),
    "the position of a symbol": lambda stores: stores.records.select(RowFilter(POSITIONS, {**_MARKET, "status": "open"})),
    "recent events": lambda stores: stores.records.select(RowFilter(EVENTS, limit=10), descending=True),
    "recent errors": lambda stores: stores.records.select(RowFilter(EVENTS, {"severity": "error"}, limit=10), descending=True),
}


_LATER = START + timedelta(minutes=1_900)
#: Selections that are read batch by batch, each with the row after which a late batch begins.
SCANS: dict[str, tuple[RowFilter, tuple[Any, ...]]] = {
    "a series from a time on": (replace(_BARS, start=START), (_LATER,)),
    "a series in a window": (replace(_BARS, start=START, end=START + timedelta(days=9)), (_LATER,)),
    "an exchange from a time on": (RowFilter(BARS, {"exchange": "binance"}, START), ("XRPUSDT", "1m", _LATER)),
    "all series from a time on": (RowFilter(BARS, start=START), ("binance", "XRPUSDT", "1m", _LATER)),
    "trades from a time on": (RowFilter(TRADES, start=START), (900,)),
    "trades of an exchange": (RowFilter(TRADES, {"exchange": "binance"}), (900,)),
    "trades of a symbol": (RowFilter(TRADES, _MARKET), (900,)),
    "trades of a symbol from a time on": (RowFilter(TRADES, _MARKET, START), (900,)),
    "positions of a symbol": (RowFilter(POSITIONS, _MARKET), (900,)),
    "events from a time on": (RowFilter(EVENTS, start=START), (900,)),
}
_BATCH = 10


class ExplainingSQLite(SQLiteDriver):
    """Explains each read instead of running it."""

    plan: Sequence[Row] = ()

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        self.plan = await super().read(_explain(statement, "EXPLAIN QUERY PLAN"), args)
        return []

    async def read_bars(self, statement: Statement, args: Row, *, many: bool = False) -> list[OHLCVBar]:
        await self.read(statement, args)
        return []


class ExplainingPostgres(PostgresDriver):
    """Runs each read with EXPLAIN ANALYZE, which counts the rows of each step."""

    plan: dict[str, Any]

    async def read(self, statement: Statement, args: Row) -> Sequence[Row]:
        ((plan,),) = await super().read(_explain(statement, "EXPLAIN (ANALYZE, FORMAT JSON)"), args)
        self.plan = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
        return []


@pytest.fixture(scope="module")
def filled_sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a filled SQLite file."""
    url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'store.db'}"
    asyncio.run(fill(url))
    return url


@pytest.fixture(scope="module")
def filled_postgres_url(create_postgres_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """URL of a filled PostgreSQL database."""
    with create_postgres_database() as url:
        asyncio.run(fill(url))
        yield url


@pytest.mark.parametrize("name", READS)
async def test_sqlite_searches_an_index(filled_sqlite_url: str, name: str) -> None:
    async with DatabaseManager(filled_sqlite_url) as db, db.get_session() as session:
        assert isinstance(session, AsyncSession)
        driver = ExplainingSQLite(session)
        await READS[name](RelationalStores(driver))

    steps = [str(step[3]) for step in driver.plan]
    assert steps
    assert [step for step in steps if " USING " not in step and step != "USE TEMP B-TREE FOR ORDER BY"] == []
    # at most two positions of a symbol are open
    assert name in ("open positions", "the position of a symbol") or "USE TEMP B-TREE FOR ORDER BY" not in steps


@pytest.mark.parametrize("name", SCANS)
async def test_sqlite_reads_a_late_batch_without_the_rows_before_it(sqlite_url: str, name: str) -> None:
    await fill(sqlite_url)
    selection, place = SCANS[name]
    with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as connection:
        steps, found = _count_steps(connection, replace(selection, after=place, limit=_BATCH))
    assert found == _BATCH
    # a batch of ten rows takes some hundred steps of SQLite's machine, and the rows before it would take thousands
    assert steps < 2_000


@pytest.mark.parametrize("name", [name for name, (selection, _) in SCANS.items() if selection.table is BARS])
async def test_postgresql_reads_a_late_batch_of_bars_without_the_rows_before_it(filled_postgres_url: str, name: str) -> None:
    selection, place = SCANS[name]
    async with DatabaseManager(filled_postgres_url) as db, db.get_session() as session:
        assert isinstance(session, AsyncSession)
        driver = ExplainingPostgres(session)
        late = replace(selection, after=place, limit=_BATCH)
        await driver.read(*bind(driver, *scan_sql(late, driver.dialect, lambda column, _: column)))
    scans = [step for step in steps_of(driver.plan) if "Scan" in step["Node Type"]]
    assert [(step["Actual Rows"], step.get("Rows Removed by Filter", 0)) for step in scans] == [(_BATCH, 0)]


@pytest.mark.parametrize("name", READS)
async def test_postgresql_reads_no_more_rows_than_it_returns(filled_postgres_url: str, name: str) -> None:
    async with DatabaseManager(filled_postgres_url) as db, db.get_session() as session:
        assert isinstance(session, AsyncSession)
        driver = ExplainingPostgres(session)
        await READS[name](RelationalStores(driver))

    scans = [step for step in steps_of(driver.plan) if "Scan" in step["Node Type"]]
    assert scans
    assert [
        step["Node Type"] for step in scans if "Index" not in step["Node Type"] and step["Node Type"] != "Bitmap Heap Scan"
    ] == []
    assert [step for step in scans if step.get("Rows Removed by Filter") or step.get("Rows Removed by Index Recheck")] == []
    assert max(step["Actual Rows"] for step in scans) <= 10


async def fill(url: str) -> None:
    """Store so many rows that a full scan would be the worse plan, and have PostgreSQL count them."""
    price = Decimal("1.5")
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many(
            [
                OHLCVBar(symbol, "binance", "1m", START + timedelta(minutes=minute), price, price, price, price, Decimal(1))
                for symbol in SYMBOLS
                for minute in range(2_000)
            ]
        )
        async with db.get_session() as session:
            trades, positions, events = TradeRepository(session), PositionRepository(session), SystemEventRepository(session)
            for number in range(1_000):
                symbol = SYMBOLS[number % len(SYMBOLS)]
                when = START + timedelta(minutes=number)
                await trades.insert(
                    Trade(f"T{number}", symbol, "binance", "long", "close", price, price, when, realized_pnl=price)
                )
                await positions.update_position(Position(symbol, "binance", "long", price, price, price, when, status="closed"))
                await events.log_event("tick", "error" if number % 10 == 0 else "info", "")
            for symbol in SYMBOLS:
                await positions.update_position(Position(symbol, "binance", "long", price, price, price, START))
        if db.engine.dialect.name == "postgresql":
            async with db.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.exec_driver_sql("VACUUM ANALYZE")


def steps_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a plan's steps, the outermost first."""
    return [plan, *(step for part in plan.get("Plans", []) for step in steps_of(part))]


def _count_steps(connection: sqlite3.Connection, selection: RowFilter) -> tuple[int, int]:
    """Return the number of steps of SQLite's virtual machine that reading a selection takes, and the number of its rows."""
    sql, values = scan_sql(selection, DIALECT, lambda column, _: column)
    steps = count()
    connection.set_progress_handler(lambda: next(steps) and None, 1)
    rows = connection.execute(sql, {name: DIALECT.encode(value) for name, value in values.items()}).fetchall()
    return next(steps), len(rows)


def _explain(statement: Statement, verb: str) -> Statement:
    explained = Statement.__new__(Statement)
    explained.sql, explained.names = f"{verb} {statement.sql}", statement.names
    return explained
