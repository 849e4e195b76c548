"""Rows as Arrow: the one schema of each table, the same on every engine."""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa

from iftb_store.decimals import PRECISION, SCALE
from iftb_store.selections import ScannedTable, Selection

DECIMAL = pa.decimal128(PRECISION, SCALE)
TIME = pa.timestamp("us", tz="UTC")

_TYPES: dict[str, pa.DataType] = {
    "str": pa.string(),
    "int": pa.int64(),
    "Decimal": DECIMAL,
    "datetime": TIME,
    # a JSON object as its text
    "dict[str, Any]": pa.string(),
}


@cache
def schema(table: ScannedTable) -> pa.Schema:
    """Return the schema of a table's rows: the fields of its dataclass in their order."""
    return pa.schema([pa.field(column, _TYPES[kind]) for column, kind in table.kinds.items()])


def completed(selection: Selection, columns: dict[str, Any], count: int) -> pa.Table:
    """Return the columns that an engine read together with those whose value the selection fixed."""
    wanted = schema(selection.table)
    fixed = {name: pa.repeat(pa.scalar(value, pa.string()), count) for name, value in selection.equal.items()}
    return pa.table([fixed[name] if name in fixed else columns[name] for name in wanted.names], schema=wanted)
