"""Bars as Arrow tables, and DuckDB's SQL for the gaps of a series."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.arrow import to_datetimes, to_decimals, to_record_batch
from iftb_store.batches.bars import BarBatch
from iftb_store.columnar.many_series import DUCKDB
from iftb_store.columnar.query import Query
from iftb_store.models import OHLCVBar
from iftb_store.schema.table_spec import SERIES
from iftb_store.schema.types import from_epoch_us


async def to_table(batch: BarBatch) -> pa.Table:
    """Check the bars of a batch and return them as an Arrow table with the columns of `BarColumns`."""
    if batch.table is not None:
        return batch.table
    parts = list[pa.RecordBatch]()
    for columns in batch.chunks():
        if parts:
            parts.append(to_record_batch(columns))
            await asyncio.sleep(0)
        else:
            # the first Arrow array of a process makes Arrow import pandas if it is installed, which takes 0.2 s
            parts.append(await asyncio.to_thread(to_record_batch, columns))
    return pa.Table.from_batches(parts)


def has_distinct_keys(table: pa.Table) -> bool:
    """Return whether the keys are surely distinct: all bars belong to one series, each later than the previous bar."""
    moments: Any = table["timestamp"].cast(pa.int64()).combine_chunks()
    if not pc.all(pc.less(moments.slice(0, len(moments) - 1), moments.slice(1)), min_count=0).as_py():
        return False
    return all(pc.count_distinct(table[name]).as_py() == 1 for name in SERIES)


def to_bars(part: pa.Table, exchange: str, symbol: str, timeframe: str) -> Iterator[OHLCVBar]:
    """Convert rows of one series to bars; ``part`` has all columns of a bar except exchange, symbol and timeframe."""
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
        _repeat_equal(created_at),
    )


def _repeat_equal(times: Any) -> Iterable[Any]:
    """Convert a column of times to datetimes; faster if all are equal, as the created_at of bars of one write are."""
    ends: Any = pc.min_max(times.cast(pa.int64()), skip_nulls=False).as_py()
    return repeat(from_epoch_us(ends["min"])) if ends["min"] == ends["max"] is not None else to_datetimes(times)


def gaps_sql(query: Query, timeframe: str, before: datetime | None, after: datetime | None) -> str:
    """Return a query for the gaps among the selected bars, as times in microseconds.

    Its parameters are added to those of ``query``. See `iftb_store.protocols.BarStore.get_gaps` for ``before`` and ``after``. A
    bar with an infinite time gives a row with NULL, so that the caller can refuse the time.
    """
    edge, end = ("NULL" if moment is None else f"epoch_us({query.bound(moment)})" for moment in (before, after))
    closing = "" if after is None else f"UNION ALL SELECT coalesce(max(moment), {edge}), {end} FROM bars"
    return f"""
        WITH bars AS (SELECT epoch_us(timestamp) AS moment FROM {query.source}),
        pairs AS (
            SELECT lag(moment, 1, {edge}) OVER (ORDER BY moment) AS earlier, moment AS later FROM bars {closing})
        SELECT earlier, later FROM pairs WHERE {DUCKDB.missing_sql(timeframe)} > 0 OR later IS NULL ORDER BY earlier"""
