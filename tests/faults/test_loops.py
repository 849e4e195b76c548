"""A manager outlives its event loops, one after the other, whose tasks are cancelled in their calls."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, SystemEventRepository
from iftb_store.testing import raw
from tests.faults.rounds import rounds
from tests.faults.tally import PATIENCE, Tally

FAULT = "loop closed"

pytestmark = pytest.mark.timeout(14_400)


def test_a_manager_continues_in_the_next_loop_and_loses_nothing(url: str, tally: Tally) -> None:
    chance = random.Random(20_240_412)
    acknowledged, cut_off = set[str](), set[str]()
    db = DatabaseManager(url, pool_size=2, max_overflow=1)

    async def log(name: str) -> None:
        await SystemEventRepository(db).log_event("tick", "info", name)
        acknowledged.add(name)

    async def one_loop(number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            # asyncio.run cancels what is not done when the loop ends
            left = [asyncio.create_task(log(f"{number} left {task}")) for task in range(chance.randint(0, 4))]
            cut_off.update(f"{number} left {task}" for task in range(len(left)))
            await asyncio.gather(*(log(f"{number} whole {task}") for task in range(2)))
            for task in left:
                if task.done():
                    with suppress(OperationalError):
                        await task

    async def start() -> None:
        await db.connect()
        await db.create_tables()

    asyncio.run(start())
    for number in range(rounds(FAULT)):
        with tally.round():
            asyncio.run(one_loop(number))
    stored = [message for (message,) in asyncio.run(raw.fetch(db, "SELECT message FROM system_events"))]
    asyncio.run(db.disconnect())
    for name in acknowledged - set(stored):
        tally.note("lost", name)
    if len(stored) > len(set(stored)) or not set(stored) <= acknowledged | cut_off:
        tally.note("duplicated", "rows are stored twice, or were never written")
