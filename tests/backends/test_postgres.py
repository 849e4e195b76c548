"""Features of the PostgreSQL backend: connections, their loss, their options and the meaning of its errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from iftb_store import (
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    SystemEventRepository,
    Trade,
    TradeRepository,
    Unsupported,
    URLError,
)
from iftb_store.abilities import SupportsMigrations
from iftb_store.testing.lifecycle import wait_until
from iftb_store.transfer.copy import Copy
from iftb_store_postgres.errors import translate
from tests.support.strangers import as_stranger

_TERMINATE = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'to be killed'"


@pytest.fixture
async def db(postgres_tables_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(with_options(postgres_tables_url, application_name="to be killed")) as manager:
        yield manager
        assert manager.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_the_pool_replaces_a_connection_that_the_server_ended(db: DatabaseManager, admin: Any) -> None:
    await SystemEventRepository(db).log_event("tick", "info", "")
    await admin.execute(_TERMINATE)
    assert len(await SystemEventRepository(db).get_recent_events()) == 1


async def test_the_server_is_known_by_whatever_way_it_is_reached(db: DatabaseManager, postgres_url: str, admin: Any) -> None:
    folder = await admin.fetchval("SHOW unix_socket_directories")
    other = make_url(postgres_url).update_query_dict({"host": f"{folder}/."}) if folder else make_url(postgres_url)
    async with DatabaseManager(other) as same:
        assert await same.identity() == await db.identity()


async def test_two_schemas_of_a_database_are_two_stores(db: DatabaseManager, postgres_url: str, admin: Any) -> None:
    await admin.execute("CREATE SCHEMA research")
    try:
        async with DatabaseManager(with_options(postgres_url, search_path="research")) as research:
            for _ in ("without tables", "with tables"):
                assert await research.identity() != await db.identity()
                await research.create_tables()
            await TradeRepository(db).insert(trade("T-1"))
            await Copy(db, research).run()
            assert len(await TradeRepository(research).get_recent()) == 1
    finally:
        await admin.execute("DROP SCHEMA research CASCADE")


async def test_a_place_of_the_pool_is_never_lost_to_a_cancellation(db: DatabaseManager, admin: Any) -> None:
    async def use(statement: str) -> None:
        async with db.get_session() as session:
            await session.execute(text(statement))

    for turns in range(1, 60):
        await use("SELECT 1")
        if turns % 2:
            await admin.execute(_TERMINATE)
        task = asyncio.create_task(use("SELECT pg_sleep(0.001)"))
        # a cancellation at every step
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert db.in_use == 0, turns


@pytest.mark.parametrize("nested", [False, True])
async def test_a_session_that_cannot_even_roll_back_gives_its_place_back(db: DatabaseManager, nested: bool) -> None:
    running, sessions = list[asyncio.Future[str]](), list[AsyncSession]()

    async def use_twice_at_once() -> None:
        async with db.get_session() as session:
            assert isinstance(session, AsyncSession)
            sessions.append(session)
            if nested:
                await session.begin_nested()
            await session.execute(text("SELECT 1"))
            raw: Any = await (await session.connection()).get_raw_connection()
            running.append(asyncio.ensure_future(raw.driver_connection.execute("SELECT pg_sleep(60)")))
            await asyncio.sleep(0)
            raise KeyError("the bot's own")

    for _ in range(2):
        with pytest.raises(KeyError, match="the bot's own"):
            await use_twice_at_once()
        assert db.in_use == 0
        assert not sessions.pop().in_transaction()
        (ended,) = await asyncio.gather(running.pop(), return_exceptions=True)
        assert isinstance(ended, asyncpg.PostgresError | asyncpg.InterfaceError)


async def test_a_connection_lost_in_a_session_fails_its_clean_exit(db: DatabaseManager, admin: Any) -> None:
    with pytest.raises(OperationalError, match="connection"):
        await log_and_lose_the_connection(db, admin)
    assert await SystemEventRepository(db).get_recent_events() == []


async def test_a_caught_loss_of_the_connection_fails_the_clean_exit_too(db: DatabaseManager, admin: Any) -> None:
    with pytest.raises(OperationalError, match=r"none of this session's writes were committed.*connection"):
        await log_and_lose_the_connection(db, admin, then_log=True)
    assert await SystemEventRepository(db).get_recent_events() == []


async def test_the_bots_own_exception_is_not_masked_by_a_lost_connection(db: DatabaseManager, admin: Any) -> None:
    with pytest.raises(KeyError, match="the bot's own"):
        await lose_the_connection_and_raise(db, admin, KeyError("the bot's own"))


async def test_a_commit_after_a_caught_error_is_refused(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await SystemEventRepository(session).log_event("tick", "info", "")
        with pytest.raises(OperationalError):
            await session.execute(text("SELECT 1 / 0"))
        with pytest.raises(OperationalError, match="none of this session's writes were committed"):
            await session.commit()
        await session.rollback()
        await SystemEventRepository(session).log_event("tock", "info", "")
    assert [event.event_type for event in await SystemEventRepository(db).get_recent_events()] == ["tock"]


async def test_a_caught_cancellation_of_a_statement_fails_the_clean_exit(db: DatabaseManager) -> None:
    async with db.get_session() as holder:
        await TradeRepository(holder).insert(trade("T-2"))
        with pytest.raises(OperationalError, match="none of this session's writes were committed"):
            await insert_and_give_up_on_a_second(db)
    assert [stored.trade_id for stored in await TradeRepository(db).get_recent()] == ["T-2"]


async def test_a_server_that_goes_away_during_a_copy_ends_it(db: DatabaseManager, admin: Any) -> None:
    start, price = datetime(2024, 1, 1, tzinfo=UTC), Decimal(1)
    bars = [
        OHLCVBar("BTCUSDT", "binance", "1s", start + timedelta(seconds=i), price, price, price, price, price)
        for i in range(60_000)
    ]
    writing = asyncio.ensure_future(OHLCVRepository(db).insert_many(bars))
    while not await admin.fetchval("SELECT count(*) FROM pg_stat_progress_copy"):
        assert not writing.done()
    await admin.execute(_TERMINATE)
    with pytest.raises(OperationalError):
        await writing
    assert await admin.fetchval("SELECT count(*) FROM ohlcv") == 0


async def test_a_value_that_does_not_fit_appears_in_no_message(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        with pytest.raises(OperationalError, match="does not fit the type") as caught:
            await session.execute(text("SELECT CAST(CAST(:value AS text) AS integer)"), {"value": "sentinel"})
        await session.rollback()
    assert "sentinel" not in str(caught.value)


async def test_an_engine_in_autocommit_is_refused_for_writes(postgres_url: str, db: DatabaseManager) -> None:
    url = make_url(postgres_url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        with pytest.raises(Unsupported, match="AUTOCOMMIT"):
            await TradeRepository(session).insert(trade("T-1"))
    await engine.dispose()


async def test_the_statement_timeout_of_the_url_is_an_operational_error(postgres_url: str) -> None:
    async with DatabaseManager(with_options(postgres_url, statement_timeout="20ms")) as db, db.get_session() as session:
        with pytest.raises(OperationalError, match="canceled"):
            await session.execute(text("SELECT pg_sleep(60)"))
        await session.rollback()


async def test_a_migration_has_no_statement_timeout(postgres_url: str) -> None:
    async with DatabaseManager(with_options(postgres_url, statement_timeout="1s")) as db:
        await db.ability(SupportsMigrations).with_connection(lambda connection: connection.execute(text("SELECT pg_sleep(1.5)")))


async def test_a_full_pool_is_an_operational_error(postgres_url: str) -> None:
    async with DatabaseManager(with_options(postgres_url, pool_timeout="10ms"), pool_size=1, max_overflow=0) as db:
        await db.create_tables()
        async with db.get_session() as session:
            await SystemEventRepository(session).log_event("tick", "info", "")
            with pytest.raises(OperationalError, match="every connection of the pool is in use"):
                await as_stranger(SystemEventRepository(db).get_recent_events())
            with pytest.raises(OperationalError, match="every connection of the pool is in use"):
                await as_stranger(db.ping())


async def test_a_refused_connection_is_an_operational_error_without_the_password() -> None:
    with pytest.raises(OperationalError, match=r"cannot connect to PostgreSQL at 127\.0\.0\.1:9: ") as caught:
        await DatabaseManager("postgresql://bot:sentinel@127.0.0.1:9/iftb?sslmode=disable").connect()
    assert "sentinel" not in repr(caught.value)


async def test_a_missing_database_is_an_operational_error(postgres_url: str) -> None:
    url = make_url(postgres_url).set(database="no_such_database").render_as_string(hide_password=False)
    with pytest.raises(OperationalError, match="the database does not exist"):
        await DatabaseManager(url).connect()


async def test_the_search_path_of_the_url_holds_the_tables(postgres_url: str, admin: Any) -> None:
    await admin.execute("CREATE SCHEMA bot")
    async with DatabaseManager(with_options(postgres_url, search_path="bot")) as db:
        await db.migrate()
    assert await admin.fetchval("SELECT count(*) FROM bot.ohlcv") == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sslmode=maybe", "sslmode must be one of disable, .*'maybe'"),
        ("ssl=sometimes", "sslmode must be one of disable, .*'sometimes'"),
        ("statement_timeout=soon", "statement_timeout must be a time like .*'soon'"),
        ("statement_cache_size=-1", "statement_cache_size must be a whole number.*'-1'"),
        ("host=a&host=b", "has the option 'host' more than once"),
        ("target_session_attrs=best", "target_session_attrs must be one of any, .*'best'"),
        ("fetch_size=3", "unknown option 'fetch_size'.*connect_timeout"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_opened(query: str, message: str) -> None:
    with pytest.raises(URLError, match=message):
        DatabaseManager(f"postgresql://bot:secret@localhost/iftb?{query}")


def test_a_port_that_no_server_has_is_refused() -> None:
    with pytest.raises(URLError, match="not 99999"):
        DatabaseManager("postgresql://bot:secret@localhost:99999/iftb")


@pytest.mark.parametrize("mode", ["ssl=true", "sslmode=verify-full", "sslmode=prefer", "ssl=false"])
def test_ssl_modes_of_libpq_are_understood(mode: str) -> None:
    DatabaseManager(f"postgresql://bot:secret@localhost/iftb?{mode}")


@pytest.mark.parametrize(
    ("error", "meaning", "message"),
    [
        (asyncpg.UniqueViolationError("duplicate"), IntegrityError, "already stored"),
        (asyncpg.CheckViolationError('violates "ck_trades_side"'), IntegrityError, "ck_trades_side"),
        (asyncpg.SerializationError("x"), OperationalError, "serialization failure"),
        (asyncpg.DeadlockDetectedError("x"), OperationalError, "deadlock"),
        (asyncpg.TooManyConnectionsError("x"), OperationalError, "max_connections"),
        (asyncpg.QueryCanceledError("x"), OperationalError, "canceled"),
        (asyncpg.SyntaxOrAccessError("at the server's own words"), OperationalError, "own words"),
        (asyncpg.InterfaceError("connection is closed"), OperationalError, "cannot be used: connection is closed"),
        (TimeoutError(), OperationalError, "did not answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), OperationalError, "cannot be reached: Connection refused"),
    ],
)
def test_errors_of_the_driver_have_a_meaning(error: Exception, meaning: type[Exception], message: str) -> None:
    translated = translate(error)
    assert isinstance(translated, meaning)
    assert message in str(translated)
    assert translated.__cause__ is error


def test_an_error_of_other_code_is_not_changed() -> None:
    assert translate(KeyError("x")) is None


async def lose_the_connection_and_raise(db: DatabaseManager, admin: Any, error: Exception) -> None:
    async with db.get_session() as session:
        await SystemEventRepository(session).log_event("tick", "info", "")
        await admin.execute(_TERMINATE)
        raise error


async def insert_and_give_up_on_a_second(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await TradeRepository(session).insert(trade("T-1"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(TradeRepository(session).insert(trade("T-2")), 0.05)


def trade(trade_id: str) -> Trade:
    when = datetime(2024, 1, 1, tzinfo=UTC)
    return Trade(trade_id, "BTCUSDT", "binance", "long", "open", Decimal(1), Decimal(1), when)


async def log_and_lose_the_connection(db: DatabaseManager, admin: Any, *, then_log: bool = False) -> None:
    async with db.get_session() as session:
        await SystemEventRepository(session).log_event("tick", "info", "")
        await admin.execute(_TERMINATE)
        if then_log:
            with pytest.raises(OperationalError):
                await SystemEventRepository(session).log_event("tick", "info", "")


def with_options(url: str, **options: str) -> str:
    return make_url(url).update_query_dict(options).render_as_string(hide_password=False)


async def test_a_connection_that_a_task_still_uses_is_not_given_to_the_next_session(postgres_url: str) -> None:
    async with DatabaseManager(postgres_url, pool_size=1, max_overflow=0) as db:
        await db.create_tables()
        running: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with suppress(OperationalError):
            async with db.get_session() as session:
                assert isinstance(session, AsyncSession)
                pooled: Any = await (await session.connection()).get_raw_connection()
                # bypassing the session and its transaction, so that nothing queues
                driver = pooled.driver_connection
                running = asyncio.ensure_future(driver.fetch("SELECT pg_sleep(60)"))
                await wait_until(driver.is_busy)
        for number in range(3):
            await TradeRepository(db).insert(trade(f"T{number}"))
        assert (await asyncio.gather(running, return_exceptions=True))[0] is not None
        assert len(await TradeRepository(db).get_recent()) == 3


async def test_a_session_whose_transaction_was_ended_behind_its_back_does_not_commit(postgres_url: str) -> None:
    async with DatabaseManager(postgres_url) as db:
        await db.create_tables()
        with pytest.raises(OperationalError, match="ended by something other than its session"):
            await insert_and_end_the_transaction(db)


async def insert_and_end_the_transaction(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await TradeRepository(session).insert(trade("T"))
        assert isinstance(session, AsyncSession)
        raw_connection: Any = await (await session.connection()).get_raw_connection()
        await raw_connection.driver_connection.execute("ROLLBACK")
