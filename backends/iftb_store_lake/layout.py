"""The layout of the Delta table: its columns, its partitions and its properties."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from deltalake import ColumnProperties, WriterProperties

from iftb_store.batches.arrow import arrow_schema
from iftb_store.batches.bars import KEY, VALUES
from iftb_store.schema.table_spec import BARS, SERIES
from iftb_store.values.timeframes import SECONDS

#: The partition column, which only groups rows into files: <exchange>.<timeframe>.<period>.
PART = "part"
COLUMNS: tuple[str, ...] = BARS.columns
SCHEMA = pa.schema([*arrow_schema(BARS), pa.field(PART, pa.string())])
#: The columns as SQL, and the condition that the rows of two tables have the same key.
COLUMNS_SQL = ", ".join(COLUMNS)
KEY_SQL = ", ".join(KEY)
#: The columns by whose least and greatest values files are picked.
BOUNDED = (*KEY, "id")

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


def writer_properties() -> WriterProperties:
    """Return how delta-rs writes files."""
    plain = ColumnProperties(dictionary_enabled=False, statistics_enabled="CHUNK")
    return WriterProperties(
        compression="ZSTD",
        compression_level=LEVEL,
        max_row_group_size=ROW_GROUP,
        default_column_properties=ColumnProperties(statistics_enabled="CHUNK"),
        column_properties={name: plain for name in COLUMNS if name not in SERIES},
    )


def same_key(left: str, right: str) -> str:
    """Return the SQL condition that rows of two tables have the same key."""
    return " AND ".join(f"{left}.{name} = {right}.{name}" for name in KEY)


def part_sql(table: str) -> str:
    """Return the SQL for a row's partition, whose period is a month (timeframes under 1h), a year (under 1d) or all time."""
    exchange, timeframe, moment = (f"{table}.{name}" for name in ("exchange", "timeframe", "timestamp"))
    # without the time zone, for which DuckDB would need an extension
    time = f"make_timestamp(epoch_us({moment}))"
    return f"""
        CASE WHEN regexp_full_match({exchange}, '[a-z0-9_]{{1,32}}') THEN {exchange} ELSE 'x' || md5({exchange})[:16] END
        || '.' || {timeframe} || '.' || CASE
            WHEN {timeframe} IN ({_MONTHLY}) THEN printf('%04d-%02d', year({time}), month({time}))
            WHEN {timeframe} IN ({_YEARLY}) THEN printf('%04d', year({time}))
            ELSE 'all' END"""


def changed_sql(left: str, right: str) -> str:
    """Return the SQL condition that a value of two rows with the same key differs."""
    return "(" + " OR ".join(f"{left}.{name} IS DISTINCT FROM {right}.{name}" for name in VALUES) + ")"


def quote(text: Any) -> str:
    """Return a text as a SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"
