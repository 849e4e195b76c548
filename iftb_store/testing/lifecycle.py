"""The manager's life: connecting, disconnecting, a database without tables, and no password shown."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError

from iftb_store import (
    DatabaseManager,
    NotConnectedError,
    OHLCVRepository,
    PositionRepository,
    SchemaError,
    StoreError,
    SystemEventRepository,
    TradeRepository,
    Unsupported,
)
from iftb_store.protocols import Capability
from iftb_store.schema import VERSION_TABLE
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, interrupted, lacks, needs
from iftb_store.testing.samples import bar, position, trade

_PASSWORD = "s3cr3t-pass"  # noqa: S105 - what must not be shown


class ConnectTests(SuiteFixtures):
    """connect and disconnect."""

    async def test_connect_needs_no_tables(self, empty_db: DatabaseManager) -> None:
        assert await raw.value(empty_db, "SELECT 1") == 1

    async def test_connecting_twice_is_harmless(self, db: DatabaseManager) -> None:
        await db.connect()
        await TradeRepository(db).insert(trade())
        assert await raw.count(db, "trades") == 1

    async def test_disconnecting_twice_is_harmless(self, url: str) -> None:
        manager = DatabaseManager(url)
        await manager.connect()
        await manager.disconnect()
        await manager.disconnect()
        with pytest.raises(NotConnectedError):
            manager.get_session()

    async def test_disconnecting_before_connecting_is_harmless(self, url: str) -> None:
        manager = DatabaseManager(url)
        await manager.disconnect()
        await manager.connect()
        assert await raw.value(manager, "SELECT 1") == 1
        await manager.disconnect()

    async def test_a_session_before_connect_is_an_error_that_says_so(self, url: str) -> None:
        with pytest.raises(NotConnectedError, match="connect"):
            DatabaseManager(url).get_session()

    async def test_a_repository_of_an_unconnected_manager_is_an_error_that_says_so(self, url: str) -> None:
        with pytest.raises(NotConnectedError, match="connect"):
            await TradeRepository(DatabaseManager(url)).get_recent()

    async def test_the_engine_before_connect_is_an_error_that_says_so(self, url: str) -> None:
        with pytest.raises(NotConnectedError, match="connect"):
            _ = DatabaseManager(url).engine

    async def test_migrating_before_connect_is_an_error_that_says_so(self, url: str) -> None:
        with pytest.raises(NotConnectedError, match="connect"):
            await DatabaseManager(url).migrate()
        with pytest.raises(NotConnectedError, match="connect"):
            await DatabaseManager(url).create_tables()

    async def test_a_manager_can_connect_again_and_finds_its_data(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade())
        await db.disconnect()
        await db.connect()
        assert await raw.count(db, "trades") == 1

    async def test_another_manager_finds_the_data_after_the_first_is_gone(self, url: str) -> None:
        async with DatabaseManager(url) as first:
            await self.make_tables(first)
            await TradeRepository(first).insert(trade())
        async with DatabaseManager(url) as second:
            assert await raw.count(second, "trades") == 1

    async def test_an_async_with_block_disconnects_also_on_an_exception(self, url: str) -> None:
        manager = DatabaseManager(url)
        with pytest.raises(ZeroDivisionError):
            async with manager:
                raise ZeroDivisionError
        with pytest.raises(NotConnectedError):
            manager.get_session()

    async def test_a_failed_statement_leaves_the_manager_connected(self, db: DatabaseManager) -> None:
        async with interrupted(db) as session:
            await session.execute(text("SELECT 1"))
        assert await raw.value(db, "SELECT 1") == 1

    async def test_no_password_is_shown(self, url: str) -> None:
        with_password = make_url(url).set(username="bot", password=_PASSWORD).render_as_string(hide_password=False)
        try:
            shown = repr(DatabaseManager(with_password))
        except StoreError as error:
            shown = f"{error} {error.__cause__}"
        assert _PASSWORD not in shown


class SchemaTests(SuiteFixtures):
    """create_tables, migrate, and a database without tables."""

    async def test_reading_bars_without_tables_names_the_command(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        with pytest.raises(SchemaError, match="migrate"):
            await OHLCVRepository(empty_db).get_latest("BTCUSDT", "1h")

    async def test_writing_bars_without_tables_names_the_command(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        with pytest.raises(SchemaError, match="migrate"):
            await OHLCVRepository(empty_db).insert_many([bar()])
        with pytest.raises(SchemaError, match="migrate"):
            await OHLCVRepository(empty_db).upsert_many([bar()])
        with pytest.raises(SchemaError, match="migrate"):
            await OHLCVRepository(empty_db).get_gaps("BTCUSDT", "1h")

    async def test_trades_positions_and_events_without_tables_name_the_command(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        with pytest.raises(SchemaError, match="migrate"):
            await TradeRepository(empty_db).insert(trade())
        with pytest.raises(SchemaError, match="migrate"):
            await TradeRepository(empty_db).get_statistics()
        with pytest.raises(SchemaError, match="migrate"):
            await PositionRepository(empty_db).update_position(position())
        with pytest.raises(SchemaError, match="migrate"):
            await SystemEventRepository(empty_db).log_event("x", "info", "m")

    async def test_after_that_error_the_tables_can_be_made_and_used(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        with pytest.raises(SchemaError):
            await TradeRepository(empty_db).insert(trade())
        await self.migrate(empty_db)
        await TradeRepository(empty_db).insert(trade())
        assert await raw.count(empty_db, "trades") == 1

    async def test_migrate_makes_the_tables(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        await self.migrate(empty_db)
        await OHLCVRepository(empty_db).insert_many([bar()])
        assert await raw.count(empty_db, "ohlcv") == 1

    async def test_migrating_twice_keeps_the_data(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        await self.migrate(empty_db)
        await TradeRepository(empty_db).insert(trade())
        await self.migrate(empty_db)
        assert await raw.count(empty_db, "trades") == 1

    async def test_creating_tables_twice_keeps_the_data(self, db: DatabaseManager) -> None:
        needs(db, Capability.MIGRATIONS)
        await TradeRepository(db).insert(trade())
        await self.make_tables(db)
        assert await raw.count(db, "trades") == 1

    async def test_created_tables_are_at_the_newest_revision(self, db: DatabaseManager) -> None:
        needs(db, Capability.MIGRATIONS)
        created = await raw.fetch(db, f"SELECT version_num FROM {VERSION_TABLE}")
        await self.migrate(db)
        assert await raw.fetch(db, f"SELECT version_num FROM {VERSION_TABLE}") == created
        assert len(created) == 1

    async def test_without_migrations_migrating_is_unsupported(self, empty_db: DatabaseManager) -> None:
        lacks(empty_db, Capability.MIGRATIONS)
        with pytest.raises(Unsupported, match="migrations"):
            await empty_db.migrate()
        with pytest.raises(Unsupported, match="migrations"):
            await empty_db.create_tables()

    async def test_the_database_refuses_a_second_bar_of_one_key_from_raw_sql(self, db: DatabaseManager) -> None:
        needs(db, Capability.BAR_KEY)
        await OHLCVRepository(db).insert_many([bar()])
        columns = "exchange, symbol, timeframe, timestamp, open, high, low, close, volume"
        with pytest.raises(IntegrityError):
            await raw.run(db, f"INSERT INTO ohlcv ({columns}) SELECT {columns} FROM ohlcv")
        assert await raw.count(db, "ohlcv") == 1


class LifecycleTests(ConnectTests, SchemaTests):
    """Everything about the manager's life and the schema."""
