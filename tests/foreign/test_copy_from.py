"""Databases of the original storage layer, of freqtrade and of vnpy are copied, verified, and left as they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from iftb_store import (
    DatabaseManager,
    FillRepository,
    InvalidValueError,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
    Unsupported,
    copy_from,
    import_files,
)
from tests.conftest import Run
from tests.foreign.databases import (
    FREQTRADE,
    FREQTRADE_ROWS,
    ORIGINAL,
    ORIGINAL_ROWS,
    VNPY,
    VNPY_ROWS,
    fill_in,
    make_sqlite,
    run_sqlite,
)

_WINDOW = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
Source = Callable[..., Awaitable[str]]


@pytest.fixture(params=["sqlite", "postgresql"])
def make_source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """A function that creates a database of another program on an engine, and returns its URL."""
    url: str = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")

    async def make(*scripts: str) -> str:
        if request.param == "sqlite":
            return make_sqlite(tmp_path / "old.db", *scripts)
        connection = await asyncpg.connect(url)
        for script in scripts:
            for statement in fill_in(script, "postgresql"):
                await connection.execute(statement)
        await connection.close()
        return url

    return make


@pytest.fixture(params=["sqlite", "duckdb", "delta"])
def new(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store; PostgreSQL is the source of other cases, and a destination of the last test."""
    return f"{request.param}:///{tmp_path / 'new'}"


async def test_bars_of_vnpy_are_copied_in_utc_with_the_shortest_decimals(make_source: Source, new: str) -> None:
    url = await make_source(VNPY, VNPY_ROWS)
    async with DatabaseManager(new) as db:
        report = await copy_from(url, db, "vnpy", tz="Asia/Shanghai")
        again = await copy_from(url, db, tz="Asia/Shanghai")
        first, second = await OHLCVRepository(db).get_range("rb2405", "1m", *_WINDOW, "SHFE")
        (day,) = await OHLCVRepository(db).get_range("rb2405", "1d", *_WINDOW, "SHFE")
    assert report.read == {"dbbardata": 4}
    assert [(row.id, row.correction, row.accepted) for row in report.refused] == [(4, "", False)]
    assert first.timestamp == datetime(2024, 2, 1, 1, tzinfo=UTC)
    assert (first.open, first.high, first.low, first.close) == tuple(map(Decimal, ("3850.1", "3852.5", "3849.9", "3851.3")))
    assert (second.volume, second.quote_volume) == (Decimal("0.1"), Decimal("0.3"))
    assert day.timestamp == datetime(2024, 2, 1, tzinfo=UTC)
    assert [part.inserted for part in report.copied.parts if part.table == "ohlcv"] == [1, 2]
    assert sum(part.inserted + part.updated for part in again.copied.parts) == 0
    assert "left out: 1 ticks in dbtickdata" in report.notes


async def test_the_times_of_vnpy_need_a_zone(make_source: Source, tmp_path: Path) -> None:
    url = await make_source(VNPY, VNPY_ROWS)
    async with DatabaseManager(f"sqlite:///{tmp_path / 'new'}") as db:
        with pytest.raises(InvalidValueError, match="have no time zone; give tz"):
            await copy_from(url, db, "vnpy")
        with pytest.raises(InvalidValueError, match="those of vnpy, not of original"):
            await copy_from(url, db, "original")


async def test_every_row_of_the_original_layer_is_copied_or_listed(make_source: Source, tmp_path: Path) -> None:
    url = await make_source(ORIGINAL, ORIGINAL_ROWS)
    before = await read_all(url)
    async with DatabaseManager(f"sqlite:///{tmp_path / 'new'}") as db:
        report = await copy_from(url, db, "original")
        bars = await OHLCVRepository(db).get_range("BTCUSDT", "1h", *_WINDOW)
        trades = await TradeRepository(db).get_recent()
        positions = await PositionRepository(db).get_open_positions()
        (event,) = await SystemEventRepository(db).get_recent_events()
    assert await read_all(url) == before
    assert report.read == {"ohlcv": 3, "trades": 3, "positions": 2, "system_events": 1}
    assert [(row.table, row.id, bool(row.correction)) for row in report.refused] == [
        ("ohlcv", 3, False),
        ("trades", 2, True),
        ("trades", 3, False),
        ("positions", 1, True),
    ]
    assert [(bar.open, bar.close, bar.trades_count) for bar in bars] == [
        (Decimal("42580.1"), Decimal("42600.25"), 9),
        (Decimal("0.00000001"), Decimal("0.1"), None),
    ]
    (trade,) = trades
    assert (trade.trade_id, trade.id, trade.realized_pnl, trade.fee) == ("TRD-1", 1, Decimal("0.199"), Decimal("0.02"))
    assert trade.decision_reasons == {"signal": "macd"}
    assert trade.exit_time == datetime(2024, 2, 1, 2, tzinfo=UTC)
    assert [one.id for one in positions] == [2]
    assert (event.id, event.details, event.created_at) == (7, {"price": 50000}, datetime(2024, 2, 1, 0, 0, 0, 123456, UTC))
    assert "left out: the columns model_version of trades, which iftb-store does not have" in report.notes


async def test_refused_trades_and_positions_go_in_if_they_are_accepted(make_source: Source, tmp_path: Path) -> None:
    url = await make_source(ORIGINAL, ORIGINAL_ROWS)
    async with DatabaseManager(f"sqlite:///{tmp_path / 'new'}") as db:
        report = await copy_from(url, db, accept=True)
        trades = await TradeRepository(db).get_recent()
        positions = await PositionRepository(db).get_open_positions()
        async with db.get_session() as session:
            found = await session.execute(text("SELECT id, status FROM positions ORDER BY id"))
            stored = [tuple(row) for row in found]
    assert [(row.id, row.accepted) for row in report.refused] == [(3, False), (2, True), (3, False), (1, True)]
    assert [(one.trade_id, one.side, one.leverage) for one in trades] == [("TRD-2", "short", 1), ("TRD-1", "long", 5)]
    assert ([one.id for one in positions], stored) == ([2], [(1, "closed"), (2, "open")])


async def test_trades_of_freqtrade_are_imported_with_their_orders(tmp_path: Path) -> None:
    path = tmp_path / "tradesv3.sqlite"
    make_sqlite(path, FREQTRADE, FREQTRADE_ROWS)
    content = path.read_bytes()
    async with DatabaseManager(f"sqlite:///{tmp_path / 'new'}") as db:
        await db.migrate()
        report = await import_files(db, path)
        again = await import_files(db, path)
        first, second = sorted(await TradeRepository(db).get_recent(), key=lambda one: one.trade_id)
        fills = [fill for one in (first, second) for fill in await FillRepository(db).get_by_trade(one.trade_id)]
        (position,) = await PositionRepository(db).get_open_positions()
    assert path.read_bytes() == content
    (done,) = report.files
    assert (done.table, done.rows, done.inserted, again.files[0].inserted) == ("trades", 6, 6, 0)
    assert done.notes[:4] == ("a database of freqtrade", "trades: 2 rows", "positions: 1 row", "fills: 3 rows")
    assert "left out: 1 rows of trade_custom_data (custom data of trades)" in done.notes
    assert (first.trade_id, first.action, first.side, first.tags) == ("freqtrade-1", "close", "long", ["breakout"])
    # freqtrade's profit is what remains after the fees
    assert (first.fee, first.realized_pnl) == (Decimal("0.81"), Decimal("10"))
    assert (first.realized_pnl_pct, first.exit_reason, first.strategy) == (Decimal("2.2975"), "roi", "Trend")
    assert (second.action, second.side, second.realized_pnl, second.leverage) == ("open", "short", None, 2)
    assert [(fill.fill_id, fill.side, fill.fee) for fill in fills] == [
        ("A1", "buy", Decimal("0.4")),
        ("A3", "sell", Decimal("0.41")),
        ("A4", "sell", Decimal("0.115025")),
    ]
    assert (position.trade_id, position.margin, position.liquidation_price) == ("freqtrade-2", Decimal("115.025"), 3300)


async def test_the_rows_of_freqtrade_get_an_account(tmp_path: Path) -> None:
    url = make_sqlite(tmp_path / "old.db", FREQTRADE, FREQTRADE_ROWS)
    async with DatabaseManager(f"duckdb:///{tmp_path / 'new'}") as db:
        await db.migrate()
        plan = await copy_from(url, db, account="bot-a", dry_run=True)
        assert await TradeRepository(db).get_recent() == []
        report = await copy_from(url, db, account="bot-a")
        trades = await TradeRepository(db, account="bot-a").get_recent()
    assert [part.inserted for part in plan.copied.parts] == [part.inserted for part in report.copied.parts]
    assert len(trades) == 2


async def test_a_database_of_no_known_program_is_refused(tmp_path: Path) -> None:
    run_sqlite(tmp_path / "other.db", ["CREATE TABLE notes (id INTEGER)"])
    async with DatabaseManager(f"sqlite:///{tmp_path / 'new'}") as db:
        await db.migrate()
        with pytest.raises(InvalidValueError, match="none of original, freqtrade and vnpy"):
            await copy_from(f"sqlite:///{tmp_path / 'other.db'}", db)
        with pytest.raises(Unsupported):
            await copy_from(f"duckdb:///{tmp_path / 'other.db'}", db)


def test_the_command_lists_what_it_refuses(tmp_path: Path, run: Run) -> None:
    old, store = make_sqlite(tmp_path / "old.db", ORIGINAL, ORIGINAL_ROWS), f"sqlite:///{tmp_path / 'new.db'}"
    code, out, err = run("copy", old, store, "--from", "original")
    assert code == 1
    assert out.startswith("original: read ohlcv 3, trades 3, positions 2, system_events 1\n")
    assert "error: trades 2: the side is 'SELL', not long or short; with --accept side becomes short" in err.splitlines()
    assert err.splitlines()[-1] == "error: 4 rows refused and not copied; the others are"
    code, out, err = run("copy", old, store, "--from", "original", "--accept", "--quiet")
    assert (code, out, err.splitlines()[-1]) == (1, "", "error: 2 rows refused and not copied; the others are")
    assert run("copy", old, store, "--from", "original", "--symbol", "BTCUSDT")[0] == 2
    assert run("copy", old, store, "--tz", "UTC")[0] == 2


async def test_postgresql_takes_the_rows_of_a_file(tmp_path: Path, postgres_tables_url: str) -> None:
    url = make_sqlite(tmp_path / "old.db", ORIGINAL, ORIGINAL_ROWS)
    async with DatabaseManager(postgres_tables_url) as db:
        report = await copy_from(url, db, accept=True)
    assert all(part.equal for part in report.copied.parts)


async def read_all(url: str) -> list[Any]:
    """Return every row of a database of the original layer."""
    async with DatabaseManager(url) as db, db.get_session() as session:
        return [
            tuple(row)
            for table in ("ohlcv", "trades", "positions", "system_events")
            for row in await session.execute(text(f"SELECT * FROM {table} ORDER BY id"))
        ]
