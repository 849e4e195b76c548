"""What engines share that work on Arrow tables and DuckDB's SQL."""

from __future__ import annotations

from iftb_store.columnar.bars import SERIES_SQL, gaps_sql, to_bars, to_table
from iftb_store.columnar.query import Query, tuple_sql
from iftb_store.columnar.resampling import read_buckets, resample_sql

__all__ = ["SERIES_SQL", "Query", "gaps_sql", "read_buckets", "resample_sql", "to_bars", "to_table", "tuple_sql"]
