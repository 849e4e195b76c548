"""Tests of a manager that is used in another event loop, thread or process than the one in which it was connected."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from iftb_store import DatabaseManager, NotConnectedError, OHLCVRepository
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures
from iftb_store.testing.rows import add, read_names
from iftb_store.testing.samples import hourly

# a script that forks while it is connected: calls in the child must raise NotConnectedError, and the parent must still work
_FORK = """
import asyncio, os, sys, time
from iftb_store import DatabaseManager, NotConnectedError, OHLCVRepository

async def read(source):
    return len(await OHLCVRepository(source).get_latest("BTCUSDT", "1h"))

async def main():
    async with DatabaseManager(sys.argv[1]) as db, db.get_session() as session:
        assert await read(session) == await read(db) == 3
        child = os.fork()
        if not child:
            code = 1
            try:
                for work in (lambda: read(db), lambda: read(session), db.connect, db.disconnect, db.ping):
                    try:
                        asyncio.run(work())
                    except NotConnectedError as error:
                        assert "fork" in str(error), error
                    else:
                        raise AssertionError("the child was let in")
                code = 0
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status == 0, status
        assert await read(session) == await read(db) == 3

asyncio.run(main())
print("unharmed")
"""


async def count_bars(db: DatabaseManager) -> int:
    """Return the number of stored bars, at most 100, of the series BTCUSDT 1h on binance."""
    return len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h"))


class PlaceTests(SuiteFixtures):
    """A manager works in a new event loop after its loop was closed; in a second open loop it works or is refused."""

    async def test_a_manager_continues_in_the_next_event_loop(self, db: DatabaseManager, url: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))

        def loops() -> list[Any]:
            manager = DatabaseManager(url)
            asyncio.run(manager.connect())
            found = [asyncio.run(count_bars(manager)) for _ in range(3)]
            asyncio.run(add(manager))
            asyncio.run(manager.disconnect())
            return [*found, manager.in_use]

        assert await asyncio.to_thread(loops) == [3, 3, 3, 0]
        assert await raw.count(db, "ohlcv") == 4

    async def test_many_tasks_of_the_next_event_loop_come_at_once(self, db: DatabaseManager, url: str) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))

        async def many(manager: DatabaseManager) -> list[int]:
            return await asyncio.gather(*(count_bars(manager) for _ in range(30)))

        def loops() -> list[list[int]]:
            manager = DatabaseManager(url, pool_size=2, max_overflow=0)
            asyncio.run(manager.connect())
            try:
                return [asyncio.run(many(manager)) for _ in range(2)]
            finally:
                asyncio.run(manager.disconnect())

        assert await asyncio.to_thread(loops) == [[3] * 30] * 2

    async def test_a_second_living_loop_works_or_is_refused_and_harms_nobody(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))

        async def calls() -> set[Any]:
            found = set()
            for _ in range(20):
                try:
                    found.add(await count_bars(db))
                except NotConnectedError as error:
                    found.add("another event loop" in str(error))
            return found

        there, here = await asyncio.gather(asyncio.to_thread(asyncio.run, calls()), calls())
        assert here == {3}
        assert there in ({3}, {True})

    async def test_a_session_used_in_another_loop_is_refused(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await add(session)

            async def use() -> None:
                await read_names(session)

            with pytest.raises(NotConnectedError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, use())
            await add(session, "another")
        assert await raw.count(db, "ohlcv") == 2

    async def test_writers_in_two_threads_are_all_stored(self, db: DatabaseManager, url: str) -> None:
        async def write(name: str) -> None:
            async with DatabaseManager(url) as manager:
                for number in range(10):
                    await add(manager, f"{name}{number}")

        threads = [threading.Thread(target=asyncio.run, args=(write(name),)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await raw.count(db, "ohlcv") == 20

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    async def test_a_forked_child_is_refused_at_once_and_harms_nobody(self, url: str) -> None:
        async with DatabaseManager(url) as db:
            await self.make_tables(db)
            await OHLCVRepository(db).insert_many(hourly(3))
        ended = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", _FORK, url], capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.stdout == "unharmed\n", ended.stderr
