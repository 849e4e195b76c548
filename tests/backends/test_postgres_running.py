"""db.run on PostgreSQL: real conflicts and losses, caused by two sessions, by the server, and on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store import CommitOutcomeUnknown, DatabaseManager, Trade, TradeRepository, TransientError
from tests.support.wire import Wire, wire

_TERMINATE_OTHERS = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'to be lost'"


def trade(trade_id: str = "T-1") -> Trade:
    return Trade(trade_id, "BTCUSDT", "binance", "long", "open", Decimal(1), Decimal(1), datetime(2024, 1, 1, tzinfo=UTC))


async def record(session: Any) -> int:
    return await TradeRepository(session).record(trade())


@pytest.fixture
async def db(postgres_tables_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(postgres_tables_url) as manager:
        yield manager
        assert manager.in_use == 0


class WriteSkew:
    """Work that reads what its concurrent run writes and writes what that one reads; retries run without another."""

    def __init__(self) -> None:
        self.runs = 0
        self._meeting = asyncio.Barrier(2)

    async def __call__(self, session: Any) -> None:
        self.runs += 1
        name, meets = f"T-{self.runs}", self.runs <= 2
        await session.execute(text("SELECT sum(fee) FROM trades"))
        if meets:
            async with asyncio.timeout(60):
                await self._meeting.wait()
        await TradeRepository(session).insert(trade(name))


async def test_a_serialization_failure_is_a_transient_error(db: DatabaseManager) -> None:
    work = WriteSkew()
    runs = (db.run(work, isolation="serializable", retries=0) for _ in range(2))
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "TransientError"]
    (message,) = (str(outcome) for outcome in outcomes if outcome is not None)
    assert "serialization failure" in message


async def test_run_runs_again_after_a_serialization_failure(db: DatabaseManager) -> None:
    work = WriteSkew()
    await asyncio.gather(*(db.run(work, isolation="serializable") for _ in range(2)))
    assert (work.runs, len(await TradeRepository(db).get_recent())) == (3, 2)


async def test_run_runs_again_after_a_deadlock(db: DatabaseManager) -> None:
    numbers = [await TradeRepository(db).insert(trade(name)) for name in "ab"]
    meeting = asyncio.Barrier(2)
    runs = 0

    async def work(session: Any, first: int, second: int) -> None:
        nonlocal runs
        runs += 1
        met = meeting if runs <= 2 else asyncio.Barrier(1)
        await TradeRepository(session).update(first, exit_price=Decimal(first))
        async with asyncio.timeout(60):
            await met.wait()
        await TradeRepository(session).update(second, exit_price=Decimal(first))

    a, b = numbers
    await asyncio.gather(db.run(lambda session: work(session, a, b)), db.run(lambda session: work(session, b, a)))
    # the victim's next run may take its first row before the other session wakes up, which is a second deadlock
    assert runs >= 3
    assert len({found.exit_price for found in await TradeRepository(db).get_recent()}) == 1


async def test_run_runs_again_after_a_connection_lost_before_commit(postgres_url: str, db: DatabaseManager, admin: Any) -> None:
    runs = 0

    async def work(session: Any) -> int:
        nonlocal runs
        runs += 1
        number = await TradeRepository(session).insert(trade())
        if runs == 1:
            await admin.execute(_TERMINATE_OTHERS)
        return number

    async with DatabaseManager(f"{postgres_url}&application_name=to be lost") as losing:
        number = await losing.run(work)
        assert losing.in_use == 0
    assert (runs, [found.id for found in await TradeRepository(db).get_recent()]) == (2, [number])


@pytest.mark.parametrize(("moment", "stored"), [("before", 0), ("after", 1)])
async def test_a_connection_lost_during_commit_has_an_unknown_outcome_and_no_retry(
    postgres_url: str, db: DatabaseManager, moment: str, stored: int
) -> None:
    runs = 0

    async def work(session: Any) -> int:
        nonlocal runs
        runs += 1
        return await record(session)

    async with wire(postgres_url) as (passing, url), DatabaseManager(url) as losing:
        passing.drops_commits = moment
        with pytest.raises(CommitOutcomeUnknown, match="it is unknown whether the transaction is stored"):
            await losing.run(work)
        assert (passing.commits_dropped, runs, losing.in_use) == (1, 1, 0)
    assert len(await TradeRepository(db).get_recent()) == stored


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_idempotent_work_is_run_again_after_a_commit_of_unknown_outcome(
    postgres_url: str, db: DatabaseManager, moment: str
) -> None:
    async with wire(postgres_url) as (passing, url), DatabaseManager(url) as losing:
        passing.drops_commits = moment

        async def work(session: Any) -> int:
            if passing.commits_dropped:
                passing.drops_commits = None
            return await record(session)

        number = await losing.run(work, idempotent=True)
    assert [found.id for found in await TradeRepository(db).get_recent()] == [number]


def apps_session(db: DatabaseManager) -> AsyncSession:
    return AsyncSession(db.engine)


@pytest.mark.parametrize("opened", [DatabaseManager.get_session, apps_session])
async def test_a_commit_without_run_has_an_unknown_outcome_too(
    postgres_url: str, db: DatabaseManager, opened: Callable[[DatabaseManager], Any]
) -> None:
    async with wire(postgres_url) as (passing, url), DatabaseManager(url) as losing, opened(losing) as session:
        await record(session)
        passing.drops_commits = "after"
        with pytest.raises(CommitOutcomeUnknown):
            await session.commit()
        await session.rollback()
    assert len(await TradeRepository(db).get_recent()) == 1


async def test_run_waits_for_a_server_that_comes_back(postgres_url: str, db: DatabaseManager) -> None:
    async with wire(postgres_url) as (passing, url), DatabaseManager(url, pool_size=1, max_overflow=0) as losing:
        passing.turns_away = True
        with pytest.raises(TransientError, match="cannot connect"):
            await lose_the_connection(losing)
        running = asyncio.create_task(losing.run(record, retries=100))
        async with asyncio.timeout(60):
            await passing.turned_away.wait()
        passing.turns_away = False
        number = await running
    assert [found.id for found in await TradeRepository(db).get_recent()] == [number]


async def lose_the_connection(db: DatabaseManager) -> None:
    """Discard the pooled connection, so that the next session needs another."""
    async with db.get_session() as session:
        await session.execute(text("SELECT 1"))
        opened: Any = session
        await opened.invalidate()
    await db.ping()


async def test_a_ping_of_a_server_that_is_silent_ends_in_time(postgres_url: str) -> None:
    async with wire(postgres_url) as (passing, url), DatabaseManager(url) as losing:
        passing.is_silent = True
        with pytest.raises(OperationalError, match=r"did not answer within 0\.1 s"):
            await losing.ping(within=0.1)
        assert losing.in_use == 0
        passing.is_silent = False
        await losing.ping()


async def test_a_server_that_accepts_and_never_answers_fails_connect_in_time(postgres_url: str) -> None:
    async with wire(postgres_url, connect_timeout="100ms") as (passing, url):
        passing.is_silent = True
        with pytest.raises(TransientError, match="did not answer in time"):
            await DatabaseManager(url).connect()


async def test_a_statement_of_a_server_that_falls_silent_fails_in_time(postgres_url: str) -> None:
    async with wire(postgres_url, statement_timeout="250ms") as (passing, url), DatabaseManager(url) as losing:
        passing.is_silent = True
        with pytest.raises(TransientError, match="did not answer in time"):
            await losing.run(record, retries=0)
        assert losing.in_use == 0


async def test_a_write_given_up_on_a_silent_server_gives_its_connection_back_in_time(
    postgres_url: str, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iftb_store.relational.sessions._ROLLBACK_TIME", 0.1)
    async with wire(postgres_url) as (passing, url), DatabaseManager(url) as losing:
        await TradeRepository(losing).get_recent()
        with pytest.raises(TimeoutError):
            await insert_into_silence(losing, passing)
        assert losing.in_use == 0


async def insert_into_silence(db: DatabaseManager, passing: Wire) -> None:
    async with db.get_session() as session:
        await TradeRepository(session).insert(trade("a"))
        passing.is_silent = True
        await asyncio.wait_for(TradeRepository(session).insert(trade("b")), 0.1)


async def test_run_retries_if_another_statement_follows_a_caught_conflict(db: DatabaseManager) -> None:
    number = await TradeRepository(db).insert(trade())
    runs = 0

    async def work(session: Any) -> None:
        nonlocal runs
        runs += 1
        await TradeRepository(session).get_recent()
        if runs == 1:
            await TradeRepository(db).update(number, fee=Decimal(1))
        with suppress(TransientError):
            await session.execute(text("UPDATE trades SET fee = 2"))
        await TradeRepository(session).update(number, action="close")

    await db.run(work, isolation="serializable")
    assert (runs, [found.action for found in await TradeRepository(db).get_recent()]) == (2, ["close"])


async def test_the_health_of_a_locked_table_is_reported_in_time(postgres_url: str, db: DatabaseManager, admin: Any) -> None:
    async with DatabaseManager(f"{postgres_url}&statement_timeout=200ms") as asking, admin.transaction():
        await admin.execute("LOCK TABLE trades")
        async with asyncio.timeout(60):
            found = await asking.health()
    assert (found.reachable, found.healthy, found.problems) == (True, False, ["a lock was not granted in time"])
