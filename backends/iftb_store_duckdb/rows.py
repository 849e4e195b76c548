"""Stores complete rows from Arrow in DuckDB; joins check them first, because a rejected row would end the transaction."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.exc import IntegrityError

from iftb_store.columnar import Cursor, key_bounds
from iftb_store.errors import integrity_error
from iftb_store.schema.table_spec import TableSpec


def write_rows(cursor: Cursor, table: TableSpec, rows: pa.Table) -> None:
    """Store rows unchanged; see Stores.write_rows."""
    with cursor.register(rows) as batch:
        if not table.has_own_ids:
            _upsert(cursor, table, rows, batch)
            return
        _check(cursor, table, rows, batch)
        # the store assigns the ids that are NULL
        columns = [name for name in table.columns if name != "id" or not rows["id"].null_count]
        if "id" in columns:
            _delete(cursor, table, rows, batch)
        cursor.table(f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT {', '.join(columns)} FROM {batch}")
    if "id" in columns:
        _move_sequence(cursor, table, pc.max(rows["id"]).as_py())


def bind_keys(table: TableSpec, rows: pa.Table) -> tuple[str, list[Any]]:
    """Return an SQL condition and its parameters: each key column of ``stored`` is within that column's range in ``rows``.

    With it DuckDB skips the stored rows that cannot have a key of ``rows``, without a join.
    """
    bounds = key_bounds(table, rows)
    values = [side[name] for name in table.key for side in bounds]
    conditions = [f"stored.{name} BETWEEN ${2 * place + 1} AND ${2 * place + 2}" for place, name in enumerate(table.key)]
    return " AND ".join(conditions), values


def _upsert(cursor: Cursor, table: TableSpec, rows: pa.Table, batch: str) -> None:
    """Insert the rows whose key is not stored, and overwrite the others; the table has no unique key."""
    columns = ", ".join(table.written)
    bound, bounds = bind_keys(table, rows)
    same = " AND ".join(f"stored.{name} = fresh.{name}" for name in table.key)
    # a join of Arrow's rows costs more than the INSERT; the bounds let DuckDB skip all rows of other series and times
    if not cursor.fetch(f"SELECT 1 FROM {table.name} AS stored WHERE {bound} LIMIT 1", bounds):
        cursor.table(f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {batch}")
        return
    changed = " OR ".join(f"stored.{name} IS DISTINCT FROM fresh.{name}" for name in table.overwritten)
    cursor.table(
        f"""
        MERGE INTO {table.name} AS stored USING {batch} AS fresh ON {same} AND {bound}
        WHEN MATCHED AND ({changed}) THEN UPDATE SET {", ".join(f"{name} = fresh.{name}" for name in table.overwritten)}
        WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({", ".join(f"fresh.{name}" for name in table.written)})""",
        bounds,
    )


def delete_rows(cursor: Cursor, table: TableSpec, rows: pa.Table) -> int:
    """Delete the stored rows that have the keys of ``rows``; return the number of deleted rows."""
    with cursor.register(rows) as batch:
        return _delete(cursor, table, rows, batch)


def _delete(cursor: Cursor, table: TableSpec, rows: pa.Table, batch: str) -> int:
    # the bounds let DuckDB skip all rows with other keys
    bound, bounds = bind_keys(table, rows)
    same = " AND ".join(f"stored.{name} = fresh.{name}" for name in table.key)
    sql = f"DELETE FROM {table.name} AS stored USING {batch} AS fresh WHERE {same} AND {bound}"
    ((count,),) = cursor.rows(sql, bounds)
    return int(count)


def _check(cursor: Cursor, table: TableSpec, rows: pa.Table, batch: str) -> None:
    """Raise IntegrityError if storing the rows would make two rows equal in columns that must be unique.

    The error is also raised if the id of a row belongs to a different stored row. Stored rows that the batch overwrites are
    ignored.
    """
    if table.identity and not rows["id"].null_count:
        bound, bounds = bind_keys(table, rows)
        differs = " OR ".join(f"stored.{name} <> fresh.{name}" for name in table.identity)
        other = f"SELECT 1 FROM {table.name} AS stored JOIN {batch} AS fresh USING (id) WHERE ({differs}) AND {bound} LIMIT 1"
        if cursor.rows(other, bounds):
            raise _is_same_row("id")
    if not table.unique:
        return
    # the rows to which the rule applies
    which = " AND ".join(f"{name} = '{value}'" for name, value in table.unique_among) or "true"
    columns = ", ".join(table.unique)
    twice = f"SELECT 1 FROM {batch} WHERE {which} GROUP BY {columns} HAVING count(*) > 1 LIMIT 1"
    same_key = " AND ".join(f"kept.{name} = stored.{name}" for name in table.key)
    same = " AND ".join(f"fresh.{name} = stored.{name}" for name in table.unique)
    taken = f"""
        SELECT 1 FROM {table.name} AS stored SEMI JOIN (SELECT {columns} FROM {batch} WHERE {which}) AS fresh ON {same}
        ANTI JOIN {batch} AS kept ON {same_key}
        WHERE {which} LIMIT 1"""
    if cursor.rows(twice) or cursor.rows(taken):
        raise _is_same_row(" and ".join(table.unique))


def _is_same_row(what: str) -> IntegrityError:
    return integrity_error(f"the {what} of a row belongs to another row; none of the rows was stored")


def _move_sequence(cursor: Cursor, table: TableSpec, highest: int) -> None:
    """Move the sequence of ids past the largest id that was written; a rollback of the transaction does not move it back."""
    name = f"{table.name}_id_seq"
    ((last,),) = cursor.fetch(
        "SELECT last_value FROM duckdb_sequences() WHERE sequence_name = $1"
        " AND schema_name = current_schema() AND database_name = current_database()",
        [name],
    )
    # last_value is NULL before the first value, which is 1
    if (last or 0) < highest:
        cursor.fetch(f"SELECT setval('{name}', $1)", [highest])
