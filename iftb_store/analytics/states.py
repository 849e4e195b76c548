"""Folds stored bars and the ranges that were asked for into the states of the bars of a series; and unites such ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal, TypeAlias

from iftb_store.analytics.coverage import count_slots_by_day
from iftb_store.errors import InvalidValueError
from iftb_store.schema.table_spec import AskedRange
from iftb_store.values.timeframes import MONTH, SECONDS, align, origin, shift

#: What is known of a bar whose period has ended.
State: TypeAlias = Literal["traded", "quiet", "none", "unknown"]
#: A run of stored bars: first, last, whether the volume is 0, number of bars.
Run: TypeAlias = tuple[datetime, datetime, bool, int]

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class CoverageRange:
    """Consecutive bars of a series, stored or missing, of which the same is known.

    Attributes:
        first: the opening time of the first bar, UTC.
        last: the opening time of the last bar, UTC.
        state: "traded": stored bars with a volume; "quiet": stored bars with the volume 0; "none": missing bars that were
            asked for, and the exchange gave none; "unknown": missing bars that were never asked for.
        bars: the number of bars: the stored ones, or the missing ones.
        asked_at: when bars of the state "none" were asked for, UTC; None for the other states.
        source: what was asked for bars of the state "none", e.g. "fetch" or "file:NAME"; None for the other states.
    """

    first: datetime
    last: datetime
    state: State
    bars: int
    asked_at: datetime | None = None
    source: str | None = None


@dataclass(slots=True)
class CoverageDay:
    """The bars of a series that begin on one day (UTC), by what is known of them.

    Attributes:
        day: the day.
        due: the number of bars whose period has ended; the sum of the other numbers.
        traded: stored bars with a volume.
        quiet: stored bars with the volume 0.
        none: missing bars that were asked for, and the exchange gave none.
        unknown: missing bars that were never asked for.
    """

    day: date
    due: int = 0
    traded: int = 0
    quiet: int = 0
    none: int = 0
    unknown: int = 0


def find_anchor(timeframe: str, runs: Sequence[Run], asked: Sequence[AskedRange]) -> datetime:
    """Return a time at which a bar of the series begins; only those of 3d begin on other days on other exchanges."""
    if timeframe != "3d":
        return origin(timeframe)
    starts = [run[0] for run in runs[:1]] + [one.first for one in asked[:1]]
    return min(starts, default=origin(timeframe))


def find_slot(anchor: datetime, moment: datetime, timeframe: str, *, up: bool = False) -> datetime:
    """Return the last opening time at or before a moment, or with ``up`` the first one at or after it.

    Args:
        anchor: a time at which a bar begins.
        moment: the moment, UTC.
        timeframe: the timeframe.
        up: whether to look for the next opening time.
    """
    if SECONDS[timeframe] is None:
        return align(moment, timeframe, up=up)
    step = timedelta(seconds=SECONDS[timeframe] or 0)
    elapsed = (moment - anchor) % step
    try:
        return moment + (step - elapsed) if up and elapsed else moment - elapsed
    except OverflowError:
        # the calendar has no such bar
        return _LAST if up else _FIRST


def move(moment: datetime, timeframe: str, steps: int) -> datetime:
    """Return `shift` of an opening time, or the end of the calendar if that lies outside it."""
    try:
        return shift(moment, timeframe, steps)
    except InvalidValueError:
        return _LAST if steps > 0 else _FIRST


def find_last_due(anchor: datetime, now: datetime, timeframe: str) -> datetime:
    """Return the opening time of the last bar whose period has ended at a time."""
    return find_slot(anchor, move(now, timeframe, -1), timeframe)


def count_slots(first: datetime, last: datetime, timeframe: str) -> int:
    """Return the number of opening times from ``first``, itself one, to ``last``."""
    if timeframe == MONTH:
        return max(0, (last.year - first.year) * 12 + last.month - first.month + 1)
    return max(0, (last - first) // timedelta(seconds=SECONDS[timeframe] or 0) + 1)


def list_states(
    runs: Iterable[Run], asked: Sequence[AskedRange], timeframe: str, first: datetime, last: datetime
) -> Iterator[CoverageRange]:
    """Yield the ranges of the bars from ``first`` to ``last``, both opening times of the series, oldest first.

    Args:
        runs: the runs of stored bars in the window, oldest first.
        asked: the ranges that were asked for, oldest first, disjoint.
        timeframe: the timeframe of the series.
        first: the first opening time of the window.
        last: its last opening time.
    """
    position, remaining = first, _Asked(asked, timeframe)
    for begin, end, quiet, bars in runs:
        yield from remaining.split(position, move(begin, timeframe, -1))
        yield CoverageRange(begin, end, "quiet" if quiet else "traded", bars)
        position = move(end, timeframe, 1)
    yield from remaining.split(position, last)


class _Asked:
    """Splits gaps, which are given in order of time, by the ranges that were asked for."""

    def __init__(self, asked: Sequence[AskedRange], timeframe: str) -> None:
        self._asked, self._timeframe, self._next = asked, timeframe, 0

    def split(self, first: datetime, last: datetime) -> Iterator[CoverageRange]:
        if first > last:
            return
        last = find_slot(first, last, self._timeframe)
        while self._next < len(self._asked):
            one = self._asked[self._next]
            if one.last < first:
                self._next += 1
                continue
            begin = find_slot(first, max(first, one.first), self._timeframe, up=True)
            end = find_slot(first, min(last, one.last), self._timeframe)
            if begin > last:
                break
            if begin > first:
                yield self._range(first, move(begin, self._timeframe, -1), None)
            if begin <= end:
                yield self._range(begin, end, one)
                first = move(end, self._timeframe, 1)
            else:
                first = begin
            if first > last:
                return
            self._next += one.last < first
        if first <= last:
            yield self._range(first, last, None)

    def _range(self, first: datetime, last: datetime, asked: AskedRange | None) -> CoverageRange:
        bars = count_slots(first, last, self._timeframe)
        if asked is None:
            return CoverageRange(first, last, "unknown", bars)
        return CoverageRange(first, last, "none", bars, asked.asked_at, asked.source)


def add_up_days(ranges: Iterable[CoverageRange], timeframe: str) -> list[CoverageDay]:
    """Return the days on which bars of the ranges begin, in order, with the number of bars of each state."""
    days: dict[date, CoverageDay] = {}
    for one in ranges:
        for day, bars in _count_by_day(one.first, one.last, timeframe):
            counts = days.setdefault(day, CoverageDay(day))
            counts.due += bars
            setattr(counts, one.state, getattr(counts, one.state) + bars)
    return list(days.values())


def _count_by_day(first: datetime, last: datetime, timeframe: str) -> Iterator[tuple[date, int]]:
    step = SECONDS[timeframe]
    if step is not None:
        yield from count_slots_by_day(first, last, step)
        return
    for number in range(count_slots(first, last, timeframe)):
        yield shift(first, timeframe, number).date(), 1


def unite_ranges(stored: Sequence[AskedRange], new: AskedRange) -> list[AskedRange]:
    """Return ranges of a series with one more: it replaces what it overlaps, and joins neighbours of the same source.

    Of joined ranges, the older asked_at stays.

    Args:
        stored: the ranges, disjoint, oldest first.
        new: the range to add.
    """
    before, after = move(new.first, new.timeframe, -1), move(new.last, new.timeframe, 1)
    joined, others = new, list[AskedRange]()
    for one in stored:
        if one.source == new.source and one.last >= before and one.first <= after:
            first, last = min(one.first, joined.first), max(one.last, joined.last)
            joined = replace(joined, first=first, last=last, asked_at=min(one.asked_at, joined.asked_at))
        else:
            others += cut_range(one, new.first, new.last)
    return sorted([*others, joined], key=lambda one: one.first)


def cut_range(one: AskedRange, start: datetime, end: datetime) -> list[AskedRange]:
    """Return what is left of a range without the bars that begin from ``start`` to ``end``, inclusive: 0 to 2 ranges."""
    if one.last < start or one.first > end:
        return [one]
    parts = []
    if one.first < start:
        parts.append(replace(one, last=find_slot(one.first, start - _MICROSECOND, one.timeframe)))
    if one.last > end:
        parts.append(replace(one, first=find_slot(one.first, end + _MICROSECOND, one.timeframe, up=True)))
    return parts


def limit_range(one: AskedRange, start: datetime | None, end: datetime | None) -> AskedRange | None:
    """Return the part of a range whose bars begin from ``start`` to ``end``, inclusive; None if there is none."""
    first, last = one.first, one.last
    if start is not None and first < start:
        first = find_slot(one.first, start, one.timeframe, up=True)
    if end is not None and last > end:
        last = find_slot(one.first, end, one.timeframe)
    return replace(one, first=first, last=last) if first <= last else None
