"""Remembers the times of the bars that a file contained so far, as spans: ranges of consecutive times without a gap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable

from iftb_store.errors import InvalidValueError

Span = tuple[int, int]
# a series, the step of its times, and the remainder of the times modulo the step
_Key = tuple[Hashable, int, int]
#: The times of a batch of one series, as spans; see `split_times`.
Times = dict[_Key, list[Span]]

# a span takes about 100 bytes, and a key about four times as much
_MOST_SPANS, _MOST_KEYS = 400_000, 100_000
# spans that are read in one go to insert one span
_READ_FOR_ONE = 16


class Spans:
    """The times of a file's bars, as spans, by series; times that are not a whole number of steps apart are in separate spans."""

    def __init__(self) -> None:
        self._lines: dict[_Key, _Line] = {}
        self._holes_forgotten = set[_Key]()
        self._lacks_keys = False
        self._count = 0

    def __len__(self) -> int:
        """Return the number of spans."""
        return self._count

    def find(self, times: Times) -> list[int]:
        """Return those of the given times that were added before, in ascending order; series with too many gaps are left out."""
        found: list[int] = []
        for key, spans in times.items():
            if key in self._lines and key not in self._holes_forgotten:
                found += self._lines[key].find(spans, key[1])
        return sorted(found)

    def count_unknown(self, times: Times) -> int:
        """Return for how many of the given times it is unknown whether they were added, because not all gaps are remembered."""
        if not self._holes_forgotten and not self._lacks_keys:
            return 0
        count = 0
        for key, spans in times.items():
            if key in self._holes_forgotten:
                count += len(self._lines[key].find(spans, key[1]))
            elif key not in self._lines and self._lacks_keys:
                count += sum((last - first) // key[1] + 1 for first, last in spans)
        return count

    def update(self, other: Spans) -> None:
        """Add the times of other spans; once the maximum number of series is reached, further series are not added."""
        for key, line in other._lines.items():
            if key not in self._lines and len(self._lines) >= _MOST_KEYS:
                self._lacks_keys = True
                continue
            if key in other._holes_forgotten:
                self._holes_forgotten.add(key)
            self._insert(key, list(zip(line.firsts, line.lasts, strict=True)))
        if self._count > _MOST_SPANS:
            self._forget_holes()

    def add(self, times: Times) -> list[int]:
        """Add the times of a batch and return those that were added before, in ascending order.

        Raises:
            InvalidValueError: the file contains too many series; or the times have so many gaps that the gaps are no longer
                remembered, and it is unknown whether a time was added before.
        """
        return sorted(time for key, spans in times.items() for time in self._add(key, spans))

    def _add(self, key: _Key, spans: list[Span]) -> list[int]:
        shared = self._lines[key].find(spans, key[1]) if key in self._lines else []
        if shared and key in self._holes_forgotten:
            raise InvalidValueError("the times in the file have too many gaps to be read in this order; sort the rows by time")
        self._insert(key, spans)
        if len(self._lines) > _MOST_KEYS:
            raise InvalidValueError(
                f"the file contains more than {_MOST_KEYS:,} series, or bars off the grid of the timeframe; import parts of it"
            )
        if self._count > _MOST_SPANS:
            self._forget_holes()
        return shared

    def _insert(self, key: _Key, spans: list[Span]) -> None:
        line = self._lines.setdefault(key, _Line())
        before = len(line.firsts)
        line.insert(spans, key[1])
        self._count += len(line.firsts) - before

    def _forget_holes(self) -> None:
        for key, line in self._lines.items():
            if len(line.firsts) > 1:
                self._holes_forgotten.add(key)
                line.firsts, line.lasts = line.firsts[:1], line.lasts[-1:]
        self._count = len(self._lines)


class _Line:
    """The spans of one series, in ascending order, with gaps between them: a list of first times and one of last times."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.lasts: list[int] = []

    def find(self, spans: list[Span], step: int) -> list[int]:
        """Return the times in ``spans`` that were added before, in the order of ``spans``."""
        found: list[int] = []
        for first, last in spans:
            at = bisect_left(self.lasts, first)
            while at < len(self.firsts) and self.firsts[at] <= last:
                found += range(max(first, self.firsts[at]), min(last, self.lasts[at]) + 1, step)
                at += 1
        return found

    def insert(self, spans: list[Span], step: int) -> None:
        """Add spans that are in ascending order, and merge them with stored spans that they touch."""
        begin = bisect_left(self.lasts, spans[0][0] - step)
        end = bisect_right(self.firsts, spans[-1][1] + step)
        if len(spans) > 1 and end - begin > _READ_FOR_ONE * len(spans):
            middle = len(spans) // 2
            self.insert(spans[:middle], step)
            self.insert(spans[middle:], step)
            return
        merged = _merge([*zip(self.firsts[begin:end], self.lasts[begin:end], strict=True), *spans], step)
        self.firsts[begin:end] = [first for first, _ in merged]
        self.lasts[begin:end] = [last for _, last in merged]


def split_times(series: Hashable, times: list[int], step: int) -> Times:
    """Return the times of a series as spans.

    Args:
        series: the series.
        times: the times in ascending order, without duplicates.
        step: the distance between two consecutive times if there is no gap.
    """
    apart: Times = {}
    for time in times:
        spans = apart.setdefault((series, step, time % step), [])
        if spans and spans[-1][1] + step == time:
            spans[-1] = spans[-1][0], time
        else:
            spans.append((time, time))
    return apart


def _merge(spans: list[Span], step: int) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + step:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
