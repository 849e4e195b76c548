"""Tasks are cancelled at random awaits in every repository method: no partial write, no connection left checked out."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

import iftb_store
from iftb_store import DatabaseManager, SystemEventRepository
from iftb_store.testing import raw
from tests.faults.cancelling import CASES, Cancelled, Case, state
from tests.faults.rounds import rounds
from tests.faults.tally import Tally

FAULT = "task cancelled"

# turns of the event loop between an await and its cancellation; the driver's answer may have arrived by then
_TURNS = 4

Way = Callable[[DatabaseManager, Case, str, int], Coroutine[Any, Any, None]]


@pytest.fixture
async def db(url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(url) as manager:
        await manager.create_tables()
        yield manager


def methods() -> set[str]:
    """Return every public method of the repositories."""
    repositories = (getattr(iftb_store, name) for name in iftb_store.__all__ if name.endswith("Repository"))
    return {
        f"{repository.__name__}.{name}"
        for repository in repositories
        for name, _ in inspect.getmembers(repository, inspect.isfunction)
        if not name.startswith("_")
    }


def test_every_repository_method_has_a_case() -> None:
    assert set(CASES) == methods()


async def separately(db: DatabaseManager, case: Case, name: str, number: int) -> None:
    """Make the call on the manager, in a separate transaction."""
    await case.call(db, name, number)


async def within(db: DatabaseManager, case: Case, name: str, number: int) -> None:
    """Make the call as the second one of a session."""
    async with db.get_session() as session:
        await SystemEventRepository(session).log_event("first", "info", "", symbol=name)
        await case.call(session, name, number)


@pytest.mark.one_of_each
@pytest.mark.timeout(14_400)
async def test_a_cancelled_call_is_whole_or_absent_and_gives_its_connection_back(db: DatabaseManager, tally: Tally) -> None:
    chance = random.Random(20_240_315)
    plans = [(case, way, name) for name, case in CASES.items() for way in (separately, within)]
    measured: list[tuple[int, Any, Any]] = []
    for index, (case, way, _) in enumerate(plans):
        number, before = await prepared(db, case, f"M{index}")
        work = Cancelled(way(db, case, f"M{index}", number))
        await asyncio.create_task(work)
        measured.append((work.awaits, before, await everything(db, f"M{index}")))
    for index in range(rounds(FAULT)):
        which = index % len(plans)
        (case, way, method), (awaits, before, after) = plans[which], measured[which]
        symbol = f"C{index}"
        async with tally.bounded():
            number, _ = await prepared(db, case, symbol)
            at = chance.randint(1, awaits)
            task = asyncio.create_task(Cancelled(way(db, case, symbol, number), at, chance.randrange(_TURNS)))
            try:
                await task
                allowed = [after]
            except asyncio.CancelledError:
                allowed = [before, after]
            if await everything(db, symbol) not in allowed:
                tally.note("lost", f"{method} {way.__name__}, cancelled at await {at} of {awaits}, is half written")
            if db.in_use:
                tally.note("lost", f"{method} {way.__name__}, cancelled at await {at} of {awaits}, kept a connection")


@pytest.mark.timeout(14_400)
async def test_a_session_that_caught_a_cancellation_commits_all_or_raises(db: DatabaseManager, tally: Tally) -> None:
    chance = random.Random(20_240_316)
    names = sorted(CASES)
    measured: list[tuple[int, Any, Any]] = []
    for index, name in enumerate(names):
        symbol = f"M{index}"
        number, before = await prepared(db, CASES[name], symbol)
        async with db.get_session() as session:
            work = Cancelled(make_call(CASES[name], session, symbol, number))
            await asyncio.create_task(work)
        measured.append((work.awaits, before[0], (await everything(db, symbol))[0]))
    for index in range(rounds(FAULT)):
        which = index % len(names)
        case, (awaits, before, after) = CASES[names[which]], measured[which]
        symbol, at = f"C{index}", chance.randint(1, max(awaits, 1))
        async with tally.bounded():
            number, _ = await prepared(db, case, symbol)
            outcome = await cancel_and_continue(db, case, symbol, number, at, chance.randrange(_TURNS))
            stored, events = await everything(db, symbol)
            if outcome == "raised" and (stored, events) != (before, []):
                tally.note("lost", f"{names[which]}: the session raised and kept a part, cancelled at {at} of {awaits}")
            if outcome != "raised" and ("first" not in events or stored not in (before, after)):
                tally.note("lost", f"{names[which]}: a clean exit lost a write, cancelled at {at} of {awaits}")
            if outcome == "finished" and stored != after:
                tally.note("lost", f"{names[which]}: a call that ended is not whole, cancelled at {at} of {awaits}")
            if db.in_use:
                tally.note("lost", f"{names[which]}: kept a connection, cancelled at {at} of {awaits}")


async def cancel_and_continue(db: DatabaseManager, case: Case, symbol: str, number: int, at: int, turns: int) -> str:
    """Cancel a call inside a session that continues; return whether it finished, was cancelled, or the exit raised."""
    outcome = "finished"
    try:
        async with db.get_session() as session:
            await SystemEventRepository(session).log_event("first", "info", "", symbol=symbol)
            try:
                await asyncio.create_task(Cancelled(make_call(case, session, symbol, number), at, turns))
            except asyncio.CancelledError:
                outcome = "cancelled"
    except OperationalError:
        return "raised"
    return outcome


async def make_call(case: Case, session: Any, symbol: str, number: int) -> None:
    await case.call(session, symbol, number)


async def prepared(db: DatabaseManager, case: Case, symbol: str) -> tuple[int, Any]:
    """Create what a call needs; return its id and the stored rows."""
    number = await case.prepare(db, symbol) if case.prepare is not None else 0
    return number, await everything(db, symbol)


async def everything(db: DatabaseManager, symbol: str) -> tuple[Any, list[str]]:
    """Return a symbol's rows, and its events."""
    rows = await raw.fetch(db, "SELECT event_type FROM system_events WHERE symbol = :symbol ORDER BY id", symbol=symbol)
    return await state(db, symbol), [kind for (kind,) in rows]
