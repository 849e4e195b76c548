"""The bars store on DuckDB: writes in bulk through Arrow, and checks keys with a join, as the table has no primary key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.arrow import to_datetimes, to_decimals
from iftb_store.batches.bars import KEY, VALUES, BarBatch, BarColumns
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.errors import integrity_error
from iftb_store.models import OHLCVBar, Series
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.values.timeframes import SECONDS
from iftb_store_duckdb.arrow import whole_part
from iftb_store_duckdb.driver import Cursor, slice_rows
from iftb_store_duckdb.resampling import resample
from iftb_store_duckdb.session import DuckDBSession

_DECIMAL = pa.decimal128(38, 18)
_TIME = pa.timestamp("us", tz="UTC")
_TYPES = [pa.string()] * 3 + [_TIME] + [_DECIMAL] * 6 + [pa.int64()]

_SAME_KEY = " AND ".join(f"stored.{name} = fresh.{name}" for name in KEY)
_SERIES = "exchange = $1 AND symbol = $2 AND timeframe = $3"

_COUNT = "SELECT count(*) FROM ohlcv"
_COLUMNS = [name for name in BARS.columns if name not in KEY or name == "timestamp"]
_READ = ", ".join(_COLUMNS)
# without expressions in the SELECT list, DuckDB reads the other columns only for the newest bars
_LATEST = f"SELECT {_READ} FROM ohlcv WHERE {_SERIES} {{}} ORDER BY timestamp DESC LIMIT $4"
_LONGEST_MONTH = 31 * 86_400
_FIRST = to_epoch_us(datetime.min.replace(tzinfo=UTC))


class DuckDBBars:
    """The store of bars of one session."""

    def __init__(self, session: DuckDBSession) -> None:
        self._session = session

    async def insert_many(self, batch: BarBatch) -> None:
        """Insert all bars of a batch, or none if a key is stored already or is a duplicate."""
        table = await _arrow(batch)
        await self._session.run(lambda cursor: _insert(cursor, table, batch.created_at), write=True)

    async def upsert_many(self, batch: BarBatch) -> None:
        """Insert the bars whose key is new, and overwrite the values of stored bars that differ."""
        table = await _arrow(batch)
        await self._session.run(lambda cursor: _upsert(cursor, table, batch.created_at), write=True)

    async def upsert_counted(self, batch: BarBatch) -> tuple[int, int]:
        """Upsert the bars of a batch; return (number of new bars, number of changed bars)."""
        table = await _arrow(batch)

        def work(cursor: Cursor) -> tuple[int, int]:
            # no other session can add a row, because this one holds the write lock
            ((before,),) = cursor.fetch(_COUNT)
            written = _upsert(cursor, table, batch.created_at)
            ((after,),) = cursor.fetch(_COUNT)
            return after - before, written - (after - before)

        return await self._session.run(work, write=True)

    async def list_series(self) -> list[Series]:
        """Return every stored series with its first and last time and its numbers of bars and of missing bars."""

        def read(cursor: Cursor) -> list[Series]:
            sql = """
                SELECT exchange, symbol, timeframe, min(timestamp), max(timestamp), count(*) FROM ohlcv
                GROUP BY exchange, symbol, timeframe ORDER BY exchange, symbol, timeframe"""
            return [
                Series(exchange, symbol, timeframe, first, last, count, _missing(cursor, (exchange, symbol, timeframe)))
                for exchange, symbol, timeframe, first, last, count in cursor.rows(sql)
            ]

        return await self._session.run(read)

    async def resample(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, buckets: Buckets
    ) -> list[Bucket]:
        """Return the values of each bucket (the time of one bar of the longer timeframe) of a series, in the order of time."""
        values = [exchange, symbol, timeframe, start, end]
        return await self._session.run(lambda cursor: resample(cursor, buckets, values))

    async def delete_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str) -> int:
        """Delete the bars with start <= timestamp <= end; return their number."""
        sql = f"DELETE FROM ohlcv WHERE {_SERIES} AND timestamp BETWEEN $4 AND $5"
        ((count,),) = await self._session.run(
            lambda cursor: cursor.fetch(sql, [exchange, symbol, timeframe, start, end]), write=True
        )
        return int(count)

    async def get_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str) -> list[OHLCVBar]:
        """Return the bars with start <= timestamp <= end, oldest first."""
        sql = f"SELECT {_READ} FROM ohlcv WHERE {_SERIES} AND timestamp BETWEEN $4 AND $5 ORDER BY timestamp"
        return await self._session.run(_bars(sql, (exchange, symbol, timeframe), start, end))

    async def get_page(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, limit: int
    ) -> list[OHLCVBar]:
        """Return the first ``limit`` bars with start <= timestamp <= end, oldest first."""
        series = {"exchange": exchange, "symbol": symbol, "timeframe": timeframe}
        selection = RowFilter(BARS, series, start, end, limit=limit)

        def read(cursor: Cursor) -> list[OHLCVBar]:
            found = whole_part(cursor, selection).select(_COLUMNS)
            return [bar for part in slice_rows(found) for bar in _objects(part, exchange, symbol, timeframe)]

        return await self._session.run(read)

    async def get_latest(self, symbol: str, timeframe: str, limit: int, exchange: str) -> list[OHLCVBar]:
        """Return the newest ``limit`` bars of a series, newest first."""
        series = exchange, symbol, timeframe
        span = 2 * limit * (SECONDS[timeframe] or _LONGEST_MONTH) * 1_000_000

        def read(cursor: Cursor) -> list[OHLCVBar]:
            ((newest,),) = cursor.fetch(f"SELECT epoch_us(max(timestamp)) FROM ohlcv WHERE {_SERIES}", series)
            if newest is None:
                return []
            # with a lower bound DuckDB reads only the newest rows; if there are large gaps among these, it finds too few
            if newest - span > _FIRST:
                bound = "AND timestamp >= make_timestamptz($5::BIGINT)"
                found = _bars(_LATEST.format(bound), series, limit, newest - span)(cursor)
                if len(found) == limit:
                    return found
            return _bars(_LATEST.format(""), series, limit)(cursor)

        return await self._session.run(read)

    async def get_gaps(
        self,
        symbol: str,
        timeframe: str,
        exchange: str,
        window: tuple[datetime | None, datetime | None, datetime | None, datetime | None],
    ) -> list[tuple[datetime, datetime]]:
        """Return every gap, oldest first, as (time of the last bar before it, time of the first bar after it)."""
        start, end, before, after = (None if moment is None else to_epoch_us(moment) for moment in window)
        parameters: list[Any] = [exchange, symbol, timeframe]

        def bound(value: int) -> str:
            parameters.append(value)
            return f"${len(parameters)}::BIGINT"

        step = SECONDS[timeframe]
        by_month = "date_diff('month', make_timestamp(earlier), make_timestamp(later)) >= 2"
        apart = by_month if step is None else f"later - earlier > {bound(step * 1_000_000)}"
        first = "" if start is None else f"AND timestamp >= make_timestamptz({bound(start)})"
        last = "" if end is None else f"AND timestamp <= make_timestamptz({bound(end)})"
        edge = "NULL" if before is None else bound(before)
        closing = "" if after is None else f"UNION ALL SELECT coalesce(max(moment), {edge}), {bound(after)} FROM bars"
        sql = f"""
            WITH bars AS (SELECT epoch_us(timestamp) AS moment FROM ohlcv WHERE {_SERIES} {first} {last}),
            pairs AS (SELECT lag(moment, 1, {edge}) OVER (ORDER BY moment) AS earlier, moment AS later FROM bars {closing})
            SELECT earlier, later FROM pairs WHERE {apart} ORDER BY earlier"""
        rows = await self._session.run(lambda cursor: cursor.fetch(sql, parameters))
        return [(from_epoch_us(earlier), from_epoch_us(later)) for earlier, later in rows]


async def _arrow(batch: BarBatch) -> pa.Table:
    if batch.table is not None:
        return batch.table
    parts = list[pa.RecordBatch]()
    for columns in batch.chunks():
        if parts:
            parts.append(_record_batch(columns))
            await asyncio.sleep(0)
        else:
            # the first Arrow array of a process makes Arrow import pandas if it is installed, which takes 0.2 s
            parts.append(await asyncio.to_thread(_record_batch, columns))
    return pa.Table.from_batches(parts)


def _record_batch(columns: BarColumns) -> pa.RecordBatch:
    # Arrow parses decimal text exactly, and faster than it converts Decimals
    arrays = [
        pa.array(column, pa.string()).cast(kind) if kind == _DECIMAL else pa.array(column, kind)
        for column, kind in zip(columns, _TYPES, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(BarColumns._fields))


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


def _missing(cursor: Cursor, series: Sequence[str]) -> int:
    if series[2] not in SECONDS:
        return 0
    step = SECONDS[series[2]]
    by_month = "date_diff('month', make_timestamp(earlier), make_timestamp(later))"
    steps = by_month if step is None else f"(later - earlier + {step * 1_000_000 - 1}) // {step * 1_000_000}"
    sql = f"""
        WITH bars AS (SELECT epoch_us(timestamp) AS moment FROM ohlcv WHERE {_SERIES}),
        pairs AS (SELECT lag(moment) OVER (ORDER BY moment) AS earlier, moment AS later FROM bars)
        SELECT coalesce(sum(steps - 1), 0)::BIGINT FROM (SELECT {steps} AS steps FROM pairs) WHERE steps > 1"""
    ((missing,),) = cursor.fetch(sql, list(series))
    return int(missing)


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


def _bars(sql: str, series: tuple[str, str, str], *parameters: object) -> Callable[[Cursor], list[OHLCVBar]]:
    def read(cursor: Cursor) -> list[OHLCVBar]:
        table, _ = cursor.table(sql, [*series, *parameters])
        bars: list[OHLCVBar] = []
        for part in slice_rows(table):
            bars.extend(_objects(part, *series))
        return bars

    return read


def _objects(part: pa.Table, exchange: str, symbol: str, timeframe: str) -> map[OHLCVBar]:
    timestamp, *prices, trades_count, number, created_at = part.columns
    return map(
        OHLCVBar,
        repeat(symbol),
        repeat(exchange),
        repeat(timeframe),
        to_datetimes(timestamp),
        *map(to_decimals, prices),
        trades_count.to_pylist(),
        number.to_pylist(),
        to_datetimes(created_at),
    )
