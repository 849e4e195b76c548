"""The bars store on DuckDB: writes in bulk through Arrow, and checks keys with a join, as the table has no primary key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import pyarrow as pa

from iftb_store.batches.bars import KEY, VALUES, BarBatch, WriteMode
from iftb_store.columnar import ColumnarBars, Cursor, Query, has_distinct_keys, to_table
from iftb_store.errors import integrity_error
from iftb_store.models import WriteCounts
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store_duckdb.rows import bind_keys
from iftb_store_duckdb.session import DuckDBSession

T = TypeVar("T")

_SAME_KEY = " AND ".join(f"stored.{name} = fresh.{name}" for name in KEY)
_COUNT = "SELECT count(*) FROM ohlcv"


class DuckDBBars(ColumnarBars):
    """The store of bars of one session."""

    reads_twice: ClassVar[bool] = True

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def run(self, selection: RowFilter, work: Callable[[Cursor], T], columns: Sequence[str] = BARS.columns) -> T:
        """Run ``work`` in a thread with the session's cursor."""
        return await self._session.run(work)

    async def write(self, batch: BarBatch, mode: WriteMode) -> WriteCounts | None:
        """Write all bars of a batch or none; see `iftb_store.protocols.BarStore.write`."""
        table = await to_table(batch)

        def work(cursor: Cursor) -> WriteCounts | None:
            if mode == "insert":
                _insert(cursor, table, batch)
                return None
            if not _is_any_stored(cursor, table):
                with cursor.register(table) as fresh:
                    _append(cursor, fresh, batch.created_at)
                return WriteCounts(len(batch), 0)
            if mode == "upsert":
                _upsert(cursor, table, batch.created_at)
                return None
            # no other session can add a row, because this one holds the write lock
            ((before,),) = cursor.fetch(_COUNT)
            written = _upsert(cursor, table, batch.created_at)
            ((after,),) = cursor.fetch(_COUNT)
            inserted = after - before
            # raw SQL can have stored a bar twice, because the table has no key
            return WriteCounts(inserted, min(written, len(batch)) - inserted)

        counts = await self._session.run(work, write=True)
        return counts if mode == "count" else None

    async def delete(self, series: RowFilter) -> int:
        """Delete the bars of a series in a time window and return their number."""
        query = Query(series)
        ((count,),) = await self._session.run(
            lambda cursor: cursor.fetch(f"DELETE FROM {query.source}", query.values), write=True
        )
        return int(count)


def _is_any_stored(cursor: Cursor, table: pa.Table) -> bool:
    """Return whether any stored bar lies within the least and greatest values of each key column."""
    bound, bounds = bind_keys(BARS, table)
    # a join with Arrow's rows costs more than the INSERT; the bounds let DuckDB skip all rows of other series and times
    return bool(cursor.fetch(f"SELECT 1 FROM ohlcv AS stored WHERE {bound} LIMIT 1", bounds))


def _insert(cursor: Cursor, table: pa.Table, batch: BarBatch) -> None:
    columns = ", ".join(KEY)
    with cursor.register(table) as fresh:
        # the keys of an Arrow table are distinct
        if batch.table is None and not has_distinct_keys(table):
            twice = f"SELECT {columns} FROM {fresh} GROUP BY {columns} HAVING count(*) > 1 ORDER BY {columns} LIMIT 1"
            _refuse(cursor.rows(twice), "occurs twice in the batch")
        if _is_any_stored(cursor, table):
            bound, bounds = bind_keys(BARS, table)
            named = ", ".join(f"stored.{name}" for name in KEY)
            clash = f"SELECT {named} FROM ohlcv AS stored SEMI JOIN {fresh} AS fresh ON {_SAME_KEY} WHERE {bound} LIMIT 1"
            _refuse(cursor.rows(clash, bounds), "is already stored")
        _append(cursor, fresh, batch.created_at)


def _append(cursor: Cursor, fresh: str, created_at: datetime) -> None:
    columns = ", ".join(KEY + VALUES)
    cursor.table(f"INSERT INTO ohlcv ({columns}, created_at) SELECT {columns}, $1 FROM {fresh}", [created_at])


def _upsert(cursor: Cursor, table: pa.Table, created_at: datetime) -> int:
    bound, bounds = bind_keys(BARS, table)
    columns = ", ".join(KEY + VALUES)
    changed = " OR ".join(f"stored.{name} IS DISTINCT FROM fresh.{name}" for name in VALUES)
    with cursor.register(table) as batch:
        ((written,),) = cursor.rows(
            f"""
            MERGE INTO ohlcv AS stored USING {batch} AS fresh ON {_SAME_KEY} AND {bound}
            WHEN MATCHED AND ({changed}) THEN UPDATE SET {", ".join(f"{name} = fresh.{name}" for name in VALUES)}
            WHEN NOT MATCHED THEN INSERT ({columns}, created_at)
                VALUES ({", ".join(f"fresh.{name}" for name in KEY + VALUES)}, ${len(bounds) + 1})""",
            [*bounds, created_at],
        )
    return int(written)


def _refuse(found: Sequence[tuple[Any, ...]], why: str) -> None:
    if found:
        raise integrity_error(f"a bar with this key {why}; nothing was inserted")
