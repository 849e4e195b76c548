"""PostgreSQL is lost, full or silent: an OperationalError in time, no acknowledged commit lost or duplicated."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import CommitOutcomeUnknown, DatabaseManager
from iftb_store.testing import raw
from tests.faults import linked
from tests.faults.rounds import rounds
from tests.faults.server import MAX_CONNECTIONS, Server, running
from tests.faults.tally import Tally

_TASKS = 8
# committed sessions between two faults, so that each falls into running work
_BETWEEN = 40

pytestmark = pytest.mark.timeout(14_400)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def engine() -> str:
    return "postgresql"


class Load:
    """Tasks that write linked sessions, each with another number, until they are stopped."""

    def __init__(self, db: DatabaseManager, tally: Tally) -> None:
        self._db = db
        self._tally = tally
        self._numbers = count()
        self._progress = asyncio.Event()
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        self.reachable = asyncio.Event()
        self.reachable.set()

    async def write(self, again: bool) -> None:
        """Write sessions, half of the tasks with db.run; after an error wait until the database is reachable."""
        for number in self._numbers:
            try:
                if again:
                    await self._db.run(partial(linked.write, number=number), retries=20)
                else:
                    async with self._db.get_session() as session:
                        await linked.write(session, number)
            except CommitOutcomeUnknown:
                # stored completely or not at all
                await self.reachable.wait()
            except OperationalError:
                self.refused.add(number)
                await self.reachable.wait()
            else:
                self.acknowledged.add(number)
                self._progress.set()

    async def more(self, sessions: int) -> None:
        """Wait until so many more sessions are committed."""
        target = len(self.acknowledged) + sessions
        while len(self.acknowledged) < target:
            self._progress.clear()
            await self._progress.wait()


@asynccontextmanager
async def load(url: str, tally: Tally) -> AsyncIterator[Load]:
    """Run tasks for the duration of a block; then compare what was acknowledged with what is stored."""
    async with DatabaseManager(url) as db:
        await db.create_tables()
        work = Load(db, tally)
        tasks = [asyncio.create_task(work.write(again=bool(index % 2))) for index in range(_TASKS)]
        try:
            yield work
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if not isinstance(error, asyncio.CancelledError):
                tally.note("lost", "a task ended with " + "".join(traceback.format_exception(error)))
        linked.judge(tally, await linked.found(db), work.acknowledged, work.refused)
        assert work.refused, "no blow fell into running work"
        assert db.in_use == 0


@pytest.mark.parametrize("fault", ["server killed"])
async def test_a_server_killed_under_load_loses_nothing_and_the_pool_recovers(server: Server, tally: Tally) -> None:
    async with load(server.url, tally) as work:
        for _ in range(rounds("server killed")):
            async with tally.bounded():
                await work.more(_BETWEEN)
                work.reachable.clear()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                work.reachable.set()
                await work.more(_BETWEEN)


@pytest.mark.parametrize("fault", ["backends terminated"])
async def test_terminated_backends_lose_nothing_and_the_pool_recovers(postgres_url: str, tally: Tally) -> None:
    administrator = await asyncpg.connect(postgres_url)
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'iftb-store'"
    )
    async with load(postgres_url, tally) as work:
        for _ in range(rounds("backends terminated")):
            async with tally.bounded():
                await work.more(_BETWEEN)
                await administrator.execute(terminate)
    await administrator.close()


@pytest.mark.parametrize("fault", ["server silent"])
async def test_a_server_that_accepts_and_never_answers_is_an_error_in_time(tally: Tally) -> None:
    async with await asyncio.start_server(_say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        for _ in range(rounds("server silent")):
            async with tally.bounded():
                await refused(f"postgresql://bot@127.0.0.1:{port}/bot?connect_timeout=50ms", "did not answer in time")


@pytest.mark.parametrize("fault", ["server stopped"])
async def test_a_server_that_stops_answering_is_an_error_in_time_and_the_pool_recovers(server: Server, tally: Tally) -> None:
    first, kept = 20_000_000, 20_001_000
    async with DatabaseManager(with_options(server.url, statement_timeout="1s")) as db:
        await db.create_tables()
        for number in range(rounds("server stopped")):
            async with tally.bounded():
                await write_while_stopped(db, first + number)
                await linked.write(db, kept + number)
                assert db.in_use == 0
        stored = await linked.found(db, first)
    linked.judge(tally, stored, range(kept, kept + tally.rounds), range(first, first + tally.rounds))


@pytest.mark.parametrize("fault", ["connection refused"])
async def test_a_refused_connection_is_an_error_that_names_the_server(tally: Tally) -> None:
    with socket.socket() as nobody:
        # bound, but nobody listens
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        for _ in range(rounds("connection refused")):
            async with tally.bounded():
                await refused(f"postgresql://bot@127.0.0.1:{port}/bot", rf"cannot connect to PostgreSQL at 127.0.0.1:{port}")


@pytest.mark.parametrize("fault", ["server full"])
async def test_a_server_that_is_full_is_an_error_and_the_pool_recovers(server: Server, tally: Tally) -> None:
    async with DatabaseManager(server.url, pool_size=1) as db:
        await db.create_tables()
        for number in range(10_000_000, 10_000_000 + rounds("server full")):
            async with tally.bounded():
                async with AsyncExitStack() as full:
                    await fill(server.url, full)
                    await refused(server.url, "no connection left")
                    held = await full.enter_async_context(db.get_session())
                    await linked.write(held, number)
                    with pytest.raises(OperationalError, match="no connection left"):
                        await raw.fetch(db, "SELECT 1")
                await asyncio.gather(*(raw.fetch(db, "SELECT 1") for _ in range(4)))
        linked.judge(tally, await linked.found(db, 10_000_000), set(range(10_000_000, 10_000_000 + tally.rounds)))


async def fill(url: str, full: AsyncExitStack) -> None:
    """Take every connection that the server has left, until it refuses one."""
    for _ in range(MAX_CONNECTIONS):
        try:
            connection = await asyncpg.connect(url)
        except asyncpg.TooManyConnectionsError:
            return
        full.push_async_callback(connection.close)
    pytest.fail("the server took more connections than it has")


async def write_while_stopped(db: DatabaseManager, number: int) -> None:
    """Stop the session's backend process during the session, like a host that hangs, until the session has failed."""
    stopped: list[int] = []

    async def hang() -> None:
        async with db.get_session() as session:
            await linked.write(session, number)
            stopped.append((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())
            os.kill(stopped[0], signal.SIGSTOP)
            await session.execute(text("SELECT 1"))

    try:
        with pytest.raises(OperationalError):
            await hang()
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


async def refused(url: str, message: str) -> None:
    with pytest.raises(OperationalError, match=message):
        await DatabaseManager(url).connect()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def with_options(url: str, **options: str) -> str:
    return make_url(url).update_query_dict(options).render_as_string(hide_password=False)
