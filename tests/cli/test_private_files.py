"""Every file beside a database is accessible only to its owner from its creation, whatever the umask is."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from iftb_store import DatabaseManager, SystemEventRepository
from iftb_store.cli import main
from tests.cli.test_alembic_command import alembic
from tests.support.watching import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")

_BIG = {
    "sqlite": """CREATE TABLE big AS WITH RECURSIVE made (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM made WHERE i < 100000)
        SELECT i, 'text ' || i AS k FROM made""",
    "duckdb": "CREATE TABLE big AS SELECT i, 'text ' || i AS k FROM range(1500000) AS made (i)",
}
# does not fit in DuckDB's memory_limit below
_SORT = "SELECT max(place) FROM (SELECT row_number() OVER (ORDER BY k DESC) AS place, i FROM big)"


@pytest.fixture(autouse=True)
def nothing_is_masked() -> Iterator[None]:
    """A umask under which files without explicit rights are open to everyone; the library does not change it."""
    before = os.umask(0)
    yield
    assert os.umask(before) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is open to everyone."""
    path = tmp_path / "open"
    path.mkdir(mode=0o777)
    return path


def open_to_others(watch: Watch, folder: Path) -> list[str]:
    """Return the files that others could ever have opened: by their own rights and those of the folders above."""
    rights = {path: max(mode & 0o077 for mode in modes) for path, modes in watch.seen.items()}
    return [
        f"{path.relative_to(folder)} {[oct(mode) for mode in watch.seen[path]]}"
        for path, of_others in rights.items()
        if of_others and all(rights.get(above, 0o077) for above in path.parents)
    ]


def names(watch: Watch) -> set[str]:
    """Return the names of all files that appeared."""
    return {path.name for path in watch.seen}


def has_spilled(watch: Watch) -> bool:
    """Return whether DuckDB spilled to the disk."""
    return any(name.startswith("duckdb_temp") for name in names(watch))


def list_files(folder: Path) -> list[str]:
    """Return the files that are there now."""
    return [path.name for path in folder.iterdir()]


async def use(url: str, engine: str) -> None:
    """Migrate, write a lot in one transaction, read it in another order, write and roll back."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        async with db.get_session() as session:
            await session.execute(text(_BIG[engine]))
        async with db.get_session() as session:
            await SystemEventRepository(session).log_event("tick", "info", "")
            await session.execute(text(_SORT))
            await session.rollback()
    async with DatabaseManager(url) as db, db.get_session() as session:
        await session.execute(text("DROP TABLE big"))


async def test_on_sqlite(folder: Path) -> None:
    with Watch(folder) as watch:
        await use(f"sqlite:///{folder / 'bot.db'}", "sqlite")
    assert names(watch) >= {"bot.db", "bot.db-wal", "bot.db-shm"}
    assert open_to_others(watch, folder) == []


@pytest.mark.parametrize("option", ["", "&temp_directory={}/spilled"])
async def test_on_duckdb(folder: Path, option: str) -> None:
    with Watch(folder) as watch:
        await use(f"duckdb:///{folder / 'bot.duckdb'}?memory_limit=40MB&threads=1{option.format(folder)}", "duckdb")
    assert names(watch) >= {"bot.duckdb", "bot.duckdb.wal", "spilled" if option else "bot.duckdb.tmp"}
    assert has_spilled(watch), "the test shows nothing"
    assert open_to_others(watch, folder) == []
    assert list_files(folder) == ["bot.duckdb"]


async def test_in_memory_on_duckdb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with Watch(folder) as watch:
        await use_memory("duckdb:///:memory:?memory_limit=40MB&threads=1")
    assert has_spilled(watch), "the test shows nothing"
    assert open_to_others(watch, folder) == []
    assert list_files(folder) == []


async def use_memory(url: str) -> None:
    async with DatabaseManager(url) as db, db.get_session() as session:
        await session.execute(text(_BIG["duckdb"]))
        await session.execute(text(_SORT))


async def test_of_read_only_readers_on_duckdb_one_of_whom_leaves(folder: Path) -> None:
    url = f"duckdb:///{folder / 'bot.duckdb'}"
    async with DatabaseManager(url) as db, db.get_session() as session:
        await session.execute(text(_BIG["duckdb"]))
    options = "?access_mode=read_only&memory_limit=20MB&threads=1"
    with Watch(folder) as watch:
        async with DatabaseManager(url + options) as db, DatabaseManager(url + options) as other:
            await other.disconnect()
            command = ("-m", "iftb_store", "status", url + options)
            await (await asyncio.create_subprocess_exec(sys.executable, *command, stderr=PIPE)).communicate()
            async with db.get_session() as session:
                await session.execute(text(_SORT))
    assert has_spilled(watch), "the test shows nothing"
    assert open_to_others(watch, folder) == []
    assert list_files(folder) == ["bot.duckdb"]


def test_a_folder_that_the_user_names_is_left_as_it_is(folder: Path) -> None:
    assert main(["migrate", f"duckdb:///{folder / 'bot.duckdb'}?temp_directory={folder}"]) == 0
    assert folder.stat().st_mode & 0o777 == 0o777


@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
def test_of_the_commands(folder: Path, scheme: str) -> None:
    with Watch(folder) as watch:
        assert main(["demo", "--path", str(folder / "demo")]) == 0
        (dump,) = (folder / "demo").glob("*.zip")
        assert main(["migrate", f"{scheme}:///{folder}/bot"]) == 0
        assert main(["import", f"{scheme}:///{folder}/bot", str(dump)]) == 0
        assert main(["copy", f"{scheme}:///{folder}/bot", f"{scheme}:///{folder}/copy"]) == 0
    assert open_to_others(watch, folder) == []
    assert dump.stat().st_mode & 0o777 == 0o600


def test_of_the_alembic_command(folder: Path) -> None:
    with Watch(folder) as watch:
        assert alembic(f"duckdb:///{folder}/bot", "upgrade", "head").returncode == 0
    assert open_to_others(watch, folder) == []
