"""Tasks misuse a shared session in every way: acknowledged writes are stored, and no other session is harmed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, SystemEventRepository
from iftb_store.testing import raw
from iftb_store.testing.samples import hourly
from tests.faults.rounds import rounds
from tests.faults.tally import Tally

FAULT = "tasks share a session"

pytestmark = pytest.mark.timeout(14_400)

_COPY = """
    INSERT INTO system_events (event_type, severity, message, created_at)
    SELECT event_type, severity, :message, created_at FROM system_events WHERE message = 'first'"""
_LATER = 2


class Misuse(Exception):
    """Raised by a round in its session."""


@pytest.fixture
async def db(url: str) -> AsyncIterator[DatabaseManager]:
    # the next session gets the connection of the last one
    async with DatabaseManager(url, pool_size=1, max_overflow=0) as manager:
        await manager.create_tables()
        await SystemEventRepository(manager).log_event("tick", "info", "first")
        yield manager


async def log(session: Any, name: str) -> None:
    await SystemEventRepository(session).log_event("tick", "info", name)


async def log_by_sql(session: Any, name: str) -> None:
    await session.execute(text(_COPY), {"message": name})


async def log_after_bars(session: Any, name: str) -> None:
    await OHLCVRepository(session).upsert_many(hourly(400))
    await log(session, name)


async def log_after_a_stream(session: Any, name: str) -> None:
    bars = hourly(3)
    async for _ in OHLCVRepository(session).stream_range("BTCUSDT", "1h", bars[0].timestamp, bars[-1].timestamp, batch_size=1):
        pass
    await log(session, name)


_CALLS = (log, log_by_sql, log_after_bars, log_after_a_stream)


async def misuse(db: DatabaseManager, chance: random.Random, name: str) -> tuple[set[str], set[str]]:
    """Run one round; return what must be stored, and what may be."""
    returned: set[str] = set()

    async def run(session: Any, own: str) -> None:
        await chance.choice(_CALLS)(session, own)
        returned.add(own)

    tasks: list[asyncio.Task[None]] = []
    whole = False
    try:
        async with db.get_session() as session:
            tasks = [asyncio.create_task(run(session, f"{name}-{number}")) for number in range(chance.randint(2, 6))]
            for _ in range(chance.choice((0, 1, 2, 5, 20))):
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
            if chance.random() < 0.5:
                # or the tasks are not awaited and outlive the session
                await asyncio.gather(*tasks, return_exceptions=True)
            if chance.random() < 0.2:
                raise Misuse
        whole = True
    except (OperationalError, Misuse):
        pass
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    for error in errors:
        if isinstance(error, Exception) and not isinstance(error, OperationalError):
            raise error
    if not whole:
        # what an outliving task has returned before its session failed is not stored, as with any session that fails
        return set(), set()
    # a call that is cancelled after its statement, before it could return, is stored with its session
    cancelled = {f"{name}-{number}" for number, error in enumerate(errors) if isinstance(error, asyncio.CancelledError)}
    return returned, returned | cancelled


async def test_what_tasks_of_one_session_store_is_there_and_later_writes_are_unharmed(db: DatabaseManager, tally: Tally) -> None:
    chance = random.Random(20_240_411)
    acknowledged, allowed = set[str](), set[str]()
    for number in range(rounds(FAULT)):
        async with tally.bounded():
            must, may = await misuse(db, chance, f"shared {number}")
            acknowledged |= must
            allowed |= may
            for later in range(_LATER):
                name = f"later {number}-{later}"
                try:
                    async with db.get_session() as session:
                        await log(session, name)
                except Exception as error:
                    # any error of a later write is a failure
                    tally.note("lost", f"a later write raised {error!r}")
                else:
                    acknowledged.add(name)
    allowed |= acknowledged
    stored = Counter(message for (message,) in await raw.fetch(db, "SELECT message FROM system_events WHERE message <> 'first'"))
    for name in acknowledged - set(stored):
        tally.note("lost", f"{name} was acknowledged and is not stored")
    for name, count in stored.items():
        if count > 1 or name not in allowed:
            tally.note("duplicated", f"{name} is stored {count} times, and {'may' if name in allowed else 'must not'} be")
    assert db.in_use == 0
