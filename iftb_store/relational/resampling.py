"""Aggregates bars to a coarser timeframe, in SQL that PostgreSQL and SQLite both understand."""

from __future__ import annotations

from datetime import datetime

from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.relational.driver import Driver, Row, read

# counts are summed as two halves of 32 bits, because the sum of the whole counts may exceed 64 bits
_HALF = 2**32
_COUNTS = (f"SUM(trades_count / {_HALF})", f"SUM(trades_count % {_HALF})")


class ResampleStatements:
    """The method of an OHLCVStore that resamples bars."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def resample(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, buckets: Buckets
    ) -> list[Bucket]:
        """Return the bars of a series, aggregated by bucket; see OHLCVStore.resample."""
        flavor = self._driver.flavor
        rows = await read(
            self._driver,
            _sql(self._driver, buckets),
            exchange=exchange,
            symbol=symbol,
            timeframe=timeframe,
            start=start,
            end=end,
        )
        width = len(flavor.sums("volume"))
        return [self._bucket(row, width) for row in rows]

    def _bucket(self, row: Row, width: int) -> Bucket:
        price, total = self._driver.decode_decimal, self._driver.decode_sum
        number, open_, high, low, close, lack_quotes, lack_counts, due, thousands, ones, *sums = row
        return Bucket(
            int(number),
            price(open_),
            price(high),
            price(low),
            price(close),
            total(sums[:width]),
            None if lack_quotes else total(sums[width:]),
            None if lack_counts else int(thousands) * _HALF + int(ones),
            due,
        )


def _sql(driver: Driver, buckets: Buckets) -> str:
    flavor = driver.flavor
    at, month = (shown.format("timestamp") for shown in (flavor.microseconds, flavor.month))
    sums = [*_COUNTS, *flavor.sums("volume"), *flavor.sums("quote_volume")]
    open_, close = (
        f"(SELECT {column} FROM ohlcv WHERE {flavor.series} AND timestamp = buckets.{moment})"
        for column, moment in (("open", "first"), ("close", "last"))
    )
    prices = (open_, "high", "low", close)
    return f"""
        SELECT bucket, {", ".join(map(flavor.decimal_column.format, prices))},
            lack_quotes, lack_counts, due, {", ".join(f"sum_{index}" for index in range(len(sums)))}
        FROM (
            SELECT {buckets.sql(at, month=month)} AS bucket, MIN(timestamp) AS first, MAX(timestamp) AS last,
                MAX(high) AS high, MIN(low) AS low, {buckets.due_sql(at)} AS due,
                COUNT(*) FILTER (WHERE quote_volume IS NULL) AS lack_quotes,
                COUNT(*) FILTER (WHERE trades_count IS NULL) AS lack_counts,
                {", ".join(f"{part} AS sum_{index}" for index, part in enumerate(sums))}
            FROM ohlcv
            WHERE {flavor.series} AND timestamp BETWEEN {" AND ".join(map(flavor.time_parameter.format, ("start", "end")))}
            GROUP BY 1
        ) buckets
        ORDER BY bucket"""
