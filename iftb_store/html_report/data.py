"""Reads what a report shows, all from one snapshot on an engine that has snapshots."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from iftb_store.abilities import ConnectedStore
from iftb_store.analytics.coverage import count_missing
from iftb_store.analytics.figures import PerformanceReport
from iftb_store.analytics.numbers import EXACT
from iftb_store.analytics.performance import PerformanceScope
from iftb_store.analytics.states import CoverageRange
from iftb_store.html_report.candles import MOST
from iftb_store.models import OHLCVBar, Position, Series, SystemEvent, Trade
from iftb_store.protocols import Capability, Isolation, Session
from iftb_store.registry import get_stores
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.performance import read_performance
from iftb_store.repositories.positions import PositionRepository
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.table_spec import EVENTS, RowFilter
from iftb_store.values.choices import Severity
from iftb_store.values.timeframes import SECONDS, TIMEFRAMES, Timeframe, align

_FIRST, _LAST = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)
#: The severities of the events that are shown, and how many events of each.
SEVERE: tuple[Severity, ...] = ("critical", "error")
MOST_EVENTS = 50


@dataclass(frozen=True, slots=True)
class ClosedTrade:
    """A closed trade that the figures contain, with the time of its end and its net result."""

    trade: Trade
    closed_at: datetime
    net: Decimal


@dataclass(slots=True)
class Chart:
    """The candles of a chart.

    Attributes:
        series: the stored series.
        shown: the timeframe of the candles, longer than that of the series if it has too many.
        first: the first time of the window at which a bar of the stored series can begin, UTC.
        last: the last such time.
        bars: the candles.
        gaps: the gaps of the stored series.
        states: what is known of its bars, see `OHLCVRepository.get_coverage`; empty if the store keeps only bars.
    """

    series: Series
    shown: Timeframe
    first: datetime
    last: datetime
    bars: list[OHLCVBar]
    gaps: list[tuple[datetime, datetime]]
    states: list[CoverageRange] = field(default_factory=list)


@dataclass(slots=True)
class ReportData:
    """What a report shows; no performance if the store keeps only bars."""

    scope: PerformanceScope
    performance: PerformanceReport | None = None
    trades: list[ClosedTrade] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    events: list[SystemEvent] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    chart: Chart | None = None


async def read_report(db: ConnectedStore, scope: PerformanceScope, timeframe: Timeframe | None) -> ReportData:
    """Return the data of a report.

    Args:
        db: the store.
        scope: the trades, the window, and the meaning of the figures.
        timeframe: the timeframe of the candles; None: that of the series with the most bars.
    """
    data = ReportData(scope)
    isolation: Isolation | None = "snapshot" if Capability.ISOLATION in db.capabilities else None
    async with db.get_session(isolation=isolation) as session:
        if Capability.RECORDS in db.capabilities:
            await _read_records(session, data)
        data.series = await OHLCVRepository(session).list_series()
        data.chart = await _read_chart(session, data, timeframe)
        if data.chart is not None and data.chart.gaps and Capability.RECORDS in db.capabilities:
            series, window = data.chart.series, {"start": data.chart.first, "end": data.chart.last}
            read = OHLCVRepository(session).get_coverage
            data.chart.states = await read(series.symbol, series.timeframe, series.exchange, **window)
    return data


async def _read_records(session: Session, data: ReportData) -> None:
    scope = data.scope
    data.performance = await read_performance(get_stores(session), scope)
    names = ("symbol", "side", "exchange", "account", "strategy", "exit_reason", "tag")
    selection = {name: getattr(scope, name) for name in names}
    stored = await TradeRepository(session).get_range(_FIRST, _LAST, **selection)
    data.trades = _list_closed(stored, data.performance, scope)
    data.positions = [
        position
        for position in await PositionRepository(session).get_open_positions(scope.exchange, account=scope.account)
        if scope.symbol in (None, position.symbol) and scope.side in (None, position.side)
    ]
    data.events = await _read_events(session, scope)


async def _read_events(session: Session, scope: PerformanceScope) -> list[SystemEvent]:
    """Return the newest severe events of the window, newest first."""
    found: list[SystemEvent] = []
    chosen = {} if scope.account is None else {"account": scope.account}
    for severity in SEVERE:
        selection = RowFilter(EVENTS, {"severity": severity, **chosen}, scope.start, scope.end, limit=MOST_EVENTS)
        found += await get_stores(session).records.select(selection, descending=True)
    return sorted(found, key=_read_age, reverse=True)


def _list_closed(trades: list[Trade], report: PerformanceReport, scope: PerformanceScope) -> list[ClosedTrade]:
    """Return the trades that count, in the order of closing."""
    found: list[ClosedTrade] = []
    for trade in trades:
        closed_at = trade.exit_time or trade.updated_at
        if trade.realized_pnl is not None and closed_at is not None and _is_within(closed_at, scope):
            net = trade.realized_pnl if report.fees == "included" else EXACT.subtract(trade.realized_pnl, trade.fee)
            found.append(ClosedTrade(trade, closed_at, net))
    return sorted(found, key=lambda one: (one.closed_at, one.trade.id or 0))


def _is_within(moment: datetime | None, scope: PerformanceScope) -> bool:
    if moment is None:
        return False
    return (scope.start is None or moment >= scope.start) and (scope.end is None or moment <= scope.end)


def _read_age(event: SystemEvent) -> tuple[datetime, int]:
    return event.created_at or datetime.min, event.id or 0


async def _read_chart(session: Session, data: ReportData, timeframe: Timeframe | None) -> Chart | None:
    series = _choose_series(data, timeframe)
    if series is None:
        return None
    repository, scope = OHLCVRepository(session), data.scope
    begin, end = max(series.first, scope.start or series.first), min(series.last, scope.end or series.last)
    if begin > end:
        return Chart(series, series.timeframe, begin, end, [], [])
    # the series has a bar at or after the one, and one at or before the other, so that both are in the calendar
    first, last = align(begin, series.timeframe, up=True), align(end, series.timeframe, up=False)
    if first > last:
        return Chart(series, series.timeframe, first, last, [], [])
    names = series.symbol, series.timeframe
    shown = _choose_timeframe(series.timeframe, first, last)
    if shown == series.timeframe:
        bars = await repository.get_range(*names, first, last, series.exchange)
    else:
        bars = await repository.resample(*names, shown, first, last, series.exchange, partial=True)
    gaps = await repository.get_gaps(*names, series.exchange, start=first, end=last)
    return Chart(series, shown, first, last, bars, gaps)


def _choose_series(data: ReportData, timeframe: Timeframe | None) -> Series | None:
    """Return the series of the symbol with the most trades, or else the one with the most bars."""
    counts: dict[tuple[str, str], int] = {}
    for one in data.trades:
        key = one.trade.exchange, one.trade.symbol
        counts[key] = counts.get(key, 0) + 1
    scope = data.scope
    fitting = [
        one
        for one in data.series
        if (scope.exchange is None or one.exchange == scope.exchange)
        and (scope.symbol is None or one.symbol == scope.symbol)
        and (timeframe is None or one.timeframe == timeframe)
        and one.timeframe in SECONDS
    ]
    return max(fitting, key=lambda one: (counts.get((one.exchange, one.symbol), 0), one.count), default=None)


def _choose_timeframe(timeframe: Timeframe, first: datetime, last: datetime) -> Timeframe:
    """Return the timeframe, or the next longer one in which a window has at most `MOST` candles."""
    step = SECONDS[timeframe]
    if step is None or (last - first) / timedelta(seconds=step) < MOST:
        return timeframe
    for target in TIMEFRAMES:
        length = SECONDS[target]
        if length is not None and length > step and length % step == 0 and (last - first) / timedelta(seconds=length) < MOST:
            return target
    return "1M"


def list_worst_gaps(chart: Chart, limit: int) -> list[tuple[datetime, datetime, int]]:
    """Return the gaps with the most missing bars, as (last bar before, first bar after, missing bars)."""
    found = [(before, after, count_missing(before, after, chart.series.timeframe)) for before, after in chart.gaps]
    return sorted(found, key=lambda gap: (-gap[2], gap[0]))[:limit]


def describe_gap(chart: Chart, before: datetime, after: datetime) -> str:
    """Return what is known of the missing bars between two bars: never asked for, or asked for and not given."""
    counts = dict.fromkeys(("none", "unknown"), 0)
    for one in chart.states:
        if one.state in counts and before < one.first < after:
            counts[one.state] += one.bars
    if not counts["none"]:
        return "never asked for" if chart.states else "not known"
    return "asked, none given" + (f"; {counts['unknown']:,} never asked for" if counts["unknown"] else "")
