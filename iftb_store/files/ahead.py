"""Reads the parts of files in a thread, one part ahead of the caller, so that a part is read while the one before is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from iftb_store._io.tasks import run_to_end

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Takes the items of a generator, which runs in a thread; after each item, the next one is read at once.

    At most one item that was not taken is in memory. Call `close` at the end, whatever happened.
    """

    def __init__(self, items: Generator[T, None, None]) -> None:
        """Create a reader; the generator does not run before the first item is asked for."""
        self._items = items
        self._next: asyncio.Task[T | None] | None = None
        self._is_closed = False
        #: Called when the last item was read, e.g. to begin with the next file.
        self.at_end: Callable[[], object] | None = None

    def start(self) -> asyncio.Task[T | None]:
        """Begin to read the next item, unless it is being read or was read; return the task that reads it."""
        if self._next is None:
            self._next = asyncio.ensure_future(asyncio.to_thread(next, self._items, None))
        return self._next

    async def take(self) -> T | None:
        """Return the next item, None after the last one, and begin to read the item behind it.

        Raises:
            Exception: what the generator raised.
        """
        item = await asyncio.shield(self.start())
        self._next = None
        if item is not None:
            self.start()
        elif self.at_end is not None:
            self.at_end()
        return item

    async def close(self) -> None:
        """Wait until the thread has read its item, and close the generator; an error of the generator is dropped."""
        if not self._is_closed:
            await run_to_end(self._close())

    async def _close(self) -> None:
        self._is_closed = True
        if self._next is not None:
            await asyncio.wait([self._next])
            self._next.exception()
            self._next = None
        await asyncio.to_thread(self._items.close)
