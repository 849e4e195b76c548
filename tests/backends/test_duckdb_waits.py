"""DuckDB sessions that a disconnect or a cancellation finds waiting for a lock, a file or a thread, and which of them wait."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import duckdb
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, SystemEventRepository
from iftb_store.columnar.locks import write_lock
from iftb_store.testing.lifecycle import wait_until
from iftb_store_duckdb.session import DuckDBSession
from iftb_store_duckdb.url import parse_options


@pytest.fixture
async def db(duckdb_tables_url: str) -> AsyncIterator[DatabaseManager]:
    async with DatabaseManager(duckdb_tables_url) as manager:
        yield manager


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.duckdb"


async def test_a_migration_that_waited_through_a_disconnect_gives_the_write_lock_back(
    db: DatabaseManager, duckdb_url: str, path: Path
) -> None:
    other = DatabaseManager(duckdb_url)
    await other.connect()
    async with db.get_session() as session:
        await SystemEventRepository(session).log_event("a", "info", "first")
        migrating = asyncio.create_task(other.migrate())
        await wait_until(lambda: bool(write_lock(str(path.resolve()))._waiting))
        await other.disconnect(grace=0)

    with pytest.raises(OperationalError, match="not connected"):
        await migrating
    await SystemEventRepository(db).log_event("a", "info", "second")
    assert [event.message for event in await SystemEventRepository(db).get_recent_events()] == ["second", "first"]


async def test_a_task_cancelled_while_its_error_is_rolled_back_loses_nothing_silently(db: DatabaseManager) -> None:
    rolling_back, proceed = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def write() -> None:
        async with db.get_session() as session:
            await SystemEventRepository(session).log_event("a", "info", "lost")
            assert isinstance(session, DuckDBSession)
            raw = session._cursor.rollback

            def rollback() -> None:
                loop.call_soon_threadsafe(rolling_back.set)
                proceed.wait()
                raw()

            session._cursor.rollback = rollback  # type: ignore[method-assign]
            with pytest.raises(asyncio.CancelledError):
                await session.execute(text("INSERT INTO nothing_there VALUES (1)"))

    writing = asyncio.create_task(write())
    await rolling_back.wait()
    writing.cancel()
    proceed.set()
    with pytest.raises(OperationalError, match="rolled back after an error"):
        await writing


async def test_a_cancelled_connect_lets_go_of_the_file(duckdb_url: str, path: Path) -> None:
    connecting = asyncio.create_task(DatabaseManager(duckdb_url).connect())
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting

    with duckdb.connect(str(path), config={"threads": 1}) as raw:
        assert raw.sql("SELECT 1").fetchall() == [(1,)]


_FIRST_BARS = """
import asyncio, sys, threading
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            print("pandas by", "the event loop" if threading.current_thread() is threading.main_thread() else "a thread")

from datetime import UTC, datetime
from decimal import Decimal
from iftb_store import DatabaseManager, OHLCVBar, OHLCVRepository

async def main():
    async with DatabaseManager("duckdb:///:memory:") as db:
        await db.create_tables()
        bars = [
            OHLCVBar("BTCUSDT", "binance", "1h", datetime(2024, 1, 1, hour, tzinfo=UTC), *[Decimal(1)] * 5, None, None)
            for hour in range(10)
        ]
        await OHLCVRepository(db).insert_many(bars)

sys.meta_path.insert(0, Watch())
asyncio.run(main())
"""


def test_the_event_loop_does_not_wait_until_arrow_has_imported_pandas() -> None:
    done = subprocess.run([sys.executable, "-c", _FIRST_BARS], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.splitlines()) == {"pandas by a thread"}


def test_another_process_is_waited_for_as_long_as_another_session() -> None:
    options = parse_options(make_url("duckdb:///bot.duckdb"))
    assert options.connect_timeout == options.busy_timeout


def test_one_file_has_one_write_lock() -> None:
    lock = write_lock("/a")

    assert write_lock("/a") is lock
    assert write_lock("/b") is not lock
