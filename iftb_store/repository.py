"""What all repositories share: a session or a manager, and the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from iftb_store import checks
from iftb_store.errors import InvalidValueError
from iftb_store.manager import DatabaseManager
from iftb_store.messages import kind
from iftb_store.protocols import Capability, Session, Stores
from iftb_store.registry import stores_of

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present time, aware, in UTC."""
    return datetime.now(UTC)


class Repository:
    """Works in a session, or in a transaction of its own per call."""

    def __init__(self, session: Session | DatabaseManager, *, clock: Clock = utc_now) -> None:
        """Work in a session, or in a transaction of its own per call where a connected manager is given.

        Args:
            session: what ``db.get_session()`` yields, an app's own AsyncSession (asyncpg or aiosqlite), or the manager.
            clock: gives the time for created_at, updated_at and the like; for tests.

        Raises:
            Unsupported: a session of another kind.
            InvalidValueError: a clock that cannot be called.
        """
        if not callable(clock):
            raise InvalidValueError(f"clock must be a function that returns the time, not {kind(clock)}")
        self._manager = session if isinstance(session, DatabaseManager) else None
        self._fixed = None if isinstance(session, DatabaseManager) else stores_of(session)
        self._clock = clock

    @asynccontextmanager
    async def _stores(self, *, snapshot: bool = False) -> AsyncIterator[Stores]:
        if self._fixed is not None:
            yield self._fixed
        elif self._manager is not None:
            alike = snapshot and Capability.ISOLATION in self._manager.capabilities
            async with self._manager.get_session(isolation="snapshot" if alike else None) as session:
                yield stores_of(session)

    def _now(self) -> datetime:
        return checks.utc(self._clock(), "the clock's time")
