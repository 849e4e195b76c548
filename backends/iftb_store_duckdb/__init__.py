"""The DuckDB backend of iftb-store: it moves data through Arrow, has one writer at a time, and never blocks the event loop."""

from iftb_store_duckdb.backend import DuckDBBackend

__all__ = ["DuckDBBackend"]
