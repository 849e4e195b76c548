"""The sessions that a connected backend has given out, and the wait for their end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

S = TypeVar("S")

#: What a session says that was open too long for a disconnect to wait for it.
DISCONNECTED = "the manager was disconnected while this session was open; nothing that it had not committed is stored"

#: What a session says that is used after its block.
ENDED = "the session is closed; open one with db.get_session()"


class OpenSessions(Generic[S]):
    """Knows which sessions are open."""

    def __init__(self) -> None:
        self._open: set[S] = set()
        self._ended: asyncio.Event | None = None

    def __iter__(self) -> Iterator[S]:
        return iter(self._open)

    @contextmanager
    def holding(self, session: S) -> Iterator[S]:
        """Count a session as open for the time of the block."""
        self._open.add(session)
        try:
            yield session
        finally:
            self._open.discard(session)
            if self._ended is not None:
                self._ended.set()

    async def end(self, seconds: float) -> list[S]:
        """Wait at most so long until none is open; return those that still are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open:
                    self._ended = asyncio.Event()
                    await self._ended.wait()
        return list(self._open)
