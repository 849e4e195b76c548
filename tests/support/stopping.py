"""A command that gets a signal during its COMMIT: ``python -m tests.support.stopping SIGNAL TIMES WORDS…``.

The driver's commit sends it, and continues once the event loop has received it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import asyncpg.transaction
from duckdb_engine import ConnectionWrapper

import iftb_store.columnar.driver as duckdb_driver
import iftb_store_sqlite.connection as sqlite_connection
from iftb_store import DatabaseManager
from iftb_store.cli import main


class Stop:
    """Sends the signals at the first COMMIT after ``loop`` was set."""

    def __init__(self, number: int, times: int) -> None:
        self._number = number
        self._times = times
        self.loop: asyncio.AbstractEventLoop | None = None

    def send(self) -> None:
        """Send them from a thread other than the loop's, waiting until each has cancelled a task."""
        loop, self.loop = self.loop, None
        if loop is None:
            return
        for sent in range(self._times):
            os.kill(os.getpid(), self._number)
            while not loop.is_closed() and _cancellations(loop) <= sent:
                time.sleep(0.001)

    async def send_in_loop(self) -> None:
        """Send them from the loop's own thread."""
        loop, self.loop = self.loop, None
        if loop is None:
            return
        for sent in range(self._times):
            os.kill(os.getpid(), self._number)
            while _cancellations(loop) <= sent:  # noqa: ASYNC110 - a cancellation sets no event
                await asyncio.sleep(0)


def _cancellations(loop: asyncio.AbstractEventLoop) -> int:
    return sum(task.cancelling() for task in asyncio.all_tasks(loop))


def stopped_main(number: int, times: int, words: list[str]) -> int:
    """Run a command whose first COMMIT after connecting gets the signals."""
    stop = Stop(number, times)
    connected = DatabaseManager.connect

    async def connect(self: Any) -> None:
        await connected(self)
        stop.loop = asyncio.get_running_loop()

    def hit(commit: Callable[[Any], None]) -> Callable[[Any], None]:
        def committing(self: Any) -> None:
            stop.send()
            commit(self)

        return committing

    wrapper: Any = ConnectionWrapper
    wrapper.commit = hit(lambda self: self.__getattr__("commit")())
    ended = asyncpg.transaction.Transaction.commit

    async def commit(self: Any) -> None:
        await stop.send_in_loop()
        await ended(self)

    replaced: Any = DatabaseManager
    replaced.connect = connect
    for owner in (sqlite_connection.Driver, duckdb_driver.Cursor):
        changed: Any = owner
        changed.commit = hit(owner.commit)
    transaction: Any = asyncpg.transaction.Transaction
    transaction.commit = commit
    # a shell that starts the tests in the background makes them ignore SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main(words)


if __name__ == "__main__":
    sys.exit(stopped_main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
