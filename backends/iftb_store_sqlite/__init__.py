"""The SQLite backend of iftb-store, on SQLAlchemy and aiosqlite."""

from __future__ import annotations

from iftb_store_sqlite.backend import SQLiteBackend

__all__ = ["SQLiteBackend"]
