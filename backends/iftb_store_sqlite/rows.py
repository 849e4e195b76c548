"""Stores complete rows from Arrow in SQLite: values are converted by column, and each part is one call in the thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from iftb_store.batches.bars import CHUNK
from iftb_store.relational import pause_gc
from iftb_store.schema.table_spec import TableSpec
from iftb_store_sqlite.columns import to_stored

# the number of rows in one statement, as for bars
_ROWS = 200


def parts(rows: pa.Table) -> Iterator[pa.Table]:
    """Split rows into parts, each written by one call in the thread."""
    return (rows.slice(first, CHUNK) for first in range(0, rows.num_rows, CHUNK))


def is_any_stored(connection: sqlite3.Connection, table: TableSpec, rows: pa.Table) -> bool:
    """Return whether any row is stored between the first and the last key of ``rows``, which are in key order."""
    first, last = (_to_stored(rows.slice(place, 1), table.key) for place in (0, rows.num_rows - 1))
    key, marks = ", ".join(table.key), ", ".join("?" * len(table.key))
    sql = f"SELECT 1 FROM {table.name} WHERE ({key}) >= ({marks}) AND ({key}) <= ({marks}) LIMIT 1"
    return connection.execute(sql, (*first[0], *last[0])).fetchone() is not None


def write(connection: sqlite3.Connection, table: TableSpec, part: pa.Table, *, overwrite: bool) -> None:
    """Insert rows; a stored row with the same key is overwritten, or raises sqlite3.IntegrityError without ``overwrite``."""
    with pause_gc():
        rows = _to_stored(part, table.written)
        one = f"({', '.join('?' * len(table.written))})"
        sql = f"INSERT INTO {table.name} ({', '.join(table.written)}) VALUES "
        end = ""
        if overwrite:
            given, kept = (", ".join(f"{prefix}{name}" for name in table.overwritten) for prefix in ("excluded.", ""))
            end = f" ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET ({kept}) = ({given}) WHERE ({kept}) IS NOT ({given})"
        whole = len(rows) - len(rows) % _ROWS
        for first in range(0, whole, _ROWS):
            values = tuple(chain.from_iterable(rows[first : first + _ROWS]))
            connection.execute(sql + ", ".join([one] * _ROWS) + end, values)
        connection.executemany(sql + one + end, rows[whole:])


def delete(connection: sqlite3.Connection, table: TableSpec, part: pa.Table, columns: Sequence[str]) -> int:
    """Delete the stored rows that equal a row of ``part`` in all of ``columns``; return the number of deleted rows."""
    with pause_gc():
        where = " AND ".join(f"{column} = ?" for column in columns)
        return connection.executemany(f"DELETE FROM {table.name} WHERE {where}", _to_stored(part, columns)).rowcount


def _to_stored(part: pa.Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(to_stored(part[column]) for column in columns), strict=True))
