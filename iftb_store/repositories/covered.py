"""The coverage of a series within one session: reads the ranges that were asked for, adds to them and takes from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from iftb_store.analytics.states import cut_range, move, unite_ranges
from iftb_store.coverage_store import CoverageStore, SupportsCoverage
from iftb_store.errors import Unsupported
from iftb_store.protocols import Stores
from iftb_store.schema.table_spec import COVERAGE, SERIES, AskedRange, RowFilter


def find_coverage(stores: Stores) -> CoverageStore | None:
    """Return the store of the coverage; None if the backend keeps only bars."""
    return stores.coverage if isinstance(stores, SupportsCoverage) else None


def require_coverage(stores: Stores) -> CoverageStore:
    """Return the store of the coverage.

    Raises:
        Unsupported: the backend does not keep it.
    """
    coverage = find_coverage(stores)
    if coverage is None:
        raise no_coverage_error()
    return coverage


def no_coverage_error() -> Unsupported:
    """Return the error for a call that needs the coverage, on a backend that keeps only bars."""
    return Unsupported(
        "this backend keeps only bars, and not which of them were asked for; keep the series on PostgreSQL, SQLite or DuckDB "
        "and copy it here"
    )


def select_asked(series: RowFilter, start: datetime | None, end: datetime | None) -> RowFilter:
    """Return the selection of the ranges of a series of which a part lies in a window."""
    return RowFilter(COVERAGE, {name: series.equal[name] for name in SERIES}, start, end)


async def add_range(coverage: CoverageStore, new: AskedRange) -> None:
    """Unite the stored ranges of a series with one more, in the session's transaction."""
    series = RowFilter(COVERAGE, {name: getattr(new, name) for name in SERIES})
    await coverage.lock(series)
    near = replace(series, start=move(new.first, new.timeframe, -1), end=move(new.last, new.timeframe, 1))
    stored = await coverage.read(near)
    united = unite_ranges(stored, new)
    if united != stored:
        await coverage.replace(near, united)


async def remove_range(coverage: CoverageStore, series: RowFilter, start: datetime, end: datetime) -> None:
    """Take the bars that begin from ``start`` to ``end``, inclusive, from the ranges of a series; `lock` it first."""
    window = select_asked(series, start, end)
    if stored := await coverage.read(window):
        await coverage.replace(window, [part for one in stored for part in cut_range(one, start, end)])


def join_ranges(ranges: Sequence[AskedRange]) -> list[tuple[datetime, datetime]]:
    """Return the ranges of a series as (first, last), with neighbours joined, whatever their source."""
    joined: list[tuple[datetime, datetime]] = []
    for one in ranges:
        if joined and one.first <= move(joined[-1][1], one.timeframe, 1):
            joined[-1] = joined[-1][0], max(joined[-1][1], one.last)
        else:
            joined.append((one.first, one.last))
    return joined
