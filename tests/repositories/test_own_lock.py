"""A task that waits for what its own or its parent's open session holds: the write lock, or every connection of the pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, SystemEventRepository, TradeRepository, TransientError
from iftb_store.protocols import Session
from iftb_store.testing import raw
from iftb_store.testing.samples import trade


@pytest.fixture(params=["sqlite", "duckdb"])
def patient_url(request: pytest.FixtureRequest) -> str:
    """URL of a new file, with a short wait for its write lock."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url + ("?timeout=0.3" if request.param == "sqlite" else "?busy_timeout=1")


@pytest.fixture
async def db(patient_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(patient_url) as manager:
        await manager.create_tables()
        yield manager


async def log(db: DatabaseManager | Session) -> None:
    await SystemEventRepository(db).log_event("tick", "info", "")


async def test_a_child_task_gets_an_error_that_names_its_parents_session(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await TradeRepository(session).insert(trade())
        with pytest.raises(OperationalError, match="the task that started this one has a session open") as caught:
            await asyncio.create_task(log(db))
    assert not isinstance(caught.value, TransientError)
    assert await raw.count(db, "trades") == 1


async def test_a_child_task_writes_once_its_parents_session_has_ended(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await TradeRepository(session).insert(trade())
        child = asyncio.create_task(log(db))
        await asyncio.sleep(0)
    await child
    assert await raw.count(db, "system_events") == 1


async def test_an_unrelated_task_gets_an_error_that_names_another_writer(db: DatabaseManager) -> None:
    written, proceed = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with db.get_session() as session:
            await TradeRepository(session).insert(trade())
            written.set()
            await proceed.wait()

    writer = asyncio.create_task(write())
    await written.wait()
    with pytest.raises(TransientError):
        await log(db)
    proceed.set()
    await writer


async def test_migrating_past_ones_own_writing_session_fails_at_once(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await TradeRepository(session).insert(trade())
        with pytest.raises(OperationalError, match="this task has a session open"):
            await db.migrate()


async def test_a_second_session_of_a_task_in_memory_fails_at_once() -> None:
    async with DatabaseManager("sqlite:///:memory:") as db:
        await db.create_tables()
        async with db.get_session() as session:
            await TradeRepository(session).insert(trade())
            with pytest.raises(OperationalError, match="own open sessions hold every connection"):
                await log(db)
            await log(session)
        await log(db)
        assert await raw.count(db, "system_events") == 2


async def test_a_task_that_holds_every_connection_of_the_pool_is_refused_at_once(url: str) -> None:
    async with DatabaseManager(url, pool_size=1, max_overflow=0) as db:
        await db.create_tables()
        async with db.get_session() as session:
            await TradeRepository(session).get_recent()
            with pytest.raises(OperationalError, match="pool_size"):
                await log(db)
        await log(db)
