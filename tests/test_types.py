"""The types find a user's mistakes: mypy --strict and pyright report every wrong line of a program, and no line of a right one.

`nox -s types` runs these tests, because only its environment has the type checkers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from iftb_store import DatabaseManager, InvalidValueError, Trade, TradeChanges, TradeRepository
from iftb_store.schema.table_spec import TRADES
from iftb_store.testing.samples import full_trade

_CACHE = Path(__file__).parents[1] / ".mypy_cache" / "users"

_BEGIN = """
from datetime import UTC, datetime
from decimal import Decimal

from iftb_store import TIMEFRAMES, DatabaseManager, Health, OHLCVBar, OHLCVRepository, Position, PositionRepository, Session
from iftb_store import Severity, Side, SystemEventRepository, Timeframe, Trade, TradeChanges, TradeRepository, check_timeframe

ONE, NOW = Decimal(1), datetime(2024, 1, 1, tzinfo=UTC)


async def main(db: DatabaseManager, config: dict[str, str]) -> None:
    bars, trades, positions = OHLCVRepository(db), TradeRepository(db), PositionRepository(db)
    trade = Trade("T-1", "BTCUSDT", "binance", "long", "open", ONE, ONE, NOW)
"""

_BEGIN_BLOCKING = """
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import text

from iftb_store import Health, OHLCVBar, Trade
from iftb_store.sync import SyncSession, SyncStore, SyncTradeRepository, copy, open_store

ONE, NOW = Decimal(1), datetime(2024, 1, 1, tzinfo=UTC)


def main(store: SyncStore) -> None:
    trade = Trade("T-1", "BTCUSDT", "binance", "long", "open", ONE, ONE, NOW)
"""

#: Wrong lines, each with the code of mypy's error.
_WRONG = """
    Trade("T-1", "BTCUSDT", "binance", "buy", "open", ONE, ONE, NOW)  # arg-type
    Position("BTCUSDT", "binance", "long", ONE, ONE, ONE, NOW, status="close")  # arg-type
    OHLCVBar("BTCUSDT", "binance", "1hour", NOW, ONE, ONE, ONE, ONE, ONE)  # arg-type
    trades.insert(trade)  # unused-coroutine
    positions.close_position(1)  # unused-coroutine
    db.migrate()  # unused-coroutine
    await trades.update(1, exit_prise=ONE)  # call-arg
    await trades.update(1, trade_id=2)  # misc
    await trades.update(1, updated_at=NOW)  # call-arg
    await trades.update(1, side="buy")  # arg-type
    await trades.update(1, exit_price="1")  # arg-type
    await trades.update(1, fee=None)  # arg-type
    await bars.get_latest("BTCUSDT", "7h")  # arg-type
    await bars.get_latest("BTCUSDT", config["timeframe"])  # arg-type
    await bars.resample("BTCUSDT", "1m", "1H", NOW, NOW)  # arg-type
    await bars.write_arrow([], decimals="float")  # call-overload
    bars.stream_arrow(timeframe="1w", symbol=1)  # arg-type
    await positions.get_position("BTCUSDT", side="buy")  # arg-type
    await SystemEventRepository(db).log_event("start", "warn", "up")  # arg-type
    db.get_session(isolation="dirty")  # arg-type
    async with db.get_session() as session:
        session.comit()  # attr-defined
        await TradeRepository(session).update(1, status="open")  # call-arg
"""

_WRONG_BLOCKING = """
    store.ohlcv.get_latest("BTCUSDT", "7h")  # arg-type
    store.trades.update(1, exit_prize=ONE)  # call-arg
    store.trades.update(1, side="buy")  # arg-type
    store.positions.get_position("BTCUSDT", side="buy")  # arg-type
    store.latest("BTCUSDT")  # attr-defined
    store.get_session(isolation="dirty")  # arg-type
    with store.get_session() as session:
        session.comit()  # attr-defined
        session.events.log_event("start", "warn", "up")  # arg-type
    copy(store, "sqlite:///other.db")  # arg-type
    open_store("sqlite:///bot.db", pool=5)  # call-arg
"""

_RIGHT_BLOCKING = """
    def record(session: SyncSession) -> int:
        return session.trades.record(trade)

    with open_store("sqlite:///bot.db", pool_size=2) as other, other.get_session(isolation="snapshot") as session:
        newest: list[OHLCVBar] = session.ohlcv.get_latest("BTCUSDT", "1h", 10)
        first: int | None = session.scalar(text("SELECT 1"))
        print([bar.close for bar in newest], first)
        print(copy(store, other, symbols="BTCUSDT").parts, store.run(record, idempotent=True) + 1)
    for bars in store.ohlcv.stream_range("BTCUSDT", "1h", NOW, NOW):
        store.ohlcv.upsert_many([bar for bar in bars if bar.timeframe == "1h"], report=True).inserted
    with store.events.stream_arrow(batch_size=5) as stream:
        print(next(stream).num_rows)
    health: Health = store.health()
    repository: SyncTradeRepository = store.trades
    print(health.schema, repository.get_statistics(days=3).net_pnl)
    store.disconnect()
"""

_RIGHT = """
    sides: dict[str, Side] = {"BUY": "long", "SELL": "short"}
    timeframe = check_timeframe(config["timeframe"])
    default: Timeframe = "1m"
    changes: TradeChanges = {"side": sides[config["side"]], "exit_price": ONE, "realized_pnl": None}

    async def record(session: Session) -> int:
        return await TradeRepository(session).record(trade)

    number = await db.run(record, idempotent=True, isolation="serializable")
    await trades.update(number, **changes)
    for stored in await positions.get_open_positions():
        await positions.get_position(stored.symbol, side=stored.side)
    for series in await bars.list_series():
        await bars.get_range(series.symbol, series.timeframe, series.first, series.last, series.exchange)
        await bars.resample(series.symbol, default, timeframe, series.first, series.last)
    severities: list[Severity] = ["error", "critical"]
    events = [await SystemEventRepository(db).get_recent_events(severity) for severity in severities]
    await SystemEventRepository(db).log_event("copied", events[0][0].severity, "again")
    async with db.get_session(isolation="snapshot") as session, bars.stream_range("BTCUSDT", "1h", NOW, NOW) as stream:
        await session.rollback()
        async for batch in stream:
            await OHLCVRepository(session).upsert_many([bar for bar in batch if bar.timeframe == "1h"])
    health: Health = await db.health()
    known: tuple[Timeframe, ...] = TIMEFRAMES
    print(health.schema, known)
"""


_PROGRAMS = {
    "right": _BEGIN + _RIGHT,
    "right_blocking": _BEGIN_BLOCKING + _RIGHT_BLOCKING,
    "wrong": _BEGIN + _WRONG,
    "wrong_blocking": _BEGIN_BLOCKING + _WRONG_BLOCKING,
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wrong programs and right ones."""
    folder = tmp_path_factory.mktemp("types")
    for name, lines in _PROGRAMS.items():
        (folder / f"{name}.py").write_text(lines)
    return folder


def _marked(programs: Path) -> list[tuple[str, int, str]]:
    return [
        (name, number, line.partition("  # ")[2])
        for name in _PROGRAMS
        for number, line in enumerate((programs / f"{name}.py").read_text().splitlines(), 1)
        if "  # " in line
    ]


def test_mypy_reports_every_wrong_line_and_no_other(programs: Path) -> None:
    pytest.importorskip("mypy")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={_CACHE}",
        *(f"{name}.py" for name in _PROGRAMS),
    ]
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True, timeout=300)
    found = re.findall(r"^(\w+)\.py:(\d+): error: .*  \[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert sorted((name, int(line), code) for name, line, code in found) == _marked(programs), done.stdout + done.stderr


def test_pyright_reports_every_wrong_line_and_no_other(programs: Path) -> None:
    pytest.importorskip("pyright")
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        *(f"{name}.py" for name in _PROGRAMS),
    ]
    done = subprocess.run(command, cwd=programs, capture_output=True, text=True, timeout=300)
    reports = json.loads(done.stdout)["generalDiagnostics"]
    found = {(Path(item["file"]).stem, item["range"]["start"]["line"] + 1) for item in reports}
    assert found == {(name, line) for name, line, _ in _marked(programs)}, done.stdout


def test_the_fields_of_trade_changes_have_the_types_of_the_trades_fields() -> None:
    hints = get_type_hints(Trade)
    assert get_type_hints(TradeChanges) == {name: hints[name] for name in TradeChanges.__annotations__}


async def test_update_accepts_exactly_the_fields_of_trade_changes(sqlite_url: str) -> None:
    given, accepted = full_trade(), set[str]()
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        number = await TradeRepository(db).insert(given)
        for name in TRADES.columns:
            changes: Any = {name: getattr(given, name)}
            with suppress(InvalidValueError, TypeError):
                await TradeRepository(db).update(number, **changes)
                accepted.add(name)
    assert accepted == TradeChanges.__annotations__.keys()
