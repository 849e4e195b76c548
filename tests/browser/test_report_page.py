"""The report in a browser: without a request or an error, by keyboard, for screen readers, with hostile texts and little data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iftb_store.sync import SyncStore, report
from tests.browser.conftest import Open
from tests.support.report_stores import HOSTILE, fill_store, make_trades, walk

Violations = Callable[[Any], list[str]]
_RANGE = "(() => { const { from, to } = iftbStore.charts[%d].timeScale().getVisibleLogicalRange(); return [from, to] })()"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_request_leaves_and_no_script_fails(filled: Path, open_page: Open, scheme: str, width: int) -> None:
    page = open_page(filled, scheme, width)
    assert page.wrong == []
    # nothing is wider than the window
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(filled: Path, open_page: Open, find_violations: Violations, scheme: str) -> None:
    assert find_violations(open_page(filled, scheme)) == []


def test_a_request_of_the_page_would_be_refused(filled: Path, open_page: Open) -> None:
    page = open_page(filled)
    with pytest.raises(Exception, match=r"Failed to fetch|NetworkError"):
        page.evaluate("fetch('https://example.org/')")
    assert any("Content Security Policy" in line for line in page.wrong)


def test_the_candles_of_the_page_are_those_of_the_store(filled: Path, open_page: Open) -> None:
    page = open_page(filled)
    found = page.evaluate("iftbStore.unpack(iftbStore.read('candle-data'))")
    stored = [bar for place, bar in enumerate(walk(3_000)) if not 1_000 <= place < 1_100]
    candles = [one for one in found["candles"] if "open" in one]
    assert len(found["candles"]) - len(candles) == 100
    for candle, volume, bar in zip(candles, found["bars"], stored, strict=True):
        assert candle["time"] == volume["time"] == bar.timestamp.timestamp()
        assert [round(candle[name], 2) for name in ("open", "high", "low", "close")] == [
            float(price) for price in (bar.open, bar.high, bar.low, bar.close)
        ]
        assert volume["value"] == pytest.approx(float(bar.volume), rel=1e-2)


@pytest.mark.parametrize(("place", "name"), [(0, "equity-chart"), (1, "candle-chart")])
def test_the_keys_move_and_zoom_a_chart(filled: Path, open_page: Open, place: int, name: str) -> None:
    page = open_page(filled)
    page.focus(f"#{name}")

    def press(key: str) -> list[float]:
        page.keyboard.press(key)
        page.wait_for_timeout(100)
        found: list[float] = page.evaluate(_RANGE % place)
        return found

    whole = press("Home")
    closer = press("+")
    assert closer[1] - closer[0] < whole[1] - whole[0]
    moved = press("ArrowLeft")
    assert moved[0] < closer[0]
    assert press("ArrowRight")[0] > moved[0]
    farther = press("-")
    assert farther[1] - farther[0] > moved[1] - moved[0]
    assert press("Home") == pytest.approx(whole)


def test_tab_reaches_the_charts_and_the_wide_tables(filled: Path, open_page: Open) -> None:
    page = open_page(filled)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"skip", "equity-chart", "candle-chart", "scroll"} <= reached


def test_a_hostile_symbol_message_and_title_stay_text(
    store: SyncStore, tmp_path: Path, open_page: Open, find_violations: Violations
) -> None:
    fill_store(store, bars=1_500, trades=20, symbol=HOSTILE, message=HOSTILE)
    path = tmp_path / "report.html"
    report(store, path, title=HOSTILE)
    page = open_page(path)
    assert page.evaluate("window.hacked") is None
    assert page.wrong == []
    assert page.evaluate("document.body.innerText").count(HOSTILE) > 5
    assert page.evaluate("iftbStore.read('report-data').by_symbol")[HOSTILE]["total_trades"] == 20
    assert find_violations(page) == []


@pytest.mark.parametrize(
    ("bars", "trades", "shown"),
    [
        (0, 0, "No bars are stored."),
        (1, 0, "1 candle"),
        (50, 0, "No position is open."),
        (500, 1, "1 closed trade"),
    ],
)
def test_a_page_of_little_data_is_whole(
    store: SyncStore, tmp_path: Path, open_page: Open, find_violations: Violations, bars: int, trades: int, shown: str
) -> None:
    whole = walk(bars)
    if whole:
        store.ohlcv.insert_many(whole)
    for trade in make_trades(whole, trades):
        store.trades.insert(trade)
    path = tmp_path / "report.html"
    report(store, path)
    page = open_page(path)
    assert page.wrong == []
    assert shown in page.evaluate("document.body.innerText")
    assert find_violations(page) == []


def test_trades_without_bars_have_figures_and_no_candles(store: SyncStore, tmp_path: Path, open_page: Open) -> None:
    for trade in make_trades(walk(500), 30):
        store.trades.insert(trade)
    path = tmp_path / "report.html"
    report(store, path)
    page = open_page(path)
    assert page.wrong == []
    assert page.evaluate("iftbStore.charts.length") == 1
