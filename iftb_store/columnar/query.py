"""Builds DuckDB's SQL for a selection of rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from iftb_store.schema.table_spec import RowFilter
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.tags import encode_item


class Query:
    """The SQL conditions of a selection, and the values of their parameters."""

    def __init__(self, selection: RowFilter) -> None:
        self._selection = selection
        self.values: list[Any] = []
        self.conditions = [
            f"{column} IS NULL" if value is None else f"{column} = {self.bound(value)}"
            for column, value in selection.equal.items()
        ]
        self.conditions += [f"{selection.table.time} {sign} {self.bound(moment)}" for _, sign, moment in selection.bounds]
        if selection.tag is not None:
            self.conditions.append(f"contains(tags, {self.bound(encode_item(selection.tag))})")
        if selection.after is not None:
            self.conditions.append(f"{tuple_sql(selection.order)} > {tuple_sql(map(self.bound, selection.after))}")

    def bound(self, value: Any) -> str:
        """Add a value to the parameters and return the SQL that refers to it."""
        self.values.append(to_epoch_us(value) if isinstance(value, datetime) else value)
        mark = f"${len(self.values)}"
        return f"make_timestamptz({mark}::BIGINT)" if isinstance(value, datetime) else mark

    def join_columns(self, key: str, columns: str) -> str:
        """Return the SQL of a table with the key and ``columns`` of the selected rows: two scans, joined row by row.

        A single scan would be slow: if a scan has a condition on the key and also returns the key, DuckDB reads the texts of
        2,048 rows to return the texts of one row.
        """
        return f"({self.sql(key)}) POSITIONAL JOIN ({self.sql(columns)})"

    @property
    def source(self) -> str:
        """The table and the conditions, as SQL to write after FROM."""
        where = f" WHERE {' AND '.join(self.conditions)}" if self.conditions else ""
        return self._selection.table.name + where

    def sql(self, columns: str, order: str = "") -> str:
        """Return the SELECT statement; the selection's limit applies only with ``order``."""
        limit = "" if self._selection.limit is None else f"LIMIT {self._selection.limit}"
        return f"SELECT {columns} FROM {self.source}" + (f" ORDER BY {order} {limit}" if order else "")


def tuple_sql(parts: Iterable[str]) -> str:
    """Return SQL expressions as one row of values."""
    listed = list(parts)
    # DuckDB skips no rows if a single value is in parentheses
    return listed[0] if len(listed) == 1 else f"({', '.join(listed)})"
