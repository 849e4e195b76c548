"""Collects the caller's tables, record batches and data frames into one Arrow table with the names of the bars' columns."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from iftb_store.batches.arrow_input import WRITTEN, first_line
from iftb_store.errors import InvalidValueError
from iftb_store.values.display import describe_value, show, type_name

# columns that pandas makes of an index, or that a reader makes of the index in a file; they are no values of bars
_INDEX = re.compile(r"__index_level_\d+__|level_\d+|index|Unnamed: \d+", re.ASCII)
_UNNAMED_INDEX = "__index_level_0__"
# pandas' types of columns whose values may differ in kind
_MIXED = ("object", "str", "string")


async def collect_rows(data: object, objects: str = "bars as objects go to insert_many or upsert_many") -> pa.Table:
    """Return one table with the rows of a table, record batch, reader or data frame, or of an iterable of these.

    Data frames need Arrow's PyCapsule interface. An iterable is iterated in the calling thread, because it may not
    work in another thread. Each part is exported in another thread, because an export may take long. ``objects`` are the words
    of the error message that name the methods for objects.

    Raises:
        InvalidValueError: the data has another type, a value or a column that Arrow cannot hold, or its parts have different
            columns.
    """
    whole = await asyncio.to_thread(_table, data)
    if whole is not None:
        return whole
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        parts = [await asyncio.to_thread(_table, part) for part in data]
        tables = [part for part in parts if part is not None]
        if len(tables) == len(parts):
            try:
                return pa.concat_tables(tables) if tables else WRITTEN.empty_table()
            except pa.ArrowException as error:
                raise unreadable_data(error) from error
    raise InvalidValueError(
        f"data must be an Arrow table, record batches or a data frame (Polars, pandas), not {type_name(data)}; {objects}"
    )


def name_columns(table: pa.Table, series: Mapping[str, str | None]) -> pa.Table:
    """Remove pandas' index columns from a table; add missing columns: timestamp, from ``date`` or an index, and the series.

    Args:
        table: the table.
        series: exchange, symbol and timeframe, each with the value of all rows; None if the table has this column.

    Raises:
        InvalidValueError: the table has a column for which a value is given.
    """
    names = table.column_names
    if "timestamp" not in names:
        is_timed = _UNNAMED_INDEX in names and pa.types.is_timestamp(table.schema.field(_UNNAMED_INDEX).type)
        time = "date" if "date" in names else _UNNAMED_INDEX if is_timed else None
        names = ["timestamp" if name == time else name for name in names]
        table = table.rename_columns(names)
    table = table.select([place for place, name in enumerate(names) if not _INDEX.fullmatch(name)])
    for name, value in series.items():
        if value is None:
            continue
        if name in names:
            if table.num_rows:
                raise InvalidValueError(f"the data has a column {name}; leave {name}= out, or drop the column")
            continue
        table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
    return table


def _table(data: Any) -> pa.Table | None:
    if isinstance(data, pa.Table):
        return data
    if not (hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")):
        return None
    try:
        table: pa.Table = pa.table(data)
    except Exception as error:
        # an export runs code of pandas or of another library, which may raise any exception
        raise _find_fault(data) or unreadable_data(error) from error
    return table


def unreadable_data(error: Exception) -> InvalidValueError:
    """Return the error for data that cannot be read, whatever its library raised."""
    return InvalidValueError(f"data cannot be read as one Arrow table: {first_line(error)}")


def _find_fault(frame: Any) -> InvalidValueError | None:
    """Find the first column or value of a pandas data frame that Arrow cannot hold; return the error, or None."""
    try:
        names = list(frame.columns)
        for place, name in enumerate(names):
            if name in names[:place]:
                return InvalidValueError(f"the column {show(str(name))[1:-1]} occurs twice; drop one of them")
            column, label = frame.iloc[:, place], show(str(name))[1:-1]
            if _can_convert(column):
                continue
            if str(column.dtype) not in _MIXED:
                return InvalidValueError(
                    f"the column {label} has the type {show(str(column.dtype))[1:-1]}, which Arrow does not have; convert it"
                )
            first, beyond = 0, len(column)
            while beyond - first > 1:
                half = (first + beyond) // 2
                first, beyond = (half, beyond) if _can_convert(column.iloc[:half]) else (first, half)
            return InvalidValueError(
                f"row {beyond} of {len(column)}: {label} is {describe_value(column.iloc[beyond - 1])}, which does not fit "
                "its column; give all values of a column the same type"
            )
    except Exception:
        # not a frame of pandas
        return None
    return None


def _can_convert(column: Any) -> bool:
    try:
        pa.array(column, from_pandas=True)
    except Exception:
        # Arrow calls code of the values, which may raise any exception
        return False
    return True
