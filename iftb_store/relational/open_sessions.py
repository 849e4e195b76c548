"""Tracks the open sessions of a connected backend: which task opened each session, and when all have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import DBAPIError

from iftb_store.errors import TransientError, operational_error

S = TypeVar("S")

#: The error message of a session that disconnect() closed after its grace period.
DISCONNECTED = "the manager was disconnected while this session was open; its uncommitted writes are not stored"

#: The error message of a session that is used after the end of its block.
ENDED = "the session is closed; open one with db.get_session()"

_OWN_LOCK = (
    "this task has a session open whose writes are not committed, and that session holds the database's write lock; "
    "write in that session, or commit it first"
)
_PARENTS_LOCK = (
    "the task that started this one has a session open whose writes are not committed, and that session held the database's "
    "write lock meanwhile; pass the session to this task and write in it, or commit it first"
)

# The sessions opened in this context, each with the task that opened it and the OpenSessions that tracks it. A new task starts
# with a copy of its parent's tuple; sessions in that copy may have ended since.
_opened: ContextVar[tuple[tuple[Any, asyncio.Task[Any] | None, OpenSessions[Any]], ...]] = ContextVar(
    "iftb_store_opened", default=()
)


class OpenSessions(Generic[S]):
    """The open sessions of one backend, in all event loops."""

    def __init__(self) -> None:
        self._open: set[S] = set()
        self._one_ended: Future[None] | None = None

    def __iter__(self) -> Iterator[S]:
        return iter(set(self._open))

    def __contains__(self, session: object) -> bool:
        return session in self._open

    @contextmanager
    def hold(self, session: S) -> Iterator[S]:
        """Count a session as an open session of the current task until the end of the block."""
        self._open.add(session)
        _opened.set((*_opened.get(), (session, asyncio.current_task(), self)))
        try:
            yield session
        finally:
            self._open.discard(session)
            # sessions may end in any order, and in a context other than the one in which they were opened
            _opened.set(tuple(entry for entry in _opened.get() if entry[0] is not session))
            ended, self._one_ended = self._one_ended, None
            if ended is not None:
                ended.set_result(None)

    async def end(self, seconds: float) -> list[S]:
        """Wait at most ``seconds`` for the end of all sessions; return the sessions that are still open."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open:
                    self._one_ended = ended = Future[None]()
                    # a future that is marked as running cannot be cancelled, so set_result() never fails
                    ended.set_running_or_notify_cancel()
                    if self._open:
                        await asyncio.wrap_future(ended)
        return list(self._open)


def own_sessions() -> list[Any]:
    """Return the open sessions that the current task opened."""
    task = asyncio.current_task()
    return [session for session, opener, those in _opened.get() if opener is task and session in those]


def check_own_lock(lock: Hashable, besides: object = None) -> None:
    """Raise an error if a session of the current task already holds a write lock: the task would wait for itself.

    Args:
        lock: the key of the write lock; None if the engine has none.
        besides: the session that is about to take the lock, which is ignored; None for no session.

    Raises:
        OperationalError: a session of the current task, other than ``besides``, holds the lock.
    """
    if len(_opened.get()) > (besides is not None) and any(_holds(session, lock, besides) for session in own_sessions()):
        raise operational_error(_OWN_LOCK)


def blame_parent(error: DBAPIError, lock: Hashable, besides: object = None) -> DBAPIError:
    """Replace a timeout of a write lock by an error that names the cause, if a session of the parent task holds the lock.

    The new error is an OperationalError and is not retried, because the parent may be waiting for this task. Otherwise the
    result is ``error`` itself. ``besides`` is a session to ignore.
    """
    if isinstance(error, TransientError) and any(_holds(session, lock, besides) for session, *_ in _opened.get()):
        return operational_error(_PARENTS_LOCK, error)
    return error


def _holds(session: Any, lock: Hashable, besides: object) -> bool:
    """Return whether a session other than ``besides`` holds a write lock: its ``iftb_store_write_lock`` equals the lock's key."""
    return lock is not None and session is not besides and getattr(session, "iftb_store_write_lock", None) == lock
