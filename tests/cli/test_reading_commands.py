"""The commands that show what is stored: gaps, latest, stats, positions and events."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

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
    assert re.search(r"2024-02-01 00:01 +2024-02-01 00:05 +3 +0\n", out)
    assert out.endswith("2 gaps, 4 bars missing (times in UTC)\n")


def test_gaps_at_the_edges_of_a_window_are_shown_as_json(run: Run, stored: str) -> None:
    store_bars(stored, bar(0))

    code, out, _ = run(
        "gaps", stored, "BTCUSDT", "1m", "--start", "2024-01-31T23:59", "--end", "2024-02-01T01:00+01:00", "--json"
    )

    assert code == 0
    assert json.loads(out) == [
        {
            "exchange": "binance",
            "last_before": "2024-01-31T23:58:00+00:00",
            "first_after": "2024-02-01T00:00:00+00:00",
            "missing": 1,
            "asked": 0,
        }
    ]


def test_missing_months_are_counted_by_the_calendar(run: Run, stored: str) -> None:
    months = [
        replace(bar(0), timeframe="1M", timestamp=datetime(year, month, 1, tzinfo=UTC)) for year, month in ((2023, 11), (2024, 2))
    ]
    store_bars(stored, *months)

    assert run("gaps", stored, "BTCUSDT", "1M")[1].endswith("1 gap, 2 bars missing (times in UTC)\n")


def test_a_series_without_bars_is_an_error(run: Run, stored: str) -> None:
    nothing = "error: no bars of BTCUSDT 1m are stored; no bars are stored at all\n"

    assert run("gaps", stored, "BTCUSDT", "1m") == (1, "", nothing)
    assert run("latest", stored, "BTCUSDT", "1m") == (1, "", nothing)
    assert run("latest", stored, "BTCUSDT", "1m", "--json") == (1, "[]\n", nothing)
    assert run("gaps", stored, "BTCUSDT", "1m", "--json") == (1, "[]\n", nothing)


@pytest.mark.parametrize("command", ["gaps", "latest"])
def test_a_series_without_bars_names_what_is_stored_instead(run: Run, stored: str, command: str) -> None:
    store_bars(stored, bar(0), replace(bar(0), symbol="ETHUSDT", exchange="kraken"), replace(bar(0), timeframe="1h"))

    messages = {
        ("BTCUSD", "1m"): "no bars of BTCUSD 1m are stored; did you mean BTCUSDT?",
        ("btc/usdt", "1m"): "no bars of btc/usdt 1m are stored; did you mean BTCUSDT?",
        ("BTCUSDT", "1d"): "no bars of BTCUSDT 1d are stored; BTCUSDT is stored in the timeframes 1m, 1h",
        ("XRPEUR", "1m"): "no bars of XRPEUR 1m are stored; no bar has a similar symbol",
    }
    for series, message in messages.items():
        assert run(command, stored, *series) == (1, "", f"error: {message}\n")
    found = run(command, stored, "ETHUSDT", "1m", "--exchange", "binance")
    assert found == (1, "", "error: no bars of binance ETHUSDT 1m are stored; they are stored on kraken\n")


def test_a_window_that_begins_and_ends_between_two_bars_adds_no_gap(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1), bar(2))
    window = ("--start", "2024-01-31T23:59:30.5", "--end", "2024-02-01T00:02:59")

    assert run("gaps", stored, "BTCUSDT", "1m", *window) == (0, "no gaps in binance BTCUSDT 1m\n", "")
    code, _, err = run("gaps", stored, "BTCUSDT", "1m", "--start", "2024-02-01T00:02:01", "--end", "2024-02-01T00:02:59")
    assert (code, "no bar of 1m begins between" in err) == (2, True)


def test_gaps_and_bars_of_all_exchanges_are_shown(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(2), *(replace(bar(minute), exchange="kraken") for minute in (0, 4)))

    _, gaps, _ = run("gaps", stored, "BTCUSDT", "1m")
    _, latest, _ = run("latest", stored, "BTCUSDT", "1m", "--limit", "2")

    assert re.findall(r"^(binance|kraken) .* (\d) +0$", gaps, re.MULTILINE) == [("binance", "1"), ("kraken", "3")]
    assert gaps.endswith("2 gaps, 4 bars missing (times in UTC)\n")
    assert re.findall(r"^(\w+) +(2024-\S+ \S+)", latest, re.MULTILINE) == [
        ("kraken", "2024-02-01 00:04"),
        ("binance", "2024-02-01 00:02"),
    ]
    (one,) = json.loads(run("gaps", stored, "BTCUSDT", "1m", "--exchange", "kraken", "--json")[1])
    assert (one["exchange"], one["missing"]) == ("kraken", 3)
    assert len(json.loads(run("latest", stored, "BTCUSDT", "1m", "--exchange", "binance", "--json")[1])) == 2


def test_a_series_without_gaps_names_its_exchanges(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1), replace(bar(0), exchange="kraken"))

    assert run("gaps", stored, "BTCUSDT", "1m") == (0, "no gaps in binance, kraken BTCUSDT 1m\n", "")


def test_latest_shows_the_newest_first_and_no_more_than_asked_for(run: Run, stored: str) -> None:
    store_bars(stored, bar(0), bar(1), replace(bar(2), trades_count=None, timestamp=START + timedelta(seconds=120.5)))

    code, out, _ = run("latest", stored, "BTCUSDT", "1m", "--limit", "2")

    assert code == 0
    times = re.findall(r"^binance +(2024-\S+ \S+)", out, re.MULTILINE)
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
    assert (shown["total trades"], shown["win rate"], shown["pnl before fees"], shown["profit factor"]) == (
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

    assert empty == (0, "no open positions\n", "")
    assert run("positions", stored, "--exchange", "kraken") == (0, "no open positions on kraken\n", "")
    assert re.search(r"1 +binance +BTCUSDT +short +2024-02-01 00:00 +0\.01 +50000\.1 +100 +1\s", run("positions", stored)[1])
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


@pytest.mark.parametrize("start", ["-90m", "-2h", "-1d", "-1w"])
def test_a_window_can_begin_some_time_ago_and_end_now(run: Run, stored: str, start: str) -> None:
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)
    store_bars(stored, replace(bar(0), timestamp=minute), replace(bar(0), timestamp=minute - timedelta(days=30)))

    code, out, _ = run("gaps", stored, "BTCUSDT", "1m", "--start", start, "--end", "now", "--json")
    before, after = json.loads(out)

    assert code == 0
    assert datetime.fromisoformat(before["first_after"]) == datetime.fromisoformat(after["last_before"]) == minute
    assert datetime.fromisoformat(before["last_before"]) > minute - timedelta(days=8)


def test_a_day_without_hyphens_is_a_time(run: Run, stored: str) -> None:
    store_bars(stored, bar(0))
    found = [run("gaps", stored, "BTCUSDT", "1m", "--start", day, "--end", "20240201")[1] for day in ("20240131", "2024-01-31")]

    assert found[0] == found[1]
    assert found[0].endswith("1 gap, 1,440 bars missing (times in UTC)\n")


@pytest.mark.parametrize("text", ["-7", "-7777777777d", "-7y", "-d", "--7d", "today", "20241301"])
def test_what_is_no_time_is_refused_with_examples(run: Run, stored: str, text: str) -> None:
    code, out, error = run("gaps", stored, "BTCUSDT", "1m", f"--start={text}")

    assert (code, out) == (2, "")
    assert error.startswith(f"error: --start '{text}' is not a time; write it as 2024-02-29")


@pytest.mark.parametrize(
    ("text", "reason"), [("-0d", "'0d' is not in the past"), ("-999999999w", "'999999999w' is before the year 1")]
)
def test_a_duration_that_leads_to_no_time_is_refused_with_the_reason(run: Run, stored: str, text: str, reason: str) -> None:
    code, out, error = run("gaps", stored, "BTCUSDT", "1m", f"--start={text}")

    assert (code, out) == (2, "")
    assert error.startswith(f"error: --start {reason}; give a")


@pytest.mark.parametrize("command", [[], ["gaps"], ["copy"], ["import"]])
def test_h_shows_the_help(run: Run, command: list[str]) -> None:
    assert run(*command, "-h") == run(*command, "--help")
    assert "Usage: iftb-store" in run(*command, "-h")[1]


def test_commands_of_a_symbol_without_rows_name_the_near_ones(run: Run, stored: str, tmp_path: Path) -> None:
    store_bars(stored, bar(0))
    other = f"sqlite:///{tmp_path / 'other.db'}"
    run("migrate", other)
    nothing = "neither SRC nor DST has a row that matches the options"
    found = [
        run("export", stored, "-o", str(tmp_path / "bars.csv"), "--symbol", "BTCUSD"),
        run("copy", stored, other, "--symbol", "BTCUSD", "--quiet"),
        run("verify", stored, other, "--symbol", "BTCUSD", "--quiet"),
        run("copy", stored, other, "--symbol", "DOGE", "--quiet"),
    ]

    assert run("copy", stored, other, "--symbol", "BTCUSDT", "--start", "2030-01-01", "--quiet") == (0, "", "")
    assert [code for code, *_ in found] == [1, 1, 1, 1]
    assert [error for *_, error in found] == [
        "error: no row of ohlcv matches the options; did you mean BTCUSDT?\n",
        f"error: {nothing}; did you mean BTCUSDT?\n",
        f"error: {nothing}; nothing was compared; did you mean BTCUSDT?\n",
        f"error: {nothing}; no bar or recent trade has a similar symbol\n",
    ]
