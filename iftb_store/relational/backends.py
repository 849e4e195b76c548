"""The part of a backend that its SQLAlchemy engine answers for: life cycle and sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from iftb_store.protocols import Isolation
from iftb_store.relational.sessions import StoreSession, opened


class EngineBackend:
    """Keeps the engine of a connected backend."""

    #: See `iftb_store.relational.sessions.opened`.
    probes: ClassVar[bool]
    #: Whether the engine itself knows the levels of isolation; else sessions that ask for more than READ COMMITTED take
    #: the write lock with their first statement, and so come one after the other.
    isolates: ClassVar[bool]

    def __init__(self) -> None:
        self._engine: AsyncEngine | None = None
        #: Whether the schema's revision was looked at and found usable.
        self.schema_seen = False

    @property
    def engine(self) -> AsyncEngine | None:
        """The SQLAlchemy engine while connected."""
        return self._engine

    @property
    def in_use(self) -> int:
        """The connections that the pool has given out."""
        pool = self._engine.pool if self._engine is not None else None
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def disconnect(self) -> None:
        """Close every connection."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[StoreSession]:
        """Open a session; see `iftb_store.protocols.Backend.session`."""
        engine, isolated = self._engine, isolation not in (None, "read committed")
        if engine is not None and isolation is not None and self.isolates:
            engine = engine.execution_options(isolation_level=isolation.upper())
        async with opened(self, engine, probes=self.probes, isolated=isolated) as session:
            yield session

    async def _keep(self, engine: AsyncEngine, proof: str) -> None:
        """Prove with one statement that the database answers, then keep the engine."""
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql(proof)
        except BaseException:
            await engine.dispose()
            raise
        self._engine = engine
        self.schema_seen = False
