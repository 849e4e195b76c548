"""Checks the rows of an export, which include ids and times set by the store, and converts them to the table's types."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute
from sqlalchemy.exc import IntegrityError

from iftb_store.batches.arrow import arrow_schema, find_outside, find_uncastable, has_text, parse_decimals
from iftb_store.batches.arrow_input import WRITTEN, RowError, check_rows, decode_dictionary, read_decimals, refuse_rows, sort_rows
from iftb_store.errors import InvalidValueError
from iftb_store.files.formats import LONGEST_ROW
from iftb_store.files.options import FLOATS, ROUNDING
from iftb_store.schema.row_checks import ROW_CHECKS
from iftb_store.schema.table_spec import BARS, GREATEST_ID, ColumnKind, TableSpec
from iftb_store.values import checks
from iftb_store.values.display import show
from iftb_store.values.tags import check_texts, decode_texts, encode_texts

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

# approximate bytes that Python needs for an object with one name and for an item of a list; and the maximum for a text
_OBJECT, _ITEM, _MOST_PARSED = 240, 72, 160 << 20


def check_complete_rows(table: TableSpec, given: pa.Table) -> pa.Table:
    """Check that every row can be stored, and return the rows with the schema of the table, in key order.

    Raises:
        RowError: a row cannot be stored, or has the same key as an earlier row.
        InvalidValueError: a column has a type that its table does not accept.
    """
    wanted = arrow_schema(table)
    # an older version exported the file, before these columns
    for name in (name for name in table.columns if name not in given.column_names):
        given = given.append_column(name, pa.repeat(pa.scalar(table.specs[name].default, pa.string()), given.num_rows))
    typed = {name: _cast(given, name, table.kinds[name], wanted.field(name).type) for name in table.columns}
    for name in filter(table.is_required, table.written):
        refuse_rows(given, pc.is_null(typed[name]), f"{name} is null")
    rows = pa.table(typed)
    if table is BARS:
        values, _ = check_rows(rows.select(WRITTEN.names), from_float=False)
        taken: dict[str, Any] = {name: values[name] if name in WRITTEN.names else typed[name] for name in table.columns}
        rows = pa.table(taken)
    for name in table.written:
        if table.kinds[name] == ColumnKind.INTEGER:
            least = 1 if name == "id" else 0
            refuse_rows(rows, pc.less(rows[name], least), f"{name} is below {least}")
    if table.has_own_ids:
        late = pc.greater(rows["id"], GREATEST_ID)
        refuse_rows(rows, late, f"id is greater than {GREATEST_ID}, which would leave too few ids for new rows")
    rows = rows.cast(wanted)
    if table is BARS:
        _check_times(rows, "created_at")
        try:
            return sort_rows(rows, last_wins=False)
        except IntegrityError:
            _refuse_second(rows, BARS.key)
            raise
    _check_values(table, rows)
    for name in (name for name, kind in table.kinds.items() if kind == ColumnKind.TEXTS):
        lists = [encode_texts(_read_texts(value, name)) for value in rows[name].to_pylist()]
        rows = rows.set_column(rows.schema.get_field_index(name), wanted.field(name), pa.array(lists, pa.string()))
    for names in (["id"], [*table.unique] if not table.unique_among else []):
        if names and rows.select(names).group_by(names).aggregate([]).num_rows < rows.num_rows:
            _refuse_second(rows, names)
    return rows.sort_by("id").combine_chunks()


def round_decimals(table: TableSpec, given: pa.Table) -> tuple[pa.Table, int]:
    """Round floats, and decimals with more than 18 places, half-even; return the rows and the number of rounded values.

    Raises:
        InvalidValueError: a value is not a number, or has more than 20 digits before the point.
    """
    count = 0
    for place, name in enumerate(given.column_names):
        column: Any = decode_dictionary(given.column(place))
        if table.kinds[name] == ColumnKind.DECIMAL and column.null_count < len(column):
            column, rounded = read_decimals(given, name, column, from_float=True, remedy=ROUNDING)
            given, count = given.set_column(place, name, column), count + rounded
    return given, count


def _cast(given: pa.Table, name: str, kind: ColumnKind, wanted: Any) -> Any:
    column = given[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), wanted)])
    types, text = pa.types, has_text(column.type)
    fits = {
        ColumnKind.DECIMAL: text or types.is_decimal(column.type) or types.is_integer(column.type),
        ColumnKind.TIME: text or types.is_timestamp(column.type),
        ColumnKind.INTEGER: text or types.is_integer(column.type),
    }.get(kind, text)
    if not fits:
        remedy = f"; {FLOATS}" if kind == ColumnKind.DECIMAL and types.is_floating(column.type) else ""
        raise InvalidValueError(f"the column {name} has the type {column.type}, which is not a {kind.value}{remedy}")
    if text:
        column = column.cast(pa.string())
    try:
        return parse_decimals(column) if text and kind == ColumnKind.DECIMAL else column.cast(wanted)
    except pa.ArrowInvalid as error:
        raise _first_wrong(column, name, kind, wanted) from error


def _first_wrong(column: Any, name: str, kind: ColumnKind, wanted: pa.DataType) -> InvalidValueError:
    index = find_uncastable(column, wanted)
    value = show(column[index].cast(pa.string()).as_py())
    more = {
        ColumnKind.TIME: ", e.g. 2024-02-29T23:59:00.000000Z",
        ColumnKind.DECIMAL: " with at most 20 digits before and 18 after the point",
    }
    return RowError(index, f"{name} {value} is not a {kind.value}{more.get(kind, '')}")


def _check_times(rows: pa.Table, name: str) -> None:
    refuse_rows(rows, find_outside(rows[name]), f"{name} lies outside the years 1 to 9999")


def _check_values(table: TableSpec, rows: pa.Table) -> None:
    for name, kind in table.kinds.items():
        if kind == ColumnKind.TIME:
            _check_times(rows, name)
    for name, check in ROW_CHECKS[table.name].items():
        kind = table.kinds[name]
        check_value = _check_json_text(check) if kind == ColumnKind.JSON else _read_texts if kind == ColumnKind.TEXTS else check
        for index, value in enumerate(rows[name].to_pylist()):
            try:
                check_value(value, name)
            except InvalidValueError as error:
                raise RowError(index, str(error)) from error


def _read_texts(value: object, name: str) -> list[str]:
    try:
        return check_texts(decode_texts(checks.text(value, name)), name)
    except InvalidValueError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{name} is not a JSON array of texts: {show(value)}") from error


def _refuse_second(rows: pa.Table, key: Sequence[str]) -> None:
    """Raise RowError for the first row that has the same key as an earlier row."""
    before = set[tuple[Any, ...]]()
    for index, values in enumerate(zip(*(rows[name].to_pylist() for name in key), strict=True)):
        if values in before:
            named = " ".join(map(str, values))
            raise RowError(index, f"the {' '.join(key)} {show(named, 200)} occurs in more than one row; remove one of them")
        before.add(values)


def _check_json_text(check: Callable[[object, str], Any]) -> Callable[[object, str], Any]:
    def check_value(value: object, name: str) -> Any:
        if value is None:
            return None
        try:
            text = checks.text(value, name)
            needed = _OBJECT * text.count("{") + _ITEM * (text.count(",") + text.count("["))
            if len(text) > LONGEST_ROW and needed > _MOST_PARSED:
                why = f"the {len(text):,} characters contain more values than can be stored"
                raise InvalidValueError(f"{name} is too large: {why}")
            return check(json.loads(text), name)
        except InvalidValueError:
            raise
        except ValueError as error:
            raise InvalidValueError(f"{name} is not a JSON object: {show(str(error))}") from error
        except RecursionError as error:
            raise InvalidValueError(f"{name} is nested too deeply") from error

    return check_value
