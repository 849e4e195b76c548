"""Tests that cancelling a task interrupts its long-running statement, and that the manager remains usable afterwards."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import DatabaseManager
from iftb_store.protocols import Capability, Isolation
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, needs
from iftb_store.testing.rows import add

#: A statement that runs far longer than the time limit of a test, in SQL that every engine understands.
_ENDLESS = text(
    "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000000000) "
    "SELECT count(*) FROM numbers"
)
_ISOLATIONS: list[Isolation | None] = [None, "snapshot", "serializable"]


class InterruptTests(SuiteFixtures):
    """Cancelling a task interrupts its statement; if it did not, these tests would exceed their time limit."""

    @pytest.mark.parametrize("isolation", _ISOLATIONS)
    @pytest.mark.parametrize("way", ["execute", "stream"])
    async def test_a_long_statement_ends_with_its_task(self, db: DatabaseManager, way: str, isolation: Isolation | None) -> None:
        if isolation is not None:
            needs(db, Capability.ISOLATION)
        if way == "stream":
            needs(db, Capability.SQLALCHEMY)
        started = asyncio.Event()

        async def run() -> None:
            async with db.get_session(isolation=isolation) as session:
                await session.execute(text("SELECT count(*) FROM ohlcv"))
                started.set()
                if way == "execute":
                    await session.execute(_ENDLESS)
                else:
                    assert isinstance(session, AsyncSession)
                    rows = await session.stream(_ENDLESS)
                    await rows.all()

        task = asyncio.create_task(run())
        await started.wait()
        # no engine shows another session that the statement runs in its thread or on the server
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await add(db)
        assert await raw.count(db, "ohlcv") == 1

    async def test_a_time_limit_within_a_session_ends_a_long_statement(self, db: DatabaseManager) -> None:
        async def run(session: Any) -> None:
            async with asyncio.timeout(0.05):
                await session.execute(_ENDLESS)

        # interrupting the statement may end the session's transaction; then the exit of the session raises OperationalError
        with suppress(OperationalError):
            async with db.get_session() as session:
                with pytest.raises(TimeoutError):
                    await run(session)
        await add(db)
        assert await raw.count(db, "ohlcv") == 1

    async def test_a_session_cancelled_beside_its_tasks_call_ends_that_call(self, db: DatabaseManager) -> None:
        started = asyncio.Event()

        async def run() -> None:
            async with db.get_session() as session:
                call = asyncio.ensure_future(session.execute(_ENDLESS))
                started.set()
                # asyncio.wait does not forward the cancellation of this task to the call
                await asyncio.wait([call])

        task = asyncio.create_task(run())
        await started.wait()
        # no engine shows another session that the statement runs
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await add(db)
        assert await raw.count(db, "ohlcv") == 1
