"""SQL for queries over many series, for DuckDB and for engines that have the same columns but other names of functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.arrow import GAPS
from iftb_store.batches.resampling import Buckets
from iftb_store.errors import explain_unreadable
from iftb_store.schema.table_spec import BARS, SERIES
from iftb_store.schema.types import from_epoch_us
from iftb_store.values.timeframes import SECONDS

_NAMES = ", ".join(SERIES)
#: The bounds of a window in SQL, as microseconds, see `iftb_store.abilities.Edges`.
EdgesSql = tuple[str | None, str | None]


@dataclass(frozen=True)
class SeriesDialect:
    """The SQL expressions of an engine that the queries use; the defaults are DuckDB's.

    Attributes:
        microseconds: a time as whole microseconds since 1970-01-01 UTC.
        month: year * 12 + month of a time in UTC, given as microseconds.
        divided: the operator of a division of whole numbers that truncates toward zero.
        first: the value of a column in the row with the least ``moment``.
        last: the value of a column in the row with the greatest ``moment``.
        whole: the exact sum of the whole parts of a column of decimals, truncated toward zero; it never overflows.
        rest: the exact sum of the fractional parts of a column of decimals.
        count: the exact sum of a column of whole numbers; it never overflows.
    """

    microseconds: str = "epoch_us({})"
    month: str = "(year(make_timestamp({0})) * 12 + month(make_timestamp({0})))"
    divided: str = "//"
    first: str = "arg_min({}, moment)"
    last: str = "arg_max({}, moment)"
    # DuckDB's own sum of DECIMAL(38,18) overflows at the end of the column's range
    whole: str = "sum(trunc({})::HUGEINT)"
    rest: str = "sum({0} - trunc({0}))"
    count: str = "sum({})"

    def missing_sql(self, timeframe: str) -> str:
        """Return the SQL expression for the number of bars that fit strictly between the times ``earlier`` and ``later``."""
        step = SECONDS[timeframe]
        if step is None:
            return f"{self.month.format('later')} - {self.month.format('earlier')} - 1"
        return f"(later - earlier - 1) {self.divided} {step * 1_000_000}"


DUCKDB = SeriesDialect()


def series_sql(dialect: SeriesDialect, table: str) -> str:
    """Return the query for every series: names, first and last time in microseconds, number of bars and of missing bars.

    The last time is NULL if a time of the series is infinite.
    """
    # without a key in the table, raw SQL can have stored a bar twice; nothing is missing between the two
    cases = " ".join(f"WHEN '{name}' THEN greatest({dialect.missing_sql(name)}, 0)" for name in SECONDS)
    moment = dialect.microseconds.format("timestamp")
    return f"""
        SELECT {_NAMES}, min(later), CASE WHEN count(later) = count(*) THEN max(later) END, count(*),
            CAST(coalesce(sum(CASE timeframe {cases} ELSE 0 END), 0) AS BIGINT)
        FROM (
            SELECT {_NAMES}, {moment} AS later, lag({moment}) OVER (PARTITION BY {_NAMES} ORDER BY timestamp) AS earlier
            FROM {table}
        ) AS pairs
        GROUP BY {_NAMES} ORDER BY {_NAMES}"""


def many_gaps_sql(
    dialect: SeriesDialect, table: str, chosen: Sequence[str], inside: Sequence[str], edges: Mapping[str, EdgesSql]
) -> str:
    """Return the query for the gaps of many series: names, and the times before and after each gap in microseconds.

    A bar with an infinite time gives a row with NULL, so that `to_gaps` can refuse the time.

    Args:
        dialect: the engine.
        table: the table of bars.
        chosen: the conditions that select series.
        inside: the conditions of the time window.
        edges: for each timeframe, the imaginary bars just before and after the window, as SQL in microseconds.
    """
    moment = dialect.microseconds.format("timestamp")
    befores, afters = ({name: pair[side] for name, pair in edges.items() if pair[side]} for side in (0, 1))
    pairs = f"""
        SELECT {_NAMES}, lag({moment}) OVER (PARTITION BY {_NAMES} ORDER BY timestamp) AS earlier, {moment} AS later
        FROM {table}{_where(*chosen, *inside)}"""
    if afters:
        pairs += f"""
        UNION ALL SELECT {_NAMES}, max(CASE WHEN {" AND ".join(inside)} THEN {moment} END), {_case(afters)}
        FROM {table}{_where(*chosen)} GROUP BY {_NAMES}"""
    earlier = f"coalesce(earlier, {_case(befores)})" if befores else "earlier"
    known = ", ".join(f"'{name}'" for name in edges)
    missing = _case({name: dialect.missing_sql(name) for name in edges})
    return f"""
        SELECT {_NAMES}, earlier, later
        FROM (SELECT {_NAMES}, {earlier} AS earlier, later FROM ({pairs}) AS pairs) AS edged
        WHERE {missing} > 0 OR (later IS NULL AND timeframe IN ({known})) ORDER BY {_NAMES}, earlier"""


def to_gaps(found: pa.Table) -> pa.Table:
    """Convert the result of a `many_gaps_sql` query, at least one row, to the schema `iftb_store.batches.arrow.GAPS`.

    Raises:
        StoreError: a time is outside the years 1 to 9999.
    """
    with explain_unreadable(BARS.name):
        for times in found.columns[-2:]:
            ends: Any = pc.min_max(times, skip_nulls=False)
            for moment in ends.as_py().values():
                from_epoch_us(moment)
    return found.rename_columns(GAPS.names).cast(GAPS)


def many_buckets_sql(dialect: SeriesDialect, table: str, conditions: Iterable[str], buckets: Buckets) -> str:
    """Return a query that aggregates bars by exchange, symbol and bucket; it selects these three and `aggregates_sql`."""
    return f"""
        SELECT exchange, symbol, bucket, {aggregates_sql(dialect, buckets)}
        FROM (
            SELECT *, {bucket_sql(dialect, buckets)} AS bucket
            FROM (SELECT *, {dialect.microseconds.format("timestamp")} AS moment FROM {table}{_where(*conditions)}) AS bars
        ) AS grouped
        GROUP BY exchange, symbol, bucket ORDER BY exchange, symbol, bucket"""


def bucket_sql(dialect: SeriesDialect, buckets: Buckets) -> str:
    """Return the SQL expression for the number of the bucket that contains ``moment``."""
    return buckets.sql("moment", month=dialect.month.format("moment"), divided=dialect.divided)


def aggregates_sql(dialect: SeriesDialect, buckets: Buckets) -> str:
    """Return the SQL of the columns that `iftb_store.columnar.resampling.read_buckets` reads, except the bucket's number."""
    sums = ", ".join(
        f"CASE WHEN count({name}) = count(*) THEN {dialect.whole.format(name)} END, {dialect.rest.format(name)}"
        for name in ("volume", "quote_volume")
    )
    return f"""
        {dialect.first.format("open")}, max(high), min(low), {dialect.last.format("close")}, {sums},
        CASE WHEN count(trades_count) = count(*) THEN {dialect.count.format("trades_count")} END, {buckets.due_sql("moment")}"""


def _where(*conditions: str) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _case(values: Mapping[str, Any]) -> str:
    cases = " ".join(f"WHEN '{name}' THEN {value}" for name, value in values.items())
    return f"CASE timeframe {cases} END"
