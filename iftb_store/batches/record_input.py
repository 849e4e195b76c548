"""Converts Arrow tables of records, e.g. fills, that a caller passes to values by column, to be checked row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

from iftb_store.batches.arrow import TIME, find_outside, has_text
from iftb_store.batches.arrow_input import first_line
from iftb_store.errors import InvalidValueError
from iftb_store.schema.table_spec import ColumnKind, TableSpec
from iftb_store.values.decimals import NUMBER
from iftb_store.values.display import show
from iftb_store.values.suggestions import suggest


def read_values(table: TableSpec, data: pa.Table, optional: Mapping[str, Any], *, from_float: bool) -> list[dict[str, Any]]:
    """Return the values of each row of an Arrow table; columns that the store sets are left out.

    Args:
        table: the table whose rows the data has.
        data: the data, in columns with the names of the table's columns, in any order.
        optional: the columns that may be missing, or NULL in a row, and the values that rows then have.
        from_float: whether floats are accepted in columns of decimals, as their shortest decimals.

    Raises:
        InvalidValueError: a column is missing, unknown, a duplicate or of another type; the message names it.
    """
    columns = [name for name, spec in table.specs.items() if not spec.kept]
    names = data.column_names
    for name in (name for name in names if name not in table.columns):
        raise InvalidValueError(
            f"{table.name} have no column {show(name)}; {suggest(name, columns)}the columns are {', '.join(columns)}"
        )
    for name in names:
        if names.count(name) > 1:
            raise InvalidValueError(f"the column {name} is a duplicate; drop one of them")
    missing = [name for name in columns if name not in names and name not in optional]
    if missing:
        raise InvalidValueError(f"the data has no column {' and no column '.join(missing)}")
    present = [name for name in columns if name in names]
    values = [_read_column(name, table.kinds[name], data[name], from_float=from_float) for name in present]
    rows = (dict(zip(present, row, strict=True)) for row in zip(*values, strict=True))
    return [{**optional, **{name: value for name, value in row.items() if value is not None}} for row in rows]


def _read_column(name: str, kind: ColumnKind, column: Any, *, from_float: bool) -> list[Any]:
    given = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(given):
        return [None] * len(column)
    if kind == ColumnKind.TIME and pa.types.is_timestamp(given):
        return _read_times(name, column)
    if kind == ColumnKind.DECIMAL and pa.types.is_floating(given) and from_float:
        return [None if value is None else Decimal(float.__repr__(value)) for value in column.to_pylist()]
    if kind == ColumnKind.DECIMAL and has_text(given):
        return [_read_number(name, number, text) for number, text in enumerate(column.to_pylist(), 1)]
    if kind == ColumnKind.JSON and has_text(given):
        return [_read_json(name, number, text) for number, text in enumerate(column.to_pylist(), 1)]
    if (kind == ColumnKind.DECIMAL and (pa.types.is_decimal(given) or pa.types.is_integer(given))) or (
        kind == ColumnKind.TEXT and has_text(given)
    ):
        return list(column.to_pylist())
    remedy = '; decimals="from_float" accepts floats' if kind == ColumnKind.DECIMAL and pa.types.is_floating(given) else ""
    raise InvalidValueError(f"the column {name} has the type {given}, and must hold a {kind.value}{remedy}")


def _read_times(name: str, column: Any) -> list[Any]:
    try:
        # a time without a zone is UTC
        times = column.cast(pa.timestamp("us", column.type.tz)).cast(TIME)
    except pa.ArrowException as error:
        raise InvalidValueError(f"the column {name} has a time that is not a whole microsecond: {first_line(error)}") from error
    if True in find_outside(times).to_pylist():
        raise InvalidValueError(f"the column {name} has a time outside the years 1 to 9999")
    return list(times.to_pylist())


def _read_number(name: str, number: int, text: str | None) -> Decimal | None:
    if text is not None and not NUMBER.fullmatch(text):
        raise InvalidValueError(f"row {number}: {name} {show(text)} is not a decimal number")
    return None if text is None else Decimal(text)


def _read_json(name: str, number: int, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"row {number}: {name} {show(text)} is not a JSON object") from error
