"""The SQLite backend of iftb-store, on SQLAlchemy and aiosqlite."""

from __future__ import annotations

from iftb_store_sqlite.backend import SQLiteBackend
from iftb_store_sqlite.session import DIALECT

__all__ = ["DIALECT", "SQLiteBackend"]
