"""Tests of sessions: commit, rollback, cancellation, caught errors, raw SQL, and the manager in place of a session."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

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
from iftb_store.protocols import Capability
from iftb_store.registry import get_backend
from iftb_store.testing import raw
from iftb_store.testing.bars import stored
from iftb_store.testing.fixtures import SuiteFixtures, interrupted, lacks, requires
from iftb_store.testing.positions import opened
from iftb_store.testing.rows import add, read_names
from iftb_store.testing.samples import HOUR, T0, bar, hourly, position, trade

_REPOSITORIES = [OHLCVRepository, TradeRepository, PositionRepository, SystemEventRepository]


async def write_everywhere(target: Any) -> None:
    """Write one row to each table that the backend of a session or a manager keeps."""
    await OHLCVRepository(target).insert_many([bar()])
    capabilities = target.capabilities if isinstance(target, DatabaseManager) else get_backend(target).capabilities
    if Capability.RECORDS in capabilities:
        await TradeRepository(target).insert(trade())
        await PositionRepository(target).update_position(position())
        await SystemEventRepository(target).log_event("x", "info", "m")


async def counts(db: DatabaseManager) -> list[int]:
    """Return the number of committed rows of each table that the backend keeps, bars first."""
    kept = ("ohlcv", *(("trades", "positions", "system_events") if Capability.RECORDS in db.capabilities else ()))
    return [await raw.count(db, table) for table in kept]


class TransactionTests(SuiteFixtures):
    """get_session commits on a clean exit, and rolls back on an exception or a cancellation."""

    async def test_a_clean_exit_commits(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await write_everywhere(session)
        assert {*await counts(db)} == {1}

    async def test_an_exception_rolls_everything_back(self, db: DatabaseManager) -> None:
        async with interrupted(db) as session:
            await write_everywhere(session)
        left = await counts(db)
        assert not any(left), f"an exception in a session must roll back everything that it wrote; rows are left: {left}"

    async def test_an_error_of_iftb_store_that_leaves_the_session_rolls_back(self, db: DatabaseManager) -> None:
        async def insert_one_bar_twice() -> None:
            async with db.get_session() as session:
                await write_everywhere(session)
                await OHLCVRepository(session).insert_many([bar()])

        with pytest.raises(IntegrityError):
            await insert_one_bar_twice()
        assert {*await counts(db)} == {0}

    @requires(Capability.RECORDS)
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
        assert {*await counts(db)} == {0}
        await add(db)

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
            if Capability.RECORDS in db.capabilities:
                assert len(await TradeRepository(session).get_recent()) == 1
                assert len(await PositionRepository(session).get_open_positions()) == 1
                assert len(await SystemEventRepository(session).get_recent_events()) == 1

    async def test_commit_makes_earlier_writes_durable_and_the_session_continues(self, db: DatabaseManager) -> None:
        async with interrupted(db) as session:
            await add(session, "kept")
            await session.commit()
            await add(session, "lost")
        assert await raw.fetch(db, "SELECT symbol FROM ohlcv") == [("kept",)]

    async def test_rollback_undoes_earlier_writes_and_the_session_continues(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await add(session, "lost")
            await session.rollback()
            await add(session, "kept")
        assert await raw.fetch(db, "SELECT symbol FROM ohlcv") == [("kept",)]

    async def test_a_session_without_statements_is_harmless(self, db: DatabaseManager) -> None:
        async with db.get_session():
            pass
        assert {*await counts(db)} == {0}

    async def test_one_session_after_the_other_sees_what_was_written(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await add(session)
        async with db.get_session() as session:
            assert await read_names(session) == ["ROW"]


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

    @requires(Capability.RECORDS)
    async def test_after_a_caught_duplicate_trade_earlier_and_later_writes_commit(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = TradeRepository(session)
            await repository.insert(trade("a"))
            with pytest.raises(IntegrityError):
                await repository.insert(trade("a"))
            await repository.insert(trade("b"))
        assert await raw.fetch(db, "SELECT trade_id FROM trades ORDER BY trade_id") == [("a",), ("b",)]

    @requires(Capability.RECORDS)
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
                    await add(session, name)
        assert await raw.count(db, "ohlcv") == 2

    @requires(Capability.RECORDS)
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
                await add(session)
                with pytest.raises(SQLAlchemyError):
                    await session.execute(text("SELECT no_such_column FROM ohlcv"))
        except OperationalError:
            outcome = OperationalError
        assert (outcome, await raw.count(db, "ohlcv")) in ((None, 1), (OperationalError, 0))

    @requires(Capability.RAW_WRITES)
    async def test_a_caught_integrity_error_of_raw_sql_never_loses_writes_silently(self, db: DatabaseManager) -> None:
        outcome: type[Exception] | None = None
        try:
            async with db.get_session() as session:
                await add(session)
                with pytest.raises(IntegrityError):
                    await session.execute(text("INSERT INTO ohlcv (symbol) VALUES (NULL)"))
        except OperationalError:
            outcome = OperationalError
        assert (outcome, await raw.count(db, "ohlcv")) in ((None, 1), (OperationalError, 0))

    async def test_after_a_lost_transaction_the_manager_still_works(self, db: DatabaseManager) -> None:
        with suppress(OperationalError):
            async with db.get_session() as session:
                with suppress(SQLAlchemyError):
                    await session.execute(text("SELECT no_such_column FROM ohlcv"))
        await add(db)
        assert await raw.count(db, "ohlcv") == 1

    async def test_rollback_after_a_caught_error_of_raw_sql_gives_a_clean_exit(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            with pytest.raises(SQLAlchemyError):
                await session.execute(text("SELECT no_such_column FROM ohlcv"))
            await session.rollback()
            await add(session)
        assert await raw.count(db, "ohlcv") == 1

    @requires(Capability.RECORDS)
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
        await add(db, "a")
        await OHLCVRepository(db).insert_many([bar(symbol="b'; --", exchange="kraken")])
        async with db.get_session() as session:
            sql = text("SELECT exchange FROM ohlcv WHERE symbol = :name AND timeframe = :timeframe")
            result = await session.execute(sql, {"name": "b'; --", "timeframe": "1h"})
            assert result.scalar() == "kraken"

    async def test_first_gives_a_row_or_none(self, db: DatabaseManager) -> None:
        await add(db, "a")
        async with db.get_session() as session:
            row = (await session.execute(text("SELECT symbol, timeframe FROM ohlcv"))).first()
            nothing = (await session.execute(text("SELECT symbol FROM ohlcv WHERE exchange = 'kraken'"))).first()
        assert row is not None
        assert (row[0], row.timeframe) == ("a", "1h")
        assert nothing is None

    async def test_scalar_of_no_row_is_none(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            assert (await session.execute(text("SELECT id FROM ohlcv"))).scalar() is None

    async def test_all_gives_every_row_in_order(self, db: DatabaseManager) -> None:
        for name in ("b", "a", "c"):
            await add(db, name)
        assert await raw.fetch(db, "SELECT symbol FROM ohlcv ORDER BY symbol") == [("a",), ("b",), ("c",)]

    async def test_mappings_give_columns_by_name(self, db: DatabaseManager) -> None:
        await add(db, "a")
        async with db.get_session() as session:
            result = await session.execute(text("SELECT symbol, timeframe AS step FROM ohlcv"))
            assert [dict(row) for row in result.mappings().all()] == [{"symbol": "a", "step": "1h"}]

    @requires(Capability.RAW_WRITES)
    async def test_raw_writes_commit_with_the_session(self, db: DatabaseManager) -> None:
        await add(db, "a")
        async with db.get_session() as session:
            await session.execute(text("UPDATE ohlcv SET symbol = :symbol"), {"symbol": "ETHUSDT"})
        assert await raw.fetch(db, "SELECT symbol FROM ohlcv") == [("ETHUSDT",)]

    @requires(Capability.RAW_WRITES)
    async def test_raw_writes_roll_back_with_the_session(self, db: DatabaseManager) -> None:
        await add(db, "a")
        async with interrupted(db) as session:
            await session.execute(text("DELETE FROM ohlcv"))
        assert await raw.count(db, "ohlcv") == 1

    async def test_raw_writes_that_are_not_declared_are_unsupported(self, db: DatabaseManager) -> None:
        lacks(db, Capability.RAW_WRITES)
        await add(db, "a")
        for sql in ("DELETE FROM ohlcv", "UPDATE ohlcv SET symbol = 'b'", "CREATE TABLE mine (id INTEGER)"):
            async with db.get_session() as session:
                with pytest.raises(Unsupported, match="PostgreSQL"):
                    await session.execute(text(sql))
        assert await read_names(db) == ["a"], "a raw write that is not declared must raise Unsupported and write nothing"

    async def test_a_broken_statement_is_an_error_of_sqlalchemy(self, db: DatabaseManager) -> None:
        with pytest.raises(SQLAlchemyError):
            await raw.fetch(db, "SELECT FROM WHERE")


class ManagerAsSessionTests(SuiteFixtures):
    """With a manager instead of a session, each call is one transaction; other objects are refused."""

    async def test_each_call_on_the_manager_commits_by_itself(self, db: DatabaseManager) -> None:
        await write_everywhere(db)
        assert {*await counts(db)} == {1}

    async def test_a_failed_call_on_the_manager_leaves_the_earlier_ones(self, db: DatabaseManager) -> None:
        await add(db, "a")
        with pytest.raises(IntegrityError):
            await add(db, "a")
        await add(db, "b")
        assert await read_names(db) == ["a", "b"]

    @pytest.mark.parametrize("repository", _REPOSITORIES[1:])
    async def test_a_repository_of_records_that_are_not_kept_is_unsupported(
        self, db: DatabaseManager, repository: type[TradeRepository]
    ) -> None:
        lacks(db, Capability.RECORDS)
        async with db.get_session() as session:
            for target in (db, session):
                with pytest.raises(Unsupported, match="keep those on PostgreSQL"):
                    repository(target)

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
