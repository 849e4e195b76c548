"""Counts the bars of a series by day and month (UTC), from the ends of the series and its gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from iftb_store.schema.types import EPOCH, to_epoch_us
from iftb_store.values.timeframes import SECONDS

_DAY = 86_400


@dataclass(slots=True)
class DayCoverage:
    """A day or a month of a series.

    Attributes:
        due: the number of bars between the first and the last bar of the series, inclusive, if none were missing.
        missing: how many of these bars are missing.
    """

    due: int = 0
    missing: int = 0


def count_days(
    first: datetime, last: datetime, timeframe: str, gaps: Sequence[tuple[datetime, datetime]]
) -> dict[date, DayCoverage]:
    """Return how many bars are due and missing on each day; empty for timeframes longer than a day.

    Args:
        first: the opening time of the first bar, UTC.
        last: the opening time of the last bar.
        timeframe: the timeframe.
        gaps: the gaps within the series, as (last bar before, first bar after).
    """
    step = SECONDS[timeframe]
    if step is None or step > _DAY:
        return {}
    days = {day: DayCoverage(due=count) for day, count in _count_slots(_seconds(first), _seconds(last), step)}
    for before, after in gaps:
        for day, count in _count_slots(_seconds(before) + step, _seconds(after) - step, step):
            if day in days:
                days[day].missing += count
    return days


def sum_months(days: dict[date, DayCoverage]) -> dict[date, DayCoverage]:
    """Return the coverage of each month, by its first day."""
    months: dict[date, DayCoverage] = {}
    for day, coverage in days.items():
        month = months.setdefault(day.replace(day=1), DayCoverage())
        month.due += coverage.due
        month.missing += coverage.missing
    return months


def count_missing(before: datetime, after: datetime, timeframe: str) -> int:
    """Return how many bars fit strictly between two times."""
    step = SECONDS[timeframe]
    if step is None:
        return (after.year - before.year) * 12 + after.month - before.month - 1
    return -((before - after) // timedelta(seconds=step)) - 1


def count_slots_by_day(first: datetime, last: datetime, step: int) -> list[tuple[date, int]]:
    """Return how many of the times first, first + step seconds, … up to last lie on each day (UTC)."""
    return _count_slots(_seconds(first), _seconds(last), step)


def _seconds(moment: datetime) -> int:
    return to_epoch_us(moment) // 1_000_000


def _count_slots(first: int, last: int, step: int) -> list[tuple[date, int]]:
    """Return how many of the times first, first + step, … up to last, in seconds since 1970, lie on each day."""
    found: list[tuple[date, int]] = []
    while first <= last:
        day = first // _DAY
        count = -((first - min((day + 1) * _DAY, last + 1)) // step)
        found.append((date.fromordinal(EPOCH.toordinal() + day), count))
        first += count * step
    return found
