"""Every script of examples/ runs on its engine and prints what it says it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

_EXAMPLES = Path(__file__).parent.parent / "examples"


def _run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(_EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_live_loop_opens_and_closes_a_trade_on_postgresql(postgres_url: str) -> None:
    printed = _run("live.py", postgres_url)
    assert "close 60030: opened LIVE-" in printed
    assert "close 60040.75: closed LIVE-" in printed
    assert "trades 1, win rate 100 %, net pnl 0.1075, fees 0.05" in printed
    assert printed.endswith("event trade_opened: long at 60030\nevent trade_closed: closed at 60040.75\n")


def test_the_local_script_finds_and_fills_a_hole(sqlite_url: str) -> None:
    printed = _run("local.py", sqlite_url)
    assert "inserted 22\nmissing between 06:00 and 09:00\nupserted 3\ngaps now []\n" in printed
    assert printed.count("refused:") == 2


def test_the_analytics_script_queries_a_month_of_bars(duckdb_url: str) -> None:
    printed = _run("analytics.py", duckdb_url)
    assert printed.startswith("41,760 bars stored\nbusiest days:\n")
    assert printed.count("UTC") == 3


@pytest.mark.parametrize("engine", ["postgres", "sqlite"])
def test_an_app_s_own_session_commits_and_rolls_back_as_one(engine: str, request: pytest.FixtureRequest) -> None:
    fresh = make_url(request.getfixturevalue(f"{engine}_url"))
    driver = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}[fresh.drivername]
    printed = _run("own_session.py", fresh.set(drivername=driver).render_as_string(hide_password=False))
    assert "committed together: 1 signals, 1 trades\n" in printed
    assert printed.endswith("still stored: 1 signals, 1 trades\n")


@pytest.mark.one_of_each
@pytest.mark.parametrize("engine", ["postgres", "sqlite", "duckdb"])
def test_a_bot_that_was_killed_finds_its_trades_events_and_positions(engine: str, request: pytest.FixtureRequest) -> None:
    printed = _run("restart.py", request.getfixturevalue(f"{engine}_url"))
    assert printed == (
        "killed with -9\n"
        "open trades: R-1 R-2\n"
        "R-1: open BTCUSDT trade_opened\n"
        "R-2: open ETHUSDT trade_opened\n"
        "R-3: not stored\n"
        "position: binance BTCUSDT 0.01 of R-1\n"
        "position: bybit BTCUSDT 0.01 of R-3\n"
        "position: bybit ETHUSDT 0.01 of R-2\n"
        "today: R-1 close R-3 open R-2 open\n"
        "events of R-1: trade_opened trade_closed\n"
    )


@pytest.mark.parametrize("engine", ["postgres", "sqlite", "duckdb"])
def test_a_bot_that_was_killed_keeps_each_fill_and_payment_of_both_accounts_once(
    engine: str, request: pytest.FixtureRequest
) -> None:
    printed = _run("bot_fills.py", request.getfixturevalue(f"{engine}_url"))
    # by hand: (0.006 * 42600 + 0.004 * 42500) / 0.01 = 42560, and (0.004 * 42700 + 0.006 * 42800) / 0.01 = 42760
    assert printed == (
        "killed with -9\n"
        "open: T-alice of alice, 0.01 at 42560\n"
        "open: T-bob of bob, 0.006 at 42600\n"
        "alice: 1 new fills, funding stored already\n"
        "bob: 3 new fills, funding new\n"
        "T-alice: close, 0.01 from 42560 to 42760\n"
        "  pnl 2, fee 0.3416, other fees 0.00021 BNB\n"
        "T-bob: close, 0.01 from 42560 to 42760\n"
        "  pnl 2, fee 0.3416, other fees 0.00021 BNB\n"
        "funding of both: -0.0852\n"
        "balance of alice: 999.9574 USDT\n"
        "balance of bob: 999.9574 USDT\n"
    )


@pytest.mark.parametrize("name", ["local.py", "analytics.py", "own_session.py", "restart.py", "bot_fills.py"])
def test_a_script_runs_without_a_url(name: str) -> None:
    assert _run(name)
