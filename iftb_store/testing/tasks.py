"""Tests of tasks that share a session: their calls run one after the other, and the session commits every write that returned."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
    TransientError,
    Unsupported,
)
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, interrupted, needs
from iftb_store.testing.rows import add, change, read_names, read_value
from iftb_store.testing.samples import HOUR, T0, bar, hourly, position, trade

Call = Callable[[Any, int], Awaitable[object]]

#: The number of bars in a batch that takes several round trips to the engine.
_MANY = 2_500


async def insert_bar(session: Any, number: int) -> None:
    """Insert one bar, whose symbol contains ``number``."""
    await OHLCVRepository(session).insert_many([bar(symbol=f"S{number}")])


async def upsert_bars(session: Any, number: int) -> None:
    """Upsert many bars; the symbol of one bar contains ``number``, and the tests count only this bar."""
    await OHLCVRepository(session).upsert_many([bar(symbol=f"S{number}"), *hourly(_MANY, symbol="SHARED")])


async def insert_trade(session: Any, number: int) -> None:
    """Insert one trade, whose trade_id contains ``number``."""
    await TradeRepository(session).insert(trade(f"T{number}"))


async def open_position(session: Any, number: int) -> None:
    """Open one position, whose symbol contains ``number``."""
    await PositionRepository(session).update_position(position(symbol=f"S{number}"))


async def log_event(session: Any, number: int) -> None:
    """Log one event, whose message is ``number``."""
    await SystemEventRepository(session).log_event("tick", "info", f"{number}")


async def write_raw_sql(session: Any, number: int) -> None:
    """Insert a copy of the bar with the symbol "first" by raw SQL; the symbol of the copy contains ``number``."""
    sql = (
        'INSERT INTO ohlcv (exchange, symbol, timeframe, timestamp, "open", high, low, "close", volume) '
        'SELECT exchange, :name, timeframe, timestamp, "open", high, low, "close", volume FROM ohlcv '
        "WHERE symbol = 'first'"
    )
    await session.execute(text(sql), {"name": f"S{number}"})


async def read_stream(session: Any, number: int) -> None:
    """Read a stream of bars to its end, then insert one bar."""
    bars = OHLCVRepository(session).stream_range("STREAMED", "1h", T0, T0 + 9 * HOUR, batch_size=2)
    read = [item.timestamp async for batch in bars for item in batch]
    assert read == [T0 + hour * HOUR for hour in range(10)], "the stream lost or repeated bars"
    await insert_bar(session, number)


#: The calls that a task can make, and for each the query that counts the tasks whose writes are stored.
WORK: dict[str, tuple[Call, str]] = {
    "insert bars": (insert_bar, "SELECT count(*) FROM ohlcv WHERE symbol LIKE 'S_' OR symbol LIKE 'S__'"),
    "upsert bars": (upsert_bars, "SELECT count(*) FROM ohlcv WHERE symbol LIKE 'S_' OR symbol LIKE 'S__'"),
    "trades": (insert_trade, "SELECT count(*) FROM trades"),
    "positions": (open_position, "SELECT count(*) FROM positions"),
    "events": (log_event, "SELECT count(*) FROM system_events"),
    "raw SQL": (write_raw_sql, "SELECT count(*) FROM ohlcv WHERE symbol LIKE 'S_' OR symbol LIKE 'S__'"),
    "streams": (read_stream, "SELECT count(*) FROM ohlcv WHERE symbol LIKE 'S_' OR symbol LIKE 'S__'"),
}


#: What a backend must declare for a call of `WORK`; nothing for the others.
_NEEDED = {
    "trades": Capability.RECORDS,
    "positions": Capability.RECORDS,
    "events": Capability.RECORDS,
    "raw SQL": Capability.RAW_WRITES,
}


async def prepare(db: DatabaseManager, work: str = "streams") -> None:
    """Store the rows that the functions of `WORK` read; skip the test if the backend does not declare what ``work`` needs."""
    if work in _NEEDED:
        needs(db, _NEEDED[work])
    await OHLCVRepository(db).insert_many([bar(symbol="first"), *hourly(10, symbol="STREAMED")])


async def assert_unharmed(db: DatabaseManager) -> None:
    """Check that the manager still works: that it stores new writes."""
    names = [f"LATER{number}" for number in range(5)]
    for name in names:
        async with db.get_session() as session:
            await OHLCVRepository(session).upsert_many([bar(symbol=name)])
    assert await raw.value(db, "SELECT count(*) FROM ohlcv WHERE symbol LIKE 'LATER%'") == len(names)


class SharedSessionTests(SuiteFixtures):
    """Several tasks use one session, with asyncio.gather or task groups."""

    @pytest.mark.parametrize("tasks", [2, 5, 20])
    @pytest.mark.parametrize("work", WORK)
    async def test_tasks_of_one_session_are_all_stored(self, db: DatabaseManager, work: str, tasks: int) -> None:
        call, stored = WORK[work]
        await prepare(db, work)
        async with db.get_session() as session:
            await asyncio.gather(*(call(session, number) for number in range(tasks)))
        assert await raw.value(db, stored) == tasks
        await assert_unharmed(db)

    async def test_tasks_that_do_different_things_in_one_session_are_all_stored(self, db: DatabaseManager) -> None:
        await prepare(db)
        works = [work for work in WORK if work not in _NEEDED or _NEEDED[work] in db.capabilities]
        async with db.get_session() as session, asyncio.TaskGroup() as group:
            for number, work in enumerate(works):
                group.create_task(WORK[work][0](session, number))  # type: ignore[arg-type]
        counts = {work: await raw.value(db, WORK[work][1]) for work in works}
        bars = 4 if "raw SQL" in works else 3
        assert counts == {work: 1 if _NEEDED.get(work) is Capability.RECORDS else bars for work in works}

    async def test_reads_between_the_writes_of_other_tasks_are_right(self, db: DatabaseManager) -> None:
        await add(db)
        async with db.get_session() as session:
            found = await asyncio.gather(
                *(read_value(session) if turn % 2 else change(session, "ROW", turn) for turn in range(20))
            )
        states = [Decimal("100.5"), *map(Decimal, range(0, 20, 2))]
        seen = [states.index(value) for value in found[1::2] if value is not None]
        assert (len(seen), seen) == (10, sorted(seen)), "a read must show a value that was written, and never an older one later"

    async def test_rows_of_an_sqlalchemy_stream_come_whole_beside_writes(self, db: DatabaseManager) -> None:
        needs(db, Capability.SQLALCHEMY)
        await OHLCVRepository(db).insert_many(hourly(200))

        async def read(session: Any) -> list[Any]:
            rows = await session.stream(text("SELECT volume FROM ohlcv WHERE symbol = 'BTCUSDT' ORDER BY timestamp"))
            return [row async for row in rows]

        async with db.get_session() as session:
            await insert_bar(session, 0)
            reading = [asyncio.create_task(read(session)) for _ in range(2)]
            await asyncio.gather(*reading, *(insert_bar(session, number) for number in range(1, 10)))
        assert [len(task.result()) for task in reading] == [200, 200]
        assert await raw.count(db, "ohlcv") == 210

    @pytest.mark.parametrize("work", ["insert bars", "upsert bars", "trades", "raw SQL", "streams"])
    @pytest.mark.parametrize("turns", [0, 1, 3, 10])
    async def test_one_of_the_tasks_is_cancelled(self, db: DatabaseManager, work: str, turns: int) -> None:
        call, stored = WORK[work]
        await prepare(db, work)
        returned: list[int] = []

        async def run(session: Any, number: int) -> None:
            with suppress(OperationalError):
                await call(session, number)
                returned.append(number)

        committed = False
        with suppress(OperationalError):
            async with db.get_session() as session:
                tasks = [asyncio.create_task(run(session, number)) for number in range(5)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                tasks[2].cancel()
                await asyncio.wait(tasks)
            committed = True
        count = await raw.value(db, stored)
        assert count == 0 or committed, "the session failed, but some of its writes are stored"
        # the cancelled call is stored completely or not at all
        assert not committed or count in (len(returned), len(returned) + 1), "the stored writes are not the writes that returned"
        await assert_unharmed(db)

    @pytest.mark.parametrize("work", WORK)
    @pytest.mark.parametrize("turns", [0, 1, 5])
    async def test_a_task_that_outlives_its_session_is_stored_or_refused(
        self, db: DatabaseManager, work: str, turns: int
    ) -> None:
        call, stored = WORK[work]
        await prepare(db, work)
        async with db.get_session() as session:
            tasks = [asyncio.ensure_future(call(session, number)) for number in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error for error in ended if isinstance(error, BaseException) and not isinstance(error, OperationalError)] == []
        assert await raw.value(db, stored) == len([result for result in ended if result is None])
        await assert_unharmed(db)

    async def test_a_task_that_outlives_a_session_that_failed_never_returns_as_if_stored(self, db: DatabaseManager) -> None:
        await prepare(db)
        async with interrupted(db) as session:
            task = asyncio.ensure_future(upsert_bars(session, 1))
            await asyncio.sleep(0)
        with pytest.raises(OperationalError):
            await task
        assert await raw.value(db, WORK["upsert bars"][1]) == 0
        await assert_unharmed(db)

    async def test_a_task_refused_by_its_ended_session_gets_the_reason(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await insert_bar(session, 1)
        with pytest.raises(OperationalError, match="session is closed"):
            await insert_bar(session, 2)
        assert await raw.count(db, "ohlcv") == 1

    async def test_tasks_of_a_session_in_run_are_all_stored(self, db: DatabaseManager) -> None:
        async def work(session: Any) -> None:
            await asyncio.gather(*(insert_bar(session, number) for number in range(5)))

        await db.run(work)
        assert await raw.count(db, "ohlcv") == 5

    @pytest.mark.parametrize("sql", ["COMMIT", " -- now\n rollback", "/* so */ Begin", "END", "; commit", "rollback -- to start"])
    async def test_raw_sql_cannot_end_a_sessions_transaction(self, db: DatabaseManager, sql: str) -> None:
        async with db.get_session() as session:
            await insert_bar(session, 1)
            with pytest.raises(Unsupported, match=r"session|statement"):
                await session.execute(text(sql))
            await insert_bar(session, 2)
        assert await raw.count(db, "ohlcv") == 2


class OwnLockTests(SuiteFixtures):
    """A task with uncommitted writes in one session writes in another session; this write is stored or fails at once."""

    async def test_a_write_past_the_tasks_own_session_fails_at_once_or_is_stored(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await insert_bar(session, 1)
            if Capability.PARALLEL_WRITERS in db.capabilities:
                await insert_bar(db, 3)
            else:
                with pytest.raises(OperationalError, match="this task has a session open") as caught:
                    await insert_bar(db, 3)
                # after a TransientError, db.run would wait and retry in vain
                assert not isinstance(caught.value, TransientError)
            await insert_bar(session, 2)
        assert await read_names(db) == ["S1", "S2", *(["S3"] if Capability.PARALLEL_WRITERS in db.capabilities else [])]

    async def test_a_second_session_and_run_report_the_same(self, db: DatabaseManager, url: str) -> None:
        if Capability.PARALLEL_WRITERS in db.capabilities:
            pytest.skip("PARALLEL_WRITERS is declared")

        async def work(session: Any) -> None:
            await insert_bar(session, 2)

        async with DatabaseManager(url) as other, db.get_session() as session:
            await insert_bar(session, 1)
            for manager in (db, other):
                with pytest.raises(OperationalError, match="this task has a session open"):
                    await manager.run(work)
        await db.run(work)
        assert await read_names(db) == ["S1", "S2"]

    async def test_after_its_commit_a_session_blocks_no_other(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await insert_bar(session, 1)
            await session.commit()
            await insert_bar(db, 2)
        assert await raw.count(db, "ohlcv") == 2

    async def test_a_reading_session_blocks_no_other(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await read_names(session)
            await insert_bar(db, 1)
        assert await raw.count(db, "ohlcv") == 1


class DeadlockTests(SuiteFixtures):
    """A deadlock of two sessions, on engines that allow one, never stores half a session."""

    @pytest.mark.parametrize("way", ["repository", "raw SQL"])
    async def test_a_caught_deadlock_never_commits_half_a_session(self, db: DatabaseManager, way: str) -> None:
        if way == "raw SQL":
            needs(db, Capability.RAW_WRITES)
        names = ["a", "b"]
        for name in names:
            await add(db, name)
        both = asyncio.Barrier(2)

        async def update(session: Any, name: str, writer: int) -> None:
            if way == "repository":
                await change(session, name, writer)
            else:
                row = {"name": name, "count": writer}
                await session.execute(text("UPDATE ohlcv SET trades_count = :count WHERE symbol = :name"), row)

        async def touch(order: list[str], writer: int) -> bool:
            try:
                async with db.get_session() as session:
                    await add(session, f"W{writer}")
                    await update(session, order[0], writer)
                    with suppress(TimeoutError, asyncio.BrokenBarrierError):
                        # on an engine with one writer at a time, the second session cannot write until the first ends
                        async with asyncio.timeout(0.5):
                            await both.wait()
                    with suppress(OperationalError):
                        await update(session, order[1], writer)
            except OperationalError:
                return False
            return True

        ended = await asyncio.gather(touch(names, 2), touch(names[::-1], 3))
        written = {name for name in await read_names(db) if name.startswith("W")}
        assert written == {f"W{writer}" for writer, whole in zip((2, 3), ended, strict=True) if whole}
        assert any(ended), "neither session was stored"


class TaskTests(SharedSessionTests, OwnLockTests, DeadlockTests):
    """All tests of tasks that share a session."""
