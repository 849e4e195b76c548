"""Lists and deletes whole series of bars, in SQL that PostgreSQL and SQLite both understand."""

from __future__ import annotations

from datetime import datetime, timedelta

from iftb_store.errors import readable
from iftb_store.models import Series
from iftb_store.relational.driver import prepare_statement, read
from iftb_store.relational.resampling import ResampleStatements
from iftb_store.values.timeframes import SECONDS


class SeriesStatements(ResampleStatements):
    """The methods of an OHLCVStore that list series and delete bars by range."""

    async def list_series(self) -> list[Series]:
        """Return every stored series, with its first and last time and its counts; see OHLCVStore.list_series."""
        sql = """
            SELECT exchange, symbol, timeframe, MIN(timestamp), MAX(timestamp), COUNT(*) FROM ohlcv
            GROUP BY exchange, symbol, timeframe ORDER BY exchange, symbol, timeframe"""
        decode = self._driver.decode_time
        rows = await read(self._driver, sql)
        with readable("ohlcv"):
            return [
                Series(
                    exchange,
                    symbol,
                    timeframe,
                    decode(first),
                    decode(last),
                    count,
                    await self._count_missing(exchange, symbol, timeframe),
                )
                for exchange, symbol, timeframe, first, last, count in rows
            ]

    async def _count_missing(self, exchange: str, symbol: str, timeframe: str) -> int:
        if timeframe not in SECONDS:
            return 0
        seconds = SECONDS[timeframe]
        flavor = self._driver.flavor
        month = flavor.month
        steps = f"{month.format('later')} - {month.format('earlier')}" if seconds is None else flavor.steps
        sql = f"""
            SELECT CAST(COALESCE(SUM(steps - 1), 0) AS BIGINT)
            FROM (
                SELECT {steps.format("earlier", "later")} AS steps
                FROM (
                    SELECT {flavor.lag}(timestamp) OVER (ORDER BY timestamp) AS earlier, timestamp AS later
                    FROM ohlcv WHERE {flavor.series}
                ) bars
            ) pairs
            WHERE steps > 1"""
        step = None if seconds is None else timedelta(seconds=seconds)
        ((missing,),) = await read(self._driver, sql, exchange=exchange, symbol=symbol, timeframe=timeframe, step=step)
        return int(missing)

    async def delete_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str) -> int:
        """Delete a series' bars in a time range and return their number; see OHLCVStore.delete_range."""
        driver = self._driver
        between = " AND ".join(map(driver.flavor.time_parameter.format, ("start", "end")))
        made = prepare_statement(
            f"DELETE FROM ohlcv WHERE {driver.flavor.series} AND timestamp BETWEEN {between}", driver.flavor.dialect
        )
        values = {"exchange": exchange, "symbol": symbol, "timeframe": timeframe, "start": start, "end": end}
        return await driver.change(made, [driver.encode(values[name]) for name in made.names])
