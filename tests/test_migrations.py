"""The schema's history on the three engines: upgrade, downgrade, adoption, refusal, locks and status."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copy
from typing import Any, TypeVar

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

import iftb_store_migrations as migrations
from iftb_store import Base, DatabaseManager, SchemaError
from iftb_store.abilities import SupportsMigrations
from iftb_store.schema import revision as schema
from iftb_store.schema.dialect import SchemaDialect
from iftb_store.schema.scope import TABLES
from iftb_store_migrations import history, lock
from tests.support.schema_sql import ROW, run, scalars, sql

T = TypeVar("T")

HEAD = schema.HEAD
VERSIONS = Path(history.__file__).parent / "versions"

EMPTY = dict.fromkeys(TABLES, 0)

NEXT_REVISION = """
revision = "9998"
down_revision = {head!r}

def upgrade(op):
    op.execute("CREATE TABLE next_table (id INTEGER)")
    op.execute({then!r})

def downgrade(op):
    op.execute("DROP TABLE next_table")
"""


def columns(conn: Connection, table: str) -> list[str]:
    return list(conn.execute(text(f"SELECT * FROM {table}")).keys())


def create_edited(conn: Connection, old: str, new: str) -> None:
    """Create the models' tables with one edit in the statements, and no views, which may lack a column then."""

    def edit(conn: Connection, cursor: Any, statement: str, parameters: Any, *rest: Any) -> tuple[str, Any]:
        return "SELECT 1" if statement.startswith(("CREATE VIEW", "DO")) else statement.replace(old, new), parameters

    event.listen(conn, "before_cursor_execute", edit, retval=True)
    Base.metadata.create_all(conn)
    event.remove(conn, "before_cursor_execute", edit)


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Add a revision with the given last statement after the newest one to the package's history."""

    def add(then: str) -> None:
        versions = tmp_path / "history" / "versions"
        versions.mkdir(parents=True)
        for script in VERSIONS.glob("*.py"):
            copy(script, versions)
        (versions / "9998_next.py").write_text(NEXT_REVISION.format(head=HEAD, then=then))
        monkeypatch.setattr(history, "_scripts", lambda: ScriptDirectory(versions.parent))
        monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9998"))
        monkeypatch.setattr(schema, "HEAD", "9998")

    return add


async def test_an_upgrade_from_nothing_gives_what_the_models_give(url: str) -> None:
    await run(url, migrations.upgrade)

    assert await run(url, migrations.differences) == []
    assert await run(url, migrations.current) == migrations.head()


async def test_a_created_database_has_no_differences_and_is_at_the_head(url: str) -> None:
    await run(url, migrations.create)

    assert await run(url, migrations.differences) == []
    assert await run(url, migrations.current) == migrations.head()


async def test_the_tables_that_the_suite_s_tests_get_on_postgresql_are_the_created_ones(postgres_tables_url: str) -> None:
    assert await run(postgres_tables_url, migrations.differences) == []
    assert await run(postgres_tables_url, migrations.current) == migrations.head()


async def test_the_migrated_columns_stand_in_the_models_order(url: str) -> None:
    await run(url, migrations.upgrade)

    for name, table in Base.metadata.tables.items():
        assert await run(url, partial(columns, table=name)) == table.columns.keys()


@pytest.mark.each_once
@pytest.mark.parametrize("revision", migrations.revisions())
async def test_an_upgrade_from_every_past_revision_keeps_the_rows(url: str, revision: str) -> None:
    await run(url, lambda conn: migrations.upgrade(conn, revision))
    await sql(url, ROW)

    await run(url, migrations.upgrade)

    assert await scalars(url, "SELECT message FROM system_events") == ["kept"]
    assert await run(url, migrations.differences) == []


async def test_a_second_upgrade_changes_nothing(url: str) -> None:
    await run(url, migrations.upgrade)
    await sql(url, ROW)

    await run(url, migrations.upgrade)

    assert await scalars(url, "SELECT message FROM system_events") == ["kept"]
    assert await scalars(url, "SELECT version_num FROM iftb_store_version") == [migrations.head()]


async def test_a_second_creation_changes_nothing(url: str) -> None:
    await run(url, migrations.create)
    await sql(url, ROW)

    await run(url, migrations.create)

    assert await scalars(url, "SELECT message FROM system_events") == ["kept"]


async def test_a_downgrade_to_nothing_and_an_upgrade_back_work(url: str) -> None:
    await run(url, migrations.upgrade)

    await run(url, migrations.downgrade)
    emptied = await run(url, migrations.status)
    await run(url, migrations.upgrade)

    assert (emptied.state, emptied.revision, emptied.tables) == ("empty", None, {})
    assert await run(url, migrations.differences) == []


async def test_a_downgrade_of_an_empty_database_does_nothing(url: str) -> None:
    await run(url, migrations.downgrade)

    assert (await run(url, migrations.status)).state == "empty"


async def test_both_ways_fit_into_one_transaction(url: str) -> None:
    def up_down_up(conn: Connection) -> None:
        migrations.upgrade(conn)
        migrations.downgrade(conn)
        migrations.upgrade(conn)

    await run(url, up_down_up)

    assert await run(url, migrations.differences) == []


async def test_an_identical_schema_without_revision_is_adopted_with_its_rows(url: str) -> None:
    await run(url, Base.metadata.create_all)
    await sql(url, ROW)

    await run(url, migrations.upgrade)

    assert await run(url, migrations.current) == migrations.head()
    assert await scalars(url, "SELECT message FROM system_events") == ["kept"]


async def test_an_identical_schema_of_the_first_revision_is_adopted_and_upgraded(url: str) -> None:
    await run(url, lambda conn: migrations.upgrade(conn, "0001"))
    await sql(url, "DROP TABLE iftb_store_version", ROW)

    await run(url, migrations.upgrade)

    assert await run(url, migrations.differences) == []
    assert await scalars(url, "SELECT version_num FROM iftb_store_version") == [HEAD]
    assert await scalars(url, "SELECT message FROM system_events") == ["kept"]


async def test_a_schema_that_was_written_in_another_hand_is_adopted_on_sqlite(sqlite_url: str) -> None:
    await run(
        sqlite_url, lambda conn: create_edited(conn, "trade_id TEXT NOT NULL,", '"trade_id"  text -- ours, theirs\n not null,')
    )

    await run(sqlite_url, migrations.upgrade)

    assert await run(sqlite_url, migrations.current) == migrations.head()


async def test_a_partitioned_table_of_bars_is_adopted_on_postgresql(postgres_url: str) -> None:
    partitioned = "timeframe, timestamp)\n) PARTITION BY RANGE (timestamp)"
    await run(postgres_url, lambda conn: create_edited(conn, "timeframe, timestamp)\n)", partitioned))

    await run(postgres_url, migrations.upgrade)

    assert await scalars(postgres_url, "SELECT relkind FROM pg_class WHERE relname = 'ohlcv'") == [b"p"]
    assert await run(postgres_url, migrations.current) == migrations.head()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("trades_count BIGINT", "trades_count SMALLINT", "column trades_count of ohlcv is smallint.*, should be bigint"),
        ("message TEXT NOT NULL", "message TEXT", "column message of system_events is .*, should be .*not null"),
        ("stack_trace TEXT, \n", "", "column stack_trace of system_events is missing"),
        ("stack_trace TEXT, \n", "stack_trace TEXT, note TEXT, \n", "column note of system_events is not part of iftb-store"),
        (", \n\tCONSTRAINT ck_trades_side CHECK (side IN ('long', 'short'))", "", "constraint .*side.* of trades is missing"),
        ("'error', 'critical'", "'error', 'fatal'", "constraint .*severity.* of system_events is .*"),
        ("CONSTRAINT uq_trades_trade_id UNIQUE (trade_id), \n\t", "", "constraint .*trade_id.* of trades is missing"),
        (
            "CREATE UNIQUE INDEX uq_positions_open",
            "CREATE UNIQUE INDEX other",
            "index uq_positions_open.* of positions is missing",
        ),
        (
            "CREATE UNIQUE INDEX uq_positions_open",
            "CREATE INDEX uq_positions_open",
            "index uq_positions_open.* of positions is create",
        ),
    ],
)
async def test_a_schema_without_revision_that_differs_is_refused_and_the_difference_named(
    url: str, old: str, new: str, named: str
) -> None:
    await run(url, lambda conn: create_edited(conn, old, new))

    with pytest.raises(SchemaError, match=f"(?i){named}"):
        await run(url, migrations.upgrade)

    assert (await run(url, migrations.status)).state == "unstamped"


async def test_a_table_of_the_app_with_one_of_our_names_is_refused(url: str) -> None:
    await sql(url, "CREATE TABLE trades (price DOUBLE PRECISION)")

    with pytest.raises(SchemaError, match=r"without a recorded revision, .*table ohlcv is missing"):
        await run(url, migrations.upgrade)
    with pytest.raises(SchemaError, match=r"without a recorded revision, .*of trades is missing"):
        await run(url, migrations.create)

    assert (await run(url, migrations.status)).tables == {"trades": 0}


async def test_the_revision_of_a_newer_version_is_refused(url: str) -> None:
    await run(url, migrations.upgrade)
    await sql(url, "UPDATE iftb_store_version SET version_num = '9999'")

    for work in (migrations.upgrade, migrations.downgrade, migrations.create):
        with pytest.raises(SchemaError, match=f"newer iftb-store.*9999.*up to {migrations.head()}.*upgrade"):
            await run(url, work)

    assert (await run(url, migrations.status)).state == "ahead"


async def test_a_missing_table_is_named_and_can_be_created_again(url: str) -> None:
    await run(url, migrations.upgrade)
    await sql(url, "DROP VIEW ohlcv_view", "DROP TABLE ohlcv")

    with pytest.raises(SchemaError, match=r"has no table ohlcv; .*create_tables"):
        await run(url, migrations.upgrade)
    await run(url, migrations.create)

    assert await run(url, migrations.differences) == []


async def test_a_revision_for_which_a_stranger_s_schema_has_no_script_is_named_before_a_change(sqlite_url: str) -> None:
    with pytest.raises(SchemaError, match="no script for revision 0002, 0004, 0005; nothing was changed; use"):
        await run(sqlite_url, partial(migrations.upgrade, schema=SchemaDialect({"0001": ["CREATE TABLE a (b)"]}, "")))
    assert await scalars(sqlite_url, "SELECT name FROM sqlite_master") == []


async def test_a_missing_or_altered_view_differs_and_a_missing_one_is_created_again(url: str) -> None:
    await run(url, migrations.upgrade)
    await sql(url, "DROP VIEW ohlcv_view", "DROP VIEW trades_view", "CREATE VIEW trades_view AS SELECT id FROM trades")

    found = await run(url, migrations.differences)
    assert sorted(map(str, found)) == ["view ohlcv_view is missing", "view trades_view has another definition"]
    await run(url, migrations.create)
    assert [str(one) for one in await run(url, migrations.differences)] == ["view trades_view has another definition"]


@pytest.mark.each_once
@pytest.mark.parametrize("revision", [None, "0001", "0002"])
@pytest.mark.parametrize("other", ["CREATE VIEW trades_view AS SELECT 1 AS one", "CREATE TABLE trades_view (one INTEGER)"])
async def test_what_the_app_has_under_the_name_of_a_view_is_kept_and_named(url: str, revision: str | None, other: str) -> None:
    if revision is not None:
        await run(url, lambda conn: migrations.upgrade(conn, revision))
    await sql(url, other)

    works: list[Callable[[Connection], None]] = [migrations.upgrade, *([migrations.create] if revision is None else [])]
    for work in works:
        with pytest.raises(SchemaError, match="named trades_view that is not iftb-store's view"):
            await run(url, work)

    assert await run(url, partial(columns, table="trades_view")) == ["one"]


async def test_views_that_a_creation_of_the_tables_left_at_an_older_revision_are_adopted(url: str) -> None:
    await run(url, lambda conn: migrations.upgrade(conn, "0002"))
    await run(url, Base.metadata.create_all)

    await run(url, migrations.upgrade)

    assert await run(url, migrations.differences) == []


async def test_dropping_the_models_tables_drops_the_views(url: str) -> None:
    await run(url, Base.metadata.create_all)
    await run(url, Base.metadata.drop_all)

    assert await run(url, migrations.list_present_tables) == []
    with pytest.raises(OperationalError):
        await scalars(url, "SELECT count(*) FROM ohlcv_view")


async def test_an_unknown_revision_is_a_clear_error(sqlite_url: str) -> None:
    with pytest.raises(SchemaError, match="0815"):
        await run(sqlite_url, lambda conn: migrations.upgrade(conn, "0815"))


async def test_status_reports_engine_version_tables_and_state(url: str) -> None:
    empty = await run(url, migrations.status)
    await run(url, Base.metadata.create_all)
    unstamped = await run(url, migrations.status)
    await run(url, migrations.upgrade)
    await sql(url, ROW)
    current = await run(url, migrations.status)

    assert (empty.state, empty.revision, empty.head, empty.tables) == ("empty", None, migrations.head(), {})
    assert (unstamped.state, unstamped.revision, unstamped.tables) == ("unstamped", None, EMPTY)
    assert (current.state, current.revision, current.tables) == ("current", migrations.head(), {**EMPTY, "system_events": 1})
    assert current.engine in url
    assert current.version[0].isdigit()


async def test_a_later_revision_is_reached_step_by_step_and_left_again(url: str, next_revision: Callable[[str], None]) -> None:
    await run(url, migrations.upgrade)
    next_revision("INSERT INTO next_table VALUES (7)")

    behind = await run(url, migrations.status)
    await run(url, migrations.upgrade)
    reached = await run(url, migrations.status)
    values = await scalars(url, "SELECT id FROM next_table")
    await run(url, lambda conn: migrations.downgrade(conn, HEAD))
    left = await run(url, migrations.status)

    assert (behind.state, behind.head) == ("behind", "9998")
    assert (reached.state, values) == ("current", [7])
    assert (left.state, left.revision, left.tables) == ("behind", HEAD, EMPTY)


async def test_a_revision_that_fails_leaves_nothing_behind(url: str, next_revision: Callable[[str], None]) -> None:
    await run(url, migrations.upgrade)
    next_revision("INSERT INTO no_such_table VALUES (7)")

    with pytest.raises(Exception, match="no_such_table"):
        await run(url, migrations.upgrade)

    assert await run(url, migrations.current) == HEAD
    await sql(url, "CREATE TABLE next_table (id INTEGER)")


async def test_creation_at_an_older_revision_is_refused(url: str, next_revision: Callable[[str], None]) -> None:
    await run(url, migrations.upgrade)
    next_revision("INSERT INTO next_table VALUES (7)")

    with pytest.raises(SchemaError, match=f"is at revision {HEAD}, which is older than 9998 .*migrate"):
        await run(url, migrations.create)


async def test_the_tables_of_the_app_and_its_alembic_version_stay_unchanged(url: str) -> None:
    await sql(
        url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('the app''s')",
        "CREATE TABLE orders (id INTEGER)",
        "INSERT INTO orders VALUES (42)",
    )

    await run(url, migrations.upgrade)
    found = await run(url, migrations.differences)
    await run(url, migrations.downgrade)

    assert found == []
    assert await scalars(url, "SELECT version_num FROM alembic_version") == ["the app's"]
    assert await scalars(url, "SELECT id FROM orders") == [42]


async def test_two_databases_migrate_at_once_in_one_event_loop(postgres_url: str, sqlite_url: str, tmp_path: Path) -> None:
    urls = [postgres_url, sqlite_url, f"sqlite:///{tmp_path / 'second.db'}"]

    await asyncio.gather(*(run(url, migrations.upgrade) for url in urls))

    assert [await run(url, migrations.differences) for url in urls] == [[], [], []]


async def test_several_managers_of_one_process_migrate_one_database_at_once(url: str) -> None:
    await asyncio.gather(*(run(url, migrations.upgrade) for _ in range(3)))

    assert await run(url, migrations.differences) == []
    assert await scalars(url, "SELECT version_num FROM iftb_store_version") == [migrations.head()]


@pytest.mark.parametrize("memory_url", ["sqlite:///:memory:", "duckdb:///:memory:"])
async def test_a_memory_database_migrates_on_the_managers_own_connection(memory_url: str) -> None:
    async with DatabaseManager(memory_url) as db:
        await db.migrate()

        assert await db.ability(SupportsMigrations).with_connection(migrations.differences) == []


async def test_several_processes_migrate_one_database_at_once(url: str) -> None:
    script = (
        "import asyncio, sys\n"
        "from iftb_store import DatabaseManager\n"
        "async def main():\n"
        "    async with DatabaseManager(sys.argv[1]) as db:\n"
        "        await db.migrate()\n"
        "asyncio.run(main())\n"
    )

    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", script, url) for _ in range(3)]
    codes = [await process.wait() for process in processes]

    assert codes == [0, 0, 0]
    assert await scalars(url, "SELECT version_num FROM iftb_store_version") == [migrations.head()]


async def test_a_migration_that_waits_too_long_for_another_one_says_so(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.01)
    async with DatabaseManager(postgres_url) as other, other.get_session() as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock.LOCK_KEY})

        with pytest.raises(OperationalError, match="another process has been migrating this database"):
            await run(postgres_url, migrations.upgrade)


async def test_the_callers_timeouts_are_restored(postgres_url: str) -> None:
    def upgrade_with_timeouts(conn: Connection) -> tuple[str, str]:
        conn.execute(text("SET LOCAL lock_timeout = '7s'"))
        conn.execute(text("SET LOCAL statement_timeout = '8s'"))
        migrations.upgrade(conn)
        return conn.execute(text("SHOW lock_timeout")).scalar_one(), conn.execute(text("SHOW statement_timeout")).scalar_one()

    assert await run(postgres_url, upgrade_with_timeouts) == ("7s", "8s")


async def test_the_current_schema_of_postgresql_is_the_one_that_counts(postgres_url: str) -> None:
    def upgrade_in_tenant(conn: Connection) -> list[migrations.Difference]:
        conn.execute(text("CREATE SCHEMA tenant"))
        conn.execute(text("SET LOCAL search_path TO tenant"))
        migrations.upgrade(conn)
        return migrations.differences(conn)

    found = await run(postgres_url, upgrade_in_tenant)

    assert found == []
    assert (await run(postgres_url, migrations.status)).state == "empty"
    assert set(await scalars(postgres_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'tenant'")) == {*schema.OUR_TABLES}


async def test_looking_for_differences_leaves_no_trace_on_postgresql(postgres_url: str) -> None:
    await run(postgres_url, migrations.upgrade)

    def look(conn: Connection) -> tuple[str, int]:
        migrations.differences(conn)
        left = conn.execute(text("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()")).scalar_one()
        return conn.execute(text("SELECT current_schema()")).scalar_one(), left

    assert await run(postgres_url, look) == ("public", 0)
