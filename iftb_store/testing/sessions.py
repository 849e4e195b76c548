"""Tests of sessions: commit, rollback, cancellation, caught errors, raw SQL, and the manager in place of a session."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session as SyncSession

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
    Unsupported,
)
from iftb_store.testing import raw
from iftb_store.testing.bars import stored
from iftb_store.testing.fixtures import SuiteFixtures, interrupted
from iftb_store.testing.positions import opened
from iftb_store.testing.samples import HOUR, T0, bar, hourly, position, trade

_REPOSITORIES = [OHLCVRepository, TradeRepository, PositionRepository, SystemEventRepository]


async def write_everywhere(session: object) -> None:
    """Write one row to each table."""
    await OHLCVRepository(session).insert_many([bar()])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await TradeRepository(session).insert(trade())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await PositionRepository(session).update_position(position())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await SystemEventRepository(session).log_event("x", "info", "m")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def counts(db: DatabaseManager) -> list[int]:
    """Return the number of committed rows of each table."""
    return [await raw.count(db, table) for table in ("ohlcv", "trades", "positions", "system_events")]


class TransactionTests(SuiteFixtures):
    """get_session commits on a clean exit, and rolls back on an exception or a cancellation."""

    async def test_a_clean_exit_commits(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await write_everywhere(session)
        assert await counts(db) == [1, 1, 1, 1]

    async def test_an_exception_rolls_everything_back(self, db: DatabaseManager) -> None:
        async with interrupted(db) as session:
            await write_everywhere(session)
        left = await counts(db)
        assert left == [0, 0, 0, 0], f"an exception in a session must roll back everything that it wrote; rows are left: {left}"

    async def test_an_error_of_iftb_store_that_leaves_the_session_rolls_back(self, db: DatabaseManager) -> None:
        async def insert_one_trade_twice() -> None:
            async with db.get_session() as session:
                await write_everywhere(session)
                await TradeRepository(session).insert(trade())

        with pytest.raises(IntegrityError):
            await insert_one_trade_twice()
        assert await counts(db) == [0, 0, 0, 0]

    async def test_an_exception_undoes_updates_and_closes(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(trade())
        open_position = await opened(db)
        async with interrupted(db) as session:
            await TradeRepository(session).update(number, fee=Decimal(7))
            await PositionRepository(session).close_position(open_position.id or 0)
        assert raw.number(await raw.value(db, "SELECT fee FROM trades")) == Decimal(0)
        assert await raw.value(db, "SELECT status FROM positions") == "open"

    async def test_cancellation_rolls_back_and_leaves_the_manager_usable(self, db: DatabaseManager) -> None:
        written = asyncio.Event()

        async def write_and_wait() -> None:
            async with db.get_session() as session:
                await write_everywhere(session)
                written.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(write_and_wait())
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await counts(db) == [0, 0, 0, 0]
        await TradeRepository(db).insert(trade())

    @pytest.mark.parametrize("turns", [1, 3, 10, 30])
    async def test_a_batch_cancelled_on_its_way_is_stored_whole_or_not_at_all(self, db: DatabaseManager, turns: int) -> None:
        task = asyncio.create_task(OHLCVRepository(db).insert_many(hourly(5_000)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert await raw.count(db, "ohlcv") in (0, 5_000)
        await OHLCVRepository(db).upsert_many(hourly(5_000))
        assert await raw.count(db, "ohlcv") == 5_000

    async def test_a_session_reads_its_own_writes(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await write_everywhere(session)
            assert len(await OHLCVRepository(session).get_latest("BTCUSDT", "1h")) == 1
            assert len(await TradeRepository(session).get_recent()) == 1
            assert len(await PositionRepository(session).get_open_positions()) == 1
            assert len(await SystemEventRepository(session).get_recent_events()) == 1

    async def test_commit_makes_earlier_writes_durable_and_the_session_continues(self, db: DatabaseManager) -> None:
        async with interrupted(db) as session:
            await TradeRepository(session).insert(trade("kept"))
            await session.commit()
            await TradeRepository(session).insert(trade("lost"))
        assert await raw.fetch(db, "SELECT trade_id FROM trades") == [("kept",)]

    async def test_rollback_undoes_earlier_writes_and_the_session_continues(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await TradeRepository(session).insert(trade("lost"))
            await session.rollback()
            await TradeRepository(session).insert(trade("kept"))
        assert await raw.fetch(db, "SELECT trade_id FROM trades") == [("kept",)]

    async def test_a_session_without_statements_is_harmless(self, db: DatabaseManager) -> None:
        async with db.get_session():
            pass
        assert await counts(db) == [0, 0, 0, 0]

    async def test_one_session_after_the_other_sees_what_was_written(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            number = await TradeRepository(session).insert(trade())
        async with db.get_session() as session:
            assert await TradeRepository(session).get_by_id(number) is not None


class CaughtErrorTests(SuiteFixtures):
    """After a caught IntegrityError the session is usable; after any other caught error, a clean exit commits or raises."""

    async def test_after_a_caught_duplicate_bar_earlier_and_later_writes_commit(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            await repository.insert_many([bar(T0 + HOUR)])
            with pytest.raises(IntegrityError):
                await repository.insert_many([bar(T0 + 2 * HOUR), bar()])
            await repository.insert_many([bar(T0 + 3 * HOUR)])
        assert [item.timestamp for item in await stored(db)] == [T0, T0 + HOUR, T0 + 3 * HOUR]

    async def test_a_duplicate_caught_as_the_sessions_first_call_leaves_it_usable(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        async with db.get_session() as session:
            with pytest.raises(IntegrityError):
                await OHLCVRepository(session).insert_many([bar(T0 + HOUR), bar()])
            await OHLCVRepository(session).insert_many([bar(T0 + 2 * HOUR)])
        assert [item.timestamp for item in await stored(db)] == [T0, T0 + 2 * HOUR]

    async def test_after_a_caught_duplicate_trade_earlier_and_later_writes_commit(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = TradeRepository(session)
            await repository.insert(trade("a"))
            with pytest.raises(IntegrityError):
                await repository.insert(trade("a"))
            await repository.insert(trade("b"))
        assert await raw.fetch(db, "SELECT trade_id FROM trades ORDER BY trade_id") == [("a",), ("b",)]

    async def test_after_a_caught_second_open_position_earlier_writes_commit(self, db: DatabaseManager) -> None:
        short = await opened(db, position(side="short"))
        async with db.get_session() as session:
            repository = PositionRepository(session)
            await repository.update_position(position())
            with pytest.raises(IntegrityError):
                await repository.update_position(replace(short, side="long"))
            await repository.update_position(position(margin=Decimal(7)))
        assert sorted(item.margin for item in await PositionRepository(db).get_open_positions()) == [Decimal(7), Decimal(100)]

    async def test_many_caught_duplicates_in_a_row_are_harmless(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            for name in ("a", "a", "a", "b", "b"):
                with suppress(IntegrityError):
                    await TradeRepository(session).insert(trade(name))
        assert await raw.count(db, "trades") == 2

    async def test_errors_of_the_library_leave_the_session_usable(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await TradeRepository(session).insert(trade())
            with pytest.raises(LookupError):
                await TradeRepository(session).update(987_654, fee=Decimal(1))
            with pytest.raises(LookupError):
                await PositionRepository(session).close_position(987_654)
        assert await raw.count(db, "trades") == 1

    async def test_a_caught_error_of_raw_sql_never_loses_writes_silently(self, db: DatabaseManager) -> None:
        outcome: type[Exception] | None = None
        try:
            async with db.get_session() as session:
                await TradeRepository(session).insert(trade())
                with pytest.raises(SQLAlchemyError):
                    await session.execute(text("SELECT no_such_column FROM trades"))
        except OperationalError:
            outcome = OperationalError
        assert (outcome, await raw.count(db, "trades")) in ((None, 1), (OperationalError, 0))

    async def test_a_caught_integrity_error_of_raw_sql_never_loses_writes_silently(self, db: DatabaseManager) -> None:
        outcome: type[Exception] | None = None
        try:
            async with db.get_session() as session:
                await PositionRepository(session).update_position(position())
                with pytest.raises(IntegrityError):
                    await session.execute(text("INSERT INTO trades (trade_id) VALUES (NULL)"))
        except OperationalError:
            outcome = OperationalError
        assert (outcome, await raw.count(db, "positions")) in ((None, 1), (OperationalError, 0))

    async def test_after_a_lost_transaction_the_manager_still_works(self, db: DatabaseManager) -> None:
        with suppress(OperationalError):
            async with db.get_session() as session:
                with suppress(SQLAlchemyError):
                    await session.execute(text("SELECT no_such_column FROM trades"))
        await TradeRepository(db).insert(trade())
        assert await raw.count(db, "trades") == 1

    async def test_rollback_after_a_caught_error_of_raw_sql_gives_a_clean_exit(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            with pytest.raises(SQLAlchemyError):
                await session.execute(text("SELECT no_such_column FROM trades"))
            await session.rollback()
            await TradeRepository(session).insert(trade())
        assert await raw.count(db, "trades") == 1

    async def test_an_integrity_error_is_short_and_holds_no_parameters(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade(decision_reasons={"secret": "a very private reason"}))
        with pytest.raises(IntegrityError) as caught:
            await TradeRepository(db).insert(trade(decision_reasons={"secret": "a very private reason"}))
        assert "private" not in str(caught.value)
        assert len(str(caught.value)) < 600

    async def test_an_integrity_error_of_bars_is_short_and_holds_no_parameters(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(volume=Decimal("987654.321"))])
        with pytest.raises(IntegrityError) as caught:
            await OHLCVRepository(db).insert_many([bar(volume=Decimal("987654.321"))])
        assert "987654" not in str(caught.value)
        assert len(str(caught.value)) < 600


class RawSQLTests(SuiteFixtures):
    """session.execute(text(…)) runs raw SQL; its result has the methods scalar, first, all and mappings."""

    async def test_a_statement_takes_named_parameters(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("a"))
        await TradeRepository(db).insert(trade("b'; --", symbol="ETHUSDT"))
        async with db.get_session() as session:
            sql = text("SELECT symbol FROM trades WHERE trade_id = :name AND side = :side")
            result = await session.execute(sql, {"name": "b'; --", "side": "long"})
            assert result.scalar() == "ETHUSDT"

    async def test_first_gives_a_row_or_none(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("a"))
        async with db.get_session() as session:
            row = (await session.execute(text("SELECT trade_id, side FROM trades"))).first()
            nothing = (await session.execute(text("SELECT trade_id FROM trades WHERE side = 'short'"))).first()
        assert row is not None
        assert (row[0], row.side) == ("a", "long")
        assert nothing is None

    async def test_scalar_of_no_row_is_none(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            assert (await session.execute(text("SELECT id FROM trades"))).scalar() is None

    async def test_all_gives_every_row_in_order(self, db: DatabaseManager) -> None:
        for name in ("b", "a", "c"):
            await TradeRepository(db).insert(trade(name))
        assert await raw.fetch(db, "SELECT trade_id FROM trades ORDER BY trade_id") == [("a",), ("b",), ("c",)]

    async def test_mappings_give_columns_by_name(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("a"))
        async with db.get_session() as session:
            result = await session.execute(text("SELECT trade_id, side AS direction FROM trades"))
            assert [dict(row) for row in result.mappings().all()] == [{"trade_id": "a", "direction": "long"}]

    async def test_raw_writes_commit_with_the_session(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("a"))
        async with db.get_session() as session:
            await session.execute(text("UPDATE trades SET symbol = :symbol"), {"symbol": "ETHUSDT"})
        assert await raw.fetch(db, "SELECT symbol FROM trades") == [("ETHUSDT",)]

    async def test_raw_writes_roll_back_with_the_session(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade("a"))
        async with interrupted(db) as session:
            await session.execute(text("DELETE FROM trades"))
        assert await raw.count(db, "trades") == 1

    async def test_a_broken_statement_is_an_error_of_sqlalchemy(self, db: DatabaseManager) -> None:
        with pytest.raises(SQLAlchemyError):
            await raw.fetch(db, "SELEKT 1")


class ManagerAsSessionTests(SuiteFixtures):
    """With a manager instead of a session, each call is one transaction; other objects are refused."""

    async def test_each_call_on_the_manager_commits_by_itself(self, db: DatabaseManager) -> None:
        await write_everywhere(db)
        assert await counts(db) == [1, 1, 1, 1]

    async def test_a_failed_call_on_the_manager_leaves_the_earlier_ones(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        await repository.insert(trade("a"))
        with pytest.raises(IntegrityError):
            await repository.insert(trade("a"))
        await repository.insert(trade("b"))
        assert await raw.count(db, "trades") == 2

    @pytest.mark.parametrize("repository", _REPOSITORIES)
    async def test_what_is_no_session_is_refused(self, db: DatabaseManager, repository: type[TradeRepository]) -> None:
        with pytest.raises(Unsupported, match="get_session"):
            repository("sqlite:///file.db")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize("repository", _REPOSITORIES)
    async def test_a_synchronous_session_is_refused(self, db: DatabaseManager, repository: type[TradeRepository]) -> None:
        with SyncSession(create_engine("sqlite://")) as session, pytest.raises(Unsupported):
            repository(session)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class SessionTests(TransactionTests, CaughtErrorTests, RawSQLTests, ManagerAsSessionTests):
    """All tests of one session at a time."""
