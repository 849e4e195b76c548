"""The store of bars: reads and writes bars with SQL; a `SqlDialect` supplies what is specific to an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.errors import explain_unreadable
from iftb_store.models import OHLCVBar, Series
from iftb_store.relational.dialect import Row, SqlDialect
from iftb_store.relational.driver import Driver, bind
from iftb_store.relational.rows import RowForm
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter
from iftb_store.values.timeframes import MONTH, SECONDS

_FORM = RowForm(BARS)
# a time range of more steps than _MANY may hold more than _MANY bars; a month counts as its greatest length in seconds
_MANY, _LONGEST_MONTH = 10_000, 31 * 86_400
# counts are summed as two halves of 32 bits, because the sum of the whole counts may exceed 64 bits
_HALF = 2**32


class RelationalBars:
    """Reads and writes the bars of one session; see `iftb_store.protocols.BarStore`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.write = driver.write_bars

    async def read(self, series: RowFilter, *, descending: bool = False) -> list[OHLCVBar]:
        """Return the bars of a series, oldest first, or newest first if ``descending``; at most ``series.limit``."""
        dialect = self._driver.dialect
        order = " ORDER BY timestamp DESC" if descending else " ORDER BY timestamp"
        limit = "" if series.limit is None else f" {dialect.limit.format(':limit')}"
        sql = _FORM.select_sql(dialect, f"WHERE {_select_series(dialect, series)}{order}{limit}")
        statement, args = bind(self._driver, sql, _values(series))
        return await self._driver.read_bars(statement, args, many=not descending and _may_be_many(series))

    async def delete(self, series: RowFilter) -> int:
        """Delete the bars of a series in a time window and return their number."""
        sql = f"DELETE FROM ohlcv WHERE {_select_series(self._driver.dialect, series)}"
        return await self._driver.change(*bind(self._driver, sql, _values(series)))

    async def resample(self, series: RowFilter, buckets: Buckets) -> list[Bucket]:
        """Aggregate the bars of a series by bucket (the period of one longer bar), and return the buckets in order of time."""
        width = len(self._driver.dialect.sums("volume"))
        with explain_unreadable(BARS.name):
            rows = await self._read(_resample_sql(self._driver.dialect, series, buckets), _values(series))
            return [self._bucket(row, width) for row in rows]

    def _bucket(self, row: Row, width: int) -> Bucket:
        price, total = self._driver.dialect.decode_decimal, self._driver.dialect.decode_sum
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
            int(due),
        )

    async def list_series(self) -> list[Series]:
        """Return every stored series with its first and last time and its numbers of bars and of missing bars."""
        time = self._driver.dialect.decode_time
        with explain_unreadable(BARS.name):
            rows = await self._read(_series_sql(self._driver.dialect), {})
            return [
                Series(exchange, symbol, timeframe, time(first), time(last), count, int(missing or 0))
                for exchange, symbol, timeframe, first, last, count, missing in rows
            ]

    async def get_gaps(
        self, series: RowFilter, before: datetime | None, after: datetime | None
    ) -> list[tuple[datetime, datetime]]:
        """Return the times (last bar before, first bar after) of every gap; see `iftb_store.protocols.BarStore.get_gaps`."""
        sql = _gaps_sql(self._driver.dialect, series.equal["timeframe"], before is not None, after is not None)
        time = self._driver.dialect.decode_time
        with explain_unreadable(BARS.name):
            rows = await self._read(sql, _values(series) | {"before": before, "after": after})
            return [(time(earlier), time(later)) for earlier, later in rows]

    async def _read(self, sql: str, values: Mapping[str, Any]) -> Sequence[Row]:
        return await self._driver.read(*bind(self._driver, sql, values))


def _values(series: RowFilter) -> dict[str, Any]:
    return {**series.equal, "start": series.start, "end": series.end, "limit": series.limit}


def _may_be_many(series: RowFilter) -> bool:
    if series.limit is not None or series.start is None or series.end is None:
        return series.limit is None or series.limit >= _MANY
    return series.end - series.start > _MANY * timedelta(seconds=SECONDS[series.equal["timeframe"]] or _LONGEST_MONTH)


def _select_series(dialect: SqlDialect, series: RowFilter) -> str:
    """Return the SQL condition that selects the bars of a series in its window."""
    return _where(dialect, series.start is not None, series.end is not None)


def _where(dialect: SqlDialect, has_start: bool, has_end: bool) -> str:
    start, end = (dialect.time_parameter.format(name) for name in ("start", "end"))
    if has_start and has_end:
        return f"{dialect.series} AND timestamp BETWEEN {start} AND {end}"
    return dialect.series + (f" AND timestamp >= {start}" if has_start else f" AND timestamp <= {end}" if has_end else "")


@cache
def _gaps_sql(dialect: SqlDialect, timeframe: str, has_start: bool, has_end: bool) -> str:
    """Return the query for the gaps of a series: pairs of adjacent bars that lie more than one bar length apart."""
    before, after = (dialect.time_parameter.format(name) for name in ("before", "after"))
    where = _where(dialect, has_start, has_end)
    earlier = f"{dialect.lag}(timestamp) OVER (ORDER BY timestamp)"
    newest = f"(SELECT MAX(timestamp) FROM ohlcv WHERE {where})"
    if has_start:
        earlier, newest = f"COALESCE({earlier}, {before})", f"COALESCE({newest}, {before})"
    edge = f"UNION ALL SELECT {newest} AS earlier, {after} AS later{dialect.from_nothing}" if has_end else ""
    return f"""
        SELECT earlier, later
        FROM (SELECT {earlier} AS earlier, timestamp AS later FROM ohlcv WHERE {where} {edge}) bars
        WHERE {dialect.gap_sql(timeframe)}
        ORDER BY earlier"""


@cache
def _series_sql(dialect: SqlDialect) -> str:
    names, shown = ", ".join(SERIES), dialect.text_column.format
    fixed = {name: seconds for name, seconds in SECONDS.items() if seconds is not None}
    durations = " ".join(f"WHEN '{name}' THEN {dialect.duration.format(seconds)}" for name, seconds in fixed.items())
    steps = " ".join(f"WHEN '{name}' THEN {dialect.step_sql(seconds)}" for name, seconds in fixed.items())
    if not dialect.correlated:
        step = f"CASE {shown('timeframe')} {steps} END"
        return f"""
            SELECT {names}, MIN(later), MAX(later), COUNT(*), SUM(CASE
                WHEN {shown("timeframe")} = '{MONTH}' THEN
                    CASE WHEN {dialect.gap_sql(MONTH)} THEN {dialect.missing_sql(MONTH)} END
                WHEN {dialect.difference.format("earlier", "later")} > CASE {shown("timeframe")} {durations} END
                THEN {dialect.count_sql(step)} END)
            FROM (
                SELECT {names}, timestamp AS later,
                    {dialect.lag}(timestamp) OVER (PARTITION BY {names} ORDER BY timestamp) AS earlier
                FROM ohlcv
            ) pairs
            GROUP BY {names} ORDER BY {names}"""
    same = " AND ".join(f"{shown(f'ohlcv.{name}')} = {shown(f'series.{name}')}" for name in SERIES)
    # a window for each series: one window over all of them, with PARTITION BY, takes twice as long on SQLite and PostgreSQL
    pairs = f"SELECT {dialect.lag}(timestamp) OVER (ORDER BY timestamp) AS earlier, timestamp AS later FROM ohlcv WHERE {same}"
    # if all bars lie on one grid, the missing ones are those that the grid has more; this takes a fifth of the time of a window
    place = dialect.modulo.format(dialect.microseconds.format("timestamp"), "series.step")
    on_grid = f"(SELECT CASE WHEN MIN({place}) = MAX({place}) THEN 1 END FROM ohlcv WHERE {same}) = 1"
    apart = f"{dialect.microseconds.format('last')} - {dialect.microseconds.format('first')}"
    quick = f"WHEN {on_grid} THEN ({apart}) {dialect.divided} step - bars + {dialect.integer.format(1)}" if dialect.grid else ""
    return f"""
        SELECT {names}, first, last, bars, CASE WHEN {shown("timeframe")} = '{MONTH}' THEN (
            SELECT SUM({dialect.missing_sql(MONTH)}) FROM ({pairs}) pairs WHERE {dialect.gap_sql(MONTH)}
        ) {quick} ELSE (
            SELECT SUM({dialect.count_sql("series.step")}) FROM ({pairs}) pairs
            WHERE {dialect.difference.format("earlier", "later")} > series.duration
        ) END
        FROM (
            SELECT {names}, MIN(timestamp) AS first, MAX(timestamp) AS last, COUNT(*) AS bars,
                CASE {shown("timeframe")} {durations} END AS duration, CASE {shown("timeframe")} {steps} END AS step
            FROM ohlcv GROUP BY {names}
        ) series
        ORDER BY {names}"""


def _resample_sql(dialect: SqlDialect, series: RowFilter, buckets: Buckets) -> str:
    at, month = (shown.format("timestamp") for shown in (dialect.microseconds, dialect.month))
    # SUM, not COUNT: a user's own count of numbers would be preferred to PostgreSQL's count of anything
    lacking = "SUM(CASE WHEN {} IS NULL THEN 1 ELSE 0 END)".format
    counts = f"SUM(trades_count {dialect.divided} {_HALF})", f"SUM({dialect.modulo.format('trades_count', _HALF)})"
    sums = [*counts, *dialect.sums("volume"), *dialect.sums("quote_volume")]
    open_, close = (
        f"(SELECT {column} FROM ohlcv WHERE {dialect.series} AND timestamp = buckets.{moment})"
        for column, moment in (("open", "first"), ("close", "last"))
    )
    prices = (open_, "high", "low", close)
    bucket = buckets.sql(at, month=month, divided=dialect.divided, modulo=dialect.modulo, integer=dialect.integer)
    return f"""
        SELECT bucket, {", ".join(map(dialect.decimal_column.format, prices))},
            lack_quotes, lack_counts, due, {", ".join(f"sum_{index}" for index in range(len(sums)))}
        FROM (
            SELECT {bucket} AS bucket,
                MIN(timestamp) AS first, MAX(timestamp) AS last, MAX(high) AS high, MIN(low) AS low,
                {buckets.due_sql(at, modulo=dialect.modulo, integer=dialect.integer)} AS due,
                {lacking("quote_volume")} AS lack_quotes, {lacking("trades_count")} AS lack_counts,
                {", ".join(f"{part} AS sum_{index}" for index, part in enumerate(sums))}
            FROM ohlcv
            WHERE {_select_series(dialect, series)}
            GROUP BY {bucket}
        ) buckets
        ORDER BY bucket"""
