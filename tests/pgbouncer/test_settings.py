"""Connection settings that PgBouncer refuses as startup parameters: set for one transaction and for no other client."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository
from iftb_store.abilities import SupportsMigrations
from iftb_store.testing.samples import hourly, trade
from tests.pgbouncer.bouncer import Bouncer, running

_REFUSAL = "pooler error: unsupported startup parameter: statement_timeout"
# enough time for quick statements, even on a busy machine
_TIMEOUT = "2s"
_SETTINGS = ("statement_timeout", "lock_timeout", "search_path", "jit", "default_transaction_isolation", "row_security")
_READ_SETTINGS = "SELECT pg_backend_pid() AS number, array_agg(current_setting(name)) AS settings FROM unnest($1::text[]) AS name"


def with_options(url: str, **options: str) -> str:
    return make_url(url).update_query_dict(options).render_as_string(hide_password=False)


async def settings_of_each_connection(bouncer: Bouncer, database: str) -> dict[int, list[str]]:
    """Return the settings that another client sees, by server connection."""
    found = {}
    async with AsyncExitStack() as stack:
        for _ in range(5):
            client = await asyncpg.connect(bouncer.through(database), statement_cache_size=0)
            stack.push_async_callback(client.close)
            await client.execute("BEGIN")
            (row,) = await client.fetch(_READ_SETTINGS, _SETTINGS)
            found[row["number"]] = row["settings"]
    return found


async def test_a_refused_startup_parameter_is_tried_once_a_manager(postgres_server: str, database: str) -> None:
    with running(postgres_server, "session") as bouncer:
        async with DatabaseManager(bouncer.through(database), pool_size=3) as db, AsyncExitStack() as stack:
            for _ in range(3):
                session = await stack.enter_async_context(db.get_session())
                await session.execute(text("SELECT 1"))
        assert bouncer.log.read_text().count(_REFUSAL) == 1


async def test_a_startup_parameter_that_it_ignores_is_set_all_the_same(postgres_server: str, database: str, admin: Any) -> None:
    await admin.execute("DROP SCHEMA IF EXISTS pooled CASCADE; CREATE SCHEMA pooled")
    with running(postgres_server, "session", ignore_startup_parameters="statement_timeout,search_path") as bouncer:
        async with DatabaseManager(bouncer.through(database, search_path="pooled", statement_timeout=_TIMEOUT)) as db:
            await db.create_tables()
            assert await admin.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'pooled'") > 0
            assert await OHLCVRepository(db).get_latest("BTCUSDT", "1h") == []
            with pytest.raises(OperationalError, match="the statement was canceled, by its timeout"):
                await db.run(lambda session: session.execute(text("SELECT pg_sleep(60)")))


async def test_statement_timeout_ends_a_statement_in_a_transaction(pooled_url: str) -> None:
    async with DatabaseManager(with_options(pooled_url, statement_timeout=_TIMEOUT)) as db:
        with pytest.raises(OperationalError, match="the statement was canceled, by its timeout"):
            async with db.get_session() as session:
                await session.execute(text("SELECT pg_sleep(60)"))


async def test_statement_timeout_ends_a_read_outside_a_transaction(pooled_url: str, admin: Any) -> None:
    async with DatabaseManager(with_options(pooled_url, statement_timeout=_TIMEOUT)) as db:
        await db.create_tables()
        assert await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 1) == []
        async with admin.transaction():
            await admin.execute("LOCK TABLE ohlcv")
            with pytest.raises(OperationalError, match="did not answer in time"):
                await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 1)
            # the server was asked to cancel it, too
            await admin.execute("""DO $$ BEGIN
                WHILE EXISTS (SELECT FROM pg_locks WHERE NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$""")
        assert await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 1) == []


async def test_a_migration_has_no_statement_timeout(pooled_url: str) -> None:
    async with DatabaseManager(with_options(pooled_url, statement_timeout=_TIMEOUT)) as db:
        await db.ability(SupportsMigrations).with_connection(lambda connection: connection.execute(text("SELECT pg_sleep(3)")))


async def test_nothing_is_left_set_for_other_clients(transaction_pooler: Bouncer, database: str, transaction_url: str) -> None:
    before = await settings_of_each_connection(transaction_pooler, database)
    async with DatabaseManager(with_options(transaction_url, search_path="public", statement_timeout="7s")) as db:
        await db.migrate()
        bars, trades = OHLCVRepository(db), TradeRepository(db)
        await asyncio.gather(*(bars.upsert_many(hourly(400, symbol=f"S{number}")) for number in range(5)))
        await asyncio.gather(*(trades.insert(trade(f"T-{number}")) for number in range(5)))
        await bars.get_range("S1", "1h", hourly(1)[0].timestamp, hourly(400)[-1].timestamp)
        await db.status()
        await db.health()
    after = await settings_of_each_connection(transaction_pooler, database)
    assert len(before) == 5
    assert {tuple(settings) for settings in after.values()} == {tuple(settings) for settings in before.values()}


async def test_search_path_holds_for_reads_writes_and_migrations(pooled_url: str, admin: Any) -> None:
    await admin.execute('DROP SCHEMA IF EXISTS pooled, "Pooled, too" CASCADE; CREATE SCHEMA pooled; CREATE SCHEMA "Pooled, too"')
    urls = [pooled_url, *(with_options(pooled_url, search_path=path) for path in ("pooled", '"Pooled, too"'))]
    async with AsyncExitStack() as stack:
        managers = [await stack.enter_async_context(DatabaseManager(url)) for url in urls]
        for number, db in enumerate(managers, 1):
            await db.create_tables()
            await OHLCVRepository(db).insert_many(hourly(number * 400))
        for number, db in enumerate(managers, 1):
            bars = OHLCVRepository(db)
            start, end = hourly(1)[0].timestamp, hourly(number * 400)[-1].timestamp
            assert len(await bars.get_latest("BTCUSDT", "1h", 5_000)) == number * 400
            assert len(await bars.get_range("BTCUSDT", "1h", start, end)) == number * 400
        assert len({await db.identity() for db in managers}) == 3
