"""Aggregates bars to a longer timeframe on DuckDB."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa

from iftb_store.batches.arrow import to_decimals
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.columnar.query import Query
from iftb_store.values.decimals import CONTEXT, trim_zeros

# DuckDB's own sum of DECIMAL(38,18) overflows at the end of the column's range, so whole parts and fractions are summed
# separately
_SUM = "CASE WHEN count({0}) = count(*) THEN sum(trunc({0})::HUGEINT) END, sum({0} - trunc({0}))"
_MONTH = "year(make_timestamp(moment)) * 12 + month(make_timestamp(moment))"


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
            due.to_pylist(),
            strict=True,
        )
    ]


def resample_sql(query: Query, buckets: Buckets) -> str:
    """Return the query that aggregates the bars which ``query`` selects by bucket; its parameters are those of ``query``."""
    return f"""
        SELECT {buckets.sql("moment", month=_MONTH, divided="//")} AS bucket,
            arg_min(open, moment), max(high), min(low), arg_max(close, moment),
            {_SUM.format("volume")}, {_SUM.format("quote_volume")},
            CASE WHEN count(trades_count) = count(*) THEN sum(trades_count) END, {buckets.due_sql("moment")}
        FROM (SELECT *, epoch_us(timestamp) AS moment FROM {query.source})
        GROUP BY bucket ORDER BY bucket"""


def _sums(whole: Any, rest: Any) -> list[Decimal | None]:
    parts = zip(whole.to_pylist(), rest.to_pylist(), strict=True)
    return [None if high is None else trim_zeros(CONTEXT.add(high, low)) for high, low in parts]
