"""Tests of concurrent sessions and managers: which writes each of them sees, and that no write is lost."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, TradeRepository
from iftb_store.protocols import Capability
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.testing import raw
from iftb_store.testing.bars import stored
from iftb_store.testing.fixtures import SuiteFixtures, needs, requires
from iftb_store.testing.positions import opened
from iftb_store.testing.rows import add, change, read_names, read_value
from iftb_store.testing.samples import HOUR, T0, as_given, bar, hourly, position, trade


class IsolationTests(SuiteFixtures):
    """Sessions are isolated at least as with READ COMMITTED, and readers never wait."""

    async def test_uncommitted_writes_are_seen_by_nobody_else(self, db: DatabaseManager) -> None:
        async with db.get_session() as writer:
            await add(writer)
            async with db.get_session() as reader:
                assert await read_names(reader) == []
        assert len(await read_names(db)) == 1

    async def test_rolled_back_writes_are_never_seen(self, db: DatabaseManager) -> None:
        async with db.get_session() as reader, db.get_session() as writer:
            await add(writer)
            await writer.rollback()
            assert await read_names(reader) == []

    async def test_reads_before_the_first_write_see_the_last_committed_state(self, db: DatabaseManager) -> None:
        async with db.get_session() as reader:
            before = await read_names(reader)
            await add(db)
            after = await read_names(reader)
        assert (len(before), len(after)) == (0, 1)

    async def test_a_session_that_has_read_can_write_after_another_has_committed(self, db: DatabaseManager) -> None:
        for name in ("a", "b"):
            await add(db, name)
        async with db.get_session() as session:
            await read_names(session)
            await change(db, "a", 2)
            await change(session, "b", 7)
            found = [await read_value(session, name) for name in ("a", "b")]
        assert found == [Decimal(2), Decimal(7)]

    async def test_readers_do_not_wait_for_each_other_nor_for_a_writer(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        async with db.get_session() as writer, db.get_session() as first, db.get_session() as second:
            await OHLCVRepository(writer).upsert_many(hourly(3, volume=Decimal(7)))
            volumes = [
                (await OHLCVRepository(reader).get_latest("BTCUSDT", "1h", 1))[0].volume for reader in (first, second, first)
            ]
        assert volumes == [Decimal("100.5")] * 3

    async def test_two_sessions_hold_uncommitted_writes_at_the_same_time(self, db: DatabaseManager) -> None:
        needs(db, Capability.PARALLEL_WRITERS)
        async with db.get_session() as first, db.get_session() as second:
            await add(first, "a")
            await add(second, "b")
        assert await raw.count(db, "ohlcv") == 2


class ParallelTests(SuiteFixtures):
    """Tasks and managers that write concurrently wait for each other; no write fails or is lost."""

    @requires(Capability.RECORDS)
    async def test_trades_inserted_by_many_tasks_are_all_stored(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        ids = await asyncio.gather(*(repository.insert(trade(f"T{index}")) for index in range(25)))
        assert len(set(ids)) == 25
        assert await raw.count(db, "trades") == 25

    async def test_batches_inserted_by_many_tasks_are_all_stored(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        await asyncio.gather(*(repository.insert_many(hourly(300, symbol=f"S{index}")) for index in range(8)))
        assert await raw.count(db, "ohlcv") == 2_400

    async def test_one_key_inserted_by_many_tasks_is_stored_once(self, db: DatabaseManager) -> None:
        repository = OHLCVRepository(db)
        outcomes = await asyncio.gather(*(repository.insert_many(hourly(20)) for _ in range(6)), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IntegrityError"] * 5 + ["int"]
        assert await raw.count(db, "ohlcv") == 20

    @requires(Capability.RECORDS)
    async def test_one_trade_id_inserted_by_many_tasks_is_stored_once(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        outcomes = await asyncio.gather(*(repository.insert(trade()) for _ in range(6)), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IntegrityError"] * 5 + ["int"]

    async def test_writers_of_the_same_keys_in_opposite_order_do_not_deadlock(self, db: DatabaseManager) -> None:
        bars = hourly(400)
        repository = OHLCVRepository(db)
        await repository.insert_many(hourly(400, volume=Decimal(1)))
        await asyncio.gather(*(repository.upsert_many(batch) for batch in (bars, bars[::-1]) * 4))
        assert [as_given(item) for item in await stored(db)] == bars

    async def test_two_managers_of_one_database_write_and_read_each_others_bars(self, db: DatabaseManager, url: str) -> None:
        async with DatabaseManager(url) as other:
            await OHLCVRepository(db).insert_many([bar(T0)])
            await OHLCVRepository(other).insert_many([bar(T0 + HOUR)])
            assert len(await stored(db)) == len(await stored(other)) == 2

    async def test_two_managers_of_one_database_write_at_once(self, db: DatabaseManager, url: str) -> None:
        async with DatabaseManager(url) as other:
            managers = (db, other) * 6
            await asyncio.gather(*(add(manager, f"T{index}") for index, manager in enumerate(managers)))
            assert other.in_use == 0
        assert await raw.count(db, "ohlcv") == 12

    async def test_a_small_pool_serves_many_tasks(self, db: DatabaseManager, url: str) -> None:
        async with DatabaseManager(url, pool_size=1, max_overflow=0) as small:
            await asyncio.gather(*(add(small, f"T{index}") for index in range(10)))
        assert await raw.count(db, "ohlcv") == 10

    async def test_the_event_loop_turns_while_a_batch_is_written(self, db: DatabaseManager) -> None:
        turns = 0
        task = asyncio.create_task(OHLCVRepository(db).insert_many(hourly(5_000)))
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        await task
        assert turns >= 3

    @requires(Capability.RECORDS)
    async def test_a_position_closed_by_one_session_cannot_be_updated_by_another(self, db: DatabaseManager) -> None:
        await PositionRepository(db).update_position(position())
        found = await PositionRepository(db).get_position("BTCUSDT")
        assert found is not None
        async with db.get_session() as session:
            await PositionRepository(session).get_open_positions()
            await PositionRepository(db).close_position(found.id or 0)
            with pytest.raises(Exception, match="no longer open"):
                await PositionRepository(session).update_position(found)
        assert await raw.fetch(db, "SELECT status FROM positions") == [("closed",)]


class RaceTests(SuiteFixtures):
    """If two tasks make the same call concurrently, each gets the result that the contract specifies, and no deadlock occurs."""

    @requires(Capability.RECORDS)
    async def test_a_position_opened_by_two_tasks_at_once_is_open_once(self, db: DatabaseManager) -> None:
        repository = PositionRepository(db)
        await asyncio.gather(*(repository.update_position(position(margin=Decimal(number))) for number in (1, 2, 1, 2)))
        (found,) = await repository.get_open_positions()
        assert found.margin in (Decimal(1), Decimal(2))
        assert await raw.count(db, "positions") == 1

    @requires(Capability.RECORDS)
    async def test_a_position_opened_in_two_sessions_at_once_is_open_once(self, db: DatabaseManager) -> None:
        async def open_both(*sides: str) -> None:
            async def work(session: Any) -> None:
                for side in sides:
                    await PositionRepository(session).update_position(position(side=side))

            await db.run(work)

        await asyncio.gather(open_both("long", "short"), open_both("short", "long"), open_both("long"), open_both("short"))
        assert sorted(item.side for item in await PositionRepository(db).get_open_positions()) == ["long", "short"]

    @requires(Capability.RECORDS)
    async def test_a_position_closed_twice_at_once_is_closed_once(self, db: DatabaseManager) -> None:
        found = await opened(db)
        closings = (PositionRepository(db).close_position(found.id or 0) for _ in range(5))
        outcomes = await asyncio.gather(*closings, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType"] + ["PositionClosedError"] * 4

    @pytest.mark.parametrize("count", [200, 6_000])
    async def test_new_bars_inserted_in_opposite_orders_are_stored_once(self, db: DatabaseManager, count: int) -> None:
        bars = hourly(count)
        inserts = (OHLCVRepository(db).insert_many(batch) for batch in (bars, bars[::-1]))
        outcomes = await asyncio.gather(*inserts, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IntegrityError", "int"]
        assert await raw.count(db, "ohlcv") == count

    @pytest.mark.parametrize("count", [200, 1_000])
    async def test_new_bars_upserted_in_opposite_orders_are_stored_once(self, db: DatabaseManager, count: int) -> None:
        bars = hourly(count)
        await asyncio.gather(*(OHLCVRepository(db).upsert_many(batch) for batch in (bars, bars[::-1]) * 4))
        assert [as_given(item) for item in await stored(db)] == bars

    async def test_stored_bars_upserted_in_opposite_orders_have_one_writers_values(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(1_000))
        batches = [hourly(1_000, volume=Decimal(number)) for number in range(1, 7)]
        await asyncio.gather(
            *(OHLCVRepository(db).upsert_many(batch[:: 1 if index % 2 else -1]) for index, batch in enumerate(batches))
        )
        assert [as_given(item) for item in await stored(db)] in batches

    async def test_sessions_that_touch_rows_in_opposite_orders_all_commit_under_run(self, db: DatabaseManager) -> None:
        names = ["a", "b"]
        for name in names:
            await add(db, name)
            await change(db, name, 0)

        async def touch(order: list[str]) -> None:
            async def work(session: Any) -> None:
                # a write of another bar of the name, so that no other session reads the value before this one ends
                for name in order:
                    await OHLCVRepository(session).upsert_many([bar(T0 - HOUR, symbol=name)])
                for name in order:
                    await change(session, name, (await read_value(session, name) or Decimal(0)) + 1)

            await db.run(work, retries=50)

        await asyncio.gather(*(touch(names[:: 1 if index % 2 else -1]) for index in range(6)))
        assert [await read_value(db, name) for name in names] == [Decimal(6)] * 2

    async def test_a_database_migrated_by_several_managers_at_once_is_migrated_once(
        self, empty_db: DatabaseManager, url: str
    ) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        async with DatabaseManager(url) as second, DatabaseManager(url) as third:
            managers = (empty_db, second, third) * 2
            await asyncio.gather(*map(self.migrate, managers))
            assert await raw.count(third, VERSION_TABLE) == 1
        await add(empty_db)
        assert (await empty_db.status()).state == "current"


class ConcurrencyTests(IsolationTests, ParallelTests, RaceTests):
    """All tests of concurrent sessions."""
