"""Prepares Arrow data for writing: collects it into one table, checks each column, and sorts the rows, one row per key."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow import DECIMAL, TIME, find_outside, holds_text
from iftb_store.batches.bars import KEY, BarColumns
from iftb_store.errors import InvalidValueError, integrity_error
from iftb_store.schema.table_spec import BARS
from iftb_store.values import checks
from iftb_store.values.display import show, type_name
from iftb_store.values.timeframes import check_timeframe

# typed as Any, because the stubs of pyarrow.compute do not allow plain values as arguments
pc: Any = pyarrow.compute

_TYPES = [pa.string()] * 3 + [TIME] + [DECIMAL] * 6 + [pa.int64()]
#: The Arrow schema of the columns that an engine writes.
WRITTEN = pa.schema(list(zip(BarColumns._fields, _TYPES, strict=True)))

_NAMED: dict[str, Callable[[object, str], str]] = {
    "exchange": checks.name_text,
    "symbol": checks.name_text,
    "timeframe": check_timeframe,
}
_PRICES = ("open", "high", "low", "close", "volume", "quote_volume")
_OPTIONAL = ("quote_volume", "trades_count")
_KEPT = tuple(column for column in BARS.columns if column not in BarColumns._fields)
# matches text that Arrow reads as a decimal, and Python's words for NaN and infinity. Decimal() cannot be used to check this:
# it also accepts underscores (1_000) and non-ASCII digits
_NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,9})?|s?nan|inf(inity)?)", re.ASCII | re.IGNORECASE)


class RowError(InvalidValueError):
    """A row of an Arrow table cannot be stored.

    Attributes:
        index: the index of the row in the table, from 0.
        why: the reason; it does not name the row.
    """

    def __init__(self, index: int, why: str, message: str = "") -> None:
        super().__init__(message or why)
        self.index, self.why = index, why


async def collect_rows(data: object) -> pa.Table:
    """Return one table with the rows of a table, record batch, reader or data frame, or of an iterable of these.

    Data frames need Arrow's PyCapsule interface. An iterable is iterated in the calling thread, because it may not
    work in another thread. Each part is exported in another thread, because an export may take long.

    Raises:
        InvalidValueError: the data has another type, or its parts have different columns.
    """
    try:
        whole = await asyncio.to_thread(_table, data)
        if whole is not None:
            return whole
        if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
            parts = [await asyncio.to_thread(_table, part) for part in data]
            tables = [part for part in parts if part is not None]
            if len(tables) == len(parts):
                return pa.concat_tables(tables) if tables else WRITTEN.empty_table()
    except pa.ArrowInvalid as error:
        raise InvalidValueError(f"data cannot be read as one Arrow table: {_first_line(error)}") from error
    raise InvalidValueError(
        "data must be an Arrow table, record batches or a data frame (Polars, pandas), "
        f"not {type_name(data)}; bars as objects go to insert_many or upsert_many"
    )


def _table(data: Any) -> pa.Table | None:
    if isinstance(data, pa.Table):
        return data
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        table: pa.Table = pa.table(data)
        return table
    return None


def prepare_rows(table: pa.Table, *, from_float: bool, last_wins: bool) -> pa.Table:
    """Check the rows and return them in key order, one row per key; see `check_rows` and `sort_rows`."""
    rows = check_rows(table, from_float=from_float)
    return sort_rows(rows, last_wins=last_wins) if rows.num_rows else rows


def check_rows(table: pa.Table, *, from_float: bool) -> pa.Table:
    """Check that every row can be stored; return the columns that an engine writes, with the types of `WRITTEN`.

    Raises:
        InvalidValueError: a column is missing, unknown or of another type, or a row cannot be stored; the message names the
            column or row.
    """
    _check_names(table.column_names)
    if not table.num_rows:
        return WRITTEN.empty_table()
    columns: dict[str, Any] = {}
    for field in WRITTEN:
        given = decode_dictionary(table[field.name]) if field.name in table.column_names else pa.nulls(table.num_rows)
        if given.null_count and field.name not in _OPTIONAL:
            raise _build_row_error(table, pc.is_null(given), f"{field.name} is null")
        if given.null_count == len(given):
            # a column without values may have any type: data frames give it arbitrary ones
            columns[field.name] = pa.nulls(len(given), field.type)
            continue
        columns[field.name] = _column(table, field.name, given, from_float)
    made = pa.table(columns, schema=WRITTEN)
    refuse_rows(made, pc.less(made["high"], made["low"]), "high is below low")
    for name in ("volume", "quote_volume"):
        refuse_rows(made, pc.less(made[name], pa.scalar(Decimal(0), DECIMAL)), f"{name} is negative")
    return made


def sort_rows(table: pa.Table, *, last_wins: bool) -> pa.Table:
    """Return checked rows in key order, one row per key; with ``last_wins`` the last row of each key.

    Raises:
        IntegrityError: several rows have the same key, and ``last_wins`` is false.
    """
    if not is_rising(table):
        # the sort is stable: rows with the same key keep their order
        order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in KEY])
        table = table.take(order).combine_chunks()
        again = find_repeated(table)
        if again.true_count:
            if not last_wins:
                raise integrity_error("the batch has a duplicate of this bar; nothing was inserted")
            # drop each row that is followed by a row with the same key
            table = table.filter(pa.concat_arrays([pc.invert(again), pa.array([True])]))
    return table.combine_chunks()


def _check_names(names: list[str]) -> None:
    unknown = [name for name in names if name not in BARS.columns]
    if unknown:
        raise InvalidValueError(
            f"a bar has no column {show(unknown[0])}; the columns that are written are {', '.join(BarColumns._fields)}, "
            f"and {' and '.join(_KEPT)} are ignored"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidValueError(f"the column {twice} is a duplicate; drop one of them")
    missing = [name for name in BarColumns._fields if name not in names and name not in _OPTIONAL]
    if missing:
        raise InvalidValueError(f"the column {missing[0]} is missing; only {' and '.join(_OPTIONAL)} may be left out")


def decode_dictionary(column: Any) -> Any:
    """Return a column without dictionary encoding."""
    if not pa.types.is_dictionary(column.type):
        return column
    # Arrow cannot decode a dictionary whose values are of a string_view type, so these are cast to string first
    values = pa.string() if pa.types.is_string_view(column.type.value_type) else column.type.value_type
    return column.cast(pa.dictionary(column.type.index_type, values)).cast(values)


def _column(table: pa.Table, name: str, given: Any, from_float: bool) -> Any:
    if name in _NAMED:
        return _names(table, name, given)
    if name == "timestamp":
        return _times(table, given)
    return (_counts if name == "trades_count" else _decimals)(table, name, given, from_float)


def _names(table: pa.Table, name: str, given: Any) -> Any:
    if not holds_text(given.type):
        raise InvalidValueError(f"the column {name} must be text, not {given.type}")
    try:
        texts = given.cast(pa.string())
        for value in pc.unique(texts).to_pylist():
            try:
                _NAMED[name](value, name)
            except InvalidValueError as error:
                raise _build_row_error(table, pc.equal(texts, value), str(error)) from error
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InvalidValueError(f"the column {name} holds bytes that are not text (UTF-8)") from error
    return texts


def _times(table: pa.Table, given: Any) -> Any:
    if not pa.types.is_timestamp(given.type):
        raise InvalidValueError(
            f"the column timestamp must hold times (an Arrow timestamp of any unit; without a zone it is UTC), not {given.type}"
        )
    try:
        times = given.cast(TIME)
    except pa.ArrowInvalid as error:
        if given.type.unit == "ns":
            finer = pc.not_equal(given.cast(TIME, safe=False).cast(given.type), given)
            raise _build_row_error(table, finer, "timestamp is more precise than microseconds; round it first") from error
        raise InvalidValueError(
            f"a time in the column timestamp lies outside the years 1 to 9999: {_first_line(error)}"
        ) from error
    refuse_rows(table, find_outside(times), "timestamp lies outside the years 1 to 9999 in UTC")
    return times


def _counts(table: pa.Table, name: str, given: Any, from_float: bool) -> Any:
    if not pa.types.is_integer(given.type) and not (from_float and pa.types.is_floating(given.type)):
        raise InvalidValueError(f"the column {name} must hold whole numbers, not {given.type}{_remedy(given.type)}")
    try:
        counts = given.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InvalidValueError(f"the column {name} must hold whole numbers of 64 bits: {_first_line(error)}") from error
    refuse_rows(table, pc.less(counts, 0), f"{name} is negative")
    return counts


def _decimals(table: pa.Table, name: str, given: Any, from_float: bool) -> Any:
    if pa.types.is_floating(given.type):
        if not from_float or pa.types.is_float16(given.type):
            raise InvalidValueError(f"the column {name} must hold decimals, not {given.type}{_remedy(given.type)}")
        # Arrow writes the shortest text that parses to the same float
        given = given.cast(pa.string())
    elif not (pa.types.is_decimal(given.type) or pa.types.is_integer(given.type) or holds_text(given.type)):
        raise InvalidValueError(f"the column {name} must hold decimals, not {given.type}")
    try:
        return given.cast(DECIMAL)
    except pa.ArrowInvalid as error:
        raise _first_bad_decimal(table, name, given, error) from error


def _first_bad_decimal(table: pa.Table, name: str, given: Any, error: pa.ArrowInvalid) -> InvalidValueError:
    for index, value in enumerate(given.to_pylist()):
        if isinstance(value, str) and not _NUMBER.fullmatch(value):
            return _build_row_error_at(table, index, f"{name} {show(value)} is not a decimal number")
        try:
            checks.optional(checks.exact_decimal, Decimal(value) if isinstance(value, str) else value, name)
        except InvalidValueError as refusal:
            return _build_row_error_at(table, index, str(refusal))
    return InvalidValueError(f"the column {name} cannot be read as decimals: {_first_line(error)}")


def refuse_rows(table: pa.Table, wrong: Any, why: str) -> None:
    """Raise RowError for the first row that ``wrong`` marks; do nothing if it marks none."""
    if pc.any(wrong).as_py():
        raise _build_row_error(table, wrong, why)


def _build_row_error(table: pa.Table, wrong: Any, why: str) -> RowError:
    return _build_row_error_at(table, pc.index(wrong, True).as_py(), why)


def _build_row_error_at(table: pa.Table, index: int, why: str) -> RowError:
    row = " ".join(_format_cell(table[name].slice(index, 1)) for name in KEY if name in table.column_names)
    return RowError(index, why, f"row {index + 1} of {table.num_rows} ({row}): {why}")


def _format_cell(cell: Any) -> str:
    try:
        return show(cell.to_pylist()[0])
    except (ValueError, OverflowError):
        # the cell is a time that Python's datetime cannot represent
        return f"({cell.type})"


def is_rising(table: pa.Table) -> bool:
    """Return whether all rows belong to one series and each row is later than the previous row."""
    if any(pc.count_distinct(table[name]).as_py() > 1 for name in KEY[:3]):
        return False
    moments = table["timestamp"].cast(pa.int64()).combine_chunks()
    return bool(pc.all(pc.less(moments.slice(0, len(moments) - 1), moments.slice(1)), min_count=0).as_py())


def find_repeated(table: pa.Table) -> Any:
    """Return a Boolean array that says, for each row except the last, whether the next row has the same key."""
    columns = [table[name].combine_chunks() for name in KEY]
    return reduce(pc.and_, (pc.equal(column.slice(0, len(column) - 1), column.slice(1)) for column in columns))


def _remedy(given: pa.DataType) -> str:
    if pa.types.is_float16(given):
        return "; cast it to float32 or float64 first"
    takes = 'use decimals="from_float" to store the shortest decimal of each float'
    return f"; {takes}" if pa.types.is_floating(given) else ""


def _first_line(error: Exception) -> str:
    # Arrow's message quotes values, which may contain terminal control characters
    return show(next(iter(str(error).splitlines()), ""), 200)
