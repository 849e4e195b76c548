"""The queue of a session's calls: they run one after the other, in the event loop and process that opened the session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

from iftb_store.errors import NotConnectedError, operational_error

_WITHIN = "this task is inside a call of the session; a second call inside the first, e.g. in run_sync, would wait forever"
_UNDONE = "the session was rolled back while this call was running; nothing that the call wrote is stored"


def check_process(process: int, what: object) -> None:
    """Raise an error if an object is used in a fork of the process that opened the object.

    Args:
        process: the id of the process that opened the object.
        what: a name of the opened object for the error message, e.g. "the session".

    Raises:
        NotConnectedError: the id of the current process is not ``process``.
    """
    if process != (own := os.getpid()):
        raise NotConnectedError(
            f"{what} was opened in process {process} and cannot be used in its fork, process {own}; "
            "open the database anew in each process, after the fork"
        )


def other_loop_error(what: str) -> NotConnectedError:
    """Return the error for using an object in an event loop other than the one in which the object was opened."""
    return NotConnectedError(
        f"{what} belongs to another event loop, in which it was opened; create a DatabaseManager for each event loop, "
        "e.g. that of a thread"
    )


class Turns:
    """Runs the calls of one session one at a time, in order of arrival; no call begins after the session has ended.

    Each call enters this context manager.

    Raises:
        OperationalError: on entry, if the session has ended; on a clean exit, if the session was rolled back meanwhile.
        NotConnectedError: on entry, in an event loop or a process other than the session's.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._owner: asyncio.Task[object] | None = None
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        #: The reason why no further call may begin, or None.
        self.end_reason: str | None = None
        #: Whether the running call's writes are rolled back, so that the call raises.
        self.undone = False

    @property
    def busy(self) -> bool:
        """Whether a call is running."""
        return self._turn.locked()

    def is_foreign(self) -> bool:
        """Return whether the running event loop is not the one in which the session was opened."""
        return self._loop is not asyncio.get_running_loop()

    async def __aenter__(self) -> Turns:
        check_process(self._process, "the session")
        if self.is_foreign():
            raise other_loop_error("the session")
        task = asyncio.current_task()
        if self._owner is not None and self._owner is task:
            raise operational_error(_WITHIN)
        await self._turn.acquire()
        if self.end_reason is not None:
            self._turn.release()
            raise operational_error(self.end_reason)
        self._owner = task
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._owner = None
        self._turn.release()
        if error is None and self.undone:
            raise operational_error(_UNDONE)

    def end(self, reason: str, *, undone: bool = False) -> None:
        """Refuse further calls with the message ``reason``; with ``undone``, the running call fails too: it was rolled back."""
        self.end_reason = self.end_reason or reason
        self.undone = self.undone or undone

    @asynccontextmanager
    async def take_last(self) -> AsyncIterator[None]:
        """Wait until the running call has ended, then run the block, which must end the session; other calls wait."""
        async with self._turn:
            self._owner = asyncio.current_task()
            try:
                yield
            finally:
                self._owner = None
