"""Opens the sessions of a backend that works in threads: limits how many are open, and ends each at the end of its block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.exc import OperationalError

from iftb_store._io.semaphore import FairSemaphore
from iftb_store._io.tasks import run_to_end
from iftb_store.errors import operational_error
from iftb_store.relational import DISCONNECTED, ENDED, OpenSessions, own_sessions

_WAIT_FOR_SESSION = 30.0


class PooledSession(Protocol):
    """The members of a session that `SessionPool` uses."""

    #: The backend that opened the session.
    iftb_store_backend: Any

    @property
    def end_reason(self) -> str | None:
        """The reason why no call can begin any more; None while the session is open."""
        ...

    async def finish(self) -> None:
        """Refuse further calls, wait for the running call, and commit."""
        ...

    async def close(self, reason: str = ENDED, *, interrupt: bool = False) -> None:
        """Undo uncommitted writes and free the session's connection; with ``interrupt``, stop the running call."""
        ...


S = TypeVar("S", bound=PooledSession)


class SessionPool(Generic[S]):
    """The open sessions of one backend.

    Attributes:
        size: the largest number of sessions that can be open at a time.
        closing: whether `end` is running, so that no session may be opened.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.closing = False
        self._places = FairSemaphore(size)
        self._sessions = OpenSessions[S]()

    @property
    def in_use(self) -> int:
        """The number of open sessions."""
        return self._places.taken

    @asynccontextmanager
    async def session(self, backend: Any, create: Callable[[], S]) -> AsyncIterator[S]:
        """Open a session: commit on a clean exit, roll back on an exception and on cancellation.

        Args:
            backend: the backend that opens the session.
            create: returns the new session, or raises an error if the backend has been disconnected during the wait.

        Raises:
            OperationalError: the current task itself holds every session that may be open at a time; or all sessions were in
                use and none was closed within 30 seconds; or, on a clean exit, the commit failed.
            IntegrityError: on a clean exit, the commit violates a constraint.
        """
        if sum(session.iftb_store_backend is backend for session in own_sessions()) >= self.size:
            raise operational_error(
                f"this task itself has all {self.size} sessions of the manager open, so that none would ever become free; "
                "use one of them, or raise pool_size"
            )
        if not await self._places.acquire(_WAIT_FOR_SESSION):
            raise operational_error(
                f"all {self.size} sessions of this manager are in use, and none was closed within {_WAIT_FOR_SESSION:g} s; "
                "close sessions sooner, or raise pool_size or max_overflow"
            )
        try:
            session = create()
            session.iftb_store_backend = backend
            with self._sessions.hold(session):
                try:
                    yield session
                    await session.finish()
                except BaseException as error:
                    # whatever happens meanwhile: sessions share locks
                    await run_to_end(session.close(interrupt=isinstance(error, asyncio.CancelledError)))
                    if isinstance(error, OperationalError) and session.end_reason == DISCONNECTED:
                        # the error of the interrupted call does not give the reason
                        raise operational_error(DISCONNECTED, error) from error
                    raise
                await run_to_end(session.close())
        finally:
            self._places.release()

    async def end(self, grace: float) -> None:
        """Wait at most ``grace`` seconds for open sessions, then roll back and close the remaining ones."""
        self.closing = True
        left: list[S] | None = None
        try:
            left = await self._sessions.end(grace)
        finally:
            # if the wait was cancelled, close every session that is still open
            left = list(self._sessions) if left is None else left
            try:
                await asyncio.gather(*(session.close(DISCONNECTED, interrupt=True) for session in left))
            finally:
                self.closing = False
