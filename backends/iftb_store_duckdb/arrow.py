"""Reads DuckDB rows as Arrow tables, part by part, without a scan of the whole table for each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa

from iftb_store.batches.arrow import arrow_schema, complete_rows
from iftb_store.columnar import Query, tuple_sql
from iftb_store.schema.table_spec import BARS, ColumnKind, RowFilter
from iftb_store.schema.types import from_epoch_us
from iftb_store.values.timeframes import SECONDS
from iftb_store_duckdb.driver import Cursor

_DAY = 86_400
_LONGEST_MONTH = 31 * _DAY


def read_rows(cursor: Cursor, selection: RowFilter) -> pa.Table:
    """Return the rows of a selection.

    With a limit, all returned rows belong to one series, so there may be fewer rows than the limit although another series
    follows. A table without series is read like one series.
    """
    if selection.limit is None:
        return _rows(cursor, selection)
    found: Iterator[pa.Table] = (_part(cursor, part) for part in _series(cursor, selection))
    return next((part for part in found if part.num_rows), arrow_schema(selection.table).empty_table())


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
    return pa.concat_tables(parts) if parts else arrow_schema(selection.table).empty_table()


def _series(cursor: Cursor, selection: RowFilter) -> Iterator[RowFilter]:
    """Yield a selection for each remaining series, beginning with the series that contains ``selection.after``."""
    names, after = selection.order[:-1], selection.after
    if not names:
        yield selection
        return
    place = None if after is None else after[:-1]
    if after is not None:
        yield replace(selection, equal=selection.equal | dict(zip(names, after, strict=False)), after=after[-1:])
    while True:
        further = Query(replace(selection, after=None, limit=1))
        if place is not None:
            further.conditions.append(f"{tuple_sql(names)} > {tuple_sql(map(further.bound, place))}")
        rows = cursor.rows(further.sql(", ".join(names), ", ".join(names)), further.values)
        if not rows:
            return
        place = rows[0]
        yield replace(selection, equal=selection.equal | dict(zip(names, place, strict=True)), after=None)


def _part(cursor: Cursor, selection: RowFilter) -> pa.Table:
    """Return the next rows of a selection that is ordered by a single column."""
    if selection.size is not None:
        return _fitting_part(cursor, selection)
    (key,) = selection.order
    until, limit = _guess(selection), selection.limit or 0
    if until is not None:
        # there is no index, so only bounds on both sides avoid a scan of all later rows
        found = _rows(cursor, replace(selection, limit=None if key == "id" else limit + 1), until)
        if limit < 2 * found.num_rows <= 2 * limit:
            return found
    query = Query(selection)
    ((last,),) = cursor.rows(f"SELECT max({key}) FROM ({query.sql(key, key)})", query.values)
    if last is None:
        return arrow_schema(selection.table).empty_table()
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
    with cursor.apart() as asked:
        while True:
            last = _last(cursor, selection)
            if last is None:
                return arrow_schema(selection.table).empty_table()
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
    """Return the key of the last of the next rows, at most ``selection.limit``, or None if there are no more rows."""
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
    added += query.beside(key, f"{octets} AS octets")
    return f"SELECT max({key}) FROM ({added}) WHERE octets <= {query.bound(selection.size)}", query.values


def _guess(selection: RowFilter) -> Any:
    """Return the key of the last of the next rows, computed as if the table had no gaps; None if that is impossible.

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
    query, kinds = Query(selection), selection.table.kinds
    if until is not None:
        query.conditions.append(f"{selection.order[-1]} <= {query.bound(until)}")
    # Arrow sees DuckDB's JSON as a separate type
    shown = {name: f"{name}::VARCHAR AS {name}" if kinds[name] == ColumnKind.JSON else name for name in selection.columns}
    if until is None or selection.order != ("id",) or selection.limit is not None:
        sql = query.sql(", ".join(shown.values()), ", ".join(selection.order))
    else:
        (key,) = selection.order
        both = query.beside(key, ", ".join(sql for name, sql in shown.items() if name != key))
        sql = f"SELECT {', '.join(shown)} FROM {both} ORDER BY {key}"
    table, _ = cursor.table(sql, query.values)
    return complete_rows(selection, dict(zip(selection.columns, table.columns, strict=True)), table.num_rows)
