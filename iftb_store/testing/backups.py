"""Tests of backups: a backup is a complete snapshot that opens as a database; an incomplete one never has the final name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import URL

from iftb_store import (
    DatabaseManager,
    InvalidValueError,
    OHLCVRepository,
    PositionRepository,
    SchemaError,
    SystemEventRepository,
    TradeRepository,
)
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, needs
from iftb_store.testing.samples import hourly, position, trade
from iftb_store.testing.whole_rows import EXAMPLES, stored, write_rows
from iftb_store.transfer.backup import backup
from iftb_store.transfer.reports import BackupReport

#: The number of bars that each session writes.
_BARS = 3


@asynccontextmanager
async def opened(backup: BackupReport) -> AsyncIterator[DatabaseManager]:
    """Open a backup file as a database and yield a connected manager."""
    async with DatabaseManager(URL.create(backup.engine, database=str(backup.path))) as db:
        yield db


async def fill(db: DatabaseManager) -> None:
    """Store sample rows in every table."""
    for table, rows in EXAMPLES:
        await write_rows(db, table, rows)


async def write_session(db: DatabaseManager, number: int) -> None:
    """Write rows to every table in one session; the symbol of each row contains ``number``."""
    name = f"S{number}"
    async with db.get_session() as session:
        await OHLCVRepository(session).insert_many(hourly(_BARS, symbol=name))
        await TradeRepository(session).insert(trade(name, symbol=name))
        await PositionRepository(session).update_position(position(symbol=name))
        await SystemEventRepository(session).log_event("session", "info", "", symbol=name)


class BackupTests(SuiteFixtures):
    """`backup` writes a file with all rows, cleans up after a failed backup, and keeps files that no backup created."""

    @pytest.fixture
    def saved(self, db: DatabaseManager) -> DatabaseManager:
        """A connected manager of a database with tables; the test is skipped if the database cannot be backed up."""
        return _can_be_saved(db)

    async def test_a_backup_holds_every_row_unchanged_and_continues_its_ids(self, saved: DatabaseManager, tmp_path: Path) -> None:
        await fill(saved)
        made = await backup(saved, tmp_path / "saved")
        async with opened(made) as copy:
            for table, rows in EXAMPLES:
                assert await stored(copy, table) == rows.select(table.written)
            await write_session(copy, 1)
            assert await raw.value(copy, "SELECT id FROM trades WHERE trade_id = 'S1'") > EXAMPLES[1][1]["id"][-1].as_py()
        assert made.tables == {table.name: rows.num_rows for table, rows in EXAMPLES}

    async def test_a_backup_taken_while_sessions_write_is_a_snapshot(self, saved: DatabaseManager, tmp_path: Path) -> None:
        await fill(saved)
        done = 0
        begun, over = asyncio.Event(), asyncio.Event()

        async def write_on() -> None:
            nonlocal done
            while not over.is_set():
                await write_session(saved, done)
                done += 1
                begun.set()

        writing = asyncio.create_task(write_on())
        await begun.wait()
        first = done
        made = await backup(saved, tmp_path / "saved")
        over.set()
        await writing

        async with opened(made) as copy:
            found = [
                await raw.fetch(copy, f"SELECT symbol, count(*) FROM {table} WHERE symbol LIKE 'S%' GROUP BY symbol")
                for table in ("ohlcv", "trades", "positions", "system_events")
            ]
        names = {f"S{number}" for number in range(len(found[1]))}
        assert first <= len(names) <= done
        assert [dict(rows) for rows in found] == [dict.fromkeys(names, count) for count in (_BARS, 1, 1, 1)]

    async def test_only_the_owner_may_open_the_file_which_needs_no_other(self, saved: DatabaseManager, tmp_path: Path) -> None:
        folder = tmp_path / "backups"
        folder.mkdir()
        made = await backup(saved, folder / "saved")
        assert (list(folder.iterdir()), made.path.stat().st_mode & 0o777) == ([made.path], 0o600)
        assert made.size == made.path.stat().st_size

    async def test_an_existing_file_stays_unless_overwrite_is_set(self, saved: DatabaseManager, tmp_path: Path) -> None:
        path = tmp_path / "saved"
        path.write_text("mine")
        with pytest.raises(InvalidValueError, match=r"saved. already exists"):
            await backup(saved, path)
        assert path.read_text() == "mine"
        await backup(saved, path, overwrite=True)
        async with opened(await backup(saved, path, overwrite=True)) as copy:
            assert await raw.count(copy, "trades") == 0

    async def test_a_backup_of_no_tables_is_refused(self, empty_db: DatabaseManager, tmp_path: Path) -> None:
        with pytest.raises(SchemaError):
            await backup(_can_be_saved(empty_db), tmp_path / "saved")
        assert not (tmp_path / "saved").exists()

    async def test_what_a_killed_backup_has_left_is_cleared_away(self, saved: DatabaseManager, tmp_path: Path) -> None:
        left = tmp_path / "saved.partial"
        (left / "saved.tmp").mkdir(parents=True)
        for name in (".iftb-store-backup", "saved", "saved-wal", "saved.wal", "saved.tmp/spilled"):
            (left / name).write_text("half of a backup")
        async with opened(await backup(saved, tmp_path / "saved")) as copy:
            assert await raw.count(copy, "ohlcv") == 0
        assert not left.exists()

    async def test_what_no_backup_made_stays_as_it_is(self, saved: DatabaseManager, tmp_path: Path) -> None:
        (mine := tmp_path / "folder.partial").mkdir()
        (mine / "only copy").write_text("dear")
        (tmp_path / "link.partial").symlink_to(mine)
        (tmp_path / "file.partial").write_text("dear")
        for name in ("folder", "link", "file"):
            with pytest.raises(
                InvalidValueError, match=f"{name}.partial' is in the way and was not created by a backup; move it"
            ):
                await backup(saved, tmp_path / name)
        assert ((mine / "only copy").read_text(), (tmp_path / "file.partial").read_text()) == ("dear", "dear")

    async def test_a_link_in_what_a_killed_backup_has_left_is_not_followed(self, saved: DatabaseManager, tmp_path: Path) -> None:
        (mine := tmp_path / "mine").mkdir()
        (mine / "only copy").write_text("dear")
        (left := tmp_path / "saved.partial").mkdir()
        (left / ".iftb-store-backup").touch()
        (left / "saved.tmp").symlink_to(mine)
        await backup(saved, tmp_path / "saved")
        assert ((mine / "only copy").read_text(), left.exists()) == ("dear", False)

    @pytest.mark.parametrize("turns", [1, 30, 1_000])
    async def test_a_backup_that_is_cancelled_leaves_nothing_or_is_whole(
        self, saved: DatabaseManager, tmp_path: Path, turns: int
    ) -> None:
        folder = tmp_path / "backups"
        folder.mkdir()
        await fill(saved)
        task = asyncio.create_task(backup(saved, folder / "saved"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert [path.name for path in folder.iterdir()] == (["saved"] if isinstance(outcome, BackupReport) else [])
        assert saved.in_use == 0
        await backup(saved, folder / "saved", overwrite=True)


def _can_be_saved(db: DatabaseManager) -> DatabaseManager:
    needs(db, Capability.MIGRATIONS)
    if Capability.BACKUP not in db.capabilities:
        pytest.importorskip("aiosqlite")
    return db
