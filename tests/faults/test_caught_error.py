"""No silent loss: after any caught error, a session's clean exit commits all or raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from iftb_store import DatabaseManager
from tests.faults import linked
from tests.faults.rounds import rounds
from tests.faults.tally import Tally

FAULT = "caught error"

pytestmark = pytest.mark.timeout(7_200)

# statements that run for seconds, or until they are interrupted
_LONG = {
    "postgresql": "SELECT 1 FROM pg_sleep(30)",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000000) SELECT count(*) FROM n",
    "duckdb": "SELECT count(*) FROM range(100000) a, range(100000) b WHERE a.range * b.range % 7 = 3",
}
_OWN_PROCESS = "SELECT pg_backend_pid()"


@pytest.fixture
async def db(url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(url) as manager:
        await manager.create_tables()
        yield manager


async def wrong_sql(db: DatabaseManager, session: Any, engine: str) -> None:
    await session.execute(text("SELECT no_such_column FROM trades"))


async def refused_write(db: DatabaseManager, session: Any, engine: str) -> None:
    await session.execute(text("INSERT INTO trades (trade_id) VALUES (NULL)"))


async def timeout_of_a_read(db: DatabaseManager, session: Any, engine: str) -> None:
    async with asyncio.timeout(0.02):
        await session.execute(text(_LONG[engine]))


async def timeout_of_a_write(db: DatabaseManager, session: Any, engine: str) -> None:
    async with asyncio.timeout(0.02):
        await session.execute(long_write(engine))


async def interrupted_read(db: DatabaseManager, session: Any, engine: str) -> None:
    await interrupted(db, session, engine, text(_LONG[engine]))


async def interrupted_write(db: DatabaseManager, session: Any, engine: str) -> None:
    await interrupted(db, session, engine, long_write(engine))


async def lost_connection(db: DatabaseManager, session: Any, engine: str) -> None:
    """End the connection under the session: the server does it, or else the driver's connection is closed."""
    if engine == "postgresql":
        pid = (await session.execute(text(_OWN_PROCESS))).scalar_one()
        async with db.get_session() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    elif engine == "sqlite":
        await (await driver_connection(session)).close()
    else:
        session._cursor.close()
    await session.execute(text("SELECT 1"))


async def interrupted(db: DatabaseManager, session: Any, engine: str, statement: Any) -> None:
    """Run a long statement and have the engine interrupt it, as an operator would."""
    if engine == "postgresql":
        pid = (await session.execute(text(_OWN_PROCESS))).scalar_one()

        async def interrupt() -> None:
            async with db.get_session() as other:
                await other.execute(text("SELECT pg_cancel_backend(:pid)"), {"pid": pid})

    elif engine == "sqlite":
        interrupt = (await driver_connection(session)).interrupt
    else:

        async def interrupt() -> None:
            session._cursor.interrupt()

    running = asyncio.create_task(session.execute(statement))
    while not running.done():
        # an interrupt before the statement runs does nothing
        await interrupt()
        await asyncio.wait([running], timeout=0.01)
    await running


async def driver_connection(session: Any) -> Any:
    return (await (await session.connection()).get_raw_connection()).driver_connection


def long_write(engine: str) -> Any:
    return text(f"UPDATE trades SET symbol = symbol WHERE ({_LONG[engine]}) > 0")


_KINDS = [
    wrong_sql,
    refused_write,
    timeout_of_a_read,
    timeout_of_a_write,
    interrupted_read,
    interrupted_write,
    lost_connection,
]


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
async def test_a_clean_exit_after_a_caught_error_commits_all_or_raises(
    db: DatabaseManager, engine: str, tally: Tally, kind: Callable[[DatabaseManager, Any, str], Awaitable[None]]
) -> None:
    acknowledged: set[int] = set()
    refused: set[int] = set()
    for number in range(1, 4 * rounds(FAULT), 4):
        async with tally.bounded():
            written = {number}
            try:
                async with db.get_session() as session:
                    await linked.write(session, number)
                    with pytest.raises((DBAPIError, TimeoutError)):
                        await kind(db, session, engine)
                    try:
                        await linked.write(session, number + 1)
                        written.add(number + 1)
                    except OperationalError:
                        pass
            except OperationalError:
                refused |= {number, number + 1}
            else:
                acknowledged |= written
            await linked.write(db, number + 2)
            acknowledged.add(number + 2)
            assert db.in_use == 0
    linked.judge(tally, await linked.found(db), acknowledged, refused)
