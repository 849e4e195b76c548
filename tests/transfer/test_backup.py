"""Backup and restore: from every engine into every engine, refused, interrupted, damaged; and the two commands."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, StoreError, TradeRepository
from iftb_store.cli.progress import Progress
from iftb_store.errors import CollisionError, InvalidValueError, SchemaError
from iftb_store.testing import raw
from iftb_store.testing.backups import fill
from iftb_store.testing.samples import trade
from iftb_store.testing.whole_rows import EXAMPLES, delete_rows, stored, write_rows
from iftb_store.transfer.backup import backup
from iftb_store.transfer.reports import BackupReport
from iftb_store.transfer.restore import backup_url, restore_rows
from iftb_store_sqlite.backups import Stopped
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")

BARS, TRADES = EXAMPLES[0][0], EXAMPLES[1][0]


@asynccontextmanager
async def filled(url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await fill(db)
        yield db


async def saved(url: str, path: str = "saved") -> DatabaseManager:
    """Back up a filled database; return a manager of the backup."""
    async with filled(url) as db:
        await backup(db, path)
    return DatabaseManager(backup_url(path))


async def holds_the_examples(db: DatabaseManager) -> bool:
    return all([await stored(db, table) == rows.select(table.written) for table, rows in EXAMPLES])


@pytest.fixture(params=["postgres", "sqlite", "duckdb"])
def origin(request: pytest.FixtureRequest) -> str:
    """URL of the database that is backed up, and in the engine's own restore also restored."""
    fresh: str = request.getfixturevalue(f"{request.param}_url")
    return fresh


@pytest.mark.each_once
async def test_a_backup_of_any_engine_is_restored_into_any(origin: str, url: str) -> None:
    async with await saved(origin) as backup, DatabaseManager(origin) as emptied:
        for table, rows in EXAMPLES:
            await delete_rows(emptied, table, rows)
        async with DatabaseManager(url) as db:
            done = await restore_rows(backup, db)
            assert await holds_the_examples(db)
            assert await TradeRepository(db).insert(trade("new")) > EXAMPLES[1][1]["id"][-1].as_py()
    rows_of = {table.name: sum(part.source.rows for part in done if part.table == table.name) for table, _ in EXAMPLES}
    assert rows_of == {table.name: rows.num_rows for table, rows in EXAMPLES}
    assert all(part.equal and part.source.checksum for part in done)


async def test_an_interrupted_restore_resumes(sqlite_url: str, duckdb_url: str) -> None:
    async with await saved(sqlite_url) as backup, DatabaseManager(duckdb_url) as db:
        await db.create_tables()
        await write_rows(db, BARS, EXAMPLES[0][1].slice(0, 5))
        done = await restore_rows(backup, db)
        assert await holds_the_examples(db)
        again = await restore_rows(backup, db)
    assert sum(part.inserted for part in done if part.table == "ohlcv") == EXAMPLES[0][1].num_rows - 5
    assert {part.inserted for part in again} == {0}


def _with(table_and_rows: tuple[Any, pa.Table], column: str, value: object) -> pa.Table:
    table, rows = table_and_rows
    changed = pa.array([value, *rows[column].to_pylist()[1:]], rows.schema.field(column).type)
    return rows.set_column(table.columns.index(column), column, changed).slice(0, 1)


@pytest.mark.parametrize(
    ("number", "column", "value", "named"),
    [
        (0, "trades_count", 3, "ohlcv binance BTCUSDT 1h 0001-01-01 00:00:00.* has other values in the backup"),
        (0, "symbol", "ADABTC", "ohlcv binance ADABTC 1h .* is not in the backup"),
        (1, "fee", 7, "trades 1 has other values"),
        (1, "id", 77_777, "trades 77777 is not in the backup"),
        (2, "margin", 7, "positions 1 has other values"),
        (3, "message", "mine", "system_events 1 has other values"),
    ],
)
async def test_a_row_that_would_be_lost_is_named_and_nothing_is_written(
    sqlite_url: str, duckdb_url: str, number: int, column: str, value: object, named: str
) -> None:
    table, _ = EXAMPLES[number]
    mine = _with(EXAMPLES[number], column, value)
    async with await saved(sqlite_url) as backup, DatabaseManager(duckdb_url) as db:
        await db.create_tables()
        await write_rows(db, table, mine)
        with pytest.raises(
            CollisionError, match=f"^{named}.*; nothing was written; restore into an empty database, or .*--overwrite"
        ):
            await restore_rows(backup, db)
        assert [(await stored(db, each)).num_rows for each, _ in EXAMPLES] == [int(each is table) for each, _ in EXAMPLES]
        await restore_rows(backup, db, overwrite=True)
        assert await holds_the_examples(db)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _scratched(content: bytes) -> bytes:
    scratched = bytearray(content)
    scratched[20_000::500] = bytes(len(scratched[20_000::500]))
    return bytes(scratched)


@pytest.mark.parametrize("origin", ["sqlite", "duckdb"], indirect=True)
@pytest.mark.parametrize("damage", [_cut, _scratched])
async def test_a_damaged_backup_is_refused_before_anything_is_written(
    origin: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    await saved(origin)
    path = tmp_path / "saved"
    await asyncio.to_thread(lambda: path.write_bytes(damage(path.read_bytes())))
    async with DatabaseManager("sqlite:///fresh.db") as db:
        with pytest.raises((OperationalError, StoreError), match="damaged"):
            async with DatabaseManager(backup_url(path)) as backup:
                await restore_rows(backup, db)
        assert (await db.status()).state == "empty"


def test_what_is_no_backup_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("a,b\n" * 1_000)
    (tmp_path / "folder").mkdir()
    assert run("migrate", "sqlite:///other.db")[0] == 0
    for name, said in (
        ("empty", "not a backup: it is neither an SQLite nor a DuckDB database"),
        ("text", "not a backup: it is neither an SQLite nor a DuckDB database"),
        ("folder", "Is a directory"),
        ("absent", "No such file"),
    ):
        code, _, error = run("restore", name, "sqlite:///fresh.db")
        assert (code, said in error, error.count("\n")) == (2, True, 1), error
    assert not (tmp_path / "fresh.db").exists()


async def test_a_database_without_our_tables_is_no_backup(tmp_path: Path) -> None:
    async with DatabaseManager("sqlite:///foreign.db") as foreign, DatabaseManager("duckdb:///fresh.duckdb") as db:
        await raw.run(foreign, "CREATE TABLE mine (a INTEGER)")
        with pytest.raises(SchemaError, match="the backup has no tables of iftb-store"):
            await restore_rows(foreign, db)
        assert (await db.status()).state == "empty"


async def test_a_bot_that_writes_into_the_destination_meanwhile_loses_nothing(sqlite_url: str, duckdb_url: str) -> None:
    begun = list[str]()

    @contextmanager
    def meanwhile(name: str) -> Iterator[Callable[[int, int | None], None]]:
        begun.append(name)
        if begun.count("compare") == 2 and name == "compare":
            with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as bot, bot:
                bot.execute("INSERT INTO system_events (event_type, severity, message) VALUES ('mine', 'info', '')")
        yield lambda done, total: None

    async with await saved(duckdb_url) as backup, DatabaseManager(sqlite_url) as db:
        await restore_rows(backup, db)
        with pytest.raises(StoreError, match="the destination was written to during the restore"):
            await restore_rows(backup, db, step=meanwhile)
        assert await raw.value(db, "SELECT count(*) FROM system_events WHERE event_type = 'mine'") == 1


async def test_a_backup_that_is_only_read_needs_no_file_beside_it(origin: str, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    async with await saved(origin, "backups/saved") as backup:
        assert await raw.count(backup, "trades") == EXAMPLES[1][1].num_rows
        assert [path.name for path in (tmp_path / "backups").iterdir() if path.is_file()] == ["saved"]


async def test_a_cancelled_backup_does_not_run_on(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def endless(connection: sqlite3.Connection, stop: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        # the event that ``stop`` checks
        stop.__self__.wait()
        over.set()
        raise Stopped

    monkeypatch.setattr("iftb_store_sqlite.backups.check", endless)
    async with filled(sqlite_url) as db:
        task = asyncio.create_task(backup(db, "saved"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert over.is_set()
        assert db.in_use == 0


def test_backup_and_restore_print_what_they_did(run: Run, sqlite_url: str) -> None:
    asyncio.run(_fill(sqlite_url))
    total = sum(rows.num_rows for _, rows in EXAMPLES)
    code, out, error = run("backup", sqlite_url, "saved")
    assert (code, error) == (0, "")
    assert f" to {Path.cwd() / 'saved'}: {total} rows" in out
    code, out, error = run("restore", "saved", "duckdb:///fresh.duckdb")
    assert (code, error) == (0, "")
    assert "ohlcv" in out
    assert f"restored and verified saved: {total} rows in duckdb:///fresh.duckdb" in out


def test_backup_and_restore_report_to_programs_what_they_did(run: Run, duckdb_url: str) -> None:
    asyncio.run(_fill(duckdb_url))
    made = json.loads(run("backup", duckdb_url, "saved", "--json")[1])
    assert (made["path"], made["engine"], made["tables"]["trades"]) == (
        str(Path.cwd() / "saved"),
        "duckdb",
        EXAMPLES[1][1].num_rows,
    )
    parts = json.loads(run("restore", "saved", "sqlite:///fresh.db", "--json")[1])["parts"]
    assert {part["table"]: part["equal"] for part in parts} == dict.fromkeys([table.name for table, _ in EXAMPLES], True)
    assert run("backup", "sqlite:///fresh.db", "again", "--quiet") == (0, "", "")
    assert run("restore", "again", "sqlite:///fresh.db", "--quiet") == (0, "", "")


def test_wrong_words_are_refused_with_a_remedy(run: Run, stored_url: str, tmp_path: Path) -> None:
    path = stored_url.removeprefix("sqlite:///")
    (tmp_path / "there").write_text("mine")
    (tmp_path / "used").touch()
    (tmp_path / "used-wal").touch()
    for words, said in (
        (("backup", stored_url), "exactly one FILE is required"),
        (("backup", stored_url, "there"), "--overwrite"),
        (("backup", stored_url, "nowhere/saved"), "create it first"),
        (("backup", stored_url, str(tmp_path)), "is a directory"),
        (("backup", stored_url, path, "--overwrite"), "is the database itself"),
        (("backup", stored_url, "used", "--overwrite"), "is or was in use"),
        (("backup", stored_url, f"{path}-wal", "--overwrite"), "belongs to the database"),
        (("backup", stored_url, f"{path}-wal"), "belongs to the database"),
        (("backup", stored_url, f"{path}.wal"), "belongs to the database"),
        (("restore", stored_url), "exactly one FILE is required"),
        (("restore", path, stored_url), "is the database itself"),
    ):
        code, _, error = run(*words)
        assert (code, said in error, error.count("\n")) == (2, True, 1), (words, error)
    assert (tmp_path / "there").read_text() == "mine"


def test_a_database_is_not_restored_into_itself(run: Run, duckdb_url: str, tmp_path: Path) -> None:
    assert run("migrate", duckdb_url)[0] == 0
    (tmp_path / "link").symlink_to(duckdb_url.removeprefix("duckdb:///"))
    for url in (duckdb_url, f"duckdb:///{tmp_path / 'link'}"):
        code, _, error = run("restore", duckdb_url.removeprefix("duckdb:///"), url)
        assert (code, "is the database itself" in error) == (2, True)


def test_ctrl_c_says_what_to_do_next(run: Run, stored_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("backup", stored_url, "saved")[0] == 0
    monkeypatch.setattr(Progress, "__call__", _interrupted)
    code, _, error = run("backup", stored_url, "again")
    assert (code, "nothing was written to again" in error, Path("again").exists()) == (130, True, False)
    code, _, error = run("restore", "saved", "duckdb:///fresh.duckdb")
    assert (code, "run the same command again" in error) == (130, True)


async def test_another_process_s_duckdb_file_names_it_and_the_remedy(duckdb_url: str, run: Run) -> None:
    async with filled(duckdb_url):
        command = [sys.executable, "-m", "iftb_store", "backup", duckdb_url + "?connect_timeout=0", "saved"]
        other = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await other.communicate()
    assert other.returncode == 1
    assert f"PID {os.getpid()}" in said.decode()
    assert "call backup(db) in that process" in said.decode()


async def test_two_backups_to_one_file_are_one_after_the_other(sqlite_url: str) -> None:
    async with filled(sqlite_url) as db:
        first, second = await asyncio.gather(backup(db, "saved"), backup(db, "saved"), return_exceptions=True)
        outcomes = {type(first), type(second)}
    assert outcomes in ({BackupReport, OperationalError}, {BackupReport, InvalidValueError})


def _interrupted(*_: object) -> Any:
    raise KeyboardInterrupt


async def _fill(url: str) -> None:
    async with filled(url):
        pass


@pytest.fixture
def stored_url(sqlite_url: str, run: Run) -> str:
    """URL of a migrated SQLite file without rows."""
    assert run("migrate", sqlite_url)[0] == 0
    return sqlite_url
