"""A backend based on PostgreSQL, for faults that an engine with one writer cannot have; the URL's option ``fault`` names it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from iftb_store_sabotaged_calls import Stores
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store.protocols import Isolation
from iftb_store_postgres import PostgresBackend

_LOCK = text("LOCK TABLE ohlcv, trades, positions, system_events IN SHARE ROW EXCLUSIVE MODE")


class SabotagedPostgres(PostgresBackend):
    """PostgreSQL with one fault; without a fault, or serializable by locks instead of by conflicts, which is none."""

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        self.fault = str(url.query.get("fault", "none"))
        plain = url.set(drivername="postgresql").difference_update_query(["fault"])
        super().__init__(plain, pool_size=pool_size, max_overflow=max_overflow, echo=echo)

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[Any]:
        locks = self.fault == "is serializable by locks" and isolation in ("repeatable read", "serializable")
        if self.fault == "allows write skew" and isolation == "serializable":
            isolation = "repeatable read"
        async with super().session(None if locks else isolation) as session:
            if locks:
                await session.execute(_LOCK)
            yield session

    @classmethod
    def stores(cls, session: AsyncSession) -> Any:
        backend = getattr(session, "iftb_store_backend", None)
        return Stores(PostgresBackend.stores(session), session, getattr(backend, "fault", "none"))
