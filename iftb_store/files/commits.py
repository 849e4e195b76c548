"""The COMMIT of a long work that may be stopped meanwhile: what is known of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar

from iftb_store.errors import CommitOutcomeUnknown

T = TypeVar("T")

# seconds that a cancellation waits for a COMMIT under way; a server may wait for its disk, or for a standby
_WAIT = 10.0


class Commit(Generic[T]):
    """How far the COMMIT of a work is.

    Attributes:
        state: "not sent", and nothing of the work is stored; "sent", and it is stored whole or not at all; or "done".
        result: what the work returned; None before its COMMIT is done.
    """

    def __init__(self) -> None:
        self.state: Literal["not sent", "sent", "done"] = "not sent"
        self.result: T | None = None

    def begin(self) -> None:
        """Note that a transaction begins: nothing of it is stored."""
        self.state = "not sent"

    def send(self) -> None:
        """Note that the COMMIT is what comes next."""
        self.state = "sent"


async def finish_commit(work: Coroutine[Any, Any, T], commit: Commit[T]) -> T:
    """Return what ``work`` returns; cancelled during its COMMIT, wait for that first, so that ``commit`` tells what came of it.

    Cancelled once more, or after some seconds, it waits no longer, and the outcome is unknown.
    """
    running = asyncio.ensure_future(work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        if commit.state == "sent":
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running], timeout=_WAIT)
        running.cancel()
        while not running.done():
            # it is rolled back, however often this task is cancelled meanwhile
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        _settle(running, commit)
        raise
    except Exception:
        _settle(running, commit)
        raise
    _settle(running, commit)
    return running.result()


def _settle(running: asyncio.Future[T], commit: Commit[T]) -> None:
    if running.cancelled():
        return
    error = running.exception()
    if error is None:
        commit.state, commit.result = "done", running.result()
    elif not isinstance(error, CommitOutcomeUnknown):
        commit.state = "not sent"
