"""Features of the SQLite backend: settings, files and URL options."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import sys
import threading
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, SystemEventRepository, TradeRepository, UpsertReport, URLError
from iftb_store.abilities import SupportsMigrations
from iftb_store.cli import main
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.schema.types import to_epoch_us
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, hourly
from iftb_store.values.decimals import from_sortable, to_sortable
from iftb_store_sqlite import arrow
from tests.support.strangers import as_stranger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bot.db"


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 2), ("busy_timeout", 30_000)],
)
async def test_a_connection_is_set_up_for_safety(sqlite_url: str, pragma: str, value: object) -> None:
    async with DatabaseManager(sqlite_url) as db, db.get_session() as session:
        assert (await session.execute(text(f"PRAGMA {pragma}"))).scalar() == value


async def test_a_new_file_belongs_only_to_its_owner(path: Path) -> None:
    async with DatabaseManager(f"sqlite:///{path}") as db:
        await db.create_tables()
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


async def test_memory_is_one_database_for_the_managers_life() -> None:
    async with DatabaseManager("sqlite+aiosqlite:///:memory:") as db:
        await db.create_tables()
        events = SystemEventRepository(db)
        await asyncio.gather(*(events.log_event("tick", "info", str(number)) for number in range(8)))
        assert len(await events.get_recent_events()) == 8


async def test_a_statement_of_a_cancelled_command_does_not_run_on(sqlite_url: str) -> None:
    begun = threading.Event()

    def endless(conn: Connection) -> None:
        driver: Any = conn.connection
        driver.create_function("begun", 0, begun.set)
        sql = "WITH RECURSIVE n(i) AS (SELECT coalesce(begun(), 1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        conn.execute(text(sql))

    async with DatabaseManager(sqlite_url) as db:
        running = asyncio.ensure_future(db.ability(SupportsMigrations).with_connection(endless, read_only=True))
        await asyncio.to_thread(begun.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert db.in_use == 0


async def test_readers_are_not_blocked_by_a_writer(sqlite_url: str) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        async with db.get_session() as writer:
            await SystemEventRepository(writer).log_event("tick", "info", "")
            assert await SystemEventRepository(db).get_recent_events() == []
            assert (await db.status()).state == "current"


async def test_a_second_writer_waits_no_longer_than_the_timeout(sqlite_url: str) -> None:
    async with DatabaseManager(sqlite_url) as db, DatabaseManager(f"{sqlite_url}?timeout=0.05") as hasty:
        await db.create_tables()
        async with db.get_session() as writer:
            await SystemEventRepository(writer).log_event("tick", "info", "")
            with pytest.raises(OperationalError, match="locked by another writer"):
                await as_stranger(SystemEventRepository(hasty).log_event("tick", "info", ""))


async def test_rows_that_a_trigger_writes_are_not_counted_as_bars(sqlite_url: str) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many(hourly(1))
        await raw.run(db, "CREATE TABLE log (id INTEGER)")
        await raw.run(db, "CREATE TRIGGER noted AFTER INSERT ON ohlcv BEGIN INSERT INTO log VALUES (1); END")
        batch = [replace(item, volume=item.volume + 1) for item in hourly(2)]
        assert await OHLCVRepository(db).upsert_many(batch, report=True) == UpsertReport(1, 1, 0)
        assert [item.volume for item in await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + HOUR)] == [
            item.volume for item in batch
        ]


async def test_a_read_only_url_reads_and_refuses_to_write(sqlite_url: str) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
    async with DatabaseManager(f"{sqlite_url}?mode=ro") as db:
        assert await SystemEventRepository(db).get_recent_events() == []
        assert (await db.status()).state == "current"
        with pytest.raises(OperationalError, match="read-only"):
            await SystemEventRepository(db).log_event("tick", "info", "")


async def test_mode_rw_creates_no_file(path: Path) -> None:
    with pytest.raises(OperationalError, match="cannot be opened"):
        await DatabaseManager(f"sqlite:///{path}?mode=rw").connect()
    assert not is_there(path)


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match=r"nowhere.*cannot be created: No such file or directory"):
        await DatabaseManager(f"sqlite:///{tmp_path}/nowhere/bot.db").connect()


def test_a_foreign_file_is_refused(path: Path) -> None:
    path.write_text("not a database, but long enough to be looked at as if it were one\n" * 100)
    with pytest.raises(OperationalError, match="not an SQLite database"):
        asyncio.run(DatabaseManager(f"sqlite:///{path}").connect())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///x.db?nolock=1", "unknown option 'nolock'.*timeout, busy_timeout, mode"),
        ("sqlite:///x.db?timeout=soon", "timeout must be seconds between 0 and 3600.*'soon'"),
        ("sqlite:///x.db?mode=rx", "mode must be one of ro, rw, rwc.*'rx'"),
        ("sqlite://host/x.db", "no host"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_opened(url: str, message: str) -> None:
    with pytest.raises(URLError, match=message):
        DatabaseManager(url)


async def test_an_error_that_ends_the_transaction_is_reported_at_a_clean_exit(path: Path) -> None:
    async with DatabaseManager(f"sqlite:///{path}") as db:
        await db.create_tables()
        with pytest.raises(OperationalError, match="none of this session's writes were committed"):
            await log_after_a_lost_transaction(db)
        assert await SystemEventRepository(db).get_recent_events() == []


async def log_after_a_lost_transaction(db: DatabaseManager) -> None:
    async with db.get_session() as session:
        await SystemEventRepository(session).log_event("tick", "info", "")
        with pytest.raises(IntegrityError):
            await session.execute(text("INSERT OR ROLLBACK INTO positions (id, side) VALUES (1, NULL)"))
        with pytest.raises(OperationalError, match="none of this session's writes were committed"):
            await SystemEventRepository(session).log_event("tick", "info", "")


def is_there(path: Path) -> bool:
    return path.exists()


def test_sortable_text_sorts_as_the_numbers_in_sqlite() -> None:
    numbers = [
        Decimal(number) for number in ("-99999999999999999999", "-10.5", "-10", "-2", "-0.1", "0", "0.01", "2", "10", "10.5")
    ]
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE numbers (number TEXT)")
    connection.executemany("INSERT INTO numbers VALUES (?)", [(to_sortable(str(number)),) for number in reversed(numbers)])
    rows = connection.execute("SELECT number FROM numbers ORDER BY number").fetchall()
    connection.close()
    assert [from_sortable(number) for (number,) in rows] == numbers


async def test_what_was_read_belongs_only_to_the_caller(sqlite_url: str) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many(hourly(10))
        found = await OHLCVRepository(db).get_latest("BTCUSDT", "1h")
        # the name `found`, and the call itself
        assert sys.getrefcount(found) == 2


def test_a_scan_in_parts_shows_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "ROWS", 2)
    reader, writer = (sqlite3.connect(tmp_path / "bars.db", isolation_level=None) for _ in range(2))
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute(f"CREATE TABLE ohlcv ({', '.join(BARS.columns)})")
    row = "'S', 'X', '1h', {0}, 'a1', 'a1', 'a1', 'a1', 'a1', NULL, NULL, {0}, 0"
    for moment in range(5):
        writer.execute(f"INSERT INTO ohlcv VALUES ({row.format(moment)})")
    asked = []

    def made(selection: RowFilter) -> tuple[str, list[int]]:
        asked.append(selection)
        if len(asked) == 2:
            writer.execute("DELETE FROM ohlcv WHERE timestamp > 2")
        after = -1 if selection.after is None else to_epoch_us(selection.after[-1])
        columns = ", ".join(selection.columns)
        return f"SELECT {columns} FROM ohlcv WHERE timestamp > ? ORDER BY timestamp LIMIT {selection.limit}", [after]

    found = arrow.read_rows(reader, RowFilter(BARS), made)
    assert (found["id"].to_pylist(), len(asked), reader.in_transaction) == ([0, 1, 2, 3, 4], 3, False)
    reader.close()
    writer.close()


def harm(path: Path, sound: bytes, damaged: bytes) -> None:
    whole = path.read_bytes()
    assert sound in whole
    path.write_bytes(whole.replace(sound, damaged, 1))


async def test_a_damaged_schema_that_is_no_text_is_a_clear_error(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sqlite3 cannot decode its own message then, and raises UnicodeDecodeError."""
    url = f"sqlite:///{path}"
    async with DatabaseManager(url) as db:
        await db.create_tables()
    harm(path, b"trade_id UNIQUE", b"trade_id UNIQU\xa9")
    with pytest.raises(OperationalError, match="the database file is damaged; restore it from a backup"):
        async with DatabaseManager(url) as db:
            await TradeRepository(db).get_recent()
    with pytest.raises(OperationalError, match="the database file is damaged"):
        async with DatabaseManager(url) as db, db.get_session() as session:
            await session.execute(text("SELECT * FROM ohlcv"))
    for command in ("status", "migrate"):
        assert await asyncio.to_thread(main, [command, url]) == 1
        assert "the database file is damaged" in capsys.readouterr().err
