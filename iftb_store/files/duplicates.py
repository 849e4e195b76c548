"""Finds bars that a file contains more than once: equal duplicates are harmless, duplicates with other values are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow import arrow_schema
from iftb_store.batches.arrow_input import WRITTEN, RowError, find_repeated, is_rising
from iftb_store.batches.arrow_series import split_series
from iftb_store.batches.bars import KEY, SeriesKey
from iftb_store.files.earlier import EarlierFiles, explain_change, format_bar
from iftb_store.files.spans import Spans, Times
from iftb_store.registry import get_stores
from iftb_store.repositories.streams import record_batches
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.values.timeframes import SECONDS

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

_VALUES = [name for name in WRITTEN.names if name not in KEY]
_US, _DAY = 1_000_000, 86_400
# number of stored bars that are read at a time
_READ_AT_ONCE = 65_536
# maximum number of series that are read with a query each; more of them are read in one scan, which reads every series of the
# store in the time window
_ONE_BY_ONE = 500
_EARLIEST = to_epoch_us(datetime.min.replace(tzinfo=UTC))
_WHY = (
    "has a different bar of {} than an earlier row; does another column name the symbol (--map symbol=NAME), "
    "or were clocks set back in this hour?"
)


class RepeatError(RowError):
    """A row has other values than an earlier row of the file with the same key.

    Attributes:
        series: the series of the row.
        moment: the time of the row.
    """

    def __init__(self, index: int, series: SeriesKey, moment: datetime) -> None:
        super().__init__(index, _WHY.format(format_bar(series, moment)))
        self.series, self.moment = series, moment


class BatchCounts(NamedTuple):
    """Counts for a batch of a file: the rows that no earlier batch contained, and how many of these are new or changed."""

    rows: int
    inserted: int
    changed: int


class _Window(NamedTuple):
    """A time window of one series whose bars are compared with the stored ones; both times in microseconds, inclusive."""

    series: SeriesKey
    first: int
    last: int


class _Batch(NamedTuple):
    """The rows of a batch in key order.

    Attributes:
        rows: the rows.
        order: the index of each row in the batch.
        is_first: for each row, whether its key differs from the key of the row before.
        is_before: for each row, whether an earlier batch had a row with the same key.
        is_elsewhere: for each row, whether an earlier file had a row with the same key.
        scans: what to read from the store: selections of stored bars, each with the key of the last bar to compare.
    """

    rows: pa.Table
    order: Any
    is_first: Any
    is_before: Any
    is_elsewhere: Any
    scans: list[tuple[RowFilter, tuple[SeriesKey, int]]]


class Repeats:
    """Remembers which bars of a file were written so far, to find duplicates in later batches.

    Attributes:
        spans: the times of the bars, as first and last times of ranges without gaps.
        unknown: number of bars that could not be compared with earlier files.
    """

    def __init__(self, earlier: EarlierFiles, *, refuse_changes: bool) -> None:
        """Start with no bars.

        Args:
            earlier: the bars of the files that the same import has already stored.
            refuse_changes: whether to refuse a bar that is stored with other values.
        """
        self.spans = Spans()
        self.unknown = 0
        self._earlier, self._refuse_changes = earlier, refuse_changes

    async def add_rows(self, rows: pa.Table, session: Any, *, count: bool = False) -> BatchCounts:
        """Add a batch; raise an error if this or an earlier file has the same bar with other values.

        Returns:
            The number of distinct bars in the batch that earlier batches of the file did not contain; with ``count``, also how
            many of these bars are not stored, and how many are stored with other values.

        Raises:
            RepeatError: a row has other values than an earlier row of the file with the same key.
            RowError: a row has other values than a row of an earlier file with the same key, or would change a stored bar.
            InvalidValueError: the bars have too many series, or their times too many gaps, to be remembered.
        """
        batch = await asyncio.to_thread(self._remember, rows, compare_all=count or self._refuse_changes)
        distinct, before = batch.is_first.true_count, pc.and_(batch.is_first, batch.is_before).true_count
        if not batch.scans:
            return BatchCounts(distinct - before, 0, 0)
        stored = await _read_stored(session, batch)
        return BatchCounts(distinct - before, *await asyncio.to_thread(self._check, batch, stored))

    def _remember(self, rows: pa.Table, *, compare_all: bool) -> _Batch:
        order: Any = pa.array(range(rows.num_rows), pa.int64())
        if not is_rising(rows):
            order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in KEY])
            rows = rows.take(order).combine_chunks()
        again = find_repeated(rows)
        if again.true_count:
            wrong = pc.and_(again, _find_differences(rows.slice(0, rows.num_rows - 1), rows.slice(1)))
            _refuse_first(rows.slice(1), order.slice(1), wrong, RepeatError)
        times = rows["timestamp"].combine_chunks().cast(pa.int64())
        is_before, is_elsewhere = list[Any](), list[Any]()
        windows: list[_Window] = []
        for series, first, end in split_series(rows):
            part = times.slice(first, end - first)
            spread = _split_times(series, part)
            before, elsewhere = self.spans.add(spread), self._earlier.find(spread)
            self.unknown += self._earlier.count_unknown(spread)
            for found, marks in ((before, is_before), (elsewhere, is_elsewhere)):
                marks.append(pc.is_in(part, pa.array(found, pa.int64())))
            if compare_all:
                windows.append(_Window(series, part[0].as_py(), part[-1].as_py()))
            elif before or elsewhere:
                windows.append(_Window(series, min(before[:1] + elsewhere[:1]), max(before[-1:] + elsewhere[-1:])))
        is_first = pa.concat_arrays([pa.array([True]), pc.invert(again)])
        marks_before, marks_elsewhere = pa.concat_arrays(is_before), pa.concat_arrays(is_elsewhere)
        return _Batch(rows, order, is_first, marks_before, marks_elsewhere, _plan_scans(windows))

    def _check(self, batch: _Batch, stored: pa.Table) -> tuple[int, int]:
        """Return how many bars of a batch are not stored, and how many are stored with other values."""
        rows, order = batch.rows, batch.order
        places = pc.index_in(_join_keys(rows), _join_keys(stored))
        is_stored = pc.is_valid(places)
        differs = is_stored
        if stored.num_rows:
            differs = pc.and_(is_stored, _find_differences(rows, stored.take(pc.fill_null(places, 0))))
        _refuse_first(rows, order, pc.and_(differs, batch.is_before), RepeatError)
        _refuse_first(rows, order, pc.and_(differs, batch.is_elsewhere), _refusal(self._explain_other_file))
        if self._refuse_changes:
            _refuse_first(rows, order, differs, _refusal(explain_change))
        inserted = pc.and_(batch.is_first, pc.invert(is_stored)).true_count
        return inserted, pc.and_(batch.is_first, differs).true_count

    def _explain_other_file(self, series: SeriesKey, moment: datetime) -> str:
        return self._earlier.explain(series, to_epoch_us(moment), _read_step(series))


def _read_step(series: SeriesKey) -> int:
    return (SECONDS[series[2]] or _DAY) * _US


def _split_times(series: SeriesKey, times: Any) -> Times:
    """Return the times of a series, an ascending Arrow array of microseconds, as spans; see `split_times`."""
    step = _read_step(series)
    between = pc.subtract(times.slice(1), times.slice(0, len(times) - 1))
    is_new = pc.not_equal(between, 0)
    times = times.filter(pa.concat_arrays([pa.array([True]), is_new]))
    ends: list[int] = pc.indices_nonzero(pc.not_equal(between.filter(is_new), step)).to_pylist()
    places = [0, *(end + 1 for end in ends)], [*ends, len(times) - 1]
    firsts, lasts = (times.take(pa.array(chosen, pa.int64())).to_pylist() for chosen in places)
    apart: Times = {}
    for first, last in zip(firsts, lasts, strict=True):
        apart.setdefault((series, step, first % step), []).append((first, last))
    return apart


def _refusal(explain: Callable[[SeriesKey, datetime], str]) -> Callable[[int, SeriesKey, datetime], RowError]:
    return lambda index, series, moment: RowError(index, explain(series, moment))


async def _read_stored(session: Any, batch: _Batch) -> pa.Table:
    """Read the stored bars that have the same keys as rows of a batch."""
    keys = await asyncio.to_thread(_join_keys, batch.rows)

    def select(stored: pa.RecordBatch) -> tuple[pa.Table, tuple[SeriesKey, int]]:
        rows = pa.table(stored)
        exchange, symbol, timeframe, time = (rows[name][-1] for name in KEY)
        return rows.filter(pc.is_in(_join_keys(rows), keys)), ((exchange.as_py(), symbol.as_py(), timeframe.as_py()), time.value)

    found = [arrow_schema(BARS).empty_table()]
    for selection, last in batch.scans:
        # read in batches: between the bars of the file there may be any number of others
        async with aclosing(record_batches(get_stores(session), selection)) as batches:
            async for stored in batches:
                rows, end = await asyncio.to_thread(select, stored)
                found.append(rows)
                if end >= last:
                    break
    return pa.concat_tables(found)


def _plan_scans(windows: list[_Window]) -> list[tuple[RowFilter, tuple[SeriesKey, int]]]:
    """Plan how to read the stored bars of windows in key order: one read per window, or one read for all if there are many."""
    groups = [[window] for window in windows] if len(windows) <= _ONE_BY_ONE else [windows]
    return [(_select_stored(group), (group[-1].series, group[-1].last)) for group in groups]


def _select_stored(windows: list[_Window]) -> RowFilter:
    """Return a filter for the stored bars of some windows; it may select more bars, but none before the first window."""
    names = zip(SERIES, *(window.series for window in windows), strict=True)
    equal = {name: values[0] for name, *values in names if len(set(values)) == 1}
    first, start = windows[0], min(window.first for window in windows)
    bounds = from_epoch_us(start), from_epoch_us(max(window.last for window in windows))
    selection = RowFilter(BARS, equal, *bounds, limit=_READ_AT_ONCE)
    if len(windows) == 1 or first.first == _EARLIEST:
        return selection
    place = {**dict(zip(SERIES, first.series, strict=True)), "timestamp": from_epoch_us(first.first - 1)}
    return replace(selection, after=tuple(place[name] for name in selection.order))


def _join_keys(rows: pa.Table) -> Any:
    """Return the key of each row as one text: its columns joined by NUL, which no name contains."""
    columns: list[Any] = [rows[name].combine_chunks() for name in SERIES]
    return pc.binary_join_element_wise(*columns, rows["timestamp"].combine_chunks().cast(pa.int64()).cast(pa.string()), "\0")


def _find_differences(one: pa.Table, other: pa.Table) -> Any:
    same = []
    for name in _VALUES:
        left, right = one[name].combine_chunks(), other[name].combine_chunks()
        same.append(pc.or_(pc.fill_null(pc.equal(left, right), False), pc.and_(pc.is_null(left), pc.is_null(right))))
    return pc.invert(reduce(pc.and_, same))


def _refuse_first(rows: pa.Table, order: Any, wrong: Any, make: Callable[[int, SeriesKey, datetime], RowError]) -> None:
    """Raise an error for the first row of the file that ``wrong`` marks; do nothing if it marks none.

    ``order`` holds the index of each row in the batch, because ``rows`` is sorted; ``make`` returns the error.
    """
    places = order.filter(wrong)
    if len(places):
        index: int = pc.min(places).as_py()
        row: dict[str, Any] = rows.slice(pc.index(order, index).as_py(), 1).select(KEY).to_pylist()[0]
        exchange, symbol, timeframe, moment = row.values()
        raise make(index, (exchange, symbol, timeframe), moment)
