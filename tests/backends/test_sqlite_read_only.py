"""A file in a read-only folder: SQLite and DuckDB read it with mode=ro, or the error has the reason and the remedy."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, SystemEventRepository
from iftb_store.testing import raw
from iftb_store.testing.samples import hourly
from tests.support.read_only import reading

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such mounts")

# counts the bars, and again for each input line
_COUNTING = """
import asyncio, sys
from iftb_store import DatabaseManager, OHLCVRepository
async def main():
    async with DatabaseManager(sys.argv[1]) as db:
        for _ in range(2):
            print(sum(series.count for series in await OHLCVRepository(db).list_series()), flush=True)
            sys.stdin.readline()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed file with 5 bars, alone in its folder."""
    path = tmp_path / "storage" / "store.db"
    path.parent.mkdir()
    asyncio.run(_store(path, "BTCUSDT"))
    return path


@pytest.fixture
def interrupted(path: Path, tmp_path: Path) -> Path:
    """The same file after its process was killed: five more bars are only in the log."""

    async def copy_while_open() -> Path:
        async with DatabaseManager(f"sqlite:///{path}") as db:
            await raw.value(db, "PRAGMA wal_checkpoint(TRUNCATE)")
            await OHLCVRepository(db).insert_many(hourly(5, symbol="ETHUSDT"))
            return Path(shutil.copytree(path.parent, tmp_path / "interrupted")) / path.name

    return asyncio.run(copy_while_open())


def run_gaps(path: Path, mode: str) -> tuple[int, str]:
    """Return the exit code and output of the command gaps."""
    with reading(path.parent, "-m", "iftb_store", "gaps", f"sqlite:///{path}?mode={mode}", "BTCUSDT", "1h") as running:
        out, _ = running.communicate(timeout=60)
    return running.returncode, out


def count_bars(path: Path) -> str:
    """Return what a process reads with mode=ro."""
    with reading(path.parent, "-c", _COUNTING, f"sqlite:///{path}?mode=ro") as running:
        out, _ = running.communicate("\n\n", timeout=60)
    return out


def test_a_file_on_read_only_storage_is_read_with_mode_ro(path: Path) -> None:
    assert count_bars(path) == "5\n5\n"


def test_a_file_without_a_write_ahead_log_is_read_there_too(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    assert count_bars(path) == "5\n5\n"


@pytest.mark.parametrize("mode", ["rw", "rwc"])
def test_another_mode_says_that_mode_ro_reads_it(path: Path, mode: str) -> None:
    code, out = run_gaps(path, mode)
    assert code == 1
    assert f"{path} cannot be written" in out
    assert "mode=ro" in out


def test_duckdb_reads_such_a_file_with_access_mode_read_only(tmp_path: Path) -> None:
    path = tmp_path / "storage" / "store.duckdb"
    path.parent.mkdir()
    asyncio.run(_store(path, "BTCUSDT", "duckdb"))
    with reading(path.parent, "-m", "iftb_store", "gaps", f"duckdb:///{path}", "BTCUSDT", "1h") as running:
        refused, _ = running.communicate(timeout=60)
    with reading(path.parent, "-c", _COUNTING, f"duckdb:///{path}?access_mode=read_only") as running:
        out, _ = running.communicate("\n\n", timeout=60)
    assert "add ?access_mode=read_only to the URL" in refused
    assert out == "5\n5\n"


def test_a_log_with_rows_is_read_if_its_index_lies_beside_it(interrupted: Path) -> None:
    assert count_bars(interrupted) == "10\n10\n"


def test_a_log_without_its_index_is_an_error_that_says_what_helps(interrupted: Path) -> None:
    interrupted.with_name("store.db-shm").unlink()
    code, out = run_gaps(interrupted, "ro")
    assert code == 1
    assert f"{interrupted}-wal holds changes that are not in the database file yet" in out
    assert "open the database once with write access" in out


def test_the_next_call_reads_what_others_wrote_meanwhile(path: Path) -> None:
    with reading(path.parent, "-c", _COUNTING, f"sqlite:///{path}?mode=ro") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "5\n"
        asyncio.run(_store(path, "ETHUSDT"))
        out, _ = running.communicate("\n\n", timeout=60)
    assert out == "10\n"


async def test_a_log_that_a_reader_let_grow_is_cut_down_again(tmp_path: Path) -> None:
    url, log = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "store.db-wal"
    async with DatabaseManager(url) as db:
        await db.migrate()
        events = SystemEventRepository(db)
        async with db.get_session(isolation="snapshot") as session:
            await SystemEventRepository(session).get_recent_events()
            for _ in range(20):
                await events.log_event("large", "info", "x" * (1 << 20))
            grown = log.stat().st_size
        # the second one overwrites what the first one wrote into the file
        for _ in range(2):
            await events.log_event("small", "info", "")
        assert log.stat().st_size <= 16 << 20 < grown


async def _store(path: Path, symbol: str, engine: str = "sqlite") -> None:
    async with DatabaseManager(f"{engine}:///{path}") as db:
        await db.migrate()
        await OHLCVRepository(db).insert_many(hourly(5, symbol=symbol))
