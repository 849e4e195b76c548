"""Rows as Arrow tables: the Arrow schema of each table, which is the same on every engine, and conversions of columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.bars import CHUNK, BarBatch, BarColumns
from iftb_store.errors import StoreError
from iftb_store.schema.table_spec import BARS, SERIES, ColumnKind, RowFilter, TableSpec
from iftb_store.schema.types import FIRST_US, LAST_US, from_epoch_us
from iftb_store.values.checks import json_text
from iftb_store.values.decimals import PRECISION, SCALE, format_plain
from iftb_store.values.display import show
from iftb_store.values.tags import encode_texts

DECIMAL = pa.decimal128(PRECISION, SCALE)
TIME = pa.timestamp("us", tz="UTC")
#: The schema of gaps of many series: the two times between which bars are missing.
GAPS = pa.schema([(name, pa.string()) for name in SERIES] + [(name, TIME) for name in ("first", "last")])
_LONGEST_KEY = 200

#: Decimals with twice the places that are stored.
WIDE = pa.decimal256(76, 38)
# text of which Arrow's cast to DECIMAL, and with an exponent its cast to WIDE, gives the right number
_SHORT = r"^[+-]?([0-9]{1,20}(\.[0-9]{0,18})?|\.[0-9]{1,18})$"
_EXPONENT = r"^[+-]?([0-9]{1,20}(\.[0-9]{0,17})?|\.[0-9]{1,17})[eE]([+-]?0?[0-9]|-1[0-9]|-20)$|^[+-]?[0-9]{1,20}\.[0-9]{0,38}$"

_TYPES: dict[ColumnKind, pa.DataType] = {
    ColumnKind.TEXT: pa.string(),
    ColumnKind.INTEGER: pa.int64(),
    ColumnKind.DECIMAL: DECIMAL,
    ColumnKind.TIME: TIME,
    # a JSON object is stored as text
    ColumnKind.JSON: pa.string(),
    # and so is a list of texts
    ColumnKind.TEXTS: pa.string(),
}


@cache
def arrow_schema(table: TableSpec) -> pa.Schema:
    """Return the Arrow schema of a table's rows; its columns are the fields of the table's dataclass, in the same order."""
    return pa.schema([pa.field(column, _TYPES[kind]) for column, kind in table.kinds.items()])


def selection_schema(selection: RowFilter) -> pa.Schema:
    """Return the Arrow schema of the rows of a selection."""
    complete = arrow_schema(selection.table)
    return complete if selection.only is None else pa.schema([complete.field(name) for name in selection.only])


def to_rows(table: TableSpec, objects: Iterable[Any]) -> pa.Table:
    """Return objects of a table's dataclass, whose values are checked, as an Arrow table of complete rows."""
    rows = [{name: _to_stored(getattr(item, name), kind, name) for name, kind in table.kinds.items()} for item in objects]
    return pa.Table.from_pylist(rows, arrow_schema(table))


def _to_stored(value: Any, kind: ColumnKind, name: str) -> Any:
    if kind == ColumnKind.JSON and isinstance(value, dict):
        return json_text(value, name)
    return encode_texts(value) if kind == ColumnKind.TEXTS else value


def complete_rows(selection: RowFilter, columns: dict[str, Any], count: int) -> pa.Table:
    """Return ``count`` rows of a selection: the columns that an engine read, and the columns that the selection fixes."""
    complete = selection_schema(selection)
    fixed = {name: pa.repeat(pa.scalar(value, pa.string()), count) for name, value in selection.equal.items()}
    rows = pa.table([fixed[name] if name in fixed else columns[name] for name in complete.names], schema=complete)
    _check(selection.table, rows)
    return rows


def identify_row(table: TableSpec, row: Mapping[str, Any]) -> Any:
    """Return the text by which messages name a row: the id, or the key if the id was not read or the table has no ids."""
    return row["id"] if "id" in row else " ".join(str(row[column]) for column in table.key)


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
    for name in rows.column_names:
        column: Any = rows[name]
        kind = table.kinds[name]
        bad: Any = pc.is_null(column) if column.null_count and table.is_required(name) else None
        if bad is None and kind == ColumnKind.TIME:
            bad = find_outside(column)
        if bad is not None and pc.any(bad).as_py():
            index = pc.index(bad, True).as_py()
            row = {column: _read_plain(rows[column][index]) for column in ("id", *table.key) if column in rows.column_names}
            raise unreadable_value(table, name, identify_row(table, row), _read_plain(rows[name][index]))


def _read_plain(value: Any) -> Any:
    """Convert an Arrow value to a Python object; a time to microseconds, because Python cannot hold every time of Arrow."""
    return (value.cast(pa.int64()) if value.type == TIME else value).as_py()


def to_floats(rows: Any) -> Any:
    """Return a table or a record batch in which each column of decimals holds the nearest floats (float64)."""
    for place, field in enumerate(rows.schema):
        if field.type == DECIMAL:
            # by way of text, because Arrow's own conversion of decimals is not correctly rounded
            floats: Any = rows.column(place).cast(pa.string()).cast(pa.float64())
            rows = rows.set_column(place, field.with_type(pa.float64()), floats)
    return rows


def find_outside(times: Any) -> Any:
    """Return a Boolean array, true for each time of a column outside the years 1 to 9999; Arrow accepts such times."""
    moments: Any = times.cast(pa.int64())
    return pc.or_(pc.less(moments, pa.scalar(FIRST_US)), pc.greater(moments, pa.scalar(LAST_US)))


def parse_decimals(texts: Any, wanted: pa.DataType = DECIMAL) -> Any:
    """Convert a column of text to decimals of the type ``wanted``.

    Arrow's own cast stores another number for text with too many digits, and crashes for some exponents.

    Raises:
        pa.ArrowInvalid: a text is no decimal number, has too many digits, or an exponent that Arrow may misread.
    """
    texts = texts.cast(pa.string())
    short = pc.match_substring_regex(texts, _SHORT)
    if not pc.all(short, min_count=0).as_py():
        if not pc.all(pc.or_(short, pc.match_substring_regex(texts, _EXPONENT)), min_count=0).as_py():
            raise pa.ArrowInvalid("a text is not a short decimal number")
        texts = texts.cast(WIDE)
    return texts.cast(wanted)


def find_uncastable(column: Any, wanted: pa.DataType) -> int:
    """Find the first value of a column that cannot be cast, by binary search, and return its index."""
    cast = parse_decimals if wanted == DECIMAL and has_text(column.type) else lambda part, kind: part.cast(kind)
    first = 0
    while len(column) > 1:
        half = len(column) // 2
        try:
            cast(column.slice(0, half), wanted)
        except pa.ArrowInvalid:
            column = column.slice(0, half)
        else:
            first, column = first + half, column.slice(half)
    return first


def has_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a type of text; dictionary-encoded text does not count."""
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


def to_record_batch(columns: BarColumns) -> pa.RecordBatch:
    """Return checked bars as a record batch with the columns of `BarColumns`."""
    schema = arrow_schema(BARS)
    arrays = []
    for name, column in zip(BarColumns._fields, columns, strict=True):
        kind = schema.field(name).type
        # Arrow parses decimal text exactly, and faster than it converts Decimals
        arrays.append(pa.array(column, pa.string()).cast(kind) if kind == DECIMAL else pa.array(column, kind))
    return pa.RecordBatch.from_arrays(arrays, names=list(BarColumns._fields))


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
