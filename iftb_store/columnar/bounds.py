"""The least and greatest values in columns of some rows, by which engines skip the files and rows that cannot match."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.schema.table_spec import ColumnKind, TableSpec
from iftb_store.schema.types import from_epoch_us


class Bounds(NamedTuple):
    """The least and greatest values of columns; a column without an entry is unbounded."""

    least: dict[str, Any]
    greatest: dict[str, Any]


#: The bounds of all rows.
WHOLE = Bounds({}, {})


def key_bounds(table: TableSpec, rows: pa.Table) -> Bounds:
    """Return the least and greatest values of the key columns of some rows."""
    bounds = Bounds({}, {})
    for name in table.key:
        column: Any = rows[name]
        is_time = table.kinds[name] == ColumnKind.TIME
        found: Any = pc.min_max(column.cast(pa.int64()) if is_time else column).as_py()
        for side, values in zip(("min", "max"), bounds, strict=True):
            values[name] = from_epoch_us(found[side]) if is_time else found[side]
    return bounds
