"""The PostgreSQL backend of iftb-store, on SQLAlchemy and asyncpg."""

from __future__ import annotations

from iftb_store_postgres.backend import PostgresBackend

__all__ = ["PostgresBackend"]
