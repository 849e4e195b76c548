"""The DuckDB backend of iftb-store: data in and out through Arrow, one writer at a time, no blocking call on the event loop."""

from iftb_store_duckdb.backend import DuckDBBackend

__all__ = ["DuckDBBackend"]
