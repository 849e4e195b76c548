"""Copies what was asked for of the bars, after the bars themselves, and compares it: the table ``coverage`` of two stores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from iftb_store.abilities import ConnectedStore
from iftb_store.analytics.states import cut_range, limit_range, unite_ranges
from iftb_store.coverage_store import CoverageStore
from iftb_store.registry import get_stores
from iftb_store.repositories.covered import find_coverage, join_ranges
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, COVERAGE, SERIES, AskedRange, RowFilter

Ranges = dict[tuple[str, ...], list[AskedRange]]


class CoverageCopy:
    """Copies the coverage of the selected bars, in a transaction for each series.

    A copy that is stopped leaves bars without coverage, never coverage without its bars: ranges of the destination that a synced
    copy may contradict are deleted before the bars, and those of the source are stored after them.

    Args:
        source: the session of the source's snapshot.
        destination: the connected store to write.
        scope: the selection of the copy.
        equal: whether the copy is synced, so that the ranges become equal; otherwise those of the source are added.
    """

    def __init__(self, source: Any, destination: ConnectedStore, scope: TableScope, *, equal: bool) -> None:
        self._source = find_coverage(get_stores(source))
        self._destination, self._scope, self._equal = destination, scope, equal

    async def prepare(self) -> None:
        """Before a synced copy deletes bars, delete the ranges of the series in which the destination differs."""
        if not self._equal:
            return
        ours = await read_ranges(self._source, self._scope)
        async with self._destination.get_session() as session:
            theirs = await read_ranges(find_coverage(get_stores(session)), self._scope)
        for series in theirs:
            if theirs[series] != ours.get(series):
                await self._write(series, [])

    async def write(self) -> None:
        """Store the ranges of the source."""
        for series, ranges in (await read_ranges(self._source, self._scope)).items():
            await self._write(series, ranges)

    async def _write(self, series: tuple[str, ...], ranges: list[AskedRange]) -> None:
        windows = list(self._scope.list_selections(BARS))
        start, end = windows[0].start, windows[0].end

        async def work(session: Any) -> None:
            coverage = find_coverage(get_stores(session))
            if coverage is None:
                return
            window = RowFilter(COVERAGE, dict(zip(SERIES, series, strict=True)))
            await coverage.lock(window)
            stored = await coverage.read(window)
            united = stored
            if self._equal:
                united = [part for one in stored for part in _outside(one, start, end)]
            for one in ranges:
                united = unite_ranges(united, one)
            if united != stored:
                await coverage.replace(window, united)

        await self._destination.run(work, idempotent=True)


def _outside(one: AskedRange, start: Any, end: Any) -> list[AskedRange]:
    inside = limit_range(one, start, end)
    return [one] if inside is None else cut_range(one, inside.first, inside.last)


async def read_ranges(coverage: CoverageStore | None, scope: TableScope) -> Ranges:
    """Return the ranges of the selected bars, cut to the time window, by series."""
    found: Ranges = defaultdict(list)
    if coverage is None or BARS not in scope.tables:
        return found
    for selected in scope.list_selections(BARS):
        for one in await coverage.read(replace(selected, table=COVERAGE)):
            if (inside := limit_range(one, selected.start, selected.end)) is not None:
                found[tuple(getattr(one, name) for name in SERIES)].append(inside)
    return found


def find_differing_ranges(ours: Iterable[AskedRange], theirs: Iterable[AskedRange]) -> list[tuple[Any, Any, int, int]]:
    """Return the joined ranges that only one store has, as (first, last, number in the source, in the destination)."""
    here, there = join_ranges(list(ours)), join_ranges(list(theirs))
    mine, its = set(here), set(there)
    only = [(*one, 1, 0) for one in here if one not in its] + [(*one, 0, 1) for one in there if one not in mine]
    return sorted(only)
