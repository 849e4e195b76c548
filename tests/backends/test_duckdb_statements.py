"""Which statements of raw SQL take DuckDB's write lock: those that DuckDB itself says write, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, SystemEventRepository, Unsupported
from iftb_store.testing import raw

_READS = [
    "SELECT 1",
    "FROM trades",
    "TABLE trades",
    "VALUES (1)",
    "DESCRIBE trades",
    "DESC trades",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SUMMARIZE trades",
    "PRAGMA table_info('trades')",
    "pragma database_size",
    "/* a comment */ PRAGMA -- another\n show_tables",
    "EXPLAIN SELECT 1",
    "EXPLAIN (FORMAT json) SELECT 1",
    "EXPLAIN ANALYZE SELECT count(*) FROM trades",
    "SELECT 'insert, update, delete, merge, nextval'",
    'SELECT 1 AS "update" -- delete\n /* merge */',
    "SELECT count(*) FROM duckdb_sequences() WHERE sequence_name <> 'nextval'",
]
_WRITES = [
    "INSERT INTO notes VALUES (1) RETURNING *",
    "WITH new AS (INSERT INTO notes VALUES (1) RETURNING *) SELECT * FROM new",
    "SELECT nextval('trades_id_seq')",
    "SELECT setval('trades_id_seq', 7)",
    "SELECT next_id()",
    "EXPLAIN ANALYZE INSERT INTO notes VALUES (1)",
    "EXPLAIN (ANALYZE) INSERT INTO notes VALUES (1)",
    "EXPLAIN /* */ ANALYZE DELETE FROM notes",
    "EXPLAIN ANALYZE SELECT nextval('trades_id_seq')",
    "COPY notes TO 'notes.csv'",
    "CALL pragma_version()",
    "CHECKPOINT",
    "PRAGMA force_checkpoint",
    "PRAGMA enable_profiling",
    "COMMENT ON TABLE notes IS 'mine'",
    "UPDATE EXTENSIONS",
]


@pytest.fixture
async def db(duckdb_tables_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(duckdb_tables_url) as manager:
        await raw.run(manager, "CREATE TABLE notes (a INTEGER)")
        await raw.run(manager, "CREATE MACRO next_id() AS nextval('trades_id_seq')")
        yield manager


@pytest.mark.parametrize("sql", _READS)
async def test_what_only_reads_waits_for_no_writer(db: DatabaseManager, sql: str) -> None:
    async with db.get_session() as writer:
        await SystemEventRepository(writer).log_event("a", "info", "first")
        async with db.get_session() as reader:
            assert (await reader.execute(text(sql.replace(":", r"\:")))).keys()


@pytest.mark.parametrize("sql", _WRITES)
async def test_what_writes_takes_the_lock_and_runs_nothing_before(db: DatabaseManager, sql: str) -> None:
    last = await raw.value(db, "SELECT last_value FROM duckdb_sequences() WHERE sequence_name = 'trades_id_seq'")
    async with db.get_session() as writer:
        await SystemEventRepository(writer).log_event("a", "info", "first")
        async with db.get_session() as session:
            with pytest.raises(OperationalError, match="this task"):
                await session.execute(text(sql))
    assert await raw.count(db, "notes") == 0
    assert await raw.value(db, "SELECT last_value FROM duckdb_sequences() WHERE sequence_name = 'trades_id_seq'") == last


@pytest.mark.parametrize("sql", [sql for sql in _WRITES if "INTO notes" in sql])
async def test_what_writes_is_stored_with_its_session_or_undone(db: DatabaseManager, sql: str) -> None:
    async with db.get_session() as session:
        await session.execute(text(sql))
        await session.rollback()
    assert await raw.count(db, "notes") == 0
    await raw.run(db, sql)
    assert await raw.count(db, "notes") == 1


@pytest.mark.parametrize("sql", _WRITES)
async def test_a_snapshot_refuses_what_writes(db: DatabaseManager, sql: str) -> None:
    async with db.get_session(isolation="snapshot") as session:
        assert (await session.execute(text("SELECT 1"))).scalar_one() == 1
        with pytest.raises(OperationalError, match="cannot write"):
            await session.execute(text(sql))
        await session.rollback()
        assert (await session.execute(text("SELECT 2"))).scalar_one() == 2


@pytest.mark.parametrize("sql", [_WRITES[0], *_WRITES[2:6]])
async def test_a_file_that_is_open_to_be_read_says_so(duckdb_url: str, sql: str) -> None:
    async with DatabaseManager(duckdb_url) as manager:
        await manager.migrate()
        await raw.run(manager, "CREATE TABLE notes (a INTEGER)")
        await raw.run(manager, "CREATE MACRO next_id() AS nextval('trades_id_seq')")
    async with DatabaseManager(f"{duckdb_url}?access_mode=read_only") as db:
        assert await raw.fetch(db, "EXPLAIN SELECT 1")
        with pytest.raises(OperationalError, match="without access_mode=read_only"):
            await raw.run(db, sql)


async def test_a_failed_read_leaves_a_session_usable(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        with pytest.raises(OperationalError, match="does not exist"):
            await session.execute(text("SELECT * FROM nothing_there"))
        assert (await session.execute(text("SELECT 1"))).scalar_one() == 1
        with pytest.raises(Unsupported, match="one statement at a time"):
            await session.execute(text("SELECT 1; SELECT 2"))


@pytest.mark.parametrize("comment", ["/**/", "/* a */ ", "-- b\n", ";"])
async def test_ten_thousand_comments_before_a_pragma_are_read_once(db: DatabaseManager, comment: str) -> None:
    async with db.get_session() as writer:
        await SystemEventRepository(writer).log_event("a", "info", "first")
        assert await raw.fetch(db, f"{comment * 10_000}PRAGMA {comment if comment != ';' else ''} show_tables")
