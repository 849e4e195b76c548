"""Stores complete rows from Arrow in SQLite: values are converted by column, and each part is one call in the thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from iftb_store.batches.arrow import DECIMAL, TIME, to_plain_texts
from iftb_store.batches.bars import CHUNK
from iftb_store.relational import pause_gc
from iftb_store.schema.table_spec import TableSpec
from iftb_store_sqlite.bars import to_optional_sortables

# the number of rows in one statement, as for bars
_ROWS = 200


def parts(rows: pa.Table) -> Iterator[pa.Table]:
    """Split rows into parts, each written by one call in the thread."""
    return (rows.slice(first, CHUNK) for first in range(0, rows.num_rows, CHUNK))


def any_stored(connection: sqlite3.Connection, table: TableSpec, rows: pa.Table) -> bool:
    """Return whether any row is stored between the first and the last key of ``rows``, which are in key order."""
    first, last = (_to_stored(rows.slice(place, 1), table.key) for place in (0, rows.num_rows - 1))
    key, marks = ", ".join(table.key), ", ".join("?" * len(table.key))
    sql = f"SELECT 1 FROM {table.name} WHERE ({key}) >= ({marks}) AND ({key}) <= ({marks}) LIMIT 1"
    return connection.execute(sql, (*first[0], *last[0])).fetchone() is not None


def insert(connection: sqlite3.Connection, table: TableSpec, part: pa.Table) -> None:
    """Insert rows; a conflict raises sqlite3.IntegrityError."""
    with pause_gc():
        rows = _to_stored(part, table.columns)
        one = f"({', '.join('?' * len(table.columns))})"
        sql = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES "
        whole = len(rows) - len(rows) % _ROWS
        for first in range(0, whole, _ROWS):
            connection.execute(sql + ", ".join([one] * _ROWS), tuple(chain.from_iterable(rows[first : first + _ROWS])))
        connection.executemany(sql + one, rows[whole:])


def delete(connection: sqlite3.Connection, table: TableSpec, part: pa.Table, columns: Sequence[str]) -> int:
    """Delete the stored rows that equal a row of ``part`` in all of ``columns``; return the number of deleted rows."""
    with pause_gc():
        where = " AND ".join(f"{column} = ?" for column in columns)
        return connection.executemany(f"DELETE FROM {table.name} WHERE {where}", _to_stored(part, columns)).rowcount


def _to_stored(part: pa.Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(_values(part[column]) for column in columns), strict=True))


def _values(column: Any) -> Sequence[Any]:
    if column.type == DECIMAL:
        return to_optional_sortables(to_plain_texts(column))
    values: Sequence[Any] = (column.cast(pa.int64()) if column.type == TIME else column).to_pylist()
    return values
