"""The requirements of poolers, tested on the server itself; tests/pgbouncer runs behind a real pooler."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
    TransientError,
)
from iftb_store.testing.samples import HOUR, T0, hourly, position, trade
from iftb_store_postgres.errors import translate
from iftb_store_postgres.poolers import set_local


async def everything_read(db: DatabaseManager) -> list[Any]:
    """Return the result of every kind of read, outside a transaction if possible."""
    bars = OHLCVRepository(db)
    return [
        await bars.get_range("BTCUSDT", "1h", T0, T0 + 2_000 * HOUR),
        await bars.get_latest("BTCUSDT", "1h"),
        await bars.get_gaps("BTCUSDT", "1h"),
        *[await bars.resample("BTCUSDT", "1h", target, T0, T0 + 2_000 * HOUR) for target in ("1d", "1w", "1M")],
        (await bars.read_arrow()).to_pylist(),
        await TradeRepository(db).get_recent(),
        await TradeRepository(db).get_statistics(days=3),
        await PositionRepository(db).get_open_positions(),
        await SystemEventRepository(db).get_recent_events(),
    ]


async def test_nothing_depends_on_the_time_zone_that_a_pooler_refuses(postgres_url: str, admin: Any) -> None:
    async with DatabaseManager(postgres_url) as db:
        await db.create_tables()
        kept = hourly(1_500)
        await OHLCVRepository(db).insert_many(kept[:400] + kept[410:])
        await TradeRepository(db).insert(trade(realized_pnl=Decimal(5)))
        await PositionRepository(db).update_position(position())
        await SystemEventRepository(db).log_event("tick", "info", "")
        expected = await everything_read(db)
    name = make_url(postgres_url).database
    await admin.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'")
    try:
        other = DatabaseManager(postgres_url)
        # as behind a pooler that refuses it; current ones do not
        del other._backend._options.settings["timezone"]  # type: ignore[attr-defined]
        async with other as db, db.get_session() as session:
            assert await session.scalar(text("SHOW timezone")) == "Asia/Kolkata"
            assert await everything_read(db) == expected
            await OHLCVRepository(db).upsert_many(kept)
            await OHLCVRepository(db).upsert_many(kept[:2])
            assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == []
    finally:
        await admin.execute(f"ALTER DATABASE {name} RESET timezone")


@pytest.mark.parametrize("path", ['a, "B""c" ,PUBLIC', '"$user", public', "A,b", '"a, b"', "", "it's"])
async def test_a_search_path_means_the_same_in_a_transaction_as_at_the_start(postgres_url: str, admin: Any, path: str) -> None:
    schemas = ("a", 'B"c', "b", "a, b", "it's")
    quoted = ['"' + schema.replace('"', '""') + '"' for schema in schemas]
    await admin.execute("".join(f"CREATE SCHEMA {schema};" for schema in quoted))
    try:
        given = await asyncpg.connect(postgres_url, server_settings={"search_path": path})
        expected = await given.fetchval("SELECT current_schemas(false)")
        await given.close()
        await admin.execute(f"BEGIN; {set_local({'search_path': path})}")
        assert await admin.fetchval("SELECT current_schemas(false)") == expected
        await admin.execute("ROLLBACK")
    finally:
        await admin.execute("".join(f"DROP SCHEMA {schema};" for schema in quoted))


async def test_an_error_about_a_prepared_statement_names_the_option_for_poolers(postgres_url: str) -> None:
    async with DatabaseManager(postgres_url) as db:

        async def prepare_twice(session: Any) -> None:
            for _ in range(2):
                await session.execute(text("PREPARE twice AS SELECT 1"))

        with pytest.raises(OperationalError, match=r'prepared statement "twice" already exists.*statement_cache_size=0'):
            await db.run(prepare_twice)


@pytest.mark.parametrize(
    ("message", "transient"),
    [
        ("no more connections allowed (max_client_conn)", True),
        ("sorry, too many clients already", True),
        ("the database system is starting up", True),
        ("pgbouncer cannot connect to server", True),
        ("server login has been failing, try again later (server_login_retry)", True),
        ("query_wait_timeout", True),
        ('database "nosuch" does not exist', False),
        ("password authentication failed", False),
    ],
)
def test_of_what_pgbouncer_says_some_may_be_otherwise_at_the_next_try(message: str, transient: bool) -> None:
    translated = translate(asyncpg.exceptions.ProtocolViolationError(message))
    assert isinstance(translated, TransientError) == transient
    assert message in str(translated)
