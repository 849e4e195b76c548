"""Tests with an app's own AsyncSession, for backends with the capability SQLALCHEMY; other backends raise Unsupported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
import pytest_asyncio
from sqlalchemy import make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
    Unsupported,
)
from iftb_store.protocols import Capability
from iftb_store.schema.tables import OHLCVRow, PositionRow, SystemEventRow, TradeRow
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, lacks, needs, requires
from iftb_store.testing.samples import HOUR, NOW, T0, bar, hourly, position, trade
from iftb_store.testing.sessions import counts, write_everywhere


def trade_row(trade_id: str) -> TradeRow:
    """Return a sample trade as an ORM object."""
    names = ("trade_id", "symbol", "exchange", "side", "action", "entry_price", "quantity", "entry_time", "leverage", "fee")
    return TradeRow(**{name: getattr(trade(trade_id), name) for name in names})


def bar_row() -> OHLCVRow:
    """Return the first sample bar as an ORM object."""
    names = ("symbol", "exchange", "timeframe", "timestamp", "open", "high", "low", "close", "volume")
    return OHLCVRow(**{name: getattr(bar(), name) for name in names})


class AppSessionTests(SuiteFixtures):
    """The repositories join the app's transaction, first flush the app's pending objects, and are rolled back with the app."""

    @pytest_asyncio.fixture
    async def app_engine(self, db: DatabaseManager, url: str) -> AsyncIterator[AsyncEngine]:
        """A plain SQLAlchemy engine on the same database, as an app creates it, without the hooks of iftb-store."""
        needs(db, Capability.SQLALCHEMY)
        dialect = db.engine.dialect
        engine = create_async_engine(make_url(url).set(drivername=f"{dialect.name}+{dialect.driver}"))
        yield engine
        await engine.dispose()

    @requires(Capability.RECORDS)
    async def test_what_the_app_commits_is_stored(self, db: DatabaseManager, app_engine: AsyncEngine) -> None:
        async with AsyncSession(app_engine) as session:
            await write_everywhere(session)
            await session.commit()
        assert await counts(db) == [1, 1, 1, 1]

    @requires(Capability.RECORDS)
    @pytest.mark.parametrize("tasks", [2, 20])
    async def test_calls_of_several_tasks_on_the_apps_session_queue(
        self, db: DatabaseManager, app_engine: AsyncEngine, tasks: int
    ) -> None:
        async with AsyncSession(app_engine) as session:
            await asyncio.gather(
                *(OHLCVRepository(session).upsert_many(hourly(400, symbol=f"S{number}")) for number in range(tasks)),
                *(TradeRepository(session).insert(trade(f"T{number}")) for number in range(tasks)),
            )
            await session.commit()
        assert await counts(db) == [400 * tasks, tasks, 0, 0]

    @requires(Capability.RECORDS)
    async def test_what_the_app_does_not_commit_is_not_stored(self, db: DatabaseManager, app_engine: AsyncEngine) -> None:
        async with AsyncSession(app_engine) as session:
            await write_everywhere(session)
        assert await counts(db) == [0, 0, 0, 0]

    @requires(Capability.RECORDS)
    async def test_nothing_is_seen_before_the_app_commits(self, db: DatabaseManager, app_engine: AsyncEngine) -> None:
        async with AsyncSession(app_engine) as session:
            await write_everywhere(session)
            assert await counts(db) == [0, 0, 0, 0]
            await session.commit()

    @requires(Capability.RECORDS)
    async def test_bars_as_the_sessions_first_call_roll_back_with_the_app(
        self, db: DatabaseManager, app_engine: AsyncEngine
    ) -> None:
        async with AsyncSession(app_engine) as session:
            await OHLCVRepository(session).insert_many(hourly(3))
            await session.rollback()
            await TradeRepository(session).insert(trade())
            await session.commit()
        assert await counts(db) == [0, 1, 0, 0]

    async def test_an_upsert_as_the_sessions_first_call_rolls_back_with_the_app(
        self, db: DatabaseManager, app_engine: AsyncEngine
    ) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        async with AsyncSession(app_engine) as session:
            await OHLCVRepository(session).upsert_many([bar(volume=Decimal(7)), bar(T0 + HOUR)])
            await session.rollback()
        ((volume,),) = await raw.fetch(db, "SELECT volume FROM ohlcv")
        assert raw.number(volume) == Decimal("100.5")

    @requires(Capability.RECORDS)
    async def test_a_begin_block_of_the_app_rolls_back_on_an_exception(
        self, db: DatabaseManager, app_engine: AsyncEngine
    ) -> None:
        async def write_and_fail() -> None:
            async with AsyncSession(app_engine) as session, session.begin():
                await write_everywhere(session)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await write_and_fail()
        assert await counts(db) == [0, 0, 0, 0]

    @requires(Capability.RECORDS)
    async def test_a_savepoint_of_the_app_rolls_back_only_itself(self, db: DatabaseManager, app_engine: AsyncEngine) -> None:
        async with AsyncSession(app_engine) as session, session.begin():
            await TradeRepository(session).insert(trade("kept"))
            savepoint = await session.begin_nested()
            await TradeRepository(session).insert(trade("lost"))
            await OHLCVRepository(session).insert_many([bar()])
            await savepoint.rollback()
        assert await counts(db) == [0, 1, 0, 0]

    @requires(Capability.RECORDS)
    async def test_pending_trades_of_the_app_are_flushed_before_a_read(
        self, db: DatabaseManager, app_engine: AsyncEngine
    ) -> None:
        async with AsyncSession(app_engine) as session:
            session.add(trade_row("pending"))
            assert [item.trade_id for item in await TradeRepository(session).get_recent()] == ["pending"]
            assert [item.trade_id for item in await TradeRepository(session).get_by_symbol("BTCUSDT")] == ["pending"]

    @requires(Capability.RECORDS)
    async def test_a_pending_trade_of_the_app_is_a_duplicate(self, db: DatabaseManager, app_engine: AsyncEngine) -> None:
        async with AsyncSession(app_engine) as session:
            session.add(trade_row("TRD-001"))
            with pytest.raises(IntegrityError):
                await TradeRepository(session).insert(trade("TRD-001"))
            await session.commit()
        assert await counts(db) == [0, 1, 0, 0]

    @requires(Capability.RECORDS)
    async def test_a_pending_bar_of_the_app_is_a_duplicate(self, db: DatabaseManager, app_engine: AsyncEngine) -> None:
        async with AsyncSession(app_engine) as session:
            session.add(bar_row())
            with pytest.raises(IntegrityError):
                await OHLCVRepository(session).insert_many([bar()])
            await session.commit()
        assert await counts(db) == [1, 0, 0, 0]

    async def test_a_pending_bar_of_the_app_is_read_and_upserted(self, db: DatabaseManager, app_engine: AsyncEngine) -> None:
        async with AsyncSession(app_engine) as session:
            session.add(bar_row())
            assert len(await OHLCVRepository(session).get_latest("BTCUSDT", "1h")) == 1
            await OHLCVRepository(session).upsert_many([bar(volume=Decimal(7))])
            await session.commit()
        ((volume,),) = await raw.fetch(db, "SELECT volume FROM ohlcv")
        assert raw.number(volume) == Decimal(7)

    @requires(Capability.RECORDS)
    async def test_pending_positions_and_events_of_the_app_are_flushed_before_a_read(
        self, db: DatabaseManager, app_engine: AsyncEngine
    ) -> None:
        given = position()
        names = ("symbol", "exchange", "side", "entry_price", "quantity", "margin", "entry_time", "status", "leverage")
        async with AsyncSession(app_engine) as session:
            session.add(PositionRow(**{name: getattr(given, name) for name in names}))
            session.add(SystemEventRow(event_type="x", severity="info", message="m", details={"at": NOW}))
            assert len(await PositionRepository(session).get_open_positions()) == 1
            (event,) = await SystemEventRepository(session).get_recent_events()
        assert event.details == {"at": NOW.isoformat()}

    @requires(Capability.RECORDS)
    async def test_the_app_reads_our_rows_through_the_orm(self, db: DatabaseManager, app_engine: AsyncEngine) -> None:
        await TradeRepository(db).insert(trade(decision_reasons={"a": [1, None]}))
        await OHLCVRepository(db).insert_many([bar()])
        async with AsyncSession(app_engine) as session:
            row = (await session.execute(select(TradeRow))).scalar_one()
            candle = (await session.execute(select(OHLCVRow))).scalar_one()
        assert (row.entry_price, row.entry_time, row.decision_reasons) == (Decimal("50000.25"), T0, {"a": [1, None]})
        assert (candle.close, candle.timestamp) == (Decimal("50500.4"), T0)

    @requires(Capability.RECORDS)
    async def test_after_a_caught_duplicate_the_apps_other_writes_commit(
        self, db: DatabaseManager, app_engine: AsyncEngine
    ) -> None:
        async with AsyncSession(app_engine) as session:
            session.add(trade_row("of the app"))
            await OHLCVRepository(session).insert_many([bar()])
            with pytest.raises(IntegrityError):
                await OHLCVRepository(session).insert_many([bar(T0 + HOUR), bar()])
            with pytest.raises(IntegrityError):
                await TradeRepository(session).insert(trade("of the app"))
            await session.commit()
        assert await counts(db) == [1, 1, 0, 0]

    @requires(Capability.RECORDS)
    async def test_a_duplicate_caught_as_the_first_call_leaves_the_apps_session_usable(
        self, db: DatabaseManager, app_engine: AsyncEngine
    ) -> None:
        await OHLCVRepository(db).insert_many([bar()])
        async with AsyncSession(app_engine) as session:
            with pytest.raises(IntegrityError):
                await OHLCVRepository(session).insert_many([bar(T0 + HOUR), bar()])
            session.add(trade_row("later"))
            await session.commit()
        assert await counts(db) == [1, 1, 0, 0]

    @requires(Capability.RECORDS)
    async def test_the_managers_own_session_is_an_async_session(self, db: DatabaseManager) -> None:
        needs(db, Capability.SQLALCHEMY)
        async with db.get_session() as session:
            assert isinstance(session, AsyncSession)
            session.add(trade_row("orm"))
            assert len(await TradeRepository(session).get_recent()) == 1
        assert await counts(db) == [0, 1, 0, 0]

    async def test_without_sqlalchemy_asking_for_the_engine_is_unsupported(self, db: DatabaseManager) -> None:
        lacks(db, Capability.SQLALCHEMY)
        with pytest.raises(Unsupported, match="engine"):
            _ = db.engine
