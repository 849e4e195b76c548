"""Malicious databases: objects in place of our tables are refused by name, and none of them is run."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import asyncpg
import duckdb
import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, SchemaError, SystemEventRepository
from iftb_store.doctor import examine
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.testing import raw
from tests.conftest import Run
from tests.security.hostile_duckdb import FUNCTIONS, OPERATORS
from tests.support.filled import fill

SECRET = "iftb-store-canary"
COMMANDS = ("status", "events", "doctor", "stats", "positions", "migrate")
TABLES = ("ohlcv", "trades", "positions", "system_events", "bar_digests", VERSION_TABLE)

pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_text(SECRET)
    return path


def change_duckdb(path: Path, *statements: str) -> None:
    with closing(duckdb.connect(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)


def change_sqlite(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def stolen(tmp_path: Path, secret: Path) -> Path:
    """A DuckDB store whose events table is a view of a key file's text."""
    path = tmp_path / "stolen.duckdb"
    asyncio.run(fill(f"duckdb:///{path}"))
    names = ("details", "symbol", "exchange", "trade_id", "position_id", "stack_trace")
    columns = "1 AS id, 'x' AS event_type, 'info' AS severity, content AS message, now() AS created_at, "
    columns += ", ".join(f"NULL AS {name}" for name in names)
    view = f"CREATE VIEW system_events AS SELECT {columns} FROM read_text('{secret}')"
    change_duckdb(path, "DROP TABLE system_events", view)
    return path


def test_a_view_over_a_key_is_read_by_no_command(stolen: Path, run: Run) -> None:
    url, whole = f"duckdb:///{stolen}", "sqlite:///whole.db"
    asyncio.run(fill(whole))
    tried: list[tuple[str, ...]] = [(command, url) for command in COMMANDS]
    tried += [("restore", str(stolen), "sqlite:///restored.db"), ("copy", url, "sqlite:///copied.db"), ("verify", url, whole)]
    tried += [("copy", whole, url), ("backup", url, "saved"), ("export", url, "--table", "system_events", "-o", "events.csv")]
    for words in tried:
        code, out, error = run(*words)
        assert (code, SECRET in out + error) == (1, False), words
        assert "'system_events' is a view and not a table of iftb-store" in error, words
    assert [path.name for path in Path.cwd().iterdir() if path.is_file() and SECRET.encode() in path.read_bytes()] == ["key.pem"]


@pytest.mark.parametrize("table", TABLES)
def test_a_recursive_view_in_place_of_a_table_delays_nothing(tmp_path: Path, run: Run, table: str) -> None:
    path = tmp_path / "endless.db"
    asyncio.run(fill(f"sqlite:///{path}"))
    view = f"CREATE VIEW {table.upper()} AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    change_sqlite(path, f"DROP TABLE {table}", view)
    for words in [*((command, f"sqlite:///{path}") for command in COMMANDS), ("restore", str(path), "sqlite:///restored.db")]:
        code, _, error = run(*words)
        assert (code, f"{table.upper()!r} is a view" in error) == (1, True), (words, error)


@pytest.mark.each_once
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", ["view", "materialized view"])
async def test_a_view_in_place_of_a_table_is_refused_on_postgresql(postgres_url: str, table: str, kind: str) -> None:
    await fill(postgres_url)
    async with DatabaseManager(postgres_url) as db:
        await raw.run(db, f"ALTER TABLE {table} RENAME TO moved")
        await raw.run(db, f"CREATE {kind} {table} AS SELECT * FROM moved")
    async with DatabaseManager(postgres_url) as db:
        for call in (SystemEventRepository(db).get_recent_events, db.status, db.migrate, partial(examine, db)):
            with pytest.raises(SchemaError, match=f"'{table}' is a {kind} and not a table"):
                await call()


async def test_a_foreign_table_in_place_of_a_table_is_refused(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing")
        await connection.execute("CREATE FOREIGN TABLE ohlcv (id bigint) SERVER elsewhere")
        async with DatabaseManager(postgres_url) as db:
            with pytest.raises(SchemaError, match="'ohlcv' is a foreign table"):
                await db.status()
    finally:
        await connection.execute("DROP FOREIGN DATA WRAPPER nothing CASCADE")
        await connection.close()


async def test_a_partitioned_table_is_accepted(postgres_url: str) -> None:
    async with DatabaseManager(postgres_url) as db:
        await db.migrate()
        await raw.run(db, "ALTER TABLE ohlcv RENAME TO bars")
        await raw.run(db, "CREATE TABLE ohlcv (LIKE bars INCLUDING ALL) PARTITION BY RANGE (timestamp)")
        assert (await db.status()).tables["ohlcv"] == 0
        assert await SystemEventRepository(db).get_recent_events() == []


@pytest.mark.parametrize("name", [*FUNCTIONS, *OPERATORS])
async def test_a_macro_of_a_built_in_s_name_is_refused_at_connect(tmp_path: Path, secret: Path, name: str) -> None:
    path = tmp_path / "shadow.duckdb"
    parameters = "a, b" if name in OPERATORS else ""
    change_duckdb(path, f"CREATE MACRO \"{name.upper()}\"({parameters}) AS (SELECT content FROM read_text('{secret}'))")
    with pytest.raises(OperationalError, match=r"has a macro named .* replaces DuckDB's own"):
        await DatabaseManager(f"duckdb:///{path}").connect()


async def test_the_look_for_macros_cannot_be_fooled_by_them(tmp_path: Path) -> None:
    path = tmp_path / "shadow.duckdb"
    names = (
        "=",
        "<>",
        "and",
        "or",
        "not",
        "lower",
        "current_database",
        "current_schema",
        "current_setting",
        "in",
        "list_contains",
    )
    macros = [f'CREATE MACRO "{name}"(a, b) AS FALSE' for name in names]
    listing = [f"CREATE MACRO {name}() AS TABLE SELECT 'x' AS function_name" for name in ("duckdb_functions", "duckdb_databases")]
    change_duckdb(
        path, *macros, *listing, "CREATE SCHEMA system", "CREATE MACRO shadow.system.duckdb_functions() AS TABLE SELECT 1"
    )
    with pytest.raises(OperationalError, match="has a macro named"):
        await DatabaseManager(f"duckdb:///{path}").connect()


async def test_macros_views_and_schemas_of_other_names_stay_usable(duckdb_url: str) -> None:
    await fill(duckdb_url)
    path = Path(duckdb_url.removeprefix("duckdb:///"))
    change_duckdb(
        path,
        "CREATE MACRO mid(a, b) AS (a + b) / 2",
        "CREATE VIEW highs AS SELECT max(high) AS h FROM ohlcv",
        "CREATE SCHEMA mine",
        'CREATE INDEX "mine on trades(" ON trades (symbol)',
        """CREATE INDEX "it's repeat('" ON trades (lower(symbol))""",
    )
    async with DatabaseManager(duckdb_url) as db:
        assert await raw.value(db, "SELECT mid(1, 3)") == 2
        assert len(await SystemEventRepository(db).get_recent_events()) == 3


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TRIGGER tr AFTER INSERT ON trades FOR EACH STATEMENT DELETE FROM positions", "the trigger 'tr'"),
        ("ALTER TABLE trades ADD COLUMN g VARCHAR DEFAULT (repeat('x', 10))", "calls 'repeat'"),
        ("CREATE INDEX mine ON trades ((repeat(symbol, 10)))", "calls 'repeat'"),
        ("""CREATE INDEX "a('" ON trades ((repeat(symbol, 10)))""", "calls 'repeat'"),
        ("""CREATE INDEX "a""('" ON trades ((repeat(symbol, 10)))""", "calls 'repeat'"),
    ],
)
async def test_what_a_duckdb_table_would_run_is_refused(duckdb_url: str, statement: str, named: str) -> None:
    await fill(duckdb_url)
    change_duckdb(Path(duckdb_url.removeprefix("duckdb:///")), statement)
    async with DatabaseManager(duckdb_url) as db:
        for call in (SystemEventRepository(db).get_recent_events, db.status, db.migrate, partial(examine, db)):
            with pytest.raises(SchemaError, match=f"the table 'trades' has .*{named}"):
                await call()


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["CREATE TRIGGER tr AFTER INSERT ON trades BEGIN DELETE FROM positions; END"], "the trigger 'tr'"),
        (["ALTER TABLE trades ADD COLUMN g TEXT AS (hex(zeroblob(400000000)))"], "the generated column 'g'"),
        (["ALTER TABLE trades ADD COLUMN g TEXT CHECK (length(hex(zeroblob(400000000))) > 0)"], "calls 'zeroblob'"),
        (["CREATE INDEX mine ON trades (hex(symbol))"], "calls 'hex'"),
        (["CREATE INDEX mine ON trades (symbol) WHERE symbol GLOB '*a*a*a*b'"], "calls 'glob'"),
        (
            [
                "CREATE TABLE notes (trade_id TEXT REFERENCES trades (trade_id) ON DELETE CASCADE)",
                "CREATE TRIGGER tr AFTER DELETE ON notes BEGIN DELETE FROM positions; END",
            ],
            "'notes' has the trigger 'tr'",
        ),
        (
            [
                "CREATE TABLE notes (id TEXT PRIMARY KEY REFERENCES Trades (trade_id) ON UPDATE CASCADE)",
                "CREATE TABLE words (id TEXT REFERENCES notes (id) ON UPDATE SET NULL)",
                "CREATE TRIGGER tr AFTER UPDATE ON Words BEGIN DELETE FROM positions; END",
            ],
            "(?i)'words' has the trigger 'tr'",
        ),
    ],
)
async def test_what_an_sqlite_table_would_run_is_refused(sqlite_url: str, statements: list[str], named: str) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.migrate()
    change_sqlite(Path(sqlite_url.removeprefix("sqlite:///")), *statements)
    async with DatabaseManager(sqlite_url) as db:
        for call in (SystemEventRepository(db).get_recent_events, db.status, db.migrate, partial(examine, db)):
            with pytest.raises(SchemaError, match=named):
                await call()


async def test_other_tables_columns_and_indexes_of_the_user_stay_usable(sqlite_url: str) -> None:
    await fill(sqlite_url)
    change_sqlite(
        Path(sqlite_url.removeprefix("sqlite:///")),
        "ALTER TABLE trades ADD COLUMN note TEXT DEFAULT 'none' CHECK (length(note) < 100)",
        "CREATE INDEX mine ON trades (upper(symbol))",
        "CREATE TABLE notes (trade_id TEXT REFERENCES trades (trade_id) ON DELETE CASCADE, body TEXT CHECK (body LIKE 'a%'))",
        "CREATE TABLE log (body TEXT, length INTEGER AS (length(body)))",
        "CREATE TRIGGER tr AFTER INSERT ON log BEGIN DELETE FROM log; END",
        "CREATE TABLE refs (trade_id TEXT REFERENCES trades (trade_id))",
        "CREATE TRIGGER own AFTER INSERT ON refs BEGIN DELETE FROM log; END",
        "CREATE VIEW bodies AS SELECT body FROM notes",
    )
    async with DatabaseManager(sqlite_url) as db:
        assert len(await SystemEventRepository(db).get_recent_events()) == 3


async def test_many_tables_and_triggers_of_another_s_take_no_long_look(sqlite_url: str) -> None:
    await fill(sqlite_url)
    tables = [f"CREATE TABLE t{n} (a PRIMARY KEY, b REFERENCES t{n + 1} ON DELETE CASCADE)" for n in range(2_000)]
    triggers = [f"CREATE TRIGGER r{n} AFTER DELETE ON t{n} BEGIN DELETE FROM t0; END" for n in range(2_000)]
    change_sqlite(Path(sqlite_url.removeprefix("sqlite:///")), "BEGIN", *tables, *triggers)
    async with DatabaseManager(sqlite_url) as db, asyncio.timeout(10):
        assert len(await SystemEventRepository(db).get_recent_events()) == 3


async def test_a_schema_of_too_many_objects_is_refused(sqlite_url: str) -> None:
    await fill(sqlite_url)
    # 10,000 statements would take seconds, as each looks through the whole schema
    views = """
        INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)
        WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 10000)
        SELECT 'view', 'v' || n, 'v' || n, 0, 'CREATE VIEW v' || n || ' AS SELECT 1' FROM number"""
    change_sqlite(Path(sqlite_url.removeprefix("sqlite:///")), "PRAGMA writable_schema = ON", views)
    async with DatabaseManager(sqlite_url) as db:
        with pytest.raises(SchemaError, match="at most 10000 are checked"):
            await SystemEventRepository(db).get_recent_events()


@pytest.mark.parametrize(("pragma", "value"), [("trusted_schema", 0), ("cell_size_check", 1)])
async def test_an_sqlite_schema_is_not_trusted(sqlite_url: str, pragma: str, value: int) -> None:
    async with DatabaseManager(sqlite_url) as db:
        assert await raw.value(db, f"PRAGMA {pragma}") == value


def test_a_backup_runs_no_check_of_another_s_table(tmp_path: Path, run: Run) -> None:
    asyncio.run(fill("sqlite:///bot.db"))
    with closing(sqlite3.connect("bot.db")) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("CREATE TABLE mine (a, CHECK (length(hex(zeroblob(900000000))) > 0))")
        connection.execute("INSERT INTO mine VALUES (1)")
        connection.commit()
    assert run("backup", "sqlite:///bot.db", "saved")[0] == 0
    assert run("restore", "saved", "duckdb:///restored.duckdb")[0] == 0
