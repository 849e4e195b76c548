"""Tables whose cells show a result by a sign and a shade: by month, day and weekday; and the coverage of a series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal

from iftb_store.analytics.coverage import DayCoverage
from iftb_store.analytics.figures import GroupFigures, PeriodFigures
from iftb_store.analytics.shown import WEEKDAYS, format_figure
from iftb_store.values.markup import Child, Markup, element, table

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
#: The most months of a table of days: the newest ones.
MOST_MONTHS = 24

_SHADES = 3
_MINUS = "\N{MINUS SIGN}"


def draw_months(months: Sequence[PeriodFigures]) -> Markup:
    """Return the net results of each month, a row for a year; with a starting balance, the returns."""
    by_month = {(one.period.year, one.period.month): one for one in months}
    scale = _find_scale(months)
    rows = [
        [str(year), *(_draw_result(by_month.get((year, month)), scale, short=False) for month in range(1, 13))]
        for year in sorted({one.period.year for one in months}, reverse=True)
    ]
    return table(["year", *MONTHS], rows, caption="Net pnl of each month")


def draw_days(days: Sequence[PeriodFigures]) -> Markup:
    """Return the sign of the result of each day, a row for a month; the newest months."""
    by_day = {one.period: one for one in days}
    scale = _find_scale(days)
    months = sorted({day.replace(day=1) for day in by_day}, reverse=True)[:MOST_MONTHS]
    rows = [[f"{month:%Y-%m}", *(_draw_day(by_day, month, number, scale) for number in range(1, 32))] for month in months]
    return table(["month", *map(str, range(1, 32))], rows, caption="Sign of the net pnl of each day")


def draw_weekdays(groups: Mapping[int, GroupFigures]) -> Markup:
    """Return the result of each weekday of closing."""
    scale = max((abs(one.net_pnl) for one in groups.values()), default=Decimal(0))
    rows: list[list[Child]] = []
    for place, name in enumerate(WEEKDAYS):
        one = groups.get(place)
        if one is None:
            rows.append([name, "0", _blank("no trade"), _blank("no trade")])
        else:
            shown = format_figure(one.net_pnl, "money")
            rows.append(
                [name, f"{one.total_trades:,}", _shade(one.net_pnl, scale, shown), format_figure(one.win_rate, "percent")]
            )
    return table(["weekday", "trades", "net pnl", "win rate"], rows, caption="Net pnl by weekday of closing")


def draw_coverage(days: Mapping[date, DayCoverage], months: Iterable[date]) -> Markup:
    """Return a table of how many percent of the expected bars are stored: a row for each month, a column for each day."""
    rows = [
        [f"{month:%Y-%m}", *(_draw_coverage_of(days, month, number) for number in range(1, 32))]
        for month in sorted(months, reverse=True)[:MOST_MONTHS]
    ]
    return table(["month", *map(str, range(1, 32))], rows, caption="Percent of the expected bars that are stored, by day (UTC)")


def draw_percent(coverage: DayCoverage, title: str) -> Markup:
    """Return a cell with the percent of the expected bars that are stored: 100 only if none is missing."""
    if not coverage.due:
        return _blank(title)
    stored = coverage.due - coverage.missing
    percent = stored * 100 // coverage.due
    shade = "full" if not coverage.missing else "part" if stored else "none"
    return element("td", str(percent), class_=f"n c-{shade}", title=f"{title}: {stored:,} of {coverage.due:,} bars")


def _draw_coverage_of(days: Mapping[date, DayCoverage], month: date, number: int) -> Markup:
    day = _find_day(month, number)
    return _blank("not in the series") if day is None or day not in days else draw_percent(days[day], day.isoformat())


def _draw_result(period: PeriodFigures | None, scale: Decimal, *, short: bool) -> Markup:
    if period is None:
        return _blank("not in the window")
    if not period.total_trades:
        return _blank("no trade")
    shown = format_figure(period.net_pnl, "money")
    if period.return_pct is not None:
        shown += f" ({format_figure(period.return_pct, 'percent')})"
    sign = _MINUS if period.net_pnl < 0 else "+" if period.net_pnl else "0"
    return _shade(period.net_pnl, scale, sign if short else shown, f"{period.period.isoformat()}: {shown}")


def _draw_day(by_day: Mapping[date, PeriodFigures], month: date, number: int, scale: Decimal) -> Markup:
    day = _find_day(month, number)
    return _draw_result(by_day.get(day) if day else None, scale, short=True)


def _find_day(month: date, number: int) -> date | None:
    try:
        return month.replace(day=number)
    except ValueError:
        return None


def _find_scale(periods: Iterable[PeriodFigures]) -> Decimal:
    return max((abs(one.net_pnl) for one in periods), default=Decimal(0))


def _shade(value: Decimal, scale: Decimal, shown: str, title: str | None = None) -> Markup:
    """Return a cell whose class says sign and size: up-1 to up-3, down-1 to down-3, or even."""
    if not value or not scale:
        return element("td", shown, class_="n even", title=title)
    size = min(_SHADES, int(abs(value) / scale * _SHADES) + 1)
    return element("td", shown, class_=f"n {'up' if value > 0 else 'down'}-{size}", title=title)


def _blank(title: str) -> Markup:
    return element("td", element("span", title, class_="hidden"), class_="blank", title=title)
