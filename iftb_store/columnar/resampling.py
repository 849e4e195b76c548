"""Aggregates bars to a longer timeframe on DuckDB."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from iftb_store.batches.arrow import to_decimals
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.columnar.driver import Cursor
from iftb_store.columnar.many_series import DUCKDB, SeriesDialect, aggregates_sql, bucket_sql
from iftb_store.columnar.query import Query
from iftb_store.values.decimals import CONTEXT, trim_zeros


def read_buckets(table: pa.Table) -> list[Bucket]:
    """Convert the result of a `resample_sql` query to buckets."""
    number, *prices, volume, volume_rest, quote, quote_rest, trades, due = table.columns
    return [
        Bucket(first, open_, high, low, close, sum_ or Decimal(0), quotes, None if count is None else int(count), bars)
        for first, open_, high, low, close, sum_, quotes, count, bars in zip(
            number.to_pylist(),
            *map(to_decimals, prices),
            _sums(volume, volume_rest),
            _sums(quote, quote_rest),
            trades.to_pylist(),
            due.cast(pa.int64()).to_pylist(),
            strict=True,
        )
    ]


def read_many_buckets(table: pa.Table) -> list[tuple[str, str, Bucket]]:
    """Convert the result of `iftb_store.columnar.many_series.many_buckets_sql` to (exchange, symbol, bucket)."""
    names: list[list[Any]] = [table.column(place).to_pylist() for place in (0, 1)]
    return list(zip(*names, read_buckets(table.select(range(2, table.num_columns))), strict=True))


# one sum of decimals, which overflows at the end of the column's range
_SHORT = replace(DUCKDB, whole="sum({})", rest="CAST(0 AS DECIMAL(38,18))")
_RANGE = 10**20


def read_resampled(cursor: Cursor, query: Query, buckets: Buckets, *, twice: bool) -> pa.Table:
    """Run `resample_sql`; with ``twice`` first read whether no sum can overflow, and then add the decimals up as they are."""
    sql = f"SELECT max(abs(volume)), max(abs(quote_volume)), count(*) FROM {query.source}"
    if twice:
        volume, quote, count = cursor.fetch(sql, query.values)[0]
        if max(volume or 0, quote or 0) * count < _RANGE:
            # in autocommit, larger values may have been stored since
            with suppress(duckdb.OutOfRangeException):
                return cursor.table(resample_sql(query, buckets, _SHORT), query.values)[0]
    return cursor.table(resample_sql(query, buckets), query.values)[0]


def resample_sql(query: Query, buckets: Buckets, dialect: SeriesDialect = DUCKDB) -> str:
    """Return the query that aggregates the bars which ``query`` selects by bucket; its parameters are those of ``query``."""
    return f"""
        SELECT {bucket_sql(dialect, buckets)} AS bucket, {aggregates_sql(dialect, buckets)}
        FROM (SELECT *, epoch_us(timestamp) AS moment FROM {query.source})
        GROUP BY bucket ORDER BY bucket"""


def _sums(whole: Any, rest: Any) -> list[Decimal | None]:
    parts = zip(whole.to_pylist(), rest.to_pylist(), strict=True)
    return [None if high is None else trim_zeros(CONTEXT.add(high, low)) for high, low in parts]
