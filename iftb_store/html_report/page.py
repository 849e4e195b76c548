"""Puts a report together: one HTML file with its style, its scripts and its data, which makes no request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from iftb_store._version import __version__
from iftb_store.analytics.figures import EquityPoint
from iftb_store.analytics.numbers import EXACT
from iftb_store.html_report.candles import pack_candles
from iftb_store.html_report.data import Chart, ClosedTrade, ReportData
from iftb_store.html_report.sections import list_sections
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.decimals import format_plain
from iftb_store.values.markup import Markup, element
from iftb_store.values.readable import format_moment, format_number
from iftb_store.values.timeframes import align

#: What the page may load: nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
#: The most trades of which the chart of candles shows entry and exit: the newest.
MOST_MARKED = 1_000

_HOUR, _DAY = 3_600, 86_400
_HOURLY = timedelta(days=60)
_MOST_POINTS = 5_000
#: Lists of a report that are left out of the figures in the page: as long as the number of trades or days.
_LEFT_OUT = {"equity", "marked_equity", "daily"}


def write_page(data: ReportData, title: str, now: datetime) -> str:
    """Return the page of a report.

    Args:
        data: what it shows.
        title: its title.
        now: when it is written.
    """
    with localcontext(EXACT):
        sections = list_sections(data)
        scripts = [_write_data(name, value) for name, value in _list_data(data).items()]
    made = f"Written by iftb-store {__version__} at {format_moment(now.astimezone(UTC).replace(microsecond=0))} UTC."
    links = [
        element("a", _find_heading(section), href=f"#{_find_id(section)}") for section in sections
    ]  # fmt: skip
    body = element(
        "body",
        element("a", "Skip to the figures", href="#main", class_="skip"),
        element("header", element("h1", title), element("nav", *links, aria_label="Sections")),
        element("main", *sections, id="main"),
        element("footer", element("p", made), element("p", _CHARTS)),
        *scripts,
        element("script", _read("lightweight-charts.js")),
        element("script", _read("report.js")),
    )
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        element("style", _read("report.css")),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


_CHARTS = "Charts by TradingView Lightweight Charts, Apache License 2.0. The page makes no request to any host."


def _find_id(section: str) -> str:
    return section.partition('aria-labelledby="')[2].partition('"')[0]


def _find_heading(section: str) -> Markup:
    return Markup(section.partition("<h2")[2].partition(">")[2].partition("</h2>")[0])


@cache
def _read(name: str) -> Markup:
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _write_data(name: str, value: object) -> Markup:
    """Return data as JSON in an element that is not run; no text in it can end the element."""
    text = json.dumps(value, default=_to_json, separators=(",", ":")).replace("<", "\\u003c")
    return element("script", Markup(text), type="application/json", id=name)


def _to_json(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format_plain(value) or format(value, "f")
    if isinstance(value, date):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


def _list_data(data: ReportData) -> dict[str, Any]:
    """Return the data of the page: the figures for programs, and what the charts draw."""
    found: dict[str, Any] = {}
    if data.performance is not None:
        found["report-data"] = {name: value for name, value in asdict(data.performance).items() if name not in _LEFT_OUT}
        if data.performance.equity:
            found["equity-data"] = _sample_equity(data.performance.equity)
            if data.performance.marked_equity:
                found["marked-data"] = _sample_equity(data.performance.marked_equity)
    if data.chart is not None and data.chart.bars:
        found["candle-data"] = {**pack_candles(data.chart.bars), "marks": _list_marks(data.chart, data.trades)}
    return found


def _sample_equity(points: Sequence[EquityPoint]) -> dict[str, Any]:
    """Return the equity and the deepest drawdown of each hour or day, on an even grid, as numbers for drawing."""
    step = _HOUR if points[-1].time - points[0].time <= _HOURLY else _DAY
    while (points[-1].time - points[0].time) / timedelta(seconds=step) > _MOST_POINTS:
        step *= 2
    first = _to_seconds(points[0]) // step * step
    values, falls = [float(points[0].equity)], [0.0]
    for before, point in pairwise(points):
        place = max(-((first - _to_seconds(point)) // step), 1)
        while len(values) <= place:
            # what the hour or day begins with: without a closing, it stays
            values.append(float(before.equity))
            falls.append(float(before.drawdown))
        values[-1] = float(point.equity)
        falls[-1] = max(falls[-1], float(point.drawdown))
    return {"first": first, "step": step, "values": values, "falls": falls}


def _to_seconds(point: EquityPoint) -> int:
    return to_epoch_us(point.time) // 1_000_000


def _list_marks(chart: Chart, trades: Sequence[ClosedTrade]) -> list[Mapping[str, Any]]:
    """Return the entries and exits of the newest trades of the chart's symbol, in the order of their time."""
    series, (first, last) = chart.series, (chart.bars[0].timestamp, chart.bars[-1].timestamp)
    own = [one for one in trades if (one.trade.exchange, one.trade.symbol) == (series.exchange, series.symbol)]
    marks: list[dict[str, Any]] = []
    for one in own[-MOST_MARKED:]:
        for moment, text in ((one.trade.entry_time, None), (one.closed_at, format_number(one.net, 2))):
            if first <= moment and (opened := align(moment, chart.shown, up=False)) <= last:
                mark = {"time": to_epoch_us(opened) // 1_000_000, "side": one.trade.side}
                marks.append(mark if text is None else {**mark, "net": text, "won": one.net > 0})
    return sorted(marks, key=lambda mark: int(mark["time"]))
