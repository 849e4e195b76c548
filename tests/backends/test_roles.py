"""The PostgreSQL roles of docs/postgresql.md, made by its own SQL: each has exactly its rights; the suite passes as the bot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, SystemEventRepository, TradeRepository, copy
from iftb_store.abilities import SupportsMigrations
from iftb_store.doctor import examine
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import TRADES, RowFilter
from iftb_store.testing import BackendConformance
from iftb_store.testing.samples import hourly, position, trade
from iftb_store_migrations import downgrade
from tests.support.documents import DOCS, read_blocks

Execute = Callable[[str], None]

_SUPERUSERS, _OWNERS = (block.text for block in read_blocks(DOCS / "postgresql.md") if block.language == "sql")
_CREATE, _PREPARE = _SUPERUSERS.split("\\connect iftb\n")
_RECORDS = ("trades", "positions", "system_events", "fills", "ledger_entries", "balance_snapshots")
_TABLES = ("ohlcv", *_RECORDS, "bar_digests", "iftb_store_version")
_EMPTY = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user;
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public;
"""


@dataclass(frozen=True)
class Roles:
    """The roles of one database, with names of this run.

    Attributes:
        named: replaces the names in the page's SQL by those of this run.
        admin: executes in the database as a superuser.
        urls: of owner, bot, analyst and stranger.
    """

    named: Callable[[str], str]
    admin: Execute
    urls: dict[str, str]

    def empty(self) -> None:
        """Reset the schema to the time before the first migration."""
        self.admin(_EMPTY + self.named(_PREPARE))

    async def migrate(self) -> None:
        """Create the tables and grant their use, as the page does."""
        async with DatabaseManager(self.urls["owner"]) as db:
            await db.migrate()
        await self.as_owner(self.named(_OWNERS))

    async def as_owner(self, statements: str) -> None:
        """Execute in the database as the owner."""
        connection = await asyncpg.connect(self.urls["owner"])
        await connection.execute(statements)
        await connection.close()


@pytest.fixture(scope="session")
def roles(postgres_server: str, postgres_connection: Callable[[str], Execute]) -> Iterator[Roles]:
    """The page's roles and database; roles belong to the whole server, so their names are this run's."""
    run = uuid4().hex

    def named(sql: str) -> str:
        return re.sub(r"\biftb\b", f"iftb_{run}", re.sub(r"\biftb_(owner|bot|analyst)\b", rf"iftb_{run}_\1", sql))

    def url(role: str) -> str:
        of_role = make_url(postgres_server).set(username=f"iftb_{run}_{role}", password=run, database=f"iftb_{run}")
        return of_role.render_as_string(hide_password=False)

    server = postgres_connection(postgres_server)
    # CREATE DATABASE cannot run in a transaction with others
    for statement in named(_CREATE).split(";\n")[:-1]:
        server(statement)
    server(f"CREATE ROLE iftb_{run}_stranger LOGIN")
    for role in ("owner", "bot", "analyst", "stranger"):
        server(f"ALTER ROLE iftb_{run}_{role} PASSWORD '{run}'")
    admin = postgres_connection(make_url(postgres_server).set(database=f"iftb_{run}").render_as_string(hide_password=False))
    admin("CREATE SCHEMA private; CREATE TABLE private.wages (amount integer)")
    admin(named(_PREPARE))
    urls = {role: url(role) for role in ("owner", "bot", "analyst", "stranger")}
    yield Roles(named, admin, urls)
    server(f"DROP DATABASE iftb_{run} WITH (FORCE)")
    for role in ("owner", "bot", "analyst", "stranger"):
        server(f"DROP ROLE iftb_{run}_{role}")


@pytest.fixture
def empty(roles: Roles) -> Roles:
    """The roles, before the first migration."""
    roles.empty()
    return roles


@pytest.fixture
async def migrated(empty: Roles) -> Roles:
    """The roles, over tables that the owner made."""
    await empty.migrate()
    return empty


async def store(url: str) -> None:
    async with DatabaseManager(url) as db:
        await OHLCVRepository(db).upsert_many(hourly(400))
        await TradeRepository(db).insert(trade())
        await PositionRepository(db).update_position(position())
        await SystemEventRepository(db).log_event("tick", "info", "")


async def refused(url: str, statement: str) -> str:
    async with DatabaseManager(url) as db:
        with pytest.raises(OperationalError) as caught:
            async with db.get_session() as session:
                await session.execute(text(statement))
    return str(caught.value)


async def test_the_bot_reads_and_writes(migrated: Roles) -> None:
    await store(migrated.urls["bot"])
    async with DatabaseManager(migrated.urls["bot"]) as db:
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 500)) == 400
        assert len(await TradeRepository(db).get_recent()) == 1
        assert len(await PositionRepository(db).get_open_positions()) == 1
        assert len(await SystemEventRepository(db).get_recent_events()) == 1


async def test_the_analyst_reads(migrated: Roles) -> None:
    await store(migrated.urls["bot"])
    async with DatabaseManager(migrated.urls["analyst"]) as db:
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 500)) == 400
        assert await OHLCVRepository(db).get_gaps("BTCUSDT", "1h") == []
        assert (await TradeRepository(db).get_statistics()).total_trades == 0
        assert len(await PositionRepository(db).get_open_positions()) == 1
        assert len(await SystemEventRepository(db).get_recent_events()) == 1
        assert (await db.status()).state == "current"


async def test_a_bot_that_may_not_move_the_sequences_gets_the_grant_it_lacks(migrated: Roles) -> None:
    await store(migrated.urls["bot"])
    await migrated.as_owner(migrated.named("REVOKE UPDATE ON ALL SEQUENCES IN SCHEMA public FROM iftb_bot"))
    async with DatabaseManager(migrated.urls["bot"]) as db:
        with pytest.raises(OperationalError, match=r"GRANT UPDATE ON SEQUENCE public\.trades_id_seq"):
            async with db.get_session() as session:
                await get_stores(session).write_rows(TRADES, await get_stores(session).read_rows(RowFilter(TRADES)))


async def test_a_copy_by_a_role_that_may_not_write_digests_is_refused_before_it_writes(migrated: Roles, tmp_path: Path) -> None:
    await migrated.as_owner(migrated.named("REVOKE INSERT ON bar_digests FROM iftb_bot"))
    async with DatabaseManager(f"sqlite:///{tmp_path / 'source.db'}") as source, DatabaseManager(migrated.urls["bot"]) as db:
        await source.migrate()
        await OHLCVRepository(source).insert_many(hourly(400))
        with pytest.raises(OperationalError, match=r"GRANT INSERT.* ON bar_digests"):
            await copy(source, db)
        assert await OHLCVRepository(db).get_latest("BTCUSDT", "1h") == []
        await migrated.as_owner(migrated.named("GRANT INSERT ON bar_digests TO iftb_bot"))
        await copy(source, db)
        assert len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 500)) == 400


async def test_the_analyst_examines_all_that_it_may_read(migrated: Roles) -> None:
    await store(migrated.urls["bot"])
    async with DatabaseManager(migrated.urls["owner"]) as db, db.get_session() as session:
        await session.execute(text("UPDATE trades SET realized_pnl = 1"))
        await session.execute(text("DROP INDEX ix_trades_recent"))
    async with DatabaseManager(migrated.urls["analyst"]) as db:
        found = {(finding.severity, finding.kind) for finding in await examine(db)}
    assert found >= {("warning", "open with realized_pnl"), ("warning", "index missing")}
    assert {kind for severity, kind in found if severity == "note"} == {"definitions not examined", "sequences not examined"}


async def test_the_owner_goes_down_and_up(migrated: Roles) -> None:
    async with DatabaseManager(migrated.urls["owner"]) as db:
        await db.ability(SupportsMigrations).with_connection(downgrade)
        assert (await db.status()).state == "empty"
        await db.migrate()
        assert (await db.status()).state == "current"


async def test_the_bot_and_the_analyst_can_use_the_table_of_a_later_revision(migrated: Roles) -> None:
    await migrated.as_owner("CREATE TABLE funding_rates (id integer GENERATED BY DEFAULT AS IDENTITY, rate numeric)")
    async with DatabaseManager(migrated.urls["bot"]) as db, db.get_session() as session:
        await session.execute(text("INSERT INTO funding_rates (rate) VALUES (1)"))
    async with DatabaseManager(migrated.urls["analyst"]) as db, db.get_session() as session:
        assert (await session.execute(text("SELECT rate FROM funding_rates"))).scalar_one() == 1
    assert "permission denied" in await refused(migrated.urls["analyst"], "DELETE FROM funding_rates")


@pytest.mark.parametrize("role", ["bot", "analyst"])
async def test_a_role_that_may_not_migrate_gets_an_error_and_leaves_nothing(empty: Roles, role: str) -> None:
    async with DatabaseManager(empty.urls[role]) as db:
        with pytest.raises(OperationalError, match="permission denied for schema public"):
            await db.migrate()
        with pytest.raises(OperationalError, match="permission denied for schema public"):
            await db.create_tables()
        assert (await db.status()).state == "empty"


async def test_the_analyst_writes_through_no_repository(migrated: Roles) -> None:
    async with DatabaseManager(migrated.urls["analyst"]) as db:
        for write in (
            OHLCVRepository(db).insert_many(hourly(2)),
            OHLCVRepository(db).upsert_many(hourly(2)),
            OHLCVRepository(db).upsert_many(hourly(400)),
            TradeRepository(db).insert(trade()),
            PositionRepository(db).update_position(position()),
            SystemEventRepository(db).log_event("tick", "info", ""),
        ):
            with pytest.raises(OperationalError, match="permission denied"):
                await write
        assert set((await db.status()).tables.values()) == {0}


_NO_SCHEMA_CHANGES = [
    "CREATE TABLE mine (id integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE INDEX mine ON trades (fee)",
    "CREATE VIEW mine AS SELECT 1",
    "ALTER TABLE ohlcv ADD COLUMN mine integer",
    "ALTER TABLE ohlcv DISABLE TRIGGER ALL",
    "ALTER TABLE trades OWNER TO CURRENT_USER",
    "DROP TABLE trades",
    "TRUNCATE trades",
    "COMMENT ON TABLE trades IS 'mine'",
    "UPDATE iftb_store_version SET version_num = 'mine'",
    "INSERT INTO iftb_store_version VALUES ('mine')",
    "DELETE FROM iftb_store_version",
    "SET ROLE iftb_owner",
    "CREATE ROLE mine",
    "SELECT * FROM private.wages",
    "SELECT rolpassword FROM pg_authid",
]


@pytest.fixture(scope="module")
def tables(roles: Roles) -> Roles:
    """Tables that the owner created, for tests that change nothing."""
    roles.empty()
    asyncio.run(roles.migrate())
    return roles


@pytest.mark.parametrize("role", ["bot", "analyst"])
async def test_the_schema_cannot_be_changed_nor_others_read_by(tables: Roles, role: str) -> None:
    for statement in _NO_SCHEMA_CHANGES:
        assert re.search("permission denied|must be owner", await refused(tables.urls[role], tables.named(statement)))


async def test_the_analyst_changes_no_row_and_makes_no_temporary_table(tables: Roles) -> None:
    for table in _TABLES:
        for statement in (f"INSERT INTO {table} DEFAULT VALUES", f"DELETE FROM {table}", f"SELECT 1 FROM {table} FOR UPDATE"):
            assert "permission denied for table" in await refused(tables.urls["analyst"], statement)
    for column in ("ohlcv.close", "trades.fee", "positions.margin", "system_events.message", "iftb_store_version.version_num"):
        table, _, name = column.partition(".")
        assert "permission denied for table" in await refused(tables.urls["analyst"], f"UPDATE {table} SET {name} = NULL")
    assert "permission denied" in await refused(tables.urls["analyst"], "CREATE TEMPORARY TABLE mine (id integer)")


async def test_the_analyst_moves_no_sequence(tables: Roles) -> None:
    for call in ("nextval(number)", "setval(number, 1000000)"):
        statement = f"SELECT {call} FROM pg_get_serial_sequence('trades', 'id') AS number"
        assert "permission denied for sequence" in await refused(tables.urls["analyst"], statement)


async def test_the_owner_is_no_superuser(tables: Roles) -> None:
    for statement in ("CREATE ROLE mine", "SET ROLE iftb_bot", "SELECT * FROM private.wages", "SELECT * FROM pg_authid"):
        assert "permission denied" in await refused(tables.urls["owner"], tables.named(statement))


async def test_any_other_role_cannot_even_connect(tables: Roles) -> None:
    with pytest.raises(OperationalError, match="permission denied for database"):
        await DatabaseManager(tables.urls["stranger"]).connect()


@pytest.mark.full
class TestPostgresAsBot(BackendConformance):
    """The whole suite: the owner creates the tables, the bot does all else."""

    @pytest.fixture
    def url(self, empty: Roles) -> str:
        self.roles = empty
        return empty.urls["bot"]

    async def make_tables(self, db: DatabaseManager) -> None:
        await self.roles.migrate()

    async def migrate(self, db: DatabaseManager) -> None:
        await self.roles.migrate()
