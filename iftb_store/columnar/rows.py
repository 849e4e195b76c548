"""Reads DuckDB rows as Arrow tables, part by part, without a scan of the whole table for each part."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate
from typing import Any

import duckdb
import pyarrow as pa

from iftb_store.batches.arrow import complete_rows, selection_schema
from iftb_store.columnar.driver import Cursor
from iftb_store.columnar.query import Query, tuple_sql
from iftb_store.schema.table_spec import BARS, ColumnKind, RowFilter
from iftb_store.schema.types import from_epoch_us
from iftb_store.values.timeframes import SECONDS

_DAY = 86_400
_LONGEST_MONTH = 31 * _DAY
# the greatest number of whole series in one part
_SERIES = 1_000


def read_rows(cursor: Cursor, selection: RowFilter) -> pa.Table:
    """Return the rows of a selection.

    With a limit, the result has either the next rows of one series, or the remaining rows of one series and then all rows of as
    many further series as fit into the limit. So it can have fewer rows than the limit although more rows follow. A table
    without series is read like one series.
    """
    names, limit, after = selection.order[:-1], selection.limit, selection.after
    if limit is None:
        return _rows(cursor, selection)
    if not names:
        return _part(cursor, selection)
    parts = list[pa.Table]()
    if after is not None:
        series = selection.equal | dict(zip(names, after, strict=False))
        parts.append(_part(cursor, replace(selection, equal=series, after=after[-1:])))
        # see _part: a series of which more rows follow has more than half of the limit
        if 2 * parts[0].num_rows > limit:
            return parts[0]
    left = limit - sum(part.num_rows for part in parts)
    following = _read_series_counts(cursor, selection)
    sums = list(accumulate(count for _, count in following))
    fitting = bisect_right(sums, left)
    if fitting:
        parts.append(_whole_series(cursor, selection, following[0][0], following[fitting - 1][0]))
    elif following and left == limit:
        series = selection.equal | dict(zip(names, following[0][0], strict=True))
        return _part(cursor, replace(selection, equal=series, after=None))
    return pa.concat_tables(parts) if parts else selection_schema(selection).empty_table()


def whole_part(cursor: Cursor, selection: RowFilter) -> pa.Table:
    """Return the next ``selection.limit`` rows of one series, or all remaining rows of the series if there are fewer."""
    parts, left = list[pa.Table](), selection.limit or 0
    while left > 0:
        part = read_rows(cursor, replace(selection, limit=left))
        if not part.num_rows:
            break
        parts.append(part)
        left -= part.num_rows
        selection = replace(selection, after=(from_epoch_us(part["timestamp"][-1].value),))
    return pa.concat_tables(parts) if parts else selection_schema(selection).empty_table()


def _read_series_counts(cursor: Cursor, selection: RowFilter) -> list[tuple[tuple[str, ...], int]]:
    """Return the names and row counts of the next series, at most `_SERIES`, after the one that contains ``selection.after``.

    Without ``selection.after``, begin with the first series.
    """
    names, query = selection.order[:-1], Query(replace(selection, after=None, limit=_SERIES))
    if selection.after is not None:
        query.conditions.append(f"{tuple_sql(names)} > {tuple_sql(map(query.bound, selection.after[:-1]))}")
    listed = ", ".join(names)
    rows = cursor.fetch(
        f"SELECT {listed}, count(*) FROM {query.source} GROUP BY {listed} ORDER BY {listed} LIMIT {_SERIES}", query.values
    )
    return [(tuple(series), count) for *series, count in rows]


def _whole_series(cursor: Cursor, selection: RowFilter, first: tuple[str, ...], last: tuple[str, ...]) -> pa.Table:
    """Return all rows of the series from ``first`` to ``last``, inclusive."""
    names, query = selection.order[:-1], Query(replace(selection, after=None, limit=None))
    place = tuple_sql(names)
    query.conditions += [
        f"{place} {sign} {tuple_sql(map(query.bound, series))}" for sign, series in ((">=", first), ("<=", last))
    ]
    for name, least, greatest in zip(names, first, last, strict=True):
        # DuckDB skips rows by a condition on one column, but not by one on a tuple
        query.conditions.append(f"{name} BETWEEN {query.bound(least)} AND {query.bound(greatest)}")
        if least != greatest:
            break
    return _fetch(cursor, selection, query)


def _part(cursor: Cursor, selection: RowFilter) -> pa.Table:
    """Return the next rows of a selection that is ordered by a single column."""
    if selection.size is not None:
        return _fitting_part(cursor, selection)
    (key,) = selection.order
    until, limit = _guess(selection), selection.limit or 0
    if until is not None:
        # there is no index, so only bounds on both sides avoid a scan of all later rows
        found = _rows(cursor, replace(selection, limit=None if key == "id" else limit + 1), until)
        reaches_end = key == selection.table.time and selection.end is not None and selection.end <= until
        if found.num_rows <= limit and (reaches_end or limit < 2 * found.num_rows):
            return found
    query = Query(selection)
    ((last,),) = cursor.rows(f"SELECT max({key}) FROM ({query.sql(key, key)})", query.values)
    if last is None:
        return selection_schema(selection).empty_table()
    # the table has no primary key: rows with the same key must stay in one part, because reading resumes after the part's last
    # key
    return _rows(cursor, replace(selection, limit=None), last)


def _fitting_part(cursor: Cursor, selection: RowFilter) -> pa.Table:
    """Return the next rows whose texts together fit into ``selection.size``, at least one row; the rows are ordered by id.

    A first query finds the last row that fits. DuckDB reads the texts of all rows between two ids at once, even to compute the
    lengths of the texts. If the texts are too large for DuckDB's memory, the first query is repeated for fewer rows. A failed
    query ends its transaction, so the first query runs in a transaction of another connection. Rows that change between the two
    transactions can be larger than the first query computed.
    """
    with cursor.open_second() as asked:
        while True:
            last = _last(cursor, selection)
            if last is None:
                return selection_schema(selection).empty_table()
            try:
                fits = asked.fetch(*_fitting(selection, last))[0][0]
                break
            except duckdb.OutOfMemoryException:
                if selection.limit == 1:
                    raise
                selection = replace(selection, limit=max(1, (selection.limit or 0) // 4))
    alone = _last(cursor, replace(selection, limit=1)) if fits is None else fits
    return _rows(cursor, replace(selection, limit=None), alone)


def _last(cursor: Cursor, selection: RowFilter) -> Any:
    """Return the key of the last of the next rows, at most ``selection.limit`` in number; None if no row follows."""
    (key,), until = selection.order, _guess(selection)
    if until is not None:
        query = Query(selection)
        query.conditions.append(f"{key} <= {query.bound(until)}")
        ((last,),) = cursor.rows(query.sql(f"max({key})"), query.values)
        if last is not None:
            return last
    query = Query(selection)
    ((last,),) = cursor.rows(f"SELECT max({key}) FROM ({query.sql(key, key)})", query.values)
    return last


def _fitting(selection: RowFilter, until: Any) -> tuple[str, list[Any]]:
    """Return a query and its parameters; the query finds the id up to which all texts fit into ``selection.size``.

    Args:
        selection: the rows to select; their only key column is the id.
        until: the key of the last row to consider.
    """
    (key,) = selection.order
    query = Query(selection)
    query.conditions.append(f"{key} <= {query.bound(until)}")
    octets = " + ".join(f"coalesce(strlen({name}::VARCHAR), 0)" for name in selection.texts)
    added = f"SELECT {key}, sum(octets) OVER (ORDER BY {key} ROWS UNBOUNDED PRECEDING) AS octets FROM "
    added += query.join_columns(key, f"{octets} AS octets")
    return f"SELECT max({key}) FROM ({added}) WHERE octets <= {query.bound(selection.size)}", query.values


def _guess(selection: RowFilter) -> Any:
    """Estimate the key of the last of the next ``selection.limit`` rows, as if no rows were missing; None if impossible.

    The ids are assumed to be consecutive, the times of bars one step of the timeframe apart, and other times one day.
    """
    (key,), limit = selection.order, selection.limit or 0
    after: Any = None if selection.after is None else selection.after[0]
    if key == "id":
        return None if after is None else after + limit
    place = selection.start if after is None else after
    if place is None:
        return None
    try:
        # raw SQL may have stored an unknown timeframe
        step = (SECONDS[selection.equal["timeframe"]] or _LONGEST_MONTH) if selection.table is BARS else _DAY
        return place + timedelta(seconds=step * limit)
    except (KeyError, OverflowError):
        return None


def _rows(cursor: Cursor, selection: RowFilter, until: Any = None) -> pa.Table:
    query = Query(selection)
    if until is not None:
        query.conditions.append(f"{selection.order[-1]} <= {query.bound(until)}")
    return _fetch(cursor, selection, query, beside=until is not None and selection.order == ("id",) and selection.limit is None)


def _fetch(cursor: Cursor, selection: RowFilter, query: Query, *, beside: bool = False) -> pa.Table:
    """Return the columns of a selection from a query, in the selection's order; ``beside``: read as in `Query.beside`."""
    kinds = selection.table.kinds
    # Arrow sees DuckDB's JSON as a separate type
    shown = {name: f"{name}::VARCHAR AS {name}" if kinds[name] == ColumnKind.JSON else name for name in selection.columns}
    if not beside:
        sql = query.sql(", ".join(shown.values()), ", ".join(selection.order))
    else:
        (key,) = selection.order
        both = query.join_columns(key, ", ".join(sql for name, sql in shown.items() if name != key))
        sql = f"SELECT {', '.join(shown)} FROM {both} ORDER BY {key}"
    table, _ = cursor.table(sql, query.values)
    return complete_rows(selection, dict(zip(selection.columns, table.columns, strict=True)), table.num_rows)
