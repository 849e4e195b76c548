"""Tracks the COMMIT of a long operation, so that its outcome is known even if the operation is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from iftb_store._io.tasks import run_to_end
from iftb_store.errors import CommitOutcomeUnknown

T = TypeVar("T")

# seconds that a cancellation waits for a COMMIT in progress; a server may wait for its disk or for a standby
_WAIT = 10.0


@dataclass
class Commit(Generic[T]):
    """The progress of an operation's COMMIT.

    Attributes:
        state: "not sent": nothing is stored. "sent": the COMMIT is about to be sent or was sent; either everything or nothing is
            stored. "done": everything is stored.
        result: the return value of the operation; None until its COMMIT is done.
    """

    state: Literal["not sent", "sent", "done"] = "not sent"
    result: T | None = None


async def finish_commit(work: Coroutine[Any, Any, T], commit: Commit[T]) -> T:
    """Run ``work`` and return its result; ``work`` records in ``commit`` when it sends COMMIT and when the COMMIT is done.

    If this call is cancelled during the COMMIT, it waits for the end of the COMMIT and then raises the cancellation, so that
    ``commit`` has the outcome. A second cancellation, or a timeout after some seconds, ends the wait; the outcome is then
    unknown.
    """
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if commit.state == "sent":
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running], timeout=_WAIT)
        running.cancel()
        # the transaction is rolled back, even if this task is cancelled again meanwhile
        with suppress(asyncio.CancelledError):
            await run_to_end(asyncio.wait([running]))
        raise
    finally:
        if running.done() and not running.cancelled():
            error = running.exception()
            if error is None:
                commit.state, commit.result = "done", running.result()
            elif not isinstance(error, CommitOutcomeUnknown):
                commit.state = "not sent"
