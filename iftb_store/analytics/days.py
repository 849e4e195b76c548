"""The calendar of a report: the days and hours of a time zone, and the figures of days, weeks, months and years."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal

from iftb_store.analytics.figures import DayResult, PeriodFigures
from iftb_store.analytics.numbers import divide, round_figure, round_optional
from iftb_store.analytics.totals import Totals, merge
from iftb_store.errors import InvalidValueError
from iftb_store.schema.types import EPOCH, to_epoch_us
from iftb_store.values.display import type_name

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_EPOCH_DAY = EPOCH.toordinal()
_HUNDRED = Decimal(100)

#: The first day of the week, month or year of a day.
PERIODS: dict[str, Callable[[date], date]] = {
    "weekly": lambda day: day - timedelta(days=day.weekday()),
    "monthly": lambda day: day.replace(day=1),
    "yearly": lambda day: day.replace(month=1, day=1),
}


def find_day_hours(times: Sequence[int], zone: tzinfo) -> list[tuple[int, int]]:
    """Return (day as `date.toordinal` gives it, hour) in a time zone for each time, given in microseconds since 1970.

    Raises:
        InvalidValueError: the zone's methods fail, or a day of the zone lies outside the years 1 to 9999.
    """
    try:
        if type(zone) is timezone:
            # a fixed offset, e.g. UTC: without a datetime for each time
            offset = to_epoch_us(EPOCH + (zone.utcoffset(None) or timedelta(0)))
            found = [((time + offset) // _DAY + _EPOCH_DAY, (time + offset) % _DAY // _HOUR) for time in times]
            # raises for a day that no date can be
            _ = [date.fromordinal(day) for day, _ in (min(found), max(found)) if found]
            return found
        local = ((EPOCH + timedelta(microseconds=time)).astimezone(zone) for time in times)
        return [(moment.toordinal(), moment.hour) for moment in local]
    except Exception as error:
        # the methods of a foreign tzinfo may raise any exception
        raise InvalidValueError(
            f"a time of the report lies outside the years 1 to 9999 in tz, or the methods of tz ({type_name(zone)}) fail; "
            "give zoneinfo.ZoneInfo(name), or datetime.UTC"
        ) from error


def check_zone(value: object) -> tzinfo:
    """Return a time zone; raise InvalidValueError for any other value, e.g. the name of one."""
    if not isinstance(value, tzinfo):
        raise InvalidValueError(f"tz must be a tzinfo such as zoneinfo.ZoneInfo('Europe/Berlin'), not {type_name(value)}")
    return value


def name_zone(zone: tzinfo) -> str:
    """Return the name of a time zone for people, e.g. Europe/Berlin."""
    try:
        return "UTC" if zone is UTC else str(getattr(zone, "key", None) or zone.tzname(datetime(2000, 1, 1)) or zone)
    except Exception:
        # the methods of a foreign tzinfo may raise any exception
        return type_name(zone)


def list_days(first: int, last: int, days: Mapping[int, Totals]) -> list[tuple[date, Totals]]:
    """Return every day from the first to the last, given as ordinals, with its totals."""
    empty = Totals()
    return [(date.fromordinal(day), days.get(day, empty)) for day in range(first, last + 1)]


def find_returns(days: Iterable[tuple[date, Totals]], balance: Decimal) -> list[Decimal] | None:
    """Return each day's net_pnl / balance at its beginning, not rounded; None if a day begins with a balance of 0 or less."""
    returns: list[Decimal] = []
    for _, totals in days:
        if balance <= 0:
            return None
        returns.append(totals.net / balance)
        balance += totals.net
    return returns


def list_periods(periods: Iterable[tuple[date, Totals]], balance: Decimal | None) -> list[PeriodFigures]:
    """Return the figures of periods in order, with the balance at the end of each if there is a starting balance."""
    found: list[PeriodFigures] = []
    for first, totals in periods:
        part = None
        if balance is not None:
            part = divide(_HUNDRED * totals.net, balance) if balance > 0 else None
            balance += totals.net
        found.append(
            PeriodFigures(
                first,
                totals.trades,
                totals.wins,
                totals.losses,
                totals.breakevens,
                round_figure(totals.fees),
                round_figure(totals.net),
                round_optional(part),
                round_optional(balance),
            )
        )
    return found


def merge_periods(days: Iterable[tuple[date, Totals]], name: str) -> list[tuple[date, Totals]]:
    """Return the totals of every week, month or year ("weekly", …) of the days."""
    return list(merge((PERIODS[name](day), totals) for day, totals in days).items())


def find_extreme(days: Iterable[tuple[date, Totals]], choose: Callable[[Iterable[Decimal]], Decimal]) -> DayResult | None:
    """Return the day with the greatest (``max``) or least (``min``) net result; the earliest if several are equal."""
    results = [(totals.net, day) for day, totals in days]
    if not results:
        return None
    chosen = choose(net for net, _ in results)
    return DayResult(next(day for net, day in results if net == chosen), round_figure(chosen))
