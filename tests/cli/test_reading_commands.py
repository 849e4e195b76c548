"""The commands that show what is stored: gaps, latest, stats, positions and events."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from iftb_store import (
    DatabaseManager,
    Position,
    PositionRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
)
from tests.cli.stores import START, bar, store_bars
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")


def store_trade(url: str) -> None:
    now = datetime.now(UTC)

    async def insert() -> None:
        async with DatabaseManager(url) as db, db.get_session() as session:
            await TradeRepository(session).insert(
                Trade(
                    "T1",
                    "BTCUSDT",
                    "binance",
                    "long",
                    "close",
                    Decimal(100),
                    Decimal(3),
                    now,
                    realized_pnl=Decimal(20),
                    exit_time=now,
                )
            )
            await TradeRepository(session).insert(
                Trade(
                    "T2",
                    "BTCUSDT",
                    "binance",
                    "long",
                    "close",
                    Decimal(100),
                    Decimal(3),
                    now,
                    realized_pnl=Decimal(-6),
                    exit_time=now,
                )
            )
            await TradeRepository(session).insert(
                Trade(
                    "T3",
                    "BTCUSDT",
                    "binance",
                    "long",
                    "close",
                    Decimal(100),
                    Decimal(3),
                    now,
                    realized_pnl=Decimal(0),
                    exit_time=now,
                )
            )
            await PositionRepository(session).update_position(
                Position("BTCUSDT", "binance", "short", Decimal("50000.10"), Decimal("0.01"), Decimal(100), START)
            )
            events = SystemEventRepository(session)
            await events.log_event("started", "info", "up \x1b[31mand running [bold]", details={"price": Decimal("1.10")})
            await events.log_event("failed", "error", "down", symbol="BTCUSDT")

    asyncio.run(insert())


def test_gaps_are_shown_with_the_number_of_missing_bars(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1), bar(5), bar(7))

    code, out, _ = run("gaps", stored, "BTCUSDT", "1m")

    assert code == 0
    assert re.search(r"2024-02-01 00:01 +2024-02-01 00:05 +3\n", out)
    assert out.endswith("2 gaps, 4 bars missing (times in UTC)\n")


def test_gaps_at_the_edges_of_a_window_are_shown_as_json(run: Run, stored: str) -> None:
    store_bars(stored, bar(0))

    code, out, _ = run(
        "gaps", stored, "BTCUSDT", "1m", "--start", "2024-01-31T23:59", "--end", "2024-02-01T01:00+01:00", "--json"
    )

    assert code == 0
    assert json.loads(out) == [
        {"last_before": "2024-01-31T23:58:00+00:00", "first_after": "2024-02-01T00:00:00+00:00", "missing": 1}
    ]


def test_missing_months_are_counted_by_the_calendar(run: Run, stored: str) -> None:
    months = [
        replace(bar(0), timeframe="1M", timestamp=datetime(year, month, 1, tzinfo=UTC)) for year, month in ((2023, 11), (2024, 2))
    ]
    store_bars(stored, *months)

    assert run("gaps", stored, "BTCUSDT", "1M")[1].endswith("1 gap, 2 bars missing (times in UTC)\n")


def test_a_series_without_bars_differs_from_one_without_gaps(run: Run, stored: str) -> None:
    nothing = "no bars of binance BTCUSDT 1m are stored\n"

    assert run("gaps", stored, "BTCUSDT", "1m") == (0, nothing, "")
    assert run("latest", stored, "BTCUSDT", "1m") == (0, nothing, "")
    assert run("latest", stored, "BTCUSDT", "1m", "--json") == (0, "[]\n", "")


def test_latest_shows_the_newest_first_and_no_more_than_asked_for(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1), replace(bar(2), trades_count=None, timestamp=START + timedelta(seconds=120.5)))

    code, out, _ = run("latest", stored, "BTCUSDT", "1m", "--limit", "2")

    assert code == 0
    times = re.findall(r"^2024-\S+ \S+", out, re.MULTILINE)
    assert times == ["2024-02-01 00:02:00.500000", "2024-02-01 00:01"]
    assert re.search(r"1\.5 +1\.5 +1\.5 +1\.5 +10\.25 +1,234\n", out)


def test_latest_as_json_has_decimals_as_text_and_times_in_utc(run: Run, url: str) -> None:
    run("migrate", url)
    store_bars(url, bar(0))

    (found,) = json.loads(run("latest", url, "BTCUSDT", "1m", "--json")[1])

    assert found["timestamp"] == "2024-02-01T00:00:00+00:00"
    assert (found["open"], found["volume"], found["quote_volume"], found["trades_count"]) == ("1.5", "10.25", None, 1_234)


def test_stats_show_the_figures(run: Run, stored: str) -> None:
    store_trade(stored)

    code, out, _ = run("stats", stored, "--days", "1")

    assert code == 0
    shown = dict(re.findall(r"^(\w[\w ]*\w) {2,}(.+)$", out, re.MULTILINE))
    assert (shown["total trades"], shown["win rate"], shown["net pnl"], shown["profit factor"]) == (
        "3",
        "33.33 %",
        "14",
        "3.33333333",
    )


def test_stats_as_json_have_every_place(run: Run, stored: str) -> None:
    store_trade(stored)

    figures = json.loads(run("stats", stored, "--json")[1])

    assert (figures["total_trades"], figures["win_rate"], figures["largest_loss"]) == (3, "33.333333333333333333", "6")


def test_stats_without_trades_have_no_profit_factor(run: Run, stored: str) -> None:
    assert "none (no losses)" in run("stats", stored)[1]


def test_positions_are_shown(run: Run, stored: str) -> None:
    empty = run("positions", stored)
    store_trade(stored)

    assert empty == (0, "no open positions on binance\n", "")
    assert re.search(r"1 +BTCUSDT +short +2024-02-01 00:00 +0\.01 +50000\.1 +100 +1\s", run("positions", stored)[1])
    (found,) = json.loads(run("positions", stored, "--json")[1])
    assert (found["side"], found["entry_price"], found["entry_time"]) == ("short", "50000.1", "2024-02-01T00:00:00+00:00")


def test_events_are_shown_newest_first_without_steering_the_terminal(run: Run, stored: str) -> None:
    empty = run("events", stored)
    store_trade(stored)

    code, out, _ = run("events", stored)

    assert empty == (0, "no events are stored\n", "")
    assert code == 0
    assert out.index("failed") < out.index("started")
    assert "up \N{REPLACEMENT CHARACTER}[31mand running [bold]" in out


def test_events_of_one_severity_are_shown_as_json(run: Run, stored: str) -> None:
    store_trade(stored)

    (found,) = json.loads(run("events", stored, "--severity", "info", "--json")[1])

    assert (found["event_type"], found["message"], found["details"]) == (
        "started",
        "up \x1b[31mand running [bold]",
        {"price": "1.10"},
    )
    assert run("events", stored, "--severity", "debug")[1] == "no events of severity debug are stored\n"
