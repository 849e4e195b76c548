"""Rows as Arrow tables: the Arrow schema of each table, which is the same on every engine, and conversions of columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.bars import CHUNK, BarBatch, BarColumns
from iftb_store.errors import StoreError
from iftb_store.schema.table_spec import ColumnKind, RowFilter, TableSpec
from iftb_store.schema.types import FIRST_US, LAST_US, from_epoch_us
from iftb_store.values.decimals import PRECISION, SCALE, format_plain
from iftb_store.values.display import show

DECIMAL = pa.decimal128(PRECISION, SCALE)
TIME = pa.timestamp("us", tz="UTC")
_LONGEST_KEY = 200

_TYPES: dict[ColumnKind, pa.DataType] = {
    ColumnKind.TEXT: pa.string(),
    ColumnKind.INTEGER: pa.int64(),
    ColumnKind.DECIMAL: DECIMAL,
    ColumnKind.TIME: TIME,
    # a JSON object is stored as text
    ColumnKind.JSON: pa.string(),
}


@cache
def arrow_schema(table: TableSpec) -> pa.Schema:
    """Return the Arrow schema of a table's rows; its columns are the fields of the table's dataclass, in the same order."""
    return pa.schema([pa.field(column, _TYPES[kind]) for column, kind in table.kinds.items()])


def complete_rows(selection: RowFilter, columns: dict[str, Any], count: int) -> pa.Table:
    """Return ``count`` rows with all columns: those that an engine read, and those that have one fixed value in the selection."""
    complete = arrow_schema(selection.table)
    fixed = {name: pa.repeat(pa.scalar(value, pa.string()), count) for name, value in selection.equal.items()}
    rows = pa.table([fixed[name] if name in fixed else columns[name] for name in complete.names], schema=complete)
    _check(selection.table, rows)
    return rows


def identify_row(table: TableSpec, row: Mapping[str, Any]) -> Any:
    """Return what identifies a row in messages: its id, or its key as text if the table has no ids."""
    return row["id"] if "id" in table.columns else " ".join(str(row[column]) for column in table.key)


def unreadable_value(table: TableSpec, column: str, row: object, value: object) -> StoreError:
    """Return the error for a stored value that is invalid in its column, e.g. written by raw SQL.

    Args:
        table: the table.
        column: the column of the value.
        row: what identifies the row, see `identify_row`.
        value: the value.
    """
    if "id" in table.columns:
        named, remedy = "id", "`iftb-store doctor` finds all such values and reports how to fix them"
    else:
        named, remedy = "key", "delete the row"
    return StoreError(
        f"{table.name}: the {column} of the row with the {named} {show(row, _LONGEST_KEY)} cannot be read: it is {show(value)}; "
        f"{remedy}"
    )


def _check(table: TableSpec, rows: pa.Table) -> None:
    """Raise StoreError for NULL in a required column, or a time outside the years 1 to 9999; Arrow accepts such values."""
    for name, kind in table.kinds.items():
        column: Any = rows[name]
        bad: Any = pc.is_null(column) if column.null_count and table.is_required(name) else None
        if bad is None and kind == ColumnKind.TIME:
            bad = find_outside(column)
        if bad is not None and pc.any(bad).as_py():
            index = pc.index(bad, True).as_py()
            row = {column: _read_plain(rows[column][index]) for column in ("id", *table.key) if column in rows.column_names}
            raise unreadable_value(table, name, identify_row(table, row), _read_plain(rows[name][index]))


def _read_plain(value: Any) -> Any:
    """Return an Arrow value as a Python object; a time as microseconds, because Python cannot hold every one."""
    return (value.cast(pa.int64()) if value.type == TIME else value).as_py()


def find_outside(times: Any) -> Any:
    """Return a Boolean array that says which times of a column lie outside the years 1 to 9999; Arrow accepts such times."""
    moments: Any = times.cast(pa.int64())
    return pc.or_(pc.less(moments, pa.scalar(FIRST_US)), pc.greater(moments, pa.scalar(LAST_US)))


def find_uncastable(column: Any, wanted: pa.DataType) -> int:
    """Return the index of the first value that makes a cast of the column fail, by a binary search."""
    first = 0
    while len(column) > 1:
        half = len(column) // 2
        try:
            column.slice(0, half).cast(wanted)
        except pa.ArrowInvalid:
            column = column.slice(0, half)
        else:
            first, column = first + half, column.slice(half)
    return first


def holds_text(kind: pa.DataType) -> bool:
    """Return whether the values of an Arrow type are text, dictionaries aside."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


class ArrowBatch(BarBatch):
    """A batch of bars from an Arrow table; its rows are checked, in key order, and have distinct keys."""

    __slots__ = ("_rows",)

    def __init__(self, table: pa.Table, created_at: datetime) -> None:
        super().__init__((), created_at, ordered=True)
        self.table = self._rows = table

    def __len__(self) -> int:
        return len(self._rows)

    def chunks(self, size: int = CHUNK) -> Iterator[BarColumns]:
        """Yield the rows in order, as columns of at most ``size`` rows."""
        for first in range(0, len(self), size):
            exchange, symbol, timeframe, timestamp, *prices, trades_count = self._rows.slice(first, size).columns
            names = (column.to_pylist() for column in (exchange, symbol, timeframe))
            yield BarColumns._make((*names, to_datetimes(timestamp), *map(to_plain_texts, prices), trades_count.to_pylist()))


def to_datetimes(column: Any) -> list[Any]:
    """Return an Arrow column of times as a list of aware UTC datetimes."""
    if column.null_count:
        return [None if value is None else from_epoch_us(value) for value in column.cast(pa.int64()).to_pylist()]
    # extracting year, month and so on in Arrow takes a fifth of the time of Arrow's own conversion to datetime
    naive: Any = column.cast(pa.timestamp("us"))
    micro = pc.add(pc.multiply(pc.millisecond(naive), 1_000), pc.microsecond(naive))
    fields = (pc.year, pc.month, pc.day, pc.hour, pc.minute, pc.second)
    return list(map(datetime, *(part(naive).to_pylist() for part in fields), micro.to_pylist(), repeat(UTC)))


def to_decimals(column: Any) -> list[Any]:
    """Return an Arrow column of DECIMAL(38,18) as a list of Decimals without trailing zeros."""
    texts = to_plain_texts(column)
    return [None if text is None else Decimal(text) for text in texts] if column.null_count else list(map(Decimal, texts))


def to_plain_texts(column: Any) -> list[Any]:
    """Return an Arrow column of DECIMAL(38,18) as a list of texts: plain digits without an exponent and trailing zeros."""
    text: Any = column.cast(pa.string())
    # Arrow writes 0 and values below 0.000001 with an exponent, from which no trailing zeros may be removed
    tiny = pc.match_substring(text, "E")
    short: list[Any] = pc.if_else(tiny, text, pc.ascii_rtrim(pc.ascii_rtrim(text, "0"), ".")).to_pylist()
    if not pc.any(tiny).as_py():
        return short
    return [format_plain(Decimal(value)) if value is not None and "E" in value else value for value in short]
