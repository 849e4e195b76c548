"""The command performance: its figures, its drawings, and its tables on terminals of several widths."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from decimal import Decimal

import pytest

from tests.cli.test_narrow_terminal import run_on_terminal
from tests.conftest import Run
from tests.support.performance_trades import huge_trade, store_cases

pytestmark = pytest.mark.usefixtures("plain_environment")
on_terminal = pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals there")

_ONE = ("--exchange", "binance", "--balance", "1000")


@pytest.fixture
def traded(sqlite_url: str) -> str:
    """URL of a store with the trades of the suite's cases, and one with a huge result on another exchange."""
    asyncio.run(store_cases(sqlite_url, huge_trade()))
    return sqlite_url


def _numbers(lines: list[str]) -> set[str]:
    """Return the words with a digit."""
    return {word for line in lines for word in re.split(r"[ ,|()]+", line) if re.search(r"[0-9]", word)}


def test_the_figures_are_shown_with_their_scope(run: Run, traded: str) -> None:
    code, out, err = run("performance", traded, *_ONE)

    assert (code, err) == (0, "")
    first, second, third, *_ = out.splitlines()
    assert first == "binance: 17 closed trades, 2024-01-30 10:00 to 2024-03-05 09:00 UTC"
    assert second == "net pnl = realized_pnl - fee; starting balance: 1000; days of UTC"
    assert third == "left out, because realized_pnl is not set: 1"
    shown = dict(re.findall(r"^(\w.*?\S) {2,}(.*\S)", out, re.MULTILINE))
    assert (shown["net pnl"], shown["Sharpe"], shown["max drawdown, %"]) == ("87.5", "1.2844", "31.82 %")
    assert shown["best day"] == "2024-02-29 (400)"


def test_an_undefined_figure_is_shown_with_its_reason(run: Run, traded: str) -> None:
    out = run("performance", traded, "--exchange", "thirds")[1]
    assert re.search(r"profit factor +n/a \(no trade lost\)", out)
    assert re.search(r"Sharpe +n/a \(no starting balance is given or stored\)", out)


def test_json_has_every_place_and_every_list(run: Run, traded: str) -> None:
    report = json.loads(run("performance", traded, *_ONE, "--json")[1])
    assert (report["net_pnl"], report["sharpe"]) == ("87.500000000000000001", "1.284443496981901596")
    assert report["equity"][1] == {"time": "2024-01-30T12:30:00+00:00", "equity": "1100", "drawdown": "0"}
    assert report["daily"][0]["period"] == "2024-01-30"
    assert report["avg_holding"] == 109406.25
    assert [*report["by_symbol"]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]


def test_the_options_select_trades_and_the_meaning_of_fees(run: Run, traded: str) -> None:
    words = ("--symbol", "BTCUSDT", "--side", "long", "--start", "2024-02-01", "--end", "2024-02-20", "--tz", "Asia/Tokyo")
    report = json.loads(run("performance", traded, *_ONE, *words, "--fees", "included", "--json")[1])
    assert [report[name] for name in ("symbol", "side", "fees", "tz", "total_trades")] == [
        "BTCUSDT", "long", "included", "Asia/Tokyo", 3
    ]  # fmt: skip


def test_the_groups_are_shown_by_symbol_side_and_month(run: Run, traded: str) -> None:
    out = run("performance", traded, *_ONE)[1]
    assert re.search(r"^BTCUSDT +8 +6 +1 +75 % +497.5 +4.75 ", out, re.MULTILINE)
    assert re.search(r"^short +6 ", out, re.MULTILINE)
    assert re.search(r"^2024-02 +13 +6 +5 +100 +18.75 +9.52 % +1150", out, re.MULTILINE)


def test_without_trades_the_counts_are_0_and_nothing_is_drawn(run: Run, stored: str) -> None:
    code, out, _ = run("performance", stored)
    assert code == 0
    assert out.startswith("all exchanges: 0 closed trades\n")
    assert re.search(r"win rate +n/a \(no trade was closed\)", out)
    assert "equity" not in out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--tz", "Europe/Berlim", "--tz 'Europe/Berlim' is not a time zone; did you mean Europe/Berlin?"),
        ("--tz", "../etc", "--tz '../etc' is not a time zone"),
        ("--balance", "much", "--balance 'much' is not a number"),
        ("--balance", "0", "starting_balance 0 is not above 0"),
        ("--fees", "none", "--fees must be one of apart, included"),
        ("--side", "buy", "--side must be one of long, short"),
    ],
)
def test_a_wrong_option_is_wrong_usage(run: Run, stored: str, option: str, value: str, message: str) -> None:
    code, out, err = run("performance", stored, option, value)
    assert (code, out) == (2, "")
    assert message in err


@on_terminal
@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("exchange", ["binance", "huge"])
def test_a_narrow_terminal_breaks_no_number(run: Run, traded: str, width: int, exchange: str) -> None:
    words = ("performance", traded, "--exchange", exchange)
    lines = run_on_terminal(width, *words)
    whole = run(*words)[1].splitlines()
    assert _numbers(lines) <= _numbers(whole)
    if exchange == "binance" and width >= 60:
        # the lines of the scope wrap at their blanks
        assert [line for line in lines[3:] if len(line) > width] == []


@on_terminal
def test_without_utf8_all_is_ascii(traded: str) -> None:
    lines = run_on_terminal(60, "performance", traded, *_ONE, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "".join(lines).isascii()
    drawn = lines[lines.index("equity") + 1]
    assert re.fullmatch(r"[_.:=+*#-]{60}", drawn)


@on_terminal
@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_equity_is_drawn_as_wide_as_the_terminal(traded: str, no_color: str) -> None:
    lines = run_on_terminal(40, "performance", traded, *_ONE, NO_COLOR=no_color, PYTHONIOENCODING="utf-8")
    drawn = lines[lines.index("equity") + 1]
    assert len(drawn) == 40
    assert {*drawn} <= {*"▁▂▃▄▅▆▇█"}


def test_a_sum_is_never_rounded_in_json(run: Run, traded: str) -> None:
    report = json.loads(run("performance", traded, "--exchange", "huge", "--json")[1])
    assert Decimal(report["net_pnl"]) == huge_trade().realized_pnl
