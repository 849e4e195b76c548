"""Prepares an Arrow table for writing: checks each column, and sorts the rows, one row per key."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC
from decimal import Decimal
from functools import partial, reduce
from operator import lt
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow import DECIMAL, TIME, WIDE, find_outside, has_text, parse_decimals
from iftb_store.batches.bars import KEY, BarColumns, duplicate_bar_error
from iftb_store.errors import InvalidValueError
from iftb_store.schema.table_spec import BARS, SERIES
from iftb_store.values import checks
from iftb_store.values.decimals import NUMBER, SCALE
from iftb_store.values.display import show
from iftb_store.values.suggestions import suggest
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


# the least average number of consecutive rows of one series for which it is worth finding out whether rows are in order
_LEAST_RUN = 10

#: The remedy for a value with too many places in an Arrow table.
FROM_FLOAT = 'decimals="from_float" rounds it to 18 places'


class RowError(InvalidValueError):
    """A row of an Arrow table cannot be stored.

    Attributes:
        index: the index of the row in the table, from 0.
        why: the reason; it does not name the row.
    """

    def __init__(self, index: int, why: str, message: str = "") -> None:
        super().__init__(message or why)
        self.index, self.why = index, why


def prepare_rows(table: pa.Table, *, from_float: bool, last_wins: bool) -> pa.Table:
    """Check the rows and return them in key order, one row per key; see `check_rows` and `sort_rows`."""
    rows, _ = check_rows(table, from_float=from_float)
    return sort_rows(rows, last_wins=last_wins) if rows.num_rows else rows


def check_rows(table: pa.Table, *, from_float: bool, remedy: str = FROM_FLOAT) -> tuple[pa.Table, int]:
    """Check that every row can be stored.

    Args:
        table: the rows.
        from_float: whether floats are accepted, each as the shortest decimal that converts back to the same float, and decimals
            are rounded half-even to 18 places.
        remedy: the advice in the message about a value with too many places: what rounds the value.

    Returns:
        The columns that an engine writes, with the types of `WRITTEN`; and the number of values that were rounded.

    Raises:
        InvalidValueError: a column is missing, unknown or of another type, or a row cannot be stored; the message names the
            column or row.
    """
    _check_names(table.column_names)
    if not table.num_rows:
        return WRITTEN.empty_table(), 0
    columns: dict[str, Any] = {}
    rounded = 0
    for field in WRITTEN:
        try:
            columns[field.name], count = _check_column(table, field, from_float, remedy)
        except pa.ArrowException as error:
            kind = table.schema.field(field.name).type
            raise InvalidValueError(f"the column {field.name} of the type {kind} cannot be read: {first_line(error)}") from error
        rounded += count
    made = pa.table(columns, schema=WRITTEN)
    refuse_rows(made, pc.less(made["high"], made["low"]), "high is below low")
    for name in ("volume", "quote_volume"):
        refuse_rows(made, pc.less(made[name], pa.scalar(Decimal(0), DECIMAL)), f"{name} is negative")
    return made, rounded


def _check_column(table: pa.Table, field: Any, from_float: bool, remedy: str) -> tuple[Any, int]:
    """Return a checked column and the number of its values that were rounded."""
    name = field.name
    given = decode_dictionary(table[name]) if name in table.column_names else pa.nulls(table.num_rows)
    if given.null_count and name not in _OPTIONAL:
        raise _build_row_error(table, pc.is_null(given), f"{name} is null")
    if given.null_count == len(given):
        # a column without values may have any type: data frames give it arbitrary ones
        return pa.nulls(len(given), field.type), 0
    if name in _NAMED:
        return _names(table, name, given), 0
    if name == "timestamp":
        return _times(table, given), 0
    if name == "trades_count":
        return _counts(table, name, given, from_float), 0
    return read_decimals(table, name, given, from_float=from_float, remedy=remedy)


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
                # the first of two rows with the same key
                (row,) = table.slice(again.index(True).as_py(), 1).select(KEY).to_pylist()
                moment = row["timestamp"].astimezone(UTC)
                raise duplicate_bar_error((row["exchange"], row["symbol"], row["timeframe"], moment), twice=True)
            # drop each row that is followed by a row with the same key
            table = table.filter(pa.concat_arrays([pc.invert(again), pa.array([True])]))
    return table.combine_chunks()


def _check_names(names: list[str]) -> None:
    unknown = [name for name in names if name not in BARS.columns]
    if unknown:
        raise InvalidValueError(
            f"a bar has no column {show(unknown[0])}; {suggest(unknown[0], BarColumns._fields)}"
            f"the columns that are written are {', '.join(BarColumns._fields)}, "
            f"and {' and '.join(_KEPT)} are ignored"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidValueError(f"the column {twice} occurs twice; drop one of them")
    missing = [name for name in BarColumns._fields if name not in names and name not in _OPTIONAL]
    if missing:
        remedy = f"; give {missing[0]}= if all rows have the same value" if missing[0] in SERIES else ""
        raise InvalidValueError(f"the column {missing[0]} is missing; only {' and '.join(_OPTIONAL)} may be left out{remedy}")


def decode_dictionary(column: Any) -> Any:
    """Return a column without dictionary encoding."""
    if not pa.types.is_dictionary(column.type):
        return column
    # Arrow cannot decode a dictionary whose values are of a string_view type, so these are cast to string first
    values = pa.string() if pa.types.is_string_view(column.type.value_type) else column.type.value_type
    return column.cast(pa.dictionary(column.type.index_type, values)).cast(values)


def _names(table: pa.Table, name: str, given: Any) -> Any:
    if not has_text(given.type):
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
        is_epoch = pa.types.is_integer(given.type) or pa.types.is_floating(given.type)
        remedy = '; pandas.to_datetime(column, unit="ms", utc=True) converts milliseconds since 1970' if is_epoch else ""
        raise InvalidValueError(
            "the column timestamp must hold times (an Arrow timestamp of any unit; without a zone it is UTC), "
            f"not {given.type}{remedy}"
        )
    try:
        times = given.cast(TIME)
    except pa.ArrowInvalid as error:
        if given.type.unit == "ns":
            finer = pc.not_equal(given.cast(TIME, safe=False).cast(given.type), given)
            raise _build_row_error(table, finer, "timestamp is more precise than microseconds; round it first") from error
        raise InvalidValueError(
            f"a time in the column timestamp lies outside the years 1 to 9999: {first_line(error)}"
        ) from error
    refuse_rows(table, find_outside(times), "timestamp lies outside the years 1 to 9999 in UTC")
    return times


def _counts(table: pa.Table, name: str, given: Any, from_float: bool) -> Any:
    if not pa.types.is_integer(given.type) and not (from_float and pa.types.is_floating(given.type)):
        raise InvalidValueError(f"the column {name} must hold whole numbers, not {given.type}{_remedy(given.type)}")
    try:
        counts = given.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InvalidValueError(f"the column {name} must hold whole numbers of 64 bits: {first_line(error)}") from error
    refuse_rows(table, pc.less(counts, 0), f"{name} is negative")
    return counts


def read_decimals(table: pa.Table, name: str, given: Any, *, from_float: bool, remedy: str) -> tuple[Any, int]:
    """Return a column of a table as DECIMAL(38,18), and the number of its values that were rounded; see `check_rows`."""
    if pa.types.is_floating(given.type):
        if not from_float or pa.types.is_float16(given.type):
            raise InvalidValueError(f"the column {name} must hold decimals, not {given.type}{_remedy(given.type)}")
        # Arrow writes the shortest text that parses to the same float
        given = given.cast(pa.string())
    elif not (pa.types.is_decimal(given.type) or pa.types.is_integer(given.type) or has_text(given.type)):
        raise InvalidValueError(f"the column {name} must hold decimals, not {given.type}")
    is_text = has_text(given.type)
    with suppress(pa.ArrowInvalid):
        return parse_decimals(given) if is_text else given.cast(DECIMAL), 0
    if from_float:
        # a second attempt in Arrow, because the loop below takes twenty times as long
        with suppress(pa.ArrowInvalid):
            exact = parse_decimals(given, WIDE) if is_text else given.cast(WIDE)
            nearest = pc.round(exact, SCALE, round_mode="half_to_even")
            return nearest.cast(DECIMAL), pc.sum(pc.not_equal(nearest, exact)).as_py()
    return _round(table, name, given, from_float, remedy)


def _round(table: pa.Table, name: str, given: Any, from_float: bool, remedy: str) -> tuple[Any, int]:
    """Round the decimals of a column that have too many places; return the column and the number of rounded values."""
    values: list[Decimal | None] = []
    rounded = 0
    for index, value in enumerate(given.to_pylist()):
        if isinstance(value, str) and not NUMBER.fullmatch(value):
            raise _build_row_error_at(table, index, f"{name} {show(value)} is not a decimal number")
        number = Decimal(value) if isinstance(value, str) else value
        try:
            if number is None or not from_float:
                values.append(checks.optional(partial(checks.exact_decimal, remedy=remedy), number, name))
                continue
            values.append(checks.round_to_places(number, name))
        except InvalidValueError as refusal:
            raise _build_row_error_at(table, index, str(refusal)) from refusal
        rounded += values[-1] != number
    return pa.array(values, DECIMAL), rounded


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
    """Return whether each row has a greater key than the previous row; False also if the rows change their series very often."""
    if table.num_rows < 2:
        return True
    columns = [table[name].combine_chunks() for name in KEY]
    same = reduce(pc.and_, (pc.equal(column.slice(0, len(column) - 1), column.slice(1)) for column in columns[:3]))
    times = columns[3].cast(pa.int64())
    if not pc.all(pc.or_(pc.invert(same), pc.less(times.slice(0, len(times) - 1), times.slice(1)))).as_py():
        return False
    ends = pc.indices_nonzero(pc.invert(same))
    if len(ends) * _LEAST_RUN > len(times):
        # sorting takes less time than a loop over so many series
        return False
    before, after = (
        list(zip(*(column.take(places).to_pylist() for column in columns[:3]), strict=True)) for places in (ends, pc.add(ends, 1))
    )
    return all(map(lt, before, after))


def find_repeated(table: pa.Table) -> Any:
    """Return a Boolean array that says, for each row except the last, whether the next row has the same key."""
    columns = [table[name].combine_chunks() for name in KEY]
    return reduce(pc.and_, (pc.equal(column.slice(0, len(column) - 1), column.slice(1)) for column in columns))


def _remedy(given: pa.DataType) -> str:
    if pa.types.is_float16(given):
        return "; cast it to float32 or float64 first"
    takes = 'use decimals="from_float" to store for each float the shortest decimal that converts back to it'
    return f"; {takes}" if pa.types.is_floating(given) else ""


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, quoted, as it may contain values with terminal control characters."""
    return show(next(iter(str(error).splitlines()), ""), 200)
