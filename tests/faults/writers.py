"""Concurrent writers: linked sessions, and a counter that each of them increments."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection

from sqlalchemy import text

from iftb_store import DatabaseManager, SystemEventRepository
from iftb_store.testing import raw
from tests.faults import linked

_RAISE = text("UPDATE system_events SET position_id = position_id + 1 WHERE event_type = 'counter'")


async def begin_count(db: DatabaseManager) -> None:
    """Create the counter."""
    await SystemEventRepository(db).log_event("counter", "info", "", position_id=0)


async def counted(db: DatabaseManager) -> int:
    """Return the counter's value."""
    return int(await raw.value(db, "SELECT position_id FROM system_events WHERE event_type = 'counter'"))


async def write_all(db: DatabaseManager, numbers: range) -> None:
    """Write one linked session for each number, each of which increments the counter."""
    for number in numbers:
        async with db.get_session() as session:
            await session.execute(_RAISE)
            await linked.write(session, number)


async def write_side_by_side(db: DatabaseManager, numbers: range, tasks: int) -> None:
    """Let so many tasks write concurrently, each its share of the numbers."""
    await asyncio.gather(*(write_all(db, numbers[index::tasks]) for index in range(tasks)))


def process(url: str, numbers: range, tasks: int, outcome: Connection) -> None:
    """A child: open the database, write, and send None or the error."""

    async def work() -> None:
        async with DatabaseManager(url) as db:
            await write_side_by_side(db, numbers, tasks)

    try:
        asyncio.run(work())
    except BaseException as error:
        # the parent process reports it
        outcome.send(repr(error))
    else:
        outcome.send(None)


def reader(url: str, begun: Connection) -> None:
    """A child: open the database, read, send the result, and keep the database open until a message arrives."""

    async def work() -> None:
        async with DatabaseManager(url) as db:
            begun.send(await counted(db))
            await asyncio.to_thread(begun.recv)

    asyncio.run(work())
