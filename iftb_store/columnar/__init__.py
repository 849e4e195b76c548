"""Code shared by the engines that work with Arrow tables and DuckDB's SQL."""

from __future__ import annotations

from iftb_store.columnar.bar_store import ColumnarBars
from iftb_store.columnar.bars import has_distinct_keys, to_table
from iftb_store.columnar.bounds import WHOLE, Bounds, key_bounds
from iftb_store.columnar.driver import Cursor, run_in_thread, slice_rows, to_python_rows
from iftb_store.columnar.errors import describe_failure, read_first_line
from iftb_store.columnar.locks import write_lock
from iftb_store.columnar.many_series import SeriesDialect, many_buckets_sql, many_gaps_sql, series_sql, to_gaps
from iftb_store.columnar.opening import connect_closed
from iftb_store.columnar.query import Query, tuple_sql
from iftb_store.columnar.reading import read_newest, select_recent
from iftb_store.columnar.resampling import read_many_buckets
from iftb_store.columnar.rows import read_rows
from iftb_store.columnar.session_pool import PooledSession, SessionPool, lost_writes_error
from iftb_store.columnar.spills import SpillFolder
from iftb_store.columnar.statements import SQLALCHEMY_DIALECT, Compiled, compile_statement, fetch_result, parse_statement

__all__ = [
    "SQLALCHEMY_DIALECT",
    "WHOLE",
    "Bounds",
    "ColumnarBars",
    "Compiled",
    "Cursor",
    "PooledSession",
    "Query",
    "SeriesDialect",
    "SessionPool",
    "SpillFolder",
    "compile_statement",
    "connect_closed",
    "describe_failure",
    "fetch_result",
    "has_distinct_keys",
    "key_bounds",
    "lost_writes_error",
    "many_buckets_sql",
    "many_gaps_sql",
    "parse_statement",
    "read_first_line",
    "read_many_buckets",
    "read_newest",
    "read_rows",
    "run_in_thread",
    "select_recent",
    "series_sql",
    "slice_rows",
    "to_gaps",
    "to_python_rows",
    "to_table",
    "tuple_sql",
    "write_lock",
]
