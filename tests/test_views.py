"""The SQL of docs/sql.md over the views gives the same answers on the three engines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    PositionRepository,
    SchemaError,
    SystemEventRepository,
    TradeRepository,
    backup,
    quantize,
    restore,
)
from iftb_store.abilities import SupportsMigrations
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, Clock, bar, position, trade
from iftb_store_migrations import current, differences, downgrade, head, upgrade
from tests.support.documents import DOCS

QUERIES = dict(re.findall(r"^\| ([^|]+) \| `(SELECT [^`|]+)` \|$", (DOCS / "sql.md").read_text(), re.MULTILINE))
_SYMBOLS = ("BTCUSDT", "ETHUSDT", "币安人生")


async def fill(url: str) -> None:
    """Store bars, trades, positions and events with negative, tiny and large numbers."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        async with db.get_session() as session:
            bars = OHLCVRepository(session, clock=Clock())
            for number, symbol in enumerate(_SYMBOLS):
                for exchange in ("binance", "kraken"):
                    await bars.insert_many([_bar(index, number, symbol=symbol, exchange=exchange) for index in range(30)])
            trades, positions = TradeRepository(session, clock=Clock()), PositionRepository(session, clock=Clock())
            events = SystemEventRepository(session)
            for index in range(20):
                sold = replace(
                    trade(f"T{index}", symbol=_SYMBOLS[index % 3], side=("long", "short")[index % 2], fee=Decimal(index) / 8),
                    exit_time=T0 + index * 5 * 24 * HOUR,
                    realized_pnl=quantize(Decimal(7 - index) / 3 * 10 ** (index % 5)) if index % 4 else None,
                )
                await trades.insert(sold)
                await events.log_event(
                    "fill", "info", "m", {"n": index}, trade_id=sold.trade_id, at=T0 + timedelta(minutes=index)
                )
            for index, symbol in enumerate(_SYMBOLS):
                held = position(
                    symbol=symbol, exchange=("binance", "kraken")[index % 2], quantity=quantize(Decimal(index + 1) / 7)
                )
                await positions.update_position(replace(held, unrealized_pnl=Decimal("-1.25") * index))


def _bar(index: int, number: int, **names: Any) -> Any:
    low = Decimal("0.000000012") if number == 1 else Decimal(95 + index) - 200 * (number == 2 and index % 2)
    close = low + Decimal(index) / 7
    volume = Decimal(index) * 3 / 11
    return bar(
        T0 + index * HOUR + timedelta(microseconds=index),
        open=low,
        high=low + 10,
        low=low,
        close=quantize(close),
        volume=quantize(volume),
        quote_volume=quantize(volume * abs(close)) if index % 3 else None,
        trades_count=index if index % 2 else None,
        **names,
    )


def test_the_readme_has_ten_queries() -> None:
    assert len(QUERIES) == 10


async def test_each_query_gives_the_same_answer_on_the_three_engines(postgres_url: str, sqlite_url: str, duckdb_url: str) -> None:
    found = dict[str, list[list[tuple[Any, ...]]]]()
    for url in (sqlite_url, duckdb_url, postgres_url):
        await fill(url)
        async with DatabaseManager(url) as db:
            for question, query in QUERIES.items():
                found.setdefault(question, []).append(await raw.fetch(db, query))
    for question, (first, *others) in found.items():
        assert len(first) > 1, f"{question}: too few rows to compare"
        for other in others:
            assert_near(other, first, question)


_ALIKE = {
    "SELECT COUNT(*) FROM trades_view WHERE lower(symbol) LIKE lower('btC%')": [7],
    "SELECT trade_id FROM trades_view WHERE trade_id < 'T11' ORDER BY realized_pnl NULLS LAST": ["T10", "T1", "T0"],
    "SELECT trade_id FROM trades_view WHERE trade_id < 'T11' ORDER BY realized_pnl DESC NULLS LAST": ["T1", "T10", "T0"],
    "SELECT COUNT(*) / 8.0 FROM trades_view": [2.5],
    "SELECT CAST(COUNT(*) AS DOUBLE PRECISION) / 8 FROM trades_view": [2.5],
}


async def test_the_readme_s_forms_of_like_nulls_and_division_work_alike(url: str) -> None:
    await fill(url)
    async with DatabaseManager(url) as db, db.get_session() as session:
        assert {query: list((await session.execute(text(query))).scalars()) for query in _ALIKE} == _ALIKE


def assert_near(rows: Sequence[tuple[Any, ...]], expected: Sequence[tuple[Any, ...]], question: str) -> None:
    """Check that two answers are equal, and their numbers equal to 1e-9."""
    assert len(rows) == len(expected), question
    for row, wanted in zip(rows, expected, strict=True):
        for value, other in zip(row, wanted, strict=True):
            if isinstance(other, str) or other is None:
                assert value == other, question
            else:
                assert float(value) == pytest.approx(float(other), rel=1e-9, abs=0), question


@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
async def test_a_backup_keeps_the_views_and_names_none_as_left_out(
    scheme: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{scheme}:///{tmp_path / 'bot.db'}"
    await fill(url)
    async with DatabaseManager(url) as db:
        await backup(db, tmp_path / "saved")
    async with DatabaseManager(f"{scheme}:///{tmp_path / 'saved'}") as saved:
        assert await saved.ability(SupportsMigrations).with_connection(differences) == []
        assert await raw.value(saved, "SELECT COUNT(*) FROM ohlcv_view") == 180
    async with DatabaseManager(f"{scheme}:///{tmp_path / 'new.db'}") as new:
        await restore(tmp_path / "saved", new)
        assert await new.ability(SupportsMigrations).with_connection(differences) == []
        assert await raw.value(new, "SELECT COUNT(*) FROM trades_view") == 20
    assert [message for message in caplog.messages if "leaves out" in message] == []


_MINE = ("CREATE VIEW mine AS SELECT count(*) AS n FROM ohlcv_view", "CREATE MATERIALIZED VIEW kept AS SELECT n FROM mine")


def _downgrade(conn: Connection) -> None:
    downgrade(conn, "0002")


@pytest.mark.parametrize(("before", "work"), [(head(), _downgrade), ("0003", upgrade)])
async def test_a_migration_that_drops_views_names_the_app_s_views_on_them(
    postgres_tables_url: str, before: str, work: Any
) -> None:
    async with DatabaseManager(postgres_tables_url) as db:
        migrations = db.ability(SupportsMigrations)
        await migrations.with_connection(lambda conn: downgrade(conn, before))
        await migrations.with_connection(lambda conn: [conn.execute(text(statement)) for statement in _MINE] and None)

        with pytest.raises(
            SchemaError, match=r"view mine depends on view ohlcv_view.*Nothing was changed; drop that object"
        ) as refused:
            await migrations.with_connection(work)

        assert "materialized view kept depends on view mine" in str(refused.value)
        assert await migrations.with_connection(current) == before
        assert await raw.value(db, "SELECT n FROM kept") == 0
        await migrations.with_connection(lambda conn: conn.execute(text("DROP VIEW mine CASCADE")) and None)
        await migrations.with_connection(work)


async def test_a_migration_with_the_app_s_own_engine_names_the_views_too(postgres_tables_url: str) -> None:
    engine = create_async_engine(postgres_tables_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.begin() as connection:
        await connection.execute(text(_MINE[0]))

    with pytest.raises(SchemaError, match="view mine depends on view ohlcv_view"):
        async with engine.begin() as connection:
            await connection.run_sync(_downgrade)

    await engine.dispose()
