"""A fair semaphore, which gives permits in order of arrival across all threads and event loops of this process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from types import TracebackType


class FairSemaphore:
    """A fair semaphore that works across event loops; with one permit, ``async with`` uses it as a lock."""

    def __init__(self, permits: int = 1) -> None:
        self._permits = self._free = permits
        self._waiting: deque[tuple[Future[None], asyncio.AbstractEventLoop]] = deque()
        self._guard = threading.Lock()

    @property
    def taken(self) -> int:
        """The number of permits that callers hold at the moment."""
        return self._permits - self._free

    async def __aenter__(self) -> None:
        await self.acquire(None)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    async def acquire(self, seconds: float | None) -> bool:
        """Take a permit, waiting at most ``seconds`` (None: without limit); return False if no permit became free in time."""
        with self._guard:
            if self._free:
                self._free -= 1
                return True
            turn: Future[None] = Future()
            # a future that is marked as running cannot be cancelled, so release() can always set its result
            turn.set_running_or_notify_cancel()
            waiting = (turn, asyncio.get_running_loop())
            self._waiting.append(waiting)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wrap_future(turn)
        except TimeoutError:
            self._leave(waiting)
            return False
        except BaseException:
            # a cancellation: give up the place in the queue
            self._leave(waiting)
            raise
        return True

    def release(self) -> None:
        """Return a permit; the caller that has waited longest gets it."""
        with self._guard:
            while self._waiting:
                turn, loop = self._waiting.popleft()
                # a caller whose event loop is closed cannot take the permit
                if not loop.is_closed():
                    break
            else:
                self._free += 1
                return
        turn.set_result(None)

    def _leave(self, waiting: tuple[Future[None], asyncio.AbstractEventLoop]) -> None:
        with self._guard:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                return
        # release() gave this caller a permit just as it stopped waiting, so pass the permit on
        self.release()
