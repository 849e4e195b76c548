"""Stores complete rows from Arrow in PostgreSQL with COPY; if some may be stored already, through a temporary table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.errors import integrity_error, operational_error
from iftb_store.schema.table_spec import ColumnKind, TableSpec
from iftb_store_postgres.arrow import send_rows
from iftb_store_postgres.bars import count_changed, savepoint

# number of keys in one DELETE
_KEYS = 10_000
# The sequence draws every id up to the largest one written, which the draws of other sessions cannot undo. For more ids than
# this, setval is safe enough: other sessions do not draw a million ids between two calls of one statement.
_MOST_DRAWN = 1_000_000
_MOVE = f"""
    WITH drawn AS MATERIALIZED (SELECT pg_catalog.nextval($1::text::regclass) AS id)
    SELECT CASE WHEN $2 - id > {_MOST_DRAWN} THEN pg_catalog.setval($1::text::regclass, $2)
        ELSE (SELECT max(pg_catalog.nextval($1::text::regclass)) FROM pg_catalog.generate_series(id + 1, $2)) END
    FROM drawn"""
# text, because for arrays of other types asyncpg queries the catalog, with names that objects in the search_path could take over
_VALUES = {ColumnKind.TIME: "{}::timestamptz", ColumnKind.TEXT: "{}::text", ColumnKind.INTEGER: "{}::bigint"}


async def write_rows(connection: asyncpg.Connection, table: TableSpec, rows: pa.Table) -> None:
    """Store rows unchanged; see Stores.write_rows."""
    # the store assigns the ids that are NULL
    assigns = rows["id"].null_count > 0 if table.has_own_ids else False
    written = [name for name in table.written if not (assigns and name == "id")]
    rows = rows.select(written)
    if table.has_own_ids and not assigns:
        # before everything else, so that no other session draws one of these ids meanwhile
        await _move_sequence(connection, table, rows)
    if assigns or not await _is_any_stored(connection, table, rows):
        # another session may have stored one of these rows since the check
        with nullcontext() if assigns else suppress(asyncpg.UniqueViolationError):
            async with savepoint(connection, "iftb_store_put"):
                await send_rows(connection, table.name, rows)
            return
    name, columns = f"iftb_store_put_{table.name}", ", ".join(written)
    # qualified, so that it never names a table that somebody created in another schema
    staging = f"pg_temp.{name}"
    await connection.execute(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ON COMMIT DELETE ROWS AS SELECT {columns} FROM {table.name} WITH NO DATA"
    )
    await connection.execute(f"DELETE FROM {staging}")
    await send_rows(connection, name, rows, "pg_temp")
    key = ", ".join(table.key)
    stored, given = (", ".join(f"{owner}.{column}" for column in table.overwritten) for owner in (table.name, "excluded"))
    if table.has_own_ids:
        # delete the stored rows first, so that other rows may take their unique values
        await connection.execute(f"DELETE FROM {table.name} USING {staging} AS staged WHERE {_same(table, 'staged')}")
        where = _same(table, "excluded")
    else:
        where = f"({stored}) IS DISTINCT FROM ({given})"
    status = await connection.execute(
        f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {staging} ORDER BY {key} "
        f"ON CONFLICT ({key}) DO UPDATE SET ({', '.join(table.overwritten)}) = ROW ({given}) WHERE {where}"
    )
    if table.has_own_ids and count_changed(status) < rows.num_rows:
        raise integrity_error("the id of a row belongs to another row; none of the rows was stored")


def _same(table: TableSpec, other: str) -> str:
    """Return the SQL condition that a stored row and a row of the table ``other`` have the same key and identity."""
    columns = [(column, _VALUES.get(table.kinds[column], "{}")) for column in (*table.key, *table.identity)]
    return " AND ".join(f"{cast.format(f'{table.name}.{name}')} = {cast.format(f'{other}.{name}')}" for name, cast in columns)


async def delete_rows(connection: asyncpg.Connection, table: TableSpec, rows: pa.Table) -> int:
    """Delete the rows that have the keys of ``rows``; return the number of deleted rows."""
    keys = [(column, table.kinds[column]) for column in table.key]
    arrays = ", ".join(f"pg_catalog.unnest(${place}::text[])" for place in range(1, len(keys) + 1))
    casts = [(column, _VALUES[kind]) for column, kind in keys]
    same = " AND ".join(f"{cast.format(f'{table.name}.{name}')} = {cast.format(f'gone.{name}')}" for name, cast in casts)
    sql = f"DELETE FROM {table.name} USING ROWS FROM ({arrays}) AS gone ({', '.join(table.key)}) WHERE {same}"
    count = 0
    for first in range(0, rows.num_rows, _KEYS):
        count += count_changed(await connection.execute(sql, *_keys(table, rows.slice(first, _KEYS))))
    return count


async def _is_any_stored(connection: asyncpg.Connection, table: TableSpec, rows: pa.Table) -> bool:
    """Return whether any row is stored between the first and the last key of ``rows``."""
    bounds = [values[0] for place in (0, rows.num_rows - 1) for values in _keys(table, rows.slice(place, 1))]
    kinds = [table.kinds[column] for column in table.key]
    marks = [_VALUES[kind].format(f"${place}::text") for place, kind in enumerate(kinds * 2, 1)]
    columns = [_VALUES[kind].format(name) for name, kind in zip(table.key, kinds, strict=True)]
    key, first, last = (", ".join(names) for names in (columns, marks[: len(kinds)], marks[len(kinds) :]))
    # the first row behind is one step in the key's index; EXISTS between two keys may be planned as a scan of the table
    behind = f"SELECT {', '.join(table.key)} FROM {table.name} WHERE ({key}) >= ({first}) ORDER BY {key} LIMIT 1"
    return bool(await connection.fetchval(f"SELECT ({key}) <= ({last}) FROM ({behind}) AS behind", *bounds))


def _keys(table: TableSpec, rows: pa.Table) -> list[Sequence[Any]]:
    """Return the values of each key column of ``rows`` as text, one list per column.

    The values are text because asyncpg would send datetime.min and datetime.max as PostgreSQL's infinities.
    """
    return [rows[column].cast(pa.string()).to_pylist() for column in table.key]


async def _move_sequence(connection: asyncpg.Connection, table: TableSpec, rows: pa.Table) -> None:
    """Move the sequence of ids past the largest id of ``rows``; a rollback of the transaction does not move it back.

    Raises:
        OperationalError: this role may not change the sequence.
    """
    sequence = await connection.fetchval("SELECT pg_catalog.pg_get_serial_sequence($1, 'id')", table.name)
    if sequence is None:
        return
    try:
        await connection.fetchval(_MOVE, sequence, pc.max(rows["id"]).as_py())
    except asyncpg.InsufficientPrivilegeError as error:
        raise operational_error(
            f"rows cannot be stored with their ids: this role may not move the sequence of new ids; "
            f"as the owner: GRANT UPDATE ON SEQUENCE {sequence} TO the user",
            error,
        ) from error
