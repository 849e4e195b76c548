"""The bars store on DuckDB: writes in bulk through Arrow, and checks keys with a join, as the table has no primary key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.bars import KEY, VALUES, BarBatch
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.columnar import SERIES_SQL, Query, gaps_sql, read_buckets, resample_sql, to_bars, to_table
from iftb_store.errors import integrity_error
from iftb_store.models import OHLCVBar, Series, WriteCounts
from iftb_store.protocols import WriteMode
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.values.timeframes import SECONDS
from iftb_store_duckdb.arrow import whole_part
from iftb_store_duckdb.driver import Cursor, slice_rows
from iftb_store_duckdb.session import DuckDBSession

_SAME_KEY = " AND ".join(f"stored.{name} = fresh.{name}" for name in KEY)
_COUNT = "SELECT count(*) FROM ohlcv"
_COLUMNS = [name for name in BARS.columns if name not in KEY or name == "timestamp"]
_READ = ", ".join(_COLUMNS)
_LONGEST_MONTH = 31 * 86_400
_FIRST = to_epoch_us(datetime.min.replace(tzinfo=UTC))


class DuckDBBars:
    """The store of bars of one session."""

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def read(self, series: RowFilter, *, descending: bool = False) -> list[OHLCVBar]:
        """Return the bars of a series, oldest first, or newest first if ``descending``; at most ``series.limit``."""
        names = tuple(series.equal[name] for name in SERIES)

        def read(cursor: Cursor) -> list[OHLCVBar]:
            if descending:
                return _read_newest(cursor, series)
            if series.limit is None:
                return _bars(cursor, Query(series), "timestamp", names)
            page = whole_part(cursor, series).select(_COLUMNS)
            return [bar for part in slice_rows(page) for bar in to_bars(part, *names)]

        return await self._session.run(read)

    async def write(self, batch: BarBatch, mode: WriteMode) -> WriteCounts | None:
        """Write all bars of a batch or none; see `iftb_store.protocols.BarStore.write`."""
        table = await to_table(batch)

        def work(cursor: Cursor) -> WriteCounts | None:
            if mode == "insert":
                _insert(cursor, table, batch.created_at)
                return None
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

        return await self._session.run(work, write=True)

    async def delete(self, series: RowFilter) -> int:
        """Delete the bars of a series in a time window and return their number."""
        query = Query(series)
        ((count,),) = await self._session.run(
            lambda cursor: cursor.fetch(f"DELETE FROM {query.source}", query.values), write=True
        )
        return int(count)

    async def resample(self, series: RowFilter, buckets: Buckets) -> list[Bucket]:
        """Return the bars of a series aggregated by bucket, ordered by the bucket's number."""
        query = Query(series)
        table, _ = await self._session.run(lambda cursor: cursor.table(resample_sql(query, buckets), query.values))
        return read_buckets(table)

    async def list_series(self) -> list[Series]:
        """Return every stored series with its first and last time and its numbers of bars and of missing bars."""
        rows = await self._session.run(lambda cursor: cursor.fetch(SERIES_SQL))
        return [
            Series(exchange, symbol, timeframe, from_epoch_us(first), from_epoch_us(last), count, missing)
            for exchange, symbol, timeframe, first, last, count, missing in rows
        ]

    async def get_gaps(
        self, series: RowFilter, before: datetime | None, after: datetime | None
    ) -> list[tuple[datetime, datetime]]:
        """Return (last bar before, first bar after) of every gap, oldest first, computed in the engine."""
        query = Query(series)
        sql = gaps_sql(query, series.equal["timeframe"], before, after)
        rows = await self._session.run(lambda cursor: cursor.fetch(sql, query.values))
        return [(from_epoch_us(earlier), from_epoch_us(later)) for earlier, later in rows]


def _insert(cursor: Cursor, table: pa.Table, created_at: datetime) -> None:
    oldest, newest = _span(table)
    with cursor.registered(table) as batch:
        if not _distinct(table):
            columns = ", ".join(KEY)
            twice = f"SELECT {columns} FROM {batch} GROUP BY {columns} HAVING count(*) > 1 ORDER BY {columns} LIMIT 1"
            _refuse(cursor.rows(twice), "is a duplicate in the batch")
        columns = ", ".join(f"stored.{name}" for name in KEY)
        # the bounds let DuckDB skip all bars of other times
        clash = (
            f"SELECT {columns} FROM ohlcv AS stored SEMI JOIN {batch} AS fresh ON {_SAME_KEY} "
            "WHERE stored.timestamp BETWEEN $1 AND $2 LIMIT 1"
        )
        _refuse(cursor.rows(clash, [oldest, newest]), "is already stored")
        columns = ", ".join(KEY + VALUES)
        cursor.table(f"INSERT INTO ohlcv ({columns}, created_at) SELECT {columns}, $1 FROM {batch}", [created_at])


def _upsert(cursor: Cursor, table: pa.Table, created_at: datetime) -> int:
    oldest, newest = _span(table)
    columns = ", ".join(KEY + VALUES)
    changed = " OR ".join(f"stored.{name} IS DISTINCT FROM fresh.{name}" for name in VALUES)
    with cursor.registered(table) as batch:
        ((written,),) = cursor.rows(
            f"""
            MERGE INTO ohlcv AS stored USING {batch} AS fresh ON {_SAME_KEY} AND stored.timestamp BETWEEN $1 AND $2
            WHEN MATCHED AND ({changed}) THEN UPDATE SET {", ".join(f"{name} = fresh.{name}" for name in VALUES)}
            WHEN NOT MATCHED THEN INSERT ({columns}, created_at)
                VALUES ({", ".join(f"fresh.{name}" for name in KEY + VALUES)}, $3)""",
            [oldest, newest, created_at],
        )
    return int(written)


def _span(table: pa.Table) -> tuple[datetime, datetime]:
    bounds: Any = pc.min_max(table["timestamp"].cast(pa.int64())).as_py()
    return from_epoch_us(bounds["min"]), from_epoch_us(bounds["max"])


def _distinct(table: pa.Table) -> bool:
    """Return whether all bars belong to one series, each later than the previous bar; such a batch has no duplicate key."""
    moments = table["timestamp"].cast(pa.int64()).combine_chunks()
    if not pc.all(pc.less(moments.slice(0, len(moments) - 1), moments.slice(1)), min_count=0).as_py():
        return False
    return all(pc.count_distinct(table[name]).as_py() == 1 for name in KEY[:3])


def _refuse(found: Sequence[tuple[Any, ...]], why: str) -> None:
    if found:
        raise integrity_error(f"a bar with this key {why}; nothing was inserted")


def _read_newest(cursor: Cursor, series: RowFilter) -> list[OHLCVBar]:
    names, limit = tuple(series.equal[name] for name in SERIES), series.limit
    query = Query(series)
    ((newest,),) = cursor.fetch(query.sql("epoch_us(max(timestamp))"), query.values)
    if newest is None:
        return []
    if limit is not None:
        # with a lower bound DuckDB reads only the newest rows; if there are large gaps among these, it finds too few
        first = newest - 2 * limit * (SECONDS[names[2]] or _LONGEST_MONTH) * 1_000_000
        if first > _FIRST and (series.start is None or first > to_epoch_us(series.start)):
            bars = _bars(cursor, Query(replace(series, start=from_epoch_us(first))), "timestamp DESC", names)
            if len(bars) == limit:
                return bars
    return _bars(cursor, query, "timestamp DESC", names)


def _bars(cursor: Cursor, query: Query, order: str, series: tuple[str, ...]) -> list[OHLCVBar]:
    # without expressions in the SELECT list, DuckDB reads the other columns only for the rows within the limit
    table, _ = cursor.table(query.sql(_READ, order), query.values)
    return [bar for part in slice_rows(table) for bar in to_bars(part, *series)]
