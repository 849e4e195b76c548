"""A column of ours by whose collation different texts can be equal is refused by name, on every engine, before a row is read."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import duckdb
import pytest

from iftb_store import DatabaseManager, SchemaError, SystemEventRepository
from iftb_store.doctor import examine
from iftb_store.testing import raw
from tests.conftest import Run
from tests.support.filled import fill

pytestmark = pytest.mark.usefixtures("plain_environment")

_COLUMNS = [
    ("ohlcv", "symbol"),
    ("ohlcv", "open"),
    ("trades", "trade_id"),
    ("positions", "exchange"),
    ("system_events", "message"),
    ("bar_digests", "symbol"),
]
_OWN = [
    "ALTER TABLE trades ADD COLUMN note TEXT COLLATE NOCASE",
    "CREATE INDEX mine ON trades (symbol COLLATE NOCASE)",
]


def recollate_sqlite(path: Path, table: str, column: str, collation: str) -> None:
    """Give a column a collation, as a file that was made so has it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("mine", lambda one, other: 0)
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        connection.execute("PRAGMA writable_schema = ON")
        collated = sql.replace(f" {column} TEXT", f" {column} TEXT COLLATE {collation}")
        assert collated != sql
        connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (collated, table))
        connection.commit()


def recollate_duckdb(path: Path, table: str, column: str, collation: str) -> None:
    """Make a table anew with a collation."""
    with closing(duckdb.connect(str(path))) as connection:
        ((sql,),) = connection.execute("SELECT sql FROM duckdb_tables() WHERE table_name = $1", [table]).fetchall()
        for (index,) in connection.execute("SELECT index_name FROM duckdb_indexes() WHERE table_name = $1", [table]).fetchall():
            connection.execute(f"DROP INDEX {index}")
        connection.execute(f"DROP TABLE {table}")
        collated = sql.replace(f" {column} VARCHAR", f" {column} VARCHAR COLLATE {collation}")
        assert collated != sql
        connection.execute(collated)


@pytest.mark.each_once
@pytest.mark.parametrize(("table", "column"), _COLUMNS)
@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM", '"nocase"', "mine"])
async def test_a_collation_in_an_sqlite_file(tmp_path: Path, table: str, column: str, collation: str) -> None:
    path = tmp_path / "other.db"
    await fill(f"sqlite:///{path}")
    recollate_sqlite(path, table, column, collation)
    for url in (f"sqlite:///{path}", f"sqlite:///{path}?trusted=true"):
        async with DatabaseManager(url) as db:
            for call in (SystemEventRepository(db).get_recent_events, db.status, db.migrate, partial(examine, db)):
                with pytest.raises(SchemaError, match=f"the column '{column}' of the table '{table}' has the collation"):
                    await call()


@pytest.mark.each_once
@pytest.mark.parametrize(("table", "column"), [one for one in _COLUMNS if one[1] != "open"])
@pytest.mark.parametrize("collation", ["NOCASE", '"NoCase"', "NOACCENT", "nocase.noaccent"])
async def test_a_collation_in_a_duckdb_file(tmp_path: Path, table: str, column: str, collation: str) -> None:
    path = tmp_path / "other.duckdb"
    await fill(f"duckdb:///{path}")
    recollate_duckdb(path, table, column, collation)
    for url in (f"duckdb:///{path}", f"duckdb:///{path}?trusted=true"):
        async with DatabaseManager(url) as db:
            for call in (SystemEventRepository(db).get_recent_events, db.status, db.migrate, partial(examine, db)):
                with pytest.raises(SchemaError, match=f"the column '{column}' of the table '{table}' has the collation"):
                    await call()


async def test_a_collation_without_distinctions_on_postgresql(postgres_url: str) -> None:
    await fill(postgres_url)
    async with DatabaseManager(postgres_url) as db:
        await raw.run(db, "CREATE COLLATION blind (locale = 'C')")
        await raw.run(db, "ALTER TABLE trades ADD COLUMN note text COLLATE blind")
        # not every server is built with ICU, whose collations can be made so
        await raw.run(db, "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'blind'")
        assert len(await SystemEventRepository(db).get_recent_events()) == 3
        await raw.run(db, "UPDATE pg_collation SET collisdeterministic = true WHERE collname = 'blind'")
        await raw.run(db, "DROP VIEW ohlcv_view")
        await raw.run(db, "ALTER TABLE ohlcv ALTER COLUMN symbol TYPE text COLLATE blind")
        await raw.run(db, "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'blind'")
    async with DatabaseManager(postgres_url) as db:
        for call in (SystemEventRepository(db).get_recent_events, db.status, db.migrate, partial(examine, db)):
            with pytest.raises(SchemaError, match="the column 'symbol' of the table 'ohlcv' has the collation 'blind'"):
                await call()


async def migrate(url: str) -> None:
    """Make the tables."""
    async with DatabaseManager(url) as db:
        await db.migrate()


def collated(engine: str, path: Path) -> None:
    """Make a store whose column of symbols has a collation, with a row for each of two names."""
    asyncio.run(migrate(f"{engine}:///{path}"))
    insert = (
        "INSERT INTO ohlcv (exchange, symbol, timeframe, timestamp, open, high, low, close, volume)"
        " VALUES ('binance', '{}', '1h', {}, {}, {}, {}, {}, {})"
    )
    names = ("BTCUSDT", "btcusdt")
    if engine == "sqlite":
        with closing(sqlite3.connect(path)) as connection:
            for name in names:
                connection.execute(insert.format(name, 1_704_067_200_000_000, *["'b1'"] * 5))
            connection.commit()
        recollate_sqlite(path, "ohlcv", "symbol", "NOCASE")
    else:
        recollate_duckdb(path, "ohlcv", "symbol", "NOCASE")
        with closing(duckdb.connect(str(path))) as connection:
            for name in names:
                connection.execute(insert.format(name, "'2024-01-01 00:00:00+00'", *["1"] * 5))


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_a_restore_writes_nothing_of_a_file_with_a_collation(tmp_path: Path, run: Run, engine: str) -> None:
    path = tmp_path / "saved"
    collated(engine, path)
    code, _, error = run("restore", str(path), "sqlite:///restored.db")
    assert (code, "the column 'symbol' of the table 'ohlcv' has the collation" in error) == (1, True), error
    assert run("status", "sqlite:///restored.db")[0] != 0


@pytest.mark.parametrize("statement", _OWN)
async def test_collations_of_columns_and_indexes_of_one_s_own_stay_usable(sqlite_url: str, statement: str) -> None:
    await fill(sqlite_url)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute(statement)
    async with DatabaseManager(sqlite_url) as db:
        assert len(await SystemEventRepository(db).get_recent_events()) == 3


async def test_collations_of_a_duckdb_column_of_one_s_own_stay_usable(duckdb_url: str) -> None:
    await fill(duckdb_url)
    with closing(duckdb.connect(duckdb_url.removeprefix("duckdb:///"))) as connection:
        connection.execute('ALTER TABLE ohlcv ADD COLUMN "a, (note" VARCHAR COLLATE NOCASE')
    async with DatabaseManager(duckdb_url) as db:
        assert len(await SystemEventRepository(db).get_recent_events()) == 3
