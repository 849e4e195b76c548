"""A session's writes before its commit, in a temporary table of DuckDB: at most one row for each key.

Each row has the columns of a bar and an operation: "insert" (the key must not be stored at the commit), "upsert" (only the values
of a stored bar are overwritten), "replace" (a stored bar is overwritten completely, because the session deleted it before) or
"delete" (only the key is used).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.arrow import arrow_schema
from iftb_store.batches.bars import KEY
from iftb_store.columnar import Bounds, Cursor, has_distinct_keys, key_bounds
from iftb_store.errors import integrity_error
from iftb_store.models import WriteCounts
from iftb_store.schema.table_spec import BARS
from iftb_store_lake.layout import COLUMNS, COLUMNS_SQL, KEY_SQL, SQL_TYPES, changed_sql, same_key

PENDING = "iftb_store_pending"


class Fresh(NamedTuple):
    """Rows to write, each a complete bar with a new id and a created_at; and the bounds of the rows."""

    rows: pa.Table
    bounds: Bounds


def create_pending(cursor: Cursor) -> None:
    """Create the temporary table of a new session."""
    columns = ", ".join(f"{name} {kind}" for name, kind in SQL_TYPES.items())
    cursor.fetch(f"CREATE TEMP TABLE {PENDING} ({columns}, op VARCHAR)")


def clear_pending(cursor: Cursor) -> None:
    """Forget the session's writes."""
    cursor.fetch(f"TRUNCATE {PENDING}")


def complete(table: pa.Table, first_id: int, created_at: datetime | None) -> Fresh:
    """Return the rows with ids from ``first_id`` on, and with ``created_at`` (None: the rows have that column already)."""
    schema, count = arrow_schema(BARS), table.num_rows
    columns: dict[str, Any] = {name: table[name] for name in table.column_names}
    # made by Arrow, which lets the event loop run meanwhile
    ones: Any = pc.cumulative_sum(pa.repeat(pa.scalar(1, pa.int64()), count))
    columns["id"] = pc.add(ones, pa.scalar(first_id - 1, pa.int64()))
    if created_at is not None:
        columns["created_at"] = pa.repeat(pa.scalar(created_at, schema.field("created_at").type), count)
    return Fresh(pa.table([columns[name] for name in COLUMNS], schema=schema), key_bounds(BARS, table))


def insert(cursor: Cursor, fresh: Fresh, *, written: bool) -> None:
    """Add new bars; the table ``ohlcv`` must contain the bars that the session sees within their bounds.

    Raises:
        IntegrityError: a key occurs twice in the batch, or is already stored.
    """
    with cursor.register(fresh.rows) as batch:
        twice = f"SELECT 1 FROM {batch} GROUP BY {KEY_SQL} HAVING count(*) > 1 LIMIT 1"
        if not has_distinct_keys(fresh.rows) and cursor.fetch(twice):
            raise integrity_error("a bar with this key occurs twice in the batch; nothing was inserted")
        _refuse_stored(cursor, batch, fresh.bounds)
        if not written:
            cursor.fetch(f"INSERT INTO {PENDING} SELECT {COLUMNS_SQL}, 'insert' FROM {batch}")
            return
        cursor.fetch(f"""
            CREATE OR REPLACE TEMP TABLE iftb_store_fresh AS
            SELECT fresh.*, CASE WHEN own.op IS NULL THEN 'insert' ELSE 'replace' END AS op
            FROM {batch} AS fresh LEFT JOIN {PENDING} AS own ON {same_key("fresh", "own")}""")
    _add_pending(cursor)


def upsert(cursor: Cursor, fresh: Fresh, *, written: bool) -> None:
    """Write bars with distinct keys; a stored bar keeps its id and created_at."""
    with cursor.register(fresh.rows) as batch:
        if not written:
            cursor.fetch(f"INSERT INTO {PENDING} SELECT {COLUMNS_SQL}, 'upsert' FROM {batch}")
            return
        kept = ", ".join(
            f"CASE WHEN own.op IN ('insert', 'upsert', 'replace') THEN own.{name} ELSE fresh.{name} END AS {name}"
            if name in ("id", "created_at")
            else f"fresh.{name}"
            for name in COLUMNS
        )
        cursor.fetch(f"""
            CREATE OR REPLACE TEMP TABLE iftb_store_fresh AS
            SELECT {kept}, CASE own.op WHEN 'delete' THEN 'replace' ELSE coalesce(own.op, 'upsert') END AS op
            FROM {batch} AS fresh LEFT JOIN {PENDING} AS own ON {same_key("fresh", "own")}""")
    _add_pending(cursor)


def count(cursor: Cursor, fresh: Fresh) -> WriteCounts:
    """Count the bars that an upsert would insert and change; ``ohlcv`` must contain the bars that the session sees."""
    with cursor.register(fresh.rows) as batch:
        ((inserted, updated),) = cursor.fetch(f"""
            SELECT count(*) FILTER (stored.timestamp IS NULL),
                count(DISTINCT fresh.id) FILTER (stored.timestamp IS NOT NULL AND {changed_sql("fresh", "stored")})
            FROM {batch} AS fresh LEFT JOIN ohlcv AS stored ON {same_key("fresh", "stored")}""")
    return WriteCounts(int(inserted), int(updated))


def delete(cursor: Cursor, condition: str, values: Sequence[Any]) -> int:
    """Delete the bars of ``ohlcv`` that ``condition``, a WHERE clause, selects; return their number."""
    columns = ", ".join(f"stored.{name}" if name in KEY else f"NULL::{kind} AS {name}" for name, kind in SQL_TYPES.items())
    cursor.table(
        f"""
        CREATE OR REPLACE TEMP TABLE iftb_store_fresh AS
        SELECT {columns}, coalesce(own.op, 'none') AS op
        FROM (SELECT {KEY_SQL} FROM ohlcv {condition}) AS stored LEFT JOIN {PENDING} AS own ON {same_key("stored", "own")}""",
        values,
    )
    ((found,),) = cursor.fetch("SELECT count(*) FROM iftb_store_fresh")
    cursor.fetch(f"DELETE FROM {PENDING} AS own USING iftb_store_fresh AS fresh WHERE {same_key('own', 'fresh')}")
    # a bar that only this session has inserted is gone without a trace; another program may have stored a bar twice
    cursor.fetch(f"INSERT INTO {PENDING} SELECT DISTINCT * REPLACE ('delete' AS op) FROM iftb_store_fresh WHERE op <> 'insert'")
    cursor.fetch("DROP TABLE iftb_store_fresh")
    return int(found)


def _refuse_stored(cursor: Cursor, batch: str, bounds: Bounds) -> None:
    clash = f"""
        SELECT 1 FROM (SELECT {KEY_SQL} FROM ohlcv WHERE timestamp BETWEEN $1 AND $2) AS stored
        SEMI JOIN {batch} AS fresh ON {same_key("stored", "fresh")} LIMIT 1"""
    if cursor.fetch(clash, [bounds.least["timestamp"], bounds.greatest["timestamp"]]):
        raise integrity_error("a bar with this key is already stored; nothing was inserted")


def _add_pending(cursor: Cursor) -> None:
    """Move the rows of iftb_store_fresh to the pending writes, where they replace rows with the same keys."""
    cursor.fetch(f"DELETE FROM {PENDING} AS own USING iftb_store_fresh AS fresh WHERE {same_key('own', 'fresh')}")
    cursor.fetch(f"INSERT INTO {PENDING} SELECT * FROM iftb_store_fresh")
    cursor.fetch("DROP TABLE iftb_store_fresh")
