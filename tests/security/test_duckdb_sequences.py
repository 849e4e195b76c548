"""Other sequences in a DuckDB file: a backup runs none of their SQL text, and odd names stop none."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from iftb_store.columnar.driver import Cursor, run_in_thread
from iftb_store_duckdb.backups import back_up
from iftb_store_duckdb.url import Options
from tests.support.filled import fill

ATTACK = "x; CREATE TABLE owned AS SELECT 42 AS a; --"
LOOP = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n"
ENDLESS = f"x; {LOOP}; --"
ODD = (ATTACK, ENDLESS, "My Seq", 'a"b', "it's", "a.b", "(", "nextval('x')")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def copied(path: Path, destination: Path) -> None:
    """Back up a file as the backend does, without the archive around it."""
    with closing(duckdb.connect(str(path))) as raw:
        cursor = Cursor(raw, logging.getLogger("test"))
        cursor.begin()
        back_up(cursor, Options(str(path)), str(destination), lambda done, size: None)
        cursor.rollback()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "bot.duckdb"
    asyncio.run(fill(f"duckdb:///{path}"))
    return path


@pytest.mark.parametrize("name", ODD)
def test_a_sequence_of_any_name_neither_runs_nor_stops_a_backup(store: Path, tmp_path: Path, name: str) -> None:
    with closing(duckdb.connect(str(store))) as connection:
        connection.execute(f"CREATE SEQUENCE {quoted(name)}")
    copied(store, tmp_path / "saved.duckdb")
    with closing(duckdb.connect(str(tmp_path / "saved.duckdb"))) as connection:
        assert connection.execute("FROM duckdb_tables() WHERE table_name = 'owned'").fetchall() == []
        assert (name,) not in connection.execute("SELECT sequence_name FROM duckdb_sequences()").fetchall()


@pytest.mark.parametrize("name", ["My Seq", 'a"b', "it's", "a.b", ATTACK])
def test_a_sequence_that_an_added_column_uses_continues_in_the_backup(store: Path, tmp_path: Path, name: str) -> None:
    literal = quoted(name).replace("'", "''")
    with closing(duckdb.connect(str(store))) as connection:
        connection.execute(
            f"CREATE SEQUENCE {quoted(name)} INCREMENT BY -3 MINVALUE -9223372036854775808 MAXVALUE 9 START 7 CYCLE"
        )
        connection.execute(f"SELECT nextval('{literal}')")
        connection.execute(f"ALTER TABLE trades ADD COLUMN n BIGINT DEFAULT nextval('{literal}')")
        columns = "sequence_name, min_value, max_value, increment_by, cycle, last_value"
        query = f"SELECT {columns} FROM duckdb_sequences() ORDER BY ALL"
        expected = connection.execute(query).fetchall()
        last_value = next(row[-1] for row in expected if row[0] == name)
    copied(store, tmp_path / "saved.duckdb")
    with closing(duckdb.connect(str(tmp_path / "saved.duckdb"))) as connection:
        assert connection.execute(query).fetchall() == expected
        assert connection.execute(f"SELECT nextval('{literal}')").fetchall() == [(last_value - 3,)]
        assert connection.execute("FROM duckdb_tables() WHERE table_name = 'owned'").fetchall() == []


def test_a_sequence_without_values_left_stops_no_backup(store: Path, tmp_path: Path) -> None:
    with closing(duckdb.connect(str(store))) as connection:
        connection.execute("CREATE SEQUENCE few MAXVALUE 2")
        connection.execute("SELECT nextval('few') FROM range(2)")
        connection.execute("ALTER TABLE trades ALTER COLUMN fee SET DEFAULT nextval('few')")
    copied(store, tmp_path / "saved.duckdb")


async def test_a_cancellation_reaches_the_connection_that_writes_the_copy() -> None:
    with closing(duckdb.connect()) as raw, closing(duckdb.connect()) as copy, ThreadPoolExecutor(1) as executor:
        cursor = Cursor(raw, logging.getLogger(__name__))

        def work() -> None:
            with cursor.also_interrupt(copy):
                copy.execute(LOOP).fetchall()

        task = asyncio.create_task(run_in_thread(executor, work, cursor.interrupt))
        await asyncio.wait([task], timeout=0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
