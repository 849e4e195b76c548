"""What one's own file runs: refused as a stranger's, unless its URL has ``trusted=true``; a view never passes."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from iftb_store import DatabaseManager, SchemaError, SystemEventRepository, TradeRepository, URLError
from iftb_store.doctor import examine
from iftb_store.testing import raw
from iftb_store.testing.samples import trade
from tests.conftest import Run
from tests.support.filled import fill

pytestmark = pytest.mark.usefixtures("plain_environment")

_OWN = {
    "sqlite": [
        "CREATE TRIGGER mine AFTER INSERT ON trades BEGIN INSERT INTO log VALUES (new.trade_id); END",
        "ALTER TABLE trades ADD COLUMN g TEXT AS (hex(symbol))",
        "CREATE INDEX mine ON trades (hex(symbol))",
    ],
    "duckdb": [
        "CREATE TRIGGER mine AFTER INSERT ON trades FOR EACH STATEMENT INSERT INTO log VALUES ('one')",
        "CREATE INDEX mine ON trades ((repeat(symbol, 2)))",
        "ALTER TABLE trades ADD COLUMN g VARCHAR DEFAULT (repeat('x', 2))",
    ],
}
_CASES = [(engine, statement) for engine, statements in _OWN.items() for statement in statements]


def change(engine: str, path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path) if engine == "sqlite" else duckdb.connect(str(path))) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def generate_column(path: Path) -> None:
    """Make a DuckDB table anew with a generated column before the others, as none can be added."""
    with closing(duckdb.connect(str(path))) as connection:
        ((sql,),) = connection.execute("SELECT sql FROM duckdb_tables() WHERE table_name = 'trades'").fetchall()
        connection.execute("CREATE TEMP TABLE kept AS FROM trades")
        connection.execute("DROP TABLE trades")
        connection.execute(sql.replace("(", "(g VARCHAR GENERATED ALWAYS AS (repeat(symbol, 2)), ", 1))
        connection.execute("INSERT INTO trades BY NAME FROM kept")


@pytest.mark.parametrize(("engine", "statement"), _CASES)
async def test_the_refusal_names_the_option_and_the_option_lifts_it(tmp_path: Path, engine: str, statement: str) -> None:
    path = tmp_path / "bot"
    url = f"{engine}:///{path}"
    await fill(url)
    change(engine, path, "CREATE TABLE log (body VARCHAR)", statement)
    for strict in (url, f"{url}?trusted=false"):
        async with DatabaseManager(strict) as db:
            with pytest.raises(SchemaError, match=r"trusted=true to the URL"):
                await db.status()
    async with DatabaseManager(f"{url}?trusted=true") as db:
        await TradeRepository(db).insert(trade("TRD-004"))
        assert (await db.status()).tables["trades"] == 4
        assert len(await SystemEventRepository(db).get_recent_events()) == 3
        await examine(db)
        await db.migrate()
        if "TRIGGER" in statement:
            assert await raw.count(db, "log") == 1


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
async def test_a_view_in_place_of_a_table_is_never_trusted(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "bot"
    await fill(f"{engine}:///{path}")
    change(engine, path, "DROP TABLE system_events", "CREATE VIEW system_events AS SELECT 1 AS id")
    async with DatabaseManager(f"{engine}:///{path}?trusted=true") as db:
        with pytest.raises(SchemaError, match="'system_events' is a view and not a table"):
            await db.status()


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_the_option_is_true_or_false(engine: str) -> None:
    with pytest.raises(URLError, match=r"trusted.* must be true or false"):
        DatabaseManager(f"{engine}:///:memory:?trusted=maybe")


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_a_backup_of_a_trusted_file_is_copied_from_its_url_and_not_restored(tmp_path: Path, run: Run, engine: str) -> None:
    path = tmp_path / "bot"
    url = f"{engine}:///{path}"
    asyncio.run(fill(url))
    if engine == "sqlite":
        change(engine, path, "ALTER TABLE trades ADD COLUMN g TEXT AS (hex(symbol))")
    else:
        generate_column(path)
    assert run("backup", url, "refused")[0] == 1
    assert run("backup", f"{url}?trusted=true", "saved")[0] == 0
    code, _, error = run("restore", "saved", "sqlite:///restored.db")
    assert (code, "generated column" in error, "copy from its URL instead" in error) == (1, True, True)
    assert run("status", "sqlite:///restored.db")[0] != 0
    assert run("copy", f"{engine}:///saved?trusted=true", "sqlite:///copied.db")[0] == 0
    assert run("verify", f"{engine}:///saved?trusted=true", "sqlite:///copied.db")[0] == 0
