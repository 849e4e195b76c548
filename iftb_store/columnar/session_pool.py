"""Opens the sessions of a backend that works in threads: limits how many are open, and ends each at the end of its block."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

from sqlalchemy import Executable, Result, ScalarResult
from sqlalchemy.exc import OperationalError

from iftb_store._io.semaphore import FairSemaphore
from iftb_store._io.tasks import run_to_end
from iftb_store.columnar.driver import INTERRUPT_EVERY, Cursor
from iftb_store.errors import TransientError, operational_error
from iftb_store.protocols import Isolation
from iftb_store.relational import DISCONNECTED, ENDED, OpenSessions, Turns, own_sessions

_WAIT_FOR_SESSION = 30.0


class PooledSession(ABC):
    """Base class of the sessions that `SessionPool` opens: their calls run one after the other, in threads, on one cursor."""

    def __init__(self, cursor: Cursor, executor: Executor, isolation: Isolation | None, busy_timeout: float) -> None:
        #: The backend, which gives the session its stores.
        self.iftb_store_backend: Any = None
        self._cursor = cursor
        self._executor = executor
        self._isolated = isolation in ("repeatable read", "serializable")
        self._only_reads = isolation == "snapshot"
        self._busy_timeout = busy_timeout
        self._turns = Turns()
        self._wait: asyncio.Timeout | None = None
        self._lost: OperationalError | None = None
        self._finished = False

    @abstractmethod
    async def execute(self, statement: Executable, params: Any = None, /) -> Result[Any]:
        """Run one statement; see `iftb_store.protocols.Session.execute`."""

    @abstractmethod
    async def _commit(self) -> None:
        """Commit the writes; no other call is running."""

    @abstractmethod
    async def _discard(self, reason: str) -> None:
        """Undo uncommitted writes and close the cursor; no other call is running or will run."""

    @property
    def end_reason(self) -> str | None:
        """The reason why no call can begin any more; None while the session is open."""
        return self._turns.end_reason

    async def scalar(self, statement: Executable, params: Any = None, /) -> Any:
        """Run one statement and return the first value of its first row, or None if it has no row."""
        return (await self.execute(statement, params)).scalar()

    async def scalars(self, statement: Executable, params: Any = None, /) -> ScalarResult[Any]:
        """Run one statement and return the first value of each row."""
        return (await self.execute(statement, params)).scalars()

    async def commit(self) -> None:
        """Commit the session's writes; the session continues in a new transaction.

        Raises:
            IntegrityError: on a lake, another client has inserted a bar that this session inserted.
            OperationalError: an earlier error has ended the transaction, or the transaction cannot be committed; a
                TransientError if it conflicts with commits of others.
        """
        async with self._turns:
            await self._commit()

    async def finish(self) -> None:
        """Refuse further calls, wait for the running call, and commit; errors as in `commit`."""
        self._turns.end(ENDED)
        async with self._turns.take_last():
            await self._commit()

    async def close(self, reason: str = ENDED, *, interrupt: bool = False) -> None:
        """Undo uncommitted writes and close the cursor.

        Args:
            reason: the error message of later calls.
            interrupt: whether to stop the statement that another task is running in this session, instead of waiting for its end.
        """
        self._turns.end(reason, undone=True)
        while interrupt and self._turns.busy:
            self._interrupt()
            await asyncio.sleep(INTERRUPT_EVERY)
        async with self._turns.take_last():
            if not self._finished:
                self._finished = True
                await self._discard(reason)

    def _interrupt(self) -> None:
        """Stop the running statement, or end its wait for a lock."""
        self._cursor.interrupt()
        if self._wait is not None:
            with suppress(RuntimeError):
                # the wait has already ended
                self._wait.reschedule(0)

    async def _wait_for(self, lock: FairSemaphore) -> bool:
        """Wait at most busy_timeout for a lock; return whether it was granted. A session closed meanwhile does not hold it."""
        granted = False
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as self._wait:
                granted = await lock.acquire(self._busy_timeout)
        if self._turns.undone and granted:
            lock.release()
        return granted

    def _check_usable(self) -> None:
        if self._lost is not None:
            again = isinstance(self._lost, TransientError)
            raise operational_error(str(self._lost.orig), self._lost.__cause__, transient=again)


def lost_writes_error(reason: object, error: BaseException) -> OperationalError:
    """Return the error of later calls of a session whose writes were rolled back after an error."""
    return operational_error(
        f"the session's writes were rolled back after an error: {reason}; call session.rollback() to continue without them",
        error if isinstance(error, Exception) else None,
        transient=isinstance(error, TransientError),
    )


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
