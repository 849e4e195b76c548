"""Tests of a manager's life cycle: connect, disconnect, databases without tables, and that no password is shown."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store import (
    DatabaseManager,
    InvalidValueError,
    NotConnectedError,
    OHLCVRepository,
    PositionRepository,
    SchemaError,
    StoreError,
    SystemEventRepository,
    TradeRepository,
    Unsupported,
    examine,
)
from iftb_store.abilities import (
    SupportsBackup,
    SupportsEncryption,
    SupportsMigrations,
    SupportsPoolStatus,
    SupportsStatus,
    SupportsWholeReads,
)
from iftb_store.protocols import Capability
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.testing import raw
from iftb_store.testing.fixtures import PASSWORD, SuiteFixtures, interrupted, lacks, needs, requires
from iftb_store.testing.rows import add, read_names
from iftb_store.testing.samples import HOUR, T0, bar, hourly, position, trade


class ConnectTests(SuiteFixtures):
    """connect and disconnect may be called again; calls on a manager that is not connected raise NotConnectedError."""

    async def test_connect_needs_no_tables(self, empty_db: DatabaseManager) -> None:
        assert await raw.value(empty_db, "SELECT 1") == 1

    async def test_connecting_twice_is_harmless(self, db: DatabaseManager) -> None:
        await db.connect()
        await add(db)
        assert await raw.count(db, "ohlcv") == 1

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
            await read_names(DatabaseManager(url))

    async def test_the_engine_before_connect_is_an_error_that_says_so(self, url: str) -> None:
        with pytest.raises(NotConnectedError, match="connect"):
            _ = DatabaseManager(url).engine

    async def test_migrating_before_connect_is_an_error_that_says_so(self, url: str) -> None:
        with pytest.raises(NotConnectedError, match="connect"):
            await DatabaseManager(url).migrate()
        with pytest.raises(NotConnectedError, match="connect"):
            await DatabaseManager(url).create_tables()

    @pytest.mark.parametrize("write", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickled", "copied", "copied deeply"])
    async def test_a_manager_cannot_be_pickled_or_copied(
        self, db: DatabaseManager, url: str, write: Callable[[object], object]
    ) -> None:
        for manager in (db, DatabaseManager(url)):
            with pytest.raises(StoreError, match=r"cannot be pickled or copied.*pass the URL to the other process"):
                write(manager)

    async def test_two_managers_of_one_database_have_one_identity(self, db: DatabaseManager, url: str) -> None:
        found = await db.identity()
        await add(db)
        async with DatabaseManager(make_url(url)) as other:
            assert (await other.identity() == found) == (await raw.count(other, "ohlcv") == 1)
        assert await db.identity() == found

    async def test_two_databases_have_two_identities(self, db: DatabaseManager, second_url: str) -> None:
        async with DatabaseManager(second_url) as other:
            await self.make_tables(other)
            found = [await db.identity(), await other.identity()]
        assert found[0] != found[1], (
            f"two databases must have different identities, or a copy treats them as the same database: both have {found[0]!r}"
        )

    async def test_the_identity_before_connect_is_an_error_that_says_so(self, url: str) -> None:
        with pytest.raises(NotConnectedError, match="connect"):
            await DatabaseManager(url).identity()

    async def test_a_manager_can_connect_again_and_finds_its_data(self, db: DatabaseManager) -> None:
        await add(db)
        await db.disconnect()
        await db.connect()
        assert await raw.count(db, "ohlcv") == 1

    async def test_another_manager_finds_the_data_after_the_first_is_gone(self, url: str) -> None:
        async with DatabaseManager(url) as first:
            await self.make_tables(first)
            await add(first)
        async with DatabaseManager(url) as second:
            assert await raw.count(second, "ohlcv") == 1

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
        with_password = make_url(url).set(username="bot", password=PASSWORD).render_as_string(hide_password=False)
        try:
            shown = repr(DatabaseManager(with_password))
        except StoreError as error:
            shown = f"{error} {error.__cause__}"
        assert PASSWORD not in shown


# each test gets this mark itself: a mark on the class would apply to all tests of the suite that inherits from the class
_LEAVES_OPEN = pytest.mark.usefixtures("leaves_sessions_open")


class DisconnectTests(SuiteFixtures):
    """disconnect waits for open sessions, then closes them."""

    @_LEAVES_OPEN
    async def test_disconnect_waits_for_a_session_in_use_and_refuses_new_ones(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await add(session)
            leaving = asyncio.create_task(db.disconnect())
            await asyncio.sleep(0)
            with pytest.raises(NotConnectedError):
                db.get_session()
            for name in ("a", "b", "c"):
                await add(session, name)
            assert not leaving.done()
        await leaving
        await db.connect()
        assert await raw.count(db, "ohlcv") == 4

    @_LEAVES_OPEN
    async def test_a_session_open_too_long_is_rolled_back_and_its_later_use_says_so(self, db: DatabaseManager) -> None:
        async def disconnect_in_the_middle() -> None:
            async with db.get_session() as session:
                await add(session)
                await db.disconnect(grace=0)
                with pytest.raises(OperationalError, match="disconnected while this session was open"):
                    await read_names(session)
                with pytest.raises(OperationalError, match="disconnected while this session was open"):
                    await session.execute(text("SELECT 1"))

        with pytest.raises(OperationalError, match="disconnected while this session was open"):
            await disconnect_in_the_middle()
        await db.connect()
        assert (await raw.count(db, "ohlcv"), db.in_use) == (0, 0)

    @_LEAVES_OPEN
    async def test_a_session_without_a_statement_is_closed_too(self, db: DatabaseManager) -> None:
        with suppress(OperationalError):
            async with db.get_session() as session:
                await db.disconnect(grace=0)
                with pytest.raises(OperationalError, match="disconnected while this session was open"):
                    await session.execute(text("SELECT 1"))
        await db.connect()
        assert db.in_use == 0

    @_LEAVES_OPEN
    async def test_a_running_statement_is_interrupted(self, db: DatabaseManager) -> None:
        writing = asyncio.create_task(OHLCVRepository(db).insert_many(hourly(20_000)))
        await wait_until(lambda: bool(db.in_use))
        await db.disconnect(grace=0)
        with pytest.raises(OperationalError):
            await writing
        await db.connect()
        assert (await raw.count(db, "ohlcv"), db.in_use) == (0, 0)

    @_LEAVES_OPEN
    async def test_a_write_that_waits_for_another_managers_is_interrupted(self, db: DatabaseManager, url: str) -> None:
        async with DatabaseManager(url) as other, db.get_session() as session:
            await add(session)
            # both bars have the same key, so that the write also waits on engines with concurrent writers
            writing = asyncio.create_task(add(other))
            await wait_until(lambda: bool(other.in_use))
            await other.disconnect(grace=0)
            with pytest.raises((OperationalError, NotConnectedError), match="connect"):
                await writing
            await add(session, "second")
        assert await raw.count(db, "ohlcv") == 2

    @_LEAVES_OPEN
    async def test_sessions_that_wait_for_a_place_are_closed_too(self, db: DatabaseManager, url: str) -> None:
        async with DatabaseManager(url, pool_size=1, max_overflow=0) as small:
            reading = [asyncio.create_task(small.run(_read_and_wait, retries=0)) for _ in range(4)]
            await wait_until(lambda: bool(small.in_use))
            await small.disconnect(grace=0)
            for task in reading:
                task.cancel()
            outcomes = await asyncio.gather(*reading, return_exceptions=True)
        assert all(isinstance(outcome, OperationalError | asyncio.CancelledError | NotConnectedError) for outcome in outcomes)
        assert small.in_use == 0

    @_LEAVES_OPEN
    async def test_a_session_that_waits_for_a_connection_gets_an_error_on_disconnect(self, db: DatabaseManager, url: str) -> None:
        ready, go = asyncio.Event(), asyncio.Event()

        async def read(session: Any) -> None:
            await session.execute(text("SELECT 1"))
            ready.set()
            await go.wait()

        async with DatabaseManager(url, pool_size=1, max_overflow=0) as small:
            holding = asyncio.create_task(small.run(read, retries=0))
            await ready.wait()
            waiting = asyncio.create_task(small.run(read, retries=0))
            await asyncio.sleep(0)
            await small.disconnect(grace=0)
            go.set()
            await asyncio.gather(holding, return_exceptions=True)
            with pytest.raises((OperationalError, NotConnectedError)):
                await waiting
        assert small.in_use == 0

    @_LEAVES_OPEN
    async def test_a_cancelled_disconnect_closes_at_once(self, db: DatabaseManager) -> None:
        with suppress(OperationalError):
            async with db.get_session() as session:
                await add(session)
                leaving = asyncio.create_task(db.disconnect(grace=3_600))
                await asyncio.sleep(0)
                leaving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await leaving
        await db.connect()
        assert (await raw.count(db, "ohlcv"), db.in_use) == (0, 0)

    @pytest.mark.parametrize("grace", [-1, float("nan"), float("inf"), True, "10"])
    @_LEAVES_OPEN
    async def test_a_grace_that_is_no_time_is_refused(self, db: DatabaseManager, grace: Any) -> None:
        with pytest.raises(InvalidValueError, match="grace"):
            await db.disconnect(grace=grace)
        assert await raw.value(db, "SELECT 1") == 1


async def wait_until(happened: Callable[[], bool]) -> None:
    """Let the other tasks run until the function ``happened`` returns True."""
    async with asyncio.timeout(60):
        while not happened():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


async def _read_and_wait(session: Any) -> None:
    await session.execute(text("SELECT 1"))
    await asyncio.Event().wait()


class SchemaTests(SuiteFixtures):
    """create_tables and migrate create the schema; calls on a database without tables raise SchemaError."""

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

    @requires(Capability.RECORDS)
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
            await add(empty_db)
        await self.migrate(empty_db)
        await add(empty_db)
        assert await raw.count(empty_db, "ohlcv") == 1

    async def test_migrate_makes_the_tables(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        await self.migrate(empty_db)
        await OHLCVRepository(empty_db).insert_many([bar()])
        assert await raw.count(empty_db, "ohlcv") == 1

    async def test_migrating_twice_keeps_the_data(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        await self.migrate(empty_db)
        await add(empty_db)
        await self.migrate(empty_db)
        assert await raw.count(empty_db, "ohlcv") == 1

    async def test_creating_tables_twice_keeps_the_data(self, db: DatabaseManager) -> None:
        needs(db, Capability.MIGRATIONS)
        await add(db)
        await self.make_tables(db)
        assert await raw.count(db, "ohlcv") == 1

    async def test_created_tables_are_at_the_newest_revision(self, db: DatabaseManager) -> None:
        needs(db, Capability.MIGRATIONS)
        created = await raw.fetch(db, f"SELECT version_num FROM {VERSION_TABLE}")
        await self.migrate(db)
        assert await raw.fetch(db, f"SELECT version_num FROM {VERSION_TABLE}") == created
        assert len(created) == 1

    async def test_without_migrations_migrating_is_unsupported(self, empty_db: DatabaseManager) -> None:
        lacks(empty_db, Capability.MIGRATIONS)
        for call in (empty_db.migrate, empty_db.create_tables):
            with pytest.raises(Unsupported, match="does not support migrations; it creates its tables by itself"):
                await call()

    async def test_an_ability_is_supported_or_refused_with_the_remedy(self, db: DatabaseManager) -> None:
        declared = {SupportsMigrations: Capability.MIGRATIONS, SupportsBackup: Capability.BACKUP}
        for ability in (*declared, SupportsStatus, SupportsEncryption, SupportsPoolStatus, SupportsWholeReads):
            refusal = ""
            try:
                assert isinstance(db.ability(ability), ability)
            except Unsupported as error:
                refusal = str(error)
            assert re.fullmatch("|the backend of .+ does not support .+; .+", refusal), "the error must say what to use instead"
            if ability in declared:
                assert bool(refusal) != (declared[ability] in db.capabilities)

    async def test_without_migrations_the_status_counts_series_and_bars(self, db: DatabaseManager) -> None:
        lacks(db, Capability.MIGRATIONS)
        await OHLCVRepository(db).insert_many([*hourly(3), bar(symbol="ETHUSDT")])
        found = await db.status()
        assert (found.series, found.tables["ohlcv"], found.revision, found.state) == (2, 4, None, "no revisions")
        health = await db.health()
        assert (health.healthy, health.writable, health.problems) == (True, True, [])
        assert await raw.count(db, "ohlcv") == 4, "a health check must store and delete nothing"

    async def test_the_doctor_reports_tables_that_must_be_created(self, empty_db: DatabaseManager) -> None:
        needs(empty_db, Capability.MIGRATIONS)
        (finding,) = await examine(empty_db)
        assert (finding.severity, finding.kind) == ("error", "schema")
        assert f"`iftb-store migrate {shlex.quote(empty_db.url)}`" in finding.remedy

    async def test_the_doctor_finds_wrong_bars(self, db: DatabaseManager) -> None:
        sound = [bar(T0 + number * HOUR, symbol="SOUND") for number in range(3)]
        await OHLCVRepository(db).insert_many([*sound, bar(T0, symbol="ODD"), bar(T0 + 1.5 * HOUR, symbol="ODD")])
        found = {(finding.kind, finding.where, finding.count) for finding in await examine(db) if finding.table == "ohlcv"}
        assert found == {("off the grid", "binance ODD 1h", 1), ("holes", "binance ODD 1h", 1)}

    async def test_the_database_refuses_a_second_bar_of_one_key_from_raw_sql(self, db: DatabaseManager) -> None:
        needs(db, Capability.BAR_KEY)
        needs(db, Capability.RAW_WRITES)
        await OHLCVRepository(db).insert_many([bar()])
        columns = 'exchange, symbol, timeframe, timestamp, "open", high, low, "close", volume'
        with pytest.raises(IntegrityError):
            await raw.run(db, f"INSERT INTO ohlcv ({columns}) SELECT {columns} FROM ohlcv")
        assert await raw.count(db, "ohlcv") == 1


class LifecycleTests(ConnectTests, DisconnectTests, SchemaTests):
    """All tests of the manager's life cycle and the schema."""
