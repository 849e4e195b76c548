"""The sections of a report: headings, figures in cards and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from iftb_store.analytics.coverage import count_days, sum_months
from iftb_store.analytics.figures import PerformanceReport
from iftb_store.analytics.shown import (
    GROUP_TITLES,
    GROUPS,
    SHOWN,
    UNDEFINED,
    describe_scope,
    explain_undefined,
    format_figure,
    format_group_key,
    format_money,
    list_group_cells,
    list_groups,
)
from iftb_store.analytics.states import add_up_days
from iftb_store.html_report.candles import MOST
from iftb_store.html_report.data import Chart, ClosedTrade, ReportData, describe_gap, list_worst_gaps
from iftb_store.html_report.heatmaps import draw_coverage, draw_days, draw_months, draw_percent, draw_weekdays
from iftb_store.models import Position, SystemEvent
from iftb_store.values.markup import Child, Markup, element, join, table
from iftb_store.values.readable import format_count, format_moment, format_number

_EXTREME_TRADES, _WORST_GAPS = 10, 20
_KEYS = "Keys: arrows move, + and \N{MINUS SIGN} zoom, Home shows all."


def list_sections(data: ReportData) -> list[Markup]:
    """Return the sections of a report in order."""
    report = data.performance
    sections: list[Markup | None] = []
    if report is None:
        sections.append(_section("figures", "Figures", element("p", "This store keeps only bars, and no trades.")))
    else:
        sections.append(_write_figures(report))
        sections.append(_write_equity(report))
    sections.append(_write_candles(data))
    if report is not None and report.total_trades:
        sections += [_write_periods(report), _write_groups(report), _write_trades(data.trades)]
    if report is not None:
        sections.append(_write_positions(data.positions))
    sections.append(_write_coverage(data))
    if report is not None:
        sections.append(_write_events(data.events))
    return [section for section in sections if section is not None]


def _section(name: str, title: str, *children: Child) -> Markup:
    return element("section", element("h2", title, id=name), *children, aria_labelledby=name)


def _make_scrollable(content: Markup, label: str) -> Markup:
    """Return a wide table in a region that scrolls, also by keyboard."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {label}")


def _write_figures(report: PerformanceReport) -> Markup:
    cards: list[Markup] = []
    for title, figures in SHOWN.items():
        items: list[Markup] = []
        for name, label, kind in figures:
            value = getattr(report, name)
            if value is None:
                reason = explain_undefined(report, name)
                shown: Child = element(
                    "span", UNDEFINED, element("span", f" ({reason})", class_="hidden"), class_="na", title=reason
                )
            else:
                shown = format_figure(value, kind)
            items.append(element("div", element("dt", label), element("dd", shown)))
        cards.append(element("div", element("h3", title), element("dl", *items), class_="card"))
    lines = [element("p", line) for line in describe_scope(report)]
    if report.unaccounted_trades:
        left = format_count(report.unaccounted_trades, "closed trade")
        lines.append(element("p", f"Left out, because realized_pnl is not set: {left}."))
    return _section("figures", "Figures", *lines, element("div", *cards, class_="cards"))


def _write_equity(report: PerformanceReport) -> Markup | None:
    if not report.total_trades:
        return None
    begin, end, deepest = (
        format_figure(value, "money") for value in (report.equity[0].equity, report.equity[-1].equity, report.max_drawdown)
    )
    label = f"Equity and drawdown, from {begin} to {end}; the deepest drawdown is {deepest}"
    note = "The equity is that of closed trades; open ones do not count."
    if report.marked_equity:
        note = (
            "The equity is that of closed trades. The dashed line is marked to market: the stored balances with the unrealized "
            "pnl of open positions, without deposits and withdrawals."
        )
    falls = [
        [
            format_moment(one.start),
            format_moment(one.valley),
            "not yet" if one.recovery is None else format_moment(one.recovery),
            format_figure(one.depth, "money"),
            format_figure(one.depth_pct, "percent"),
            format_figure(one.length, "duration"),
        ]
        for one in report.drawdowns[:5]
    ]
    titles = ["from (UTC)", "valley", "recovered", "depth", "depth, %", "length"]
    worst = _make_scrollable(table(titles, falls, caption="The deepest drawdowns"), "Drawdowns") if falls else None
    return _section("equity", "Equity and drawdown", element("p", note), _chart("equity-chart", label), worst)


def _chart(name: str, label: str) -> Markup:
    keys = element("p", _KEYS, class_="keys", id=f"{name}-keys")
    return join(
        [
            element(
                "div", id=name, class_="chart", role="group", tabindex="0", aria_label=label, aria_describedby=f"{name}-keys"
            ),
            keys,
        ]
    )


def _write_candles(data: ReportData) -> Markup:
    chart = data.chart
    if chart is None:
        return _section("candles", "Candles", element("p", "No bars are stored."))
    series = chart.series
    name = f"{series.exchange} {series.symbol} {chart.shown}"
    if not chart.bars:
        return _section("candles", "Candles", element("p", f"No bars of {name} are stored in the window."))
    count = format_count(len(chart.bars), "candle")
    first, last = format_moment(chart.bars[0].timestamp), format_moment(chart.bars[-1].timestamp)
    lines = [f"{name}: {count}, {first} to {last} UTC. Missing bars are blank."]
    if chart.shown != series.timeframe:
        lines.append(f"The stored series is {series.timeframe}, whose bars are more than {MOST:,}; these are made of them.")
    lines.append("Arrows below and above the candles are entries and exits of trades, with their net pnl.")
    return _section("candles", "Candles and trades", *(element("p", line) for line in lines), _chart("candle-chart", lines[0]))


def _write_periods(report: PerformanceReport) -> Markup:
    return _section(
        "periods",
        "By month, day and weekday",
        _make_scrollable(draw_months(report.monthly), "Net pnl of each month"),
        _make_scrollable(draw_days(report.daily), "Net pnl of each day"),
        _make_scrollable(draw_weekdays(report.by_weekday), "Net pnl by weekday"),
    )


def _write_groups(report: PerformanceReport) -> Markup:
    tables: list[Markup] = []
    for name in list_groups(report):
        groups: dict[Any, Any] = getattr(report, name)
        if name != "by_weekday":
            title = GROUPS[name]
            rows = [[format_group_key(name, key), *list_group_cells(group)] for key, group in groups.items()]
            tables.append(_make_scrollable(table([title, *GROUP_TITLES], rows, caption=f"By {title}"), f"By {title}"))
    return _section("groups", "By symbol, side and more", *tables)


def _write_trades(trades: Sequence[ClosedTrade]) -> Markup:
    ordered = sorted(trades, key=lambda one: one.net)
    wins = [one for one in reversed(ordered[-_EXTREME_TRADES:]) if one.net > 0]
    losses = [one for one in ordered[:_EXTREME_TRADES] if one.net < 0]
    parts = [
        _make_scrollable(_list_trades(chosen, title), title)
        for chosen, title in ((wins, "The best trades"), (losses, "The worst trades"))
        if chosen
    ]
    return _section("trades", "Best and worst trades", *(parts or [element("p", "No trade won or lost.")]))


def _list_trades(trades: Iterable[ClosedTrade], title: str) -> Markup:
    rows = [
        [
            one.trade.trade_id,
            one.trade.exchange,
            one.trade.symbol,
            one.trade.side,
            format_moment(one.trade.entry_time),
            format_moment(one.closed_at),
            format_number(one.trade.quantity),
            format_number(one.trade.entry_price),
            format_number(one.trade.exit_price) or UNDEFINED,
            format_money(one.net),
        ]
        for one in trades
    ]
    titles = [
        "trade",
        "exchange",
        "symbol",
        "side",
        "entry (UTC)",
        "closed (UTC)",
        "quantity",
        "entry price",
        "exit price",
        "net pnl",
    ]
    return table(titles, rows, caption=title)


def _write_positions(positions: Sequence[Position]) -> Markup:
    if not positions:
        return _section("positions", "Open positions", element("p", "No position is open."))
    known = [one.unrealized_pnl for one in positions if one.unrealized_pnl is not None]
    unknown = len(positions) - len(known)
    total = format_money(sum(known, Decimal(0))) if known else UNDEFINED
    text = f"{format_count(len(positions), 'open position')}; unrealized pnl {total}"
    text += f", unknown for {unknown}." if unknown else "."
    rows = [
        [
            one.symbol,
            one.exchange,
            one.side,
            format_moment(one.entry_time),
            *(format_number(getattr(one, name)) or UNDEFINED for name in _POSITION_FIGURES),
        ]
        for one in positions
    ]
    titles = ["symbol", "exchange", "side", "since (UTC)", *(name.replace("_", " ") for name in _POSITION_FIGURES)]
    shown = _make_scrollable(table(titles, rows, caption="Open positions"), "Open positions")
    return _section("positions", "Open positions", element("p", text), shown)


_POSITION_FIGURES = ("quantity", "entry_price", "current_price", "leverage", "margin", "unrealized_pnl")


def _write_coverage(data: ReportData) -> Markup | None:
    if not data.series:
        return None
    rows = [
        [
            one.symbol,
            one.exchange,
            one.timeframe,
            format_moment(one.first),
            format_moment(one.last),
            f"{one.count:,}",
            f"{one.missing:,}",
        ]
        for one in data.series
    ]
    titles = ["symbol", "exchange", "timeframe", "first (UTC)", "last", "bars", "missing"]
    parts = [_make_scrollable(table(titles, rows, caption="The stored series"), "The stored series")]
    if data.chart is not None and data.chart.bars:
        parts += _write_chart_coverage(data.chart)
    return _section("coverage", "Coverage", *parts)


def _write_chart_coverage(chart: Chart) -> list[Markup]:
    """Return the coverage of the series of the chart by month and day, and its worst gaps."""
    series = chart.series
    name = f"{series.exchange} {series.symbol} {series.timeframe}"
    days = count_days(chart.first, chart.last, series.timeframe, chart.gaps)
    parts: list[Markup] = []
    if days:
        months = sum_months(days)
        asked = Counter[date]()
        for day in add_up_days(chart.states, series.timeframe):
            asked[day.day.replace(day=1)] += day.none
        rows = [
            [f"{month:%Y-%m}", f"{one.due:,}", f"{one.missing:,}", f"{asked[month]:,}", draw_percent(one, f"{month:%Y-%m}")]
            for month, one in sorted(months.items(), reverse=True)
        ]
        caption = f"{name} by month (UTC)"
        titles = ["month", "due", "missing", "asked, none given", "stored, %"]
        parts.append(_make_scrollable(table(titles, rows, caption=caption), caption))
        parts.append(_make_scrollable(draw_coverage(days, months), f"{name} by day"))
    gaps = list_worst_gaps(chart, _WORST_GAPS)
    if gaps:
        rows = [
            [format_moment(before), format_moment(after), f"{count:,}", describe_gap(chart, before, after)]
            for before, after, count in gaps
        ]
        titles = ["last bar before (UTC)", "first bar after", "bars missing", "what is known"]
        parts.append(_make_scrollable(table(titles, rows, caption=f"The longest gaps of {name}"), "Gaps"))
    else:
        parts.append(element("p", f"{name} has no gaps."))
    return parts


def _write_events(events: Sequence[SystemEvent]) -> Markup:
    if not events:
        return _section("events", "Errors", element("p", "No event of severity error or critical is stored."))
    rows = [
        [
            "" if one.created_at is None else format_moment(one.created_at.replace(microsecond=0)),
            one.severity,
            one.event_type,
            one.symbol or "",
            one.message,
        ]
        for one in events
    ]
    titles = ["time (UTC)", "severity", "event", "symbol", "message"]
    shown = table(titles, rows, caption="The newest events of severity error and critical", numbers=False)
    return _section("events", "Errors", _make_scrollable(shown, "Errors"))
