"""Concurrent writers: linked sessions, and a counter that each of them increments."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from multiprocessing.connection import Connection

from sqlalchemy import text

from iftb_store import DatabaseManager, FillRepository, SystemEventRepository, TradeRepository
from iftb_store.testing import raw
from iftb_store.testing.samples import fill, trade
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


async def open_trade(url: str) -> None:
    """Create the tables and store the trade whose fills `book` records."""
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await TradeRepository(db).insert(trade())


async def count_booked(url: str) -> tuple[int, Decimal]:
    """Return how many fills are stored, and how many are applied by the fees of the trade; each fee is 1."""
    async with DatabaseManager(url) as db:
        found = await TradeRepository(db).get_by_trade_id("TRD-001")
        assert found is not None
        assert found.fee == found.quantity
        return await raw.count(db, "fills"), found.fee


def book(url: str, numbers: range, tasks: int, outcome: Connection) -> None:
    """A child: record and apply a fill for each number, half of the tasks in one session, and send None or the error."""

    async def record(db: DatabaseManager, part: range, together: bool) -> None:
        for number in part:
            bought = fill(f"F-{number}", quantity=Decimal(1), fee=Decimal(1), trade_id="TRD-001")
            if together:
                async with db.get_session() as session:
                    await FillRepository(session).record(bought)
                    await TradeRepository(session).apply_fills("TRD-001")
            else:
                await FillRepository(db).record(bought)
                await TradeRepository(db).apply_fills("TRD-001")

    async def work() -> None:
        async with DatabaseManager(url) as db:
            await asyncio.gather(*(record(db, numbers[index::tasks], index % 2 == 0) for index in range(tasks)))

    try:
        asyncio.run(work())
    except BaseException as error:
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
