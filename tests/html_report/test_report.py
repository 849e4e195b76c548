"""The HTML report without a browser: what it holds, its size, and the file."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, Inexact, localcontext
from html import unescape
from pathlib import Path

import pytest

import iftb_store
from iftb_store import EquityPoint, InvalidValueError, MissingDriverError, OHLCVBar, Position, Series, Trade
from iftb_store.analytics.coverage import DayCoverage, count_days, count_missing
from iftb_store.html_report.candles import pack_candles
from iftb_store.html_report.data import Chart, ReportData
from iftb_store.html_report.page import POLICY, _sample_equity, write_page
from iftb_store.repositories.performance import make_scope
from iftb_store.sync import SyncStore, open_store, report
from tests.conftest import Run
from tests.support.report_stores import HOSTILE, MINUTE, START, fill_store, walk

_NOW = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture
def store(sqlite_url: str) -> Iterator[SyncStore]:
    """An empty store."""
    with open_store(sqlite_url) as db:
        db.migrate()
        yield db


def _read_data(html: str, name: str) -> dict[str, object]:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html)
    assert found is not None
    values: dict[str, object] = json.loads(found[1])
    return values


def _unpack(packed: dict[str, object]) -> list[list[int]]:
    """Return the columns of packed candles, as the page's script reads them."""
    values, count = zlib.decompress(b64decode(str(packed["data"]))), int(str(packed["count"]))
    numbers: list[int] = []
    number = shift = 0
    for byte in values:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(-(number + 1) // 2 if number % 2 else number // 2)
            number = shift = 0
    return [numbers[place : place + count] for place in range(0, len(numbers), count)]


def _page(bars: list[OHLCVBar]) -> str:
    scope = make_scope(None, None, None, symbol=None, side=None, starting_balance=None, fees="apart", tz=UTC)
    series = Series("binance", "BTCUSDT", "1m", bars[0].timestamp, bars[-1].timestamp, len(bars), 0)
    chart = Chart(series, "1m", series.first, series.last, bars, [])
    return write_page(ReportData(scope, series=[series], chart=chart), "Bars", _NOW)


def test_the_page_may_load_nothing_and_names_no_other_host(store: SyncStore) -> None:
    fill_store(store, bars=200, trades=5)
    html = report(store).html
    assert POLICY.startswith("default-src 'none'")
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in html
    ours = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"|url\(|@import', ours) == []


def test_the_three_kinds_of_holes_are_told_apart(store: SyncStore) -> None:
    hour = timedelta(hours=1)
    one = Decimal(1)
    bars = [OHLCVBar("BTCUSDT", "binance", "1h", START + place * hour, one, one, one, one, one) for place in range(20)]
    store.ohlcv.insert_many([bar for place, bar in enumerate(bars) if place not in (3, 10)])
    store.ohlcv.mark_covered("BTCUSDT", "1h", START + 8 * hour, START + 19 * hour, source="fetch")
    store.ohlcv.delete_range("BTCUSDT", "1h", START + 15 * hour, START + 16 * hour)
    html = report(store).html
    (gaps,) = re.findall(r"<caption>The longest gaps of .*?</table>", html, re.DOTALL)
    known = re.findall(r"never asked for|asked, none given", gaps)
    assert known == ["never asked for", "never asked for", "asked, none given"]
    assert "asked, none given</th>" in html


def test_every_figure_is_in_the_page_as_json(store: SyncStore) -> None:
    fill_store(store, bars=2_000, trades=30)
    made = report(store, starting_balance=Decimal(1_000))
    assert made.performance is not None
    figures = _read_data(made.html, "report-data")
    assert (figures["net_pnl"], figures["total_trades"]) == (str(made.performance.net_pnl), 30)
    assert figures["sharpe"] == str(made.performance.sharpe)
    assert len(_read_data(made.html, "candle-data")["marks"]) == 60  # type: ignore[arg-type]


def test_hostile_texts_are_escaped(store: SyncStore) -> None:
    fill_store(store, bars=500, trades=5, symbol=HOSTILE, message=HOSTILE)
    html = report(store, title=HOSTILE).html
    assert "window.hacked=1</script><img" not in html
    assert unescape(html).count(HOSTILE) > 5
    assert HOSTILE in _read_data(html, "report-data")["by_symbol"]  # type: ignore[operator]


def test_an_undefined_figure_has_its_reason(store: SyncStore) -> None:
    assert 'title="no trade was closed">n/a<span class="hidden"> (no trade was closed)</span>' in report(store).html


def test_100_000_candles_are_less_than_2_megabytes() -> None:
    size = len(_page(walk(100_000)).encode())
    assert size < 1_500_000


def test_packed_candles_are_the_bars() -> None:
    bars = walk(500)
    packed = pack_candles(bars)
    times, opens, highs, lows, closes, volumes = _unpack(packed)
    assert packed["places"] == 2
    time = before = 0
    for place, bar in enumerate(bars):
        time += times[place]
        begin = before + opens[place]
        before = begin + closes[place]
        high, low = max(begin, before) + highs[place], min(begin, before) - lows[place]
        assert datetime.fromtimestamp(time, UTC) == bar.timestamp
        assert [Decimal(value).scaleb(-2) for value in (begin, high, low, before)] == [bar.open, bar.high, bar.low, bar.close]
    assert max(volumes) < 10**6


@pytest.mark.parametrize("price", ["0.000000000000000001", "99999999999999999999.999999999999999999", "0", "-5.5"])
def test_extreme_prices_are_drawn_as_far_as_numbers_of_javascript_go(price: str) -> None:
    value = Decimal(price)
    bars = [replace(bar, open=value, high=value, low=value, close=value, volume=value) for bar in walk(3)]
    with localcontext(prec=5):
        html = _page(bars)
    packed = _read_data(html, "candle-data")
    assert abs(_unpack(packed)[1][0]) < 2**53


def test_a_file_is_replaced_only_if_asked(store: SyncStore, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    made = report(store, path)
    assert (made.path, path.read_text()) == (path, made.html)
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(InvalidValueError, match=r"already exists"):
        report(store, path)
    assert report(store, path, title="Again", overwrite=True).html == path.read_text()


def test_another_file_than_html_is_refused(store: SyncStore, tmp_path: Path) -> None:
    for name in ("report.pdf", "bot.db", "html"):
        with pytest.raises(InvalidValueError, match=r"path .* does not end in \.html"):
            report(store, tmp_path / name)


def test_a_long_series_is_resampled_and_the_page_says_so(store: SyncStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iftb_store.html_report.data.MOST", 100)
    store.ohlcv.insert_many(walk(500))
    html = report(store).html
    assert "binance BTCUSDT 5m: 100 candles" in html
    assert "The stored series is 1m" in html


def test_the_window_selects_trades_and_bars(store: SyncStore) -> None:
    fill_store(store, bars=600, trades=20)
    made = report(store, start=START + 100 * MINUTE, end=START + 199 * MINUTE)
    assert "binance BTCUSDT 1m: 100 candles, 2024-02-01 01:40 to 2024-02-01 03:19 UTC" in made.html
    assert made.performance is not None
    assert made.performance.total_trades < 20
    assert "No bars of binance BTCUSDT 1m are stored in the window." in report(store, start=_NOW).html


def test_a_store_of_bars_only_has_a_report(bars_only_url: str) -> None:
    with open_store(bars_only_url) as db:
        db.ohlcv.insert_many(walk(5))
        made = report(db)
    assert made.performance is None
    assert "This store keeps only bars" in made.html


def test_a_notebook_shows_the_page_in_a_frame(store: SyncStore) -> None:
    made = report(store)
    shown = made._repr_html_()
    found = re.fullmatch(
        r'<iframe srcdoc="([^"]*)" style="width: 100%; border: 0" height="900" title="iftb-store report"></iframe>', shown
    )
    assert found is not None
    assert unescape(found[1]) == made.html
    assert made.html not in repr(made)


def test_show_without_ipython_says_what_to_do(store: SyncStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", None)
    with pytest.raises(MissingDriverError, match="show"):
        report(store).show()


def test_statistics_figures_and_series_are_tables_in_a_notebook(store: SyncStore) -> None:
    fill_store(store, bars=20, trades=3, symbol="<b>")
    figures = store.trades.get_performance()
    assert f'<th scope="row">net pnl</th><td class="n">{figures.net_pnl}</td>' in figures._repr_html_()
    assert "net pnl after fees" in store.trades.get_statistics(days=10_000)._repr_html_()
    (series,) = store.ohlcv.list_series()
    assert "&lt;b&gt;" in series._repr_html_()


def test_the_days_of_a_series_are_counted_from_its_gaps() -> None:
    hour, first = timedelta(hours=1), datetime(2024, 2, 1, 22, tzinfo=UTC)
    days = count_days(first, first + 30 * hour, "1h", [(first + hour, first + 5 * hour)])
    assert [*days.values()] == [DayCoverage(2, 0), DayCoverage(24, 3), DayCoverage(5, 0)]
    assert count_missing(first + hour, first + 5 * hour, "1h") == 3
    assert count_days(first, first, "1w", []) == {}
    last = datetime(9999, 12, 31, 23, tzinfo=UTC)
    assert [*count_days(last, last, "1h", []).values()] == [DayCoverage(1, 0)]


def test_the_command_writes_the_report(run: Run, store: SyncStore, sqlite_url: str, tmp_path: Path) -> None:
    fill_store(store, bars=100, trades=2)
    path = tmp_path / "bot.html"
    code, out, _ = run("report", sqlite_url, "-o", str(path), "--balance", "1000", "--title", "My bot", "--timeframe", "1m")
    assert (code, out) == (0, f"'{path}': {path.stat().st_size:,} bytes, 2 closed trades\n")
    assert "<h1>My bot</h1>" in path.read_text()
    assert run("report", sqlite_url, "-o", str(path))[0] == 2
    again = json.loads(run("report", sqlite_url, "-o", str(path), "--overwrite", "--json")[1])
    assert again == {"path": str(path), "bytes": path.stat().st_size, "trades": 2}


def test_the_licence_of_the_charts_is_beside_them() -> None:
    folder = Path(iftb_store.__file__).parent / "html_report"
    assert "Apache License" in (folder / "lightweight-charts.LICENSE").read_text()
    assert "Lightweight Charts™ v5.2.1" in (folder / "lightweight-charts.js").read_text()
    assert "</script" not in (folder / "lightweight-charts.js").read_text() + (folder / "report.js").read_text()


def test_the_drawdown_stays_between_closings_what_it_was_after_the_last_one() -> None:
    points = [(0, 0, 0), (10, -100, 100), (20, 50, 0), (180, 40, 10), (360, 60, 0)]
    equity = [EquityPoint(START + minutes * MINUTE, Decimal(value), Decimal(fall)) for minutes, value, fall in points]
    sampled = _sample_equity(equity)
    assert sampled["values"] == [0, 50, 50, 40, 40, 40, 60]
    # of the hour of a closing, the deepest
    assert sampled["falls"] == [0, 100, 0, 10, 10, 10, 10]


def test_the_errors_of_an_earlier_window_are_shown(store: SyncStore) -> None:
    fill_store(store, bars=0, trades=0, message="long ago")
    for _ in range(60):
        store.events.log_event("order", "error", "lately")
    first, *_ = store.events.get_events()
    html = report(store, end=first.created_at).html
    assert "long ago" in html
    assert "lately" not in html


def test_only_positions_of_the_chosen_symbol_and_side_are_shown(store: SyncStore) -> None:
    for symbol in ("BTCUSDT", "ETHUSDT"):
        store.positions.update_position(Position(symbol, "binance", "long", Decimal(1), Decimal(1), Decimal(1), START))
    assert "2 open positions" in report(store).html
    assert "1 open position;" in report(store, symbol="ETHUSDT").html
    assert "No position is open." in report(store, side="short").html


def test_results_are_exact_whatever_the_callers_decimal_context(store: SyncStore) -> None:
    large = Decimal("98765432109876543210.123456789012345678")
    for number, fee in enumerate((2, 1)):
        done = {"exit_time": START, "realized_pnl": large, "fee": Decimal(fee).scaleb(-18), "exit_price": large}
        trade = Trade(f"T-{number}", "BTCUSDT", "binance", "long", "close", Decimal(1), Decimal(1), START, **done)  # type: ignore[arg-type]
        store.trades.insert(trade)
    with localcontext(prec=5) as context:
        context.traps[Inexact] = True
        html = report(store).html
    best = html[html.index("The best trades") :]
    assert best.index("T-1") < best.index("T-0")
