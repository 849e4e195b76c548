"""Measures fills: recorded in bulk and one by one beside the raw drivers, and recorded and applied by many writers at once."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import aiosqlite
import asyncpg
import duckdb
import pyarrow as pa
import typer
from sqlalchemy import make_url

from benchmarks.postgres import postgres_server
from benchmarks.show import table_of, terminal
from benchmarks.timing import Contender, ratio, take_turns
from iftb_store import DatabaseManager, Fill, FillRepository, Trade, TradeRepository
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.decimals import to_sortable

ENGINES = ("postgresql", "sqlite", "duckdb")
COLUMNS = (
    "fill_id", "symbol", "exchange", "side", "price", "quantity", "timestamp", "trade_id", "order_id", "fee", "fee_currency",
    "liquidity", "account", "created_at",
)  # fmt: skip
_START = datetime(2024, 2, 1, tzinfo=UTC)
_DECIMALS = ("price", "quantity", "fee")
_TIMES = ("timestamp", "created_at")
_numbers = count()

Write = Callable[[Sequence[Fill]], Awaitable[object]]


def make_fills(size: int, **changes: Any) -> list[Fill]:
    """Return fills that are not stored yet, each of another second."""
    return [
        replace(
            Fill(
                f"F-{number:09}",
                "BTCUSDT",
                "binance",
                "sell" if number % 2 else "buy",
                Decimal(4_260_000 + number % 9_000).scaleb(-2),
                Decimal(1 + number % 50).scaleb(-3),
                _START + timedelta(seconds=number),
                trade_id=f"T-{number // 6}",
                order_id=f"O-{number // 3}",
                fee=Decimal(1 + number % 500).scaleb(-4),
                fee_currency="USDT",
                liquidity="taker",
            ),
            **changes,
        )
        for number in (next(_numbers) for _ in range(size))
    ]


def _read_values(fill: Fill) -> list[Any]:
    return [*(getattr(fill, name) for name in COLUMNS[:-1]), datetime.now(UTC)]


def _encode(fill: Fill) -> list[Any]:
    """Return the values of a fill as our SQLite stores them."""
    return [
        to_sortable(str(value)) if name in _DECIMALS else to_epoch_us(value) if name in _TIMES else value
        for name, value in zip(COLUMNS, _read_values(fill), strict=True)
    ]


@asynccontextmanager
async def _open_postgresql(folder: Path) -> AsyncIterator[tuple[str, Write, Write]]:
    server = postgres_server(folder)
    url = make_url(server.get_uri()).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    marks = ", ".join(f"${place}" for place in range(1, len(COLUMNS) + 1))
    insert = f"INSERT INTO raw_fills ({', '.join(COLUMNS)}) VALUES ({marks}) ON CONFLICT DO NOTHING"

    async def prepare() -> None:
        await connection.execute("CREATE TABLE IF NOT EXISTS raw_fills (LIKE fills INCLUDING ALL)")

    async def copy(fills: Sequence[Fill]) -> None:
        await prepare()
        async with connection.transaction():
            await connection.copy_records_to_table("raw_fills", records=list(map(_read_values, fills)), columns=COLUMNS)

    async def insert_each(fills: Sequence[Fill]) -> None:
        await prepare()
        for fill in fills:
            async with connection.transaction():
                await connection.execute(insert, *_read_values(fill))

    try:
        yield url, copy, insert_each
    finally:
        await connection.close()
        server.cleanup()


@asynccontextmanager
async def _open_sqlite(folder: Path) -> AsyncIterator[tuple[str, Write, Write]]:
    async with DatabaseManager(f"sqlite:///{folder / 'raw.db'}") as made:
        await made.create_tables()
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    other = await aiosqlite.connect(folder / "raw.db", isolation_level=None)
    marks = ", ".join("?" * len(COLUMNS))
    insert = f"INSERT INTO fills ({', '.join(COLUMNS)}) VALUES ({marks}) ON CONFLICT DO NOTHING"

    async def write(fills: Sequence[Fill]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(insert, map(_encode, fills))
        connection.execute("COMMIT")

    async def insert_each(fills: Sequence[Fill]) -> None:
        for fill in fills:
            await other.execute("BEGIN IMMEDIATE")
            await other.execute(insert, _encode(fill))
            await other.commit()

    yield f"sqlite:///{folder / 'ours.db'}", write, insert_each
    connection.close()
    await other.close()


@asynccontextmanager
async def _open_duckdb(folder: Path) -> AsyncIterator[tuple[str, Write, Write]]:
    async with DatabaseManager(f"duckdb:///{folder / 'raw.duckdb'}") as made:
        await made.create_tables()
    connection = duckdb.connect(folder / "raw.duckdb")
    names, marks = ", ".join(COLUMNS), ", ".join("?" * len(COLUMNS))

    async def write(fills: Sequence[Fill]) -> None:
        columns = zip(*map(_read_values, fills), strict=True)
        arrays = [
            pa.array(list(map(str, column))).cast(pa.decimal128(38, 18)) if name in _DECIMALS else pa.array(column)
            for name, column in zip(COLUMNS, columns, strict=True)
        ]
        connection.register("batch", pa.table(arrays, names=list(COLUMNS)))
        connection.execute(f"INSERT INTO fills ({names}) SELECT {names} FROM batch ON CONFLICT DO NOTHING")
        connection.unregister("batch")

    async def insert_each(fills: Sequence[Fill]) -> None:
        for fill in fills:
            connection.execute(f"INSERT INTO fills ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING", _read_values(fill))

    yield f"duckdb:///{folder / 'ours.duckdb'}", write, insert_each
    connection.close()


_OPENED = {"postgresql": _open_postgresql, "sqlite": _open_sqlite, "duckdb": _open_duckdb}


async def _record_each(db: DatabaseManager, fills: Sequence[Fill]) -> None:
    repository = FillRepository(db)
    for fill in fills:
        await repository.record(fill)


async def apply_at_once(db: DatabaseManager, writers: int, each: int) -> Decimal:
    """Let writers record fills of one trade and apply them, each in its own transaction; return the fees that are missing."""
    trades, name = TradeRepository(db), f"W-{next(_numbers)}"
    await trades.record(Trade(name, "BTCUSDT", "binance", "long", "open", Decimal(1), Decimal(1), _START))

    async def work() -> None:
        for fill in make_fills(each, trade_id=name, fee=Decimal("0.1")):
            async with db.get_session() as session:
                await FillRepository(session).record(fill)
                await TradeRepository(session).apply_fills(name)

    await asyncio.gather(*(work() for _ in range(writers)))
    trade = await trades.get_by_trade_id(name)
    assert trade is not None
    return writers * each * Decimal("0.1") - trade.fee


async def measure(name: str, rows: int, single: int, rounds: int, writers: int = 16) -> list[dict[str, Any]]:
    """Measure an engine; return the rows of the table.

    Args:
        name: the engine.
        rows: the fills of a bulk.
        single: the fills that are recorded one by one in a sample.
        rounds: the samples of each.
        writers: the tasks that record and apply fills of one trade at once, ten each.
    """
    with tempfile.TemporaryDirectory(prefix="iftb-bench-") as folder:
        async with _OPENED[name](Path(folder)) as (url, write, insert_each), DatabaseManager(url) as db:
            await db.create_tables()
            return [
                await _compare(name, "record_many", FillRepository(db).record_many, write, rows, rounds),
                await _compare(name, "record, one by one", lambda fills: _record_each(db, fills), insert_each, single, rounds),
                {
                    "engine": name,
                    "row": f"apply_fills, {writers} writers",
                    "fills": writers * 10,
                    "ours, µs": "",
                    "raw driver, µs": "",
                    "ratio": f"fees lost: {await apply_at_once(db, writers, 10):f}",
                },
            ]


async def _compare(engine: str, row: str, ours: Write, raw: Write, size: int, rounds: int) -> dict[str, Any]:
    batch: list[Fill] = []

    async def renew() -> None:
        batch[:] = make_fills(size)

    contenders = {"ours": Contender(lambda: ours(batch), renew), "raw": Contender(lambda: raw(batch), renew)}
    samples = await take_turns(contenders, rounds)
    mine, theirs = (f"{median(samples[one]) / size * 1e6:,.1f}" for one in contenders)
    middle = f"{ratio(samples['ours'], samples['raw']).middle:.2f}"
    return {"engine": engine, "row": row, "fills": size, "ours, µs": mine, "raw driver, µs": theirs, "ratio": middle}


def main(
    engine: Annotated[list[str] | None, typer.Option(help="Engine; repeatable (default: all).")] = None,
    rows: Annotated[int, typer.Option(help="Fills of a bulk.")] = 10_000,
    single: Annotated[int, typer.Option(help="Fills recorded one by one in a sample.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Samples of each.")] = 5,
) -> None:
    """Print the time a fill, ours and the raw driver's, and the fees that writers lost."""
    for name in engine or ENGINES:
        terminal().print(table_of(f"fills on {name}", asyncio.run(measure(name, rows, single, rounds))))


if __name__ == "__main__":
    typer.run(main)
