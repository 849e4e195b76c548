"""Converts rows that a SQL driver returned to Arrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from iftb_store._io.gc_pause import pause_gc
from iftb_store.batches.arrow import arrow_schema, complete_rows, identify_row, unreadable_value
from iftb_store.batches.bars import CHUNK
from iftb_store.errors import StoreError
from iftb_store.relational.dialect import Row, SqlDialect
from iftb_store.schema.table_spec import ColumnKind, RowFilter

_MISREAD = (ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException)


def to_arrow(dialect: SqlDialect, selection: RowFilter, rows: Sequence[Row]) -> pa.Table:
    """Convert the rows that the driver returned for a selection (columns: `RowFilter.columns`) to an Arrow table.

    The rows are converted in parts: a long call of Arrow would hold Python's global lock, and with it the event loop.

    Raises:
        StoreError: a value cannot be converted; the message names the row and the column.
    """
    parts: list[pa.Table] = []
    for first in range(0, max(len(rows), 1), CHUNK):
        with pause_gc():
            parts.append(_convert(dialect, selection, rows[first : first + CHUNK]))
    return pa.concat_tables(parts)


def _convert(dialect: SqlDialect, selection: RowFilter, rows: Sequence[Row]) -> pa.Table:
    schema, table = arrow_schema(selection.table), selection.table
    decoders: dict[ColumnKind, Any] = {ColumnKind.DECIMAL: dialect.decode_decimal, ColumnKind.TIME: dialect.decode_time}
    columns: dict[str, Any] = {}
    for name, values in zip(selection.columns, zip(*rows, strict=True) if rows else [()] * len(selection.columns), strict=True):
        kind, decode = schema.field(name).type, decoders.get(table.kinds[name])
        try:
            decoded = values if decode is None else [None if value is None else decode(value) for value in values]
            columns[name] = pa.array(decoded, kind)
        except _MISREAD as error:
            raise _find_unreadable(selection, name, rows, kind, decode) from error
    return complete_rows(selection, columns, len(rows))


def _find_unreadable(selection: RowFilter, name: str, rows: Sequence[Row], kind: pa.DataType, decode: Any) -> StoreError:
    """Find a column's first value that cannot be converted, and return the error for that value."""
    place = selection.columns.index(name)

    def is_readable(row: Row) -> bool:
        try:
            pa.array([row[place] if decode is None or row[place] is None else decode(row[place])], kind)
        except _MISREAD:
            return False
        return True

    row = next(row for row in rows if not is_readable(row))
    whole = selection.equal | dict(zip(selection.columns, row, strict=True))
    return unreadable_value(selection.table, name, identify_row(selection.table, whole), row[place])
