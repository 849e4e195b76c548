"""The ``alembic`` command in a checkout, run as a user runs it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copy
from typing import TypeVar

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import iftb_store_migrations as migrations
from iftb_store import Base, DatabaseManager
from iftb_store.abilities import SupportsMigrations

T = TypeVar("T")

CHECKOUT = Path(__file__).parents[2]
HISTORY = CHECKOUT / "migrations" / "iftb_store_migrations"


def run(url: str, work: Callable[[Connection], T]) -> T:
    async def connected() -> T:
        async with DatabaseManager(url) as db:
            return await db.ability(SupportsMigrations).with_connection(work)

    return asyncio.run(connected())


def alembic(url: str, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "IFTB_STORE_URL": url}
    command = [sys.executable, "-m", "alembic", *args]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.one_of_each
def test_it_goes_up_and_down(url: str) -> None:
    up = alembic(url, "upgrade", "head")
    current = alembic(url, "current")
    down = alembic(url, "downgrade", "base")
    gone = alembic(url, "current")

    assert [up.returncode, down.returncode] == [0, 0], up.stderr + down.stderr
    assert current.stdout.strip() == f"{migrations.head()} (head)"
    assert gone.stdout.strip() == ""


def test_it_migrates_as_the_package_does(url: str) -> None:
    alembic(url, "upgrade", "head")

    assert run(url, migrations.differences) == []


def test_it_adopts_an_identical_schema(sqlite_url: str) -> None:
    run(sqlite_url, Base.metadata.create_all)

    assert alembic(sqlite_url, "upgrade", "head").returncode == 0
    assert run(sqlite_url, migrations.current) == migrations.head()


def test_it_takes_a_url_as_an_argument(sqlite_url: str, tmp_path: Path) -> None:
    done = alembic(f"sqlite:///{tmp_path / 'unused.db'}", "-x", f"url={sqlite_url}", "upgrade", "head")

    assert done.returncode == 0
    assert run(sqlite_url, migrations.current) == migrations.head()
    assert not (tmp_path / "unused.db").exists()


def test_it_shows_the_history() -> None:
    done = alembic("sqlite://", "history")

    assert f"{migrations.head()} (head)" in done.stdout


@pytest.mark.one_of_each
@pytest.mark.parametrize("scheme", ["postgres", "sqlite", "duckdb"])
def test_it_prints_the_sql_without_a_database(scheme: str) -> None:
    done = alembic(f"{scheme}://", "upgrade", "head", "--sql")

    assert "CREATE TABLE ohlcv" in done.stdout
    assert "INSERT INTO iftb_store_version" in done.stdout


def test_it_prints_an_error_of_iftb_store_in_one_line(sqlite_url: str) -> None:
    run(sqlite_url, lambda conn: conn.execute(text("CREATE TABLE trades (price REAL)")))

    done = alembic(sqlite_url, "upgrade", "head")

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "table ohlcv is missing" in done.stderr


def test_it_shows_no_password() -> None:
    done = alembic("postgresql://bot:hunter2@127.0.0.1:1/bot", "upgrade", "head")

    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_it_begins_a_revision_that_loads(tmp_path: Path) -> None:
    location = tmp_path / "history"
    (location / "versions").mkdir(parents=True)
    copy(HISTORY / "versions" / "0001_initial.py", location / "versions")
    for name in ("env.py", "script.py.mako"):
        copy(HISTORY / name, location)
    (tmp_path / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "%(here)s/history"\n')

    done = alembic("sqlite://", "-c", str(tmp_path / "pyproject.toml"), "revision", "--rev-id", "0002", "-m", "Add funding rates")

    assert done.returncode == 0, done.stderr
    assert ScriptDirectory(location).get_current_head() == "0002"
