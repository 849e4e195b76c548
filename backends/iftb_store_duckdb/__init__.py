"""The DuckDB backend: Arrow in and out, one writer at a time, no blocking call on the event loop."""

from iftb_store_duckdb.backend import DuckDBBackend

__all__ = ["DuckDBBackend"]
