"""Hundreds of malicious databases: no command reads another file, uses much memory, takes long or fails unclearly."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults import damage
from tests.faults.rounds import rounds
from tests.faults.tally import Tally
from tests.security import hostile_duckdb, hostile_sqlite
from tests.security.commands import run_all
from tests.support.filled import fill

FAULT = "hostile database"
SECRET = "-----BEGIN PRIVATE KEY----- iftb-store-canary"
_DAMAGES = (damage.truncated, damage.flipped_in_header, damage.flipped_in_pages)

pytestmark = pytest.mark.timeout(7_200)


@pytest.fixture(params=["sqlite", "duckdb"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tally(engine: str) -> Iterator[Tally]:
    figures = Tally(FAULT, engine)
    yield figures
    figures.close()


def attacks(engine: str, secret: Path) -> list[tuple[str, Callable[[Path, random.Random], None]]]:
    """Return every way to attack a file of an engine, by name."""
    made: list[tuple[str, Callable[[Path, random.Random], None]]] = [(harm.__name__, harm) for harm in _DAMAGES]
    if engine == "duckdb":
        made += [(one.__name__, partial(hostile_duckdb.change, attack=one, secret=secret)) for one in hostile_duckdb.ATTACKS]
    else:
        made += [(one.__name__, partial(hostile_sqlite.change, attack=one)) for one in hostile_sqlite.ATTACKS]
    return made


def make(engine: str, path: Path, number: int, secret: Path) -> str:
    """Attack a valid store by the numbered attack; return its name."""
    ways = attacks(engine, secret)
    name, attack = ways[number % len(ways)]
    attack(path, random.Random(number))
    return f"{number}: {name}"


def leaks(folder: Path, secret: str) -> list[str]:
    """Return the files of a folder that hold the secret."""
    return [path.name for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_no_hostile_database_reads_a_file_or_holds_a_command_up(engine: str, tmp_path: Path, tally: Tally) -> None:
    secret = tmp_path / "key.pem"
    secret.write_text(SECRET)
    base, whole = tmp_path / f"base.{engine}", tmp_path / "whole.db"
    asyncio.run(fill(f"{engine}:///{base}"))
    asyncio.run(fill(f"sqlite:///{whole}"))
    for number in range(rounds(FAULT)):
        with tally.round():
            folder = tmp_path / f"folder{number}"
            folder.mkdir()
            path = folder.parent / f"hostile{number}.{engine}"
            shutil.copy(base, path)
            how = make(engine, path, number, secret)
            said, wrong = run_all(f"{engine}:///{path}", f"sqlite:///{whole}", folder)
            wrong += [f"{one.command} shows the secret" for one in said if SECRET in one.out + one.err]
            wrong += [f"{name} holds the secret" for name in leaks(folder, SECRET)]
            for what in wrong:
                tally.note("lost", f"{how}: {what}")
            shutil.rmtree(folder)
            for file in tmp_path.glob(f"{path.name}*"):
                file.unlink()
