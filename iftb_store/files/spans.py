"""Remembers the times that a file contained so far, as spans without gaps; a real file has few spans."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable

from iftb_store.errors import InvalidValueError

Span = tuple[int, int]

# a span takes about 130 bytes, and a key about three times as much
_MOST_SPANS, _MOST_KEYS = 400_000, 100_000


class Spans:
    """The times of each series of one file, as spans; times with different remainders modulo the step are in separate spans."""

    def __init__(self) -> None:
        self._spans: dict[tuple[Hashable, int], list[Span]] = {}
        self._holes_forgotten = set[tuple[Hashable, int]]()
        self._count = 0

    def add(self, series: Hashable, times: list[int], step: int) -> list[int]:
        """Add the times of a batch and return those that were added before, in ascending order.

        Args:
            series: the series of the times.
            times: the times in ascending order, without duplicates.
            step: the distance between two consecutive times if there is no gap.

        Raises:
            InvalidValueError: the file contains too many series; or the times have so many gaps that the gaps are no longer
                remembered, and it is unknown whether a time was added before.
        """
        apart: dict[int, list[int]] = {}
        for time in times:
            apart.setdefault(time % step, []).append(time)
        return sorted(time for place, some in apart.items() for time in self._add((series, place), some, step))

    def _add(self, key: tuple[Hashable, int], times: list[int], step: int) -> list[int]:
        before, spans = self._spans.get(key, []), _merge([(time, time) for time in times], step)
        shared = _find_shared(before, spans, step)
        if shared and key in self._holes_forgotten:
            raise InvalidValueError("its times have too many gaps to be read in this order; sort its rows by time")
        merged = _merge([*before, *spans], step)
        self._count += len(merged) - len(before)
        self._spans[key] = merged
        if len(self._spans) > _MOST_KEYS:
            raise InvalidValueError(
                f"it contains bars of more than {_MOST_KEYS:,} series, or off the grid of their timeframe; import it in parts"
            )
        if self._count > _MOST_SPANS:
            self._forget_holes()
        return shared

    def _forget_holes(self) -> None:
        self._holes_forgotten |= {key for key, spans in self._spans.items() if len(spans) > 1}
        self._spans = {key: [(spans[0][0], spans[-1][1])] for key, spans in self._spans.items()}
        self._count = len(self._spans)


def _find_shared(before: list[Span], spans: list[Span], step: int) -> list[int]:
    """Return the times that two lists of spans have in common, in the order of ``spans``."""
    lasts = [last for _, last in before]
    found: list[int] = []
    for first, last in spans:
        at = bisect_left(lasts, first)
        while at < len(before) and before[at][0] <= last:
            found += range(max(first, before[at][0]), min(last, before[at][1]) + 1, step)
            at += 1
    return found


def _merge(spans: list[Span], step: int) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + step:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
