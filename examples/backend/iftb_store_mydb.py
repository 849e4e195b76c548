"""A third party's backend for mydb:// URLs: SQLite's connections and schema, and all stores run through SQLAlchemy.

Start from this file, and replace SQLite's parts by those of your engine: a `SqlDialect` with its SQL, and a
`iftb_store.relational.SqlBackend` with its engine and its table of errors.
"""

from __future__ import annotations

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store.protocols import Capability
from iftb_store.relational import RelationalStores, SqlDriver
from iftb_store_sqlite import DIALECT, SQLiteBackend


class MyBackend(SQLiteBackend):
    """One file per database: ``mydb:///relative.db`` or ``mydb:////absolute.db``."""

    capabilities = SQLiteBackend.capabilities - {Capability.SQLALCHEMY, Capability.BACKUP}

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        super().__init__(url.set(drivername="sqlite"), pool_size=pool_size, max_overflow=max_overflow, echo=echo)

    @classmethod
    def stores(cls, session: AsyncSession) -> RelationalStores:
        """Return the stores of a session."""
        return RelationalStores(SqlDriver(session, DIALECT))
