"""The layout of the Delta table: its columns, its partitions and its properties."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from iftb_store.batches.arrow import arrow_schema
from iftb_store.batches.bars import KEY, VALUES
from iftb_store.columnar import WHOLE, Bounds
from iftb_store.schema.table_spec import BARS, ColumnKind
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.timeframes import SECONDS

#: The partition column, which only groups rows into files: <exchange>.<timeframe>.<period>.
PART = "part"
COLUMNS: tuple[str, ...] = BARS.columns
SCHEMA = pa.schema([*arrow_schema(BARS), pa.field(PART, pa.string())])
#: The columns, and those of the key, as SQL.
COLUMNS_SQL = ", ".join(COLUMNS)
KEY_SQL = ", ".join(KEY)
_KINDS = {ColumnKind.TEXT: "VARCHAR", ColumnKind.INTEGER: "BIGINT", ColumnKind.TIME: "TIMESTAMPTZ"}
#: The types of the columns in DuckDB.
SQL_TYPES = {name: _KINDS.get(BARS.kinds[name], "DECIMAL(38, 18)") for name in COLUMNS}
#: The columns by whose least and greatest values files are picked.
BOUNDED = (*KEY, "id")
#: The name of a row's file, as DuckDB calls it.
FILE = "filename"

PROPERTIES: dict[str, str | None] = {
    # of a decimal, the statistics would be floats, and constant decimals would come back from these
    "delta.dataSkippingStatsColumns": ",".join(BOUNDED),
    "delta.checkpointInterval": "50",
    "delta.logRetentionDuration": "interval 7 days",
}
#: The most rows of a row group, and the compression level of zstd; higher levels save little.
ROW_GROUP, LEVEL = 131_072, 1

_HOUR, _DAY = 3_600, 86_400
_MONTHLY = ", ".join(f"'{name}'" for name, step in SECONDS.items() if step is not None and step < _HOUR)
_YEARLY = ", ".join(f"'{name}'" for name, step in SECONDS.items() if step is not None and _HOUR <= step < _DAY)


def same_key(left: str, right: str) -> str:
    """Return the SQL condition that rows of two tables have the same key."""
    return " AND ".join(f"{left}.{name} = {right}.{name}" for name in KEY)


def part_sql(table: str, bounds: Bounds = WHOLE) -> str:
    """Return the SQL for a row's partition, whose period is a month (timeframes under 1h), a year (under 1d) or all time.

    Args:
        table: the name of the table.
        bounds: what is the same in all rows is computed once.
    """
    least, greatest = bounds
    exchange, timeframe = (
        quote(least[name]) if name in least and least[name] == greatest.get(name) else f"{table}.{name}"
        for name in ("exchange", "timeframe")
    )
    moment = f"epoch_us({table}.timestamp)"
    first, last = least.get("timestamp"), greatest.get("timestamp")
    if first is not None and last is not None and (first.year, first.month) == (last.year, last.month):
        moment = str(to_epoch_us(first))
    # without the time zone, for which DuckDB would need an extension
    time = f"make_timestamp({moment})"
    return f"""
        CASE WHEN regexp_full_match({exchange}, '[a-z0-9_]{{1,32}}') THEN {exchange} ELSE 'x' || md5({exchange})[:16] END
        || '.' || {timeframe} || '.' || CASE
            WHEN {timeframe} IN ({_MONTHLY}) THEN strftime({time}, '%Y-%m')
            WHEN {timeframe} IN ({_YEARLY}) THEN strftime({time}, '%Y')
            ELSE 'all' END"""


def changed_sql(left: str, right: str) -> str:
    """Return the SQL condition that a value of two rows with the same key differs."""
    return "(" + " OR ".join(f"{left}.{name} IS DISTINCT FROM {right}.{name}" for name in VALUES) + ")"


def quote(text: Any) -> str:
    """Return a text as a SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"
