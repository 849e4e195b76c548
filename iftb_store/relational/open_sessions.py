"""The open sessions of a connected backend: which task opened each, and the wait for their end."""

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

#: The error of a session that a disconnect closed because it was open too long.
DISCONNECTED = "the manager was disconnected while this session was open; its uncommitted writes are not stored"

#: The error of a session that is used after its block.
ENDED = "the session is closed; open one with db.get_session()"

_OWN_LOCK = (
    "this task has a session open whose writes are not committed, and that session holds the database's write lock; "
    "write in that session, or commit it first"
)
_PARENTS_LOCK = (
    "the task that started this one has a session open whose writes are not committed, and that session held the database's "
    "write lock meanwhile; pass the session to this task and write in it, or commit it first"
)

# the sessions open in this context, each with the task that opened it and the set that holds it; a task begins with a copy
# of its parent's, in which some may have ended meanwhile
_opened: ContextVar[tuple[tuple[Any, asyncio.Task[Any] | None, OpenSessions[Any]], ...]] = ContextVar(
    "iftb_store_opened", default=()
)


class OpenSessions(Generic[S]):
    """The open sessions, in any event loop."""

    def __init__(self) -> None:
        self._open: set[S] = set()
        self._ended: Future[None] | None = None

    def __iter__(self) -> Iterator[S]:
        return iter(set(self._open))

    def __contains__(self, session: object) -> bool:
        return session in self._open

    @contextmanager
    def holding(self, session: S) -> Iterator[S]:
        """Register a session as opened by this task, for the duration of the block."""
        self._open.add(session)
        _opened.set((*_opened.get(), (session, asyncio.current_task(), self)))
        try:
            yield session
        finally:
            self._open.discard(session)
            # sessions may end out of order, and in a context other than the one that opened them
            _opened.set(tuple(entry for entry in _opened.get() if entry[0] is not session))
            ended, self._ended = self._ended, None
            if ended is not None:
                ended.set_result(None)

    async def end(self, seconds: float) -> list[S]:
        """Wait at most ``seconds`` until no session is open; return those that still are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open:
                    self._ended = ended = Future[None]()
                    # a running future cannot be cancelled: its result may always be set
                    ended.set_running_or_notify_cancel()
                    if self._open:
                        await asyncio.wrap_future(ended)
        return list(self._open)


def own_sessions() -> list[Any]:
    """Return the open sessions of this task."""
    task = asyncio.current_task()
    return [session for session, opener, those in _opened.get() if opener is task and session in those]


def check_own_lock(lock: Hashable, besides: object = None) -> None:
    """Refuse to wait for a write lock that this task holds itself, in a session other than ``besides``.

    Raises:
        OperationalError: this task holds the lock.
    """
    if len(_opened.get()) > (besides is not None) and any(_holds(session, lock, besides) for session in own_sessions()):
        raise operational_error(_OWN_LOCK)


def blame_parent(error: DBAPIError, lock: Hashable, besides: object = None) -> DBAPIError:
    """Return the error to raise instead of one for a write lock that was not granted in time.

    If a parent of this task holds it, waiting again would not help: the parent may be waiting for this task.
    """
    if isinstance(error, TransientError) and any(_holds(session, lock, besides) for session, *_ in _opened.get()):
        return operational_error(_PARENTS_LOCK, error)
    return error


def _holds(session: Any, lock: Hashable, besides: object) -> bool:
    """Return whether a session holds a write lock, which its ``iftb_store_write_lock`` then names."""
    return session is not besides and getattr(session, "iftb_store_write_lock", None) == lock
