"""A backend written by the guide for an engine with parallel writers: PostgreSQL through SQLAlchemy, one statement at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from iftb_store.errors import integrity_error, operational_error, outcome_unknown
from iftb_store.protocols import Capability
from iftb_store.relational import SqlBackend, StorePool
from iftb_store_postgres.session import PostgresDriver

_TRANSIENT = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresConnectionError,
)


class PlainPostgresBackend(SqlBackend):
    """PostgreSQL without ON CONFLICT and comparisons of rows."""

    capabilities = frozenset(
        {
            Capability.MIGRATIONS,
            Capability.BAR_KEY,
            Capability.CHOICES,
            Capability.ISOLATION,
            Capability.RECORDS,
            Capability.RAW_WRITES,
            Capability.PARALLEL_WRITERS,
        }
    )
    dialect = replace(
        PostgresDriver.dialect,
        on_conflict=False,
        row_values=False,
        correlated=False,
        set_sequence="SELECT setval(pg_get_serial_sequence('{0}', 'id'), greatest(max(id), 1)) FROM {0}",
    )

    def create_engine(self) -> AsyncEngine:
        """Return an engine of SQLAlchemy's asyncpg dialect."""
        url = self.url.set(drivername="postgresql+asyncpg")
        return create_async_engine(url, poolclass=StorePool, echo=self.echo, hide_parameters=True, **self.pool_options)

    async def identity(self) -> str:
        """Return the URL."""
        return self.url.render_as_string()

    def translate(self, error: BaseException, /, *, lost: bool, committing: bool) -> Exception | None:
        """Return our error for one of asyncpg."""
        if not isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
            return None
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            return integrity_error("a row with this key is already stored, or a value is not allowed", error)
        if lost and committing:
            return outcome_unknown(error)
        return operational_error(str(error) or "PostgreSQL failed", error, transient=lost or isinstance(error, _TRANSIENT))

    def is_gone(self, connection: Connection, error: BaseException) -> bool:
        """Return whether the connection is closed."""
        driver: Any = None if connection.invalidated else connection.connection.driver_connection
        return driver is None or driver.is_closed()
