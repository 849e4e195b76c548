"""Rows of DuckDB as Arrow, as it gives them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from iftb_store.arrow import completed
from iftb_store.selections import Selection
from iftb_store.types import to_epoch_us
from iftb_store_duckdb.driver import Cursor


def scan(cursor: Cursor, selection: Selection) -> pa.Table:
    """Run a selection and return its rows."""
    sql, values = _sql(selection)
    table, _ = cursor.table(sql, values)
    return completed(selection, dict(zip(selection.columns, table.columns, strict=True)), table.num_rows)


def _sql(selection: Selection) -> tuple[str, list[Any]]:
    table, values = selection.table, list[Any]()

    def bound(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    def moment(value: Any) -> str:
        return f"make_timestamptz({bound(to_epoch_us(value))}::BIGINT)"

    conditions = [f"{column} = {bound(value)}" for column, value in selection.equal.items()]
    if selection.start is not None:
        conditions.append(f"{table.time} >= {moment(selection.start)}")
    if selection.end is not None:
        conditions.append(f"{table.time} <= {moment(selection.end)}")
    if selection.after is not None:
        marks = (
            moment(value) if table.kinds[column] == "datetime" else bound(value)
            for column, value in zip(selection.order, selection.after, strict=True)
        )
        conditions.append(f"({', '.join(selection.order)}) > ({', '.join(marks)})")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    limit = "" if selection.limit is None else f"LIMIT {bound(selection.limit)}"
    columns = ", ".join(f"{name}::VARCHAR" if table.kinds[name] == "dict[str, Any]" else name for name in selection.columns)
    return f"SELECT {columns} FROM {table.name} {where} ORDER BY {', '.join(selection.order)} {limit}", values
