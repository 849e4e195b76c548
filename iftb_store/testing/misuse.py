"""Tests of misused sessions: a cancelled first call, an abandoned stream, exits out of order, a call from within a call."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util.concurrency import await_

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, needs
from iftb_store.testing.rows import add, read_names, read_value
from iftb_store.testing.samples import T0, hourly


async def cancel_after(turns: int, call: Any) -> None:
    """Start a call, cancel it after ``turns`` iterations of the event loop, and wait for its end."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


class MisuseTests(SuiteFixtures):
    """After misuse, a write that returned is stored, or the exit of its session raises; the next session works."""

    @pytest.mark.parametrize("way", ["read", "write"])
    async def test_a_first_call_cancelled_at_any_turn_takes_no_later_write_with_it(self, db: DatabaseManager, way: str) -> None:
        acknowledged: set[str] = set()
        for turns in range(40):
            name = f"T{turns}"
            with suppress(OperationalError):
                async with db.get_session() as session:
                    first = read_names(session) if way == "read" else add(session, "F")
                    await cancel_after(turns, first)
                    await add(session, name)
                    if way == "write":
                        # the cancelled insert may have stored F, and the next iteration must be able to insert F again
                        await OHLCVRepository(session).delete_range("F", "1h", T0, T0)
                acknowledged.add(name)
        stored = {name for (name,) in await raw.fetch(db, "SELECT symbol FROM ohlcv WHERE symbol <> 'F'")}
        assert stored == acknowledged

    @pytest.mark.parametrize("turns", range(0, 30, 3))
    async def test_an_apps_session_never_commits_less_than_it_says_after_a_cancelled_call(
        self, db: DatabaseManager, turns: int
    ) -> None:
        needs(db, Capability.SQLALCHEMY)
        committed = False
        with suppress(OperationalError):
            async with AsyncSession(db.engine) as session:
                await add(session)
                await cancel_after(turns, OHLCVRepository(session).upsert_many(hourly(2_000)))
                with suppress(OperationalError):
                    await session.commit()
                    committed = True
        assert (await read_value(db) is not None) == committed

    async def test_a_failing_sibling_under_a_time_limit_leaves_no_lock(self, db: DatabaseManager) -> None:
        async def fail() -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

        async def run() -> None:
            async with db.get_session() as session:
                await add(session)
                await asyncio.gather(fail(), OHLCVRepository(session).upsert_many(hourly(30_000)))

        for seconds in (0.001, 0.01, 0.05):
            with suppress(TimeoutError, ZeroDivisionError):
                async with asyncio.timeout(seconds):
                    await run()
        await add(db, "later")
        assert [name for (name,) in await raw.fetch(db, "SELECT symbol FROM ohlcv")] == ["later"]
        assert db.in_use == 0

    async def test_a_stream_that_is_left_shows_the_next_session_no_old_rows(self, db: DatabaseManager, url: str) -> None:
        needs(db, Capability.SQLALCHEMY)
        async with DatabaseManager(url, pool_size=1, max_overflow=0) as single:
            await OHLCVRepository(single).insert_many(hourly(500))
            async with single.get_session() as session:
                assert isinstance(session, AsyncSession)
                left = await session.stream(text("SELECT volume FROM ohlcv"))
                await left.fetchone()
            await add(db)
            assert await raw.count(single, "ohlcv") == 501
            await add(single, "another")
        assert await raw.count(db, "ohlcv") == 502
        del left

    async def test_sessions_may_end_in_another_order_than_they_began(self, db: DatabaseManager) -> None:
        for number in range(20):
            first, second = db.get_session(), db.get_session()
            one, two = await first.__aenter__(), await second.__aenter__()
            await read_names(one)
            await first.__aexit__(None, None, None)
            await add(two, f"T{number}")
            await second.__aexit__(None, None, None)
        assert await raw.count(db, "ohlcv") == 20

    async def test_a_call_from_within_a_call_of_the_session_is_refused(self, db: DatabaseManager) -> None:
        needs(db, Capability.SQLALCHEMY)
        async with db.get_session() as session:
            assert isinstance(session, AsyncSession)
            with pytest.raises(OperationalError, match="a second call inside the first"):
                await session.run_sync(lambda _: await_(read_names(session)))
            await add(session)
        assert await raw.count(db, "ohlcv") == 1
