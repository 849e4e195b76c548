"""A damaged, foreign, newer or inaccessible database file: iftb-store's clear error for any bytes; no crash, no endless wait."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from iftb_store import DatabaseManager, SchemaError, TradeRepository
from iftb_store.cli import main
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.testing import raw
from tests.faults import damage
from tests.faults.children import forkserver
from tests.faults.rounds import rounds
from tests.faults.tally import PATIENCE, Tally

FAULT = "damaged file"

pytestmark = pytest.mark.timeout(7_200)


@pytest.fixture
def engine(file_engine: str) -> str:
    return file_engine


@pytest.fixture
def crashed(engine: str, tmp_path: Path) -> Path:
    """A directory with a database after a crash: the file and its log."""
    folder = tmp_path / "crashed"
    folder.mkdir()
    ours, theirs = forkserver().Pipe(duplex=False)
    child = forkserver().Process(target=damage.crash, args=(f"{engine}:///{folder / 'bot.db'}", theirs), daemon=True)
    child.start()
    assert ours.poll(PATIENCE)
    child.kill()
    child.join()
    return folder


def outcome(url: str, uid: int | None = None) -> str:
    """Use a database in a child and return the outcome."""
    ours, theirs = forkserver().Pipe(duplex=False)
    child = forkserver().Process(target=damage.tried, args=(url, theirs, uid), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE):
            raise TimeoutError(f"{url} was neither used nor refused")
        answer: str = ours.recv()
    except EOFError:
        child.join()
        return f"not ours: the process died with {child.exitcode}"
    finally:
        child.kill()
        child.join()
    return answer


def test_a_file_damaged_at_random_is_used_or_refused_in_our_words(
    engine: str, crashed: Path, tmp_path: Path, tally: Tally
) -> None:
    chance = random.Random(20_240_315)
    assert outcome(f"{engine}:///{shutil.copytree(crashed, tmp_path / 'whole') / 'bot.db'}") == "used"
    for _ in range(rounds(FAULT)):
        with tally.round():
            folder = shutil.copytree(crashed, tmp_path / f"copy{tally.rounds}")
            harm = damage.ALL[tally.rounds % len(damage.ALL)]
            harm(folder / "bot.db", chance)
            if (answer := outcome(f"{engine}:///{folder / 'bot.db'}")).startswith("not ours"):
                tally.note("lost", f"{harm.__name__}: {answer}")
            shutil.rmtree(folder)


def test_a_file_of_the_other_engine_is_refused(engine: str, crashed: Path) -> None:
    other = {"sqlite": "duckdb", "duckdb": "sqlite"}[engine]
    answer = outcome(f"{other}:///{crashed / 'bot.db'}")
    assert answer.startswith("OperationalError: ")
    assert "database" in answer


async def test_a_schema_of_a_newer_revision_is_refused_and_left_as_it_is(url: str) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await raw.run(db, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    async with DatabaseManager(url) as db:
        with pytest.raises(SchemaError, match="newer"):
            await TradeRepository(db).get_recent()
        with pytest.raises(SchemaError, match="newer"):
            await db.migrate()
        assert await raw.fetch(db, f"SELECT version_num FROM {VERSION_TABLE}") == [("9999",)]
    assert await asyncio.to_thread(main, ["status", url]) == 1


@pytest.fixture
def closed(engine: str, tmp_path: Path) -> Iterator[Path]:
    """A database that everybody may read but only its owner may write, in a directory with the same rights."""
    folder = tmp_path / "closed"
    folder.mkdir()
    path = folder / "bot.db"
    assert main(["migrate", f"{engine}:///{path}"]) == 0
    for directory in (folder, *folder.parents[:3]):
        directory.chmod(0o755)
    path.chmod(0o444)
    folder.chmod(0o555)
    yield path
    folder.chmod(0o755)


def test_a_file_and_directory_that_cannot_be_written_are_named_as_the_reason(engine: str, closed: Path) -> None:
    answer = outcome(f"{engine}:///{closed}", damage.NOBODY)
    assert answer.startswith("OperationalError: ")
    assert "rights" in answer or "read-only" in answer or "ermission" in answer


def test_a_new_file_in_a_directory_that_cannot_be_written_names_the_file(engine: str, closed: Path) -> None:
    answer = outcome(f"{engine}:///{closed.parent / 'new.db'}", damage.NOBODY)
    assert answer.startswith("OperationalError: ")
    assert "new.db" in answer
    assert "ermission denied" in answer
