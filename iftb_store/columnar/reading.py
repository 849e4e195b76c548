"""Reads the bars of one series as objects, oldest or newest first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from iftb_store.batches.bars import KEY
from iftb_store.columnar.bars import to_bars
from iftb_store.columnar.driver import Cursor, slice_rows
from iftb_store.columnar.query import Query
from iftb_store.columnar.rows import whole_part
from iftb_store.models import OHLCVBar
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.values.timeframes import SECONDS

_COLUMNS = [name for name in BARS.columns if name not in KEY or name == "timestamp"]
_READ = ", ".join(_COLUMNS)
_LONGEST_MONTH = 31 * 86_400
_FIRST = to_epoch_us(datetime.min.replace(tzinfo=UTC))


def read_oldest(cursor: Cursor, series: RowFilter) -> list[OHLCVBar]:
    """Return the bars of a series, oldest first: all, or the first ``series.limit``."""
    names = tuple(series.equal[name] for name in SERIES)
    if series.limit is None:
        return _bars(cursor, Query(series), "timestamp", names)
    page = whole_part(cursor, series).select(_COLUMNS)
    return [bar for part in slice_rows(page) for bar in to_bars(part, *names)]


def read_newest(cursor: Cursor, series: RowFilter) -> list[OHLCVBar]:
    """Return the bars of a series, newest first: all, or the last ``series.limit``."""
    names, limit = tuple(series.equal[name] for name in SERIES), series.limit
    query = Query(series)
    ((newest,),) = cursor.fetch(query.sql("epoch_us(max(timestamp))"), query.values)
    if newest is None:
        return []
    if limit is not None:
        # with a lower bound DuckDB reads only the newest rows; if there are large gaps among these, it finds too few
        recent = select_recent(series, newest)
        if recent is not series:
            bars = _bars(cursor, Query(recent), "timestamp DESC", names)
            if len(bars) == limit:
                return bars
    return _bars(cursor, query, "timestamp DESC", names)


def select_recent(series: RowFilter, newest: int) -> RowFilter:
    """Return a selection that starts late enough to hold the last ``series.limit`` bars if at most half of them are missing.

    Args:
        series: the bars of one series, with a limit.
        newest: a time in microseconds; no bar of the series is later.

    Returns:
        ``series`` itself if a later start would exclude no bars.
    """
    step = SECONDS[series.equal["timeframe"]] or _LONGEST_MONTH
    first = newest - 2 * (series.limit or 0) * step * 1_000_000
    if first <= _FIRST or (series.start is not None and first <= to_epoch_us(series.start)):
        return series
    return replace(series, start=from_epoch_us(first))


def _bars(cursor: Cursor, query: Query, order: str, series: tuple[str, ...]) -> list[OHLCVBar]:
    # without expressions in the SELECT list, DuckDB reads the other columns only for the rows within the limit
    table, _ = cursor.table(query.sql(_READ, order), query.values)
    return [bar for part in slice_rows(table) for bar in to_bars(part, *series)]
