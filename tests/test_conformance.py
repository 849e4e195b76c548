"""The conformance suite on our three backends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import make_url, text

from iftb_store import DatabaseManager
from iftb_store.testing import BackendConformance
from tests.faults.rounds import FULL


class Conformance(BackendConformance):
    """The suite on a copy of empty tables, as to create them anew would be most of a test's time."""

    # `nox -s full` gives all of the hostile values to each parameter
    hostile_share = 1 if FULL else 4

    @pytest_asyncio.fixture
    async def db(self, tables_url: str) -> AsyncIterator[DatabaseManager]:  # type: ignore[override]
        async with DatabaseManager(tables_url) as manager:
            yield manager


class TestPostgres(Conformance):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.fixture
    def tables_url(self, postgres_tables_url: str) -> str:
        return postgres_tables_url

    @pytest.fixture
    def second_url(self, postgres_url: str, postgres_database: tuple[str, Callable[[str], None]]) -> Iterator[str]:
        # the tables of another schema are another database, though all else is the same
        _, execute = postgres_database
        execute("CREATE SCHEMA second")
        yield make_url(postgres_url).update_query_dict({"search_path": "second"}).render_as_string(hide_password=False)
        execute("DROP SCHEMA second CASCADE")

    @pytest.fixture
    def impatient_url(self, postgres_database: tuple[str, Callable[[str], None]]) -> Iterator[str]:
        url, execute = postgres_database
        name = make_url(url).database
        execute(f"ALTER DATABASE {name} SET lock_timeout = '10ms'")
        yield url
        execute(f"ALTER DATABASE {name} RESET lock_timeout")

    @pytest.fixture
    def lose_connection(self) -> Callable[[DatabaseManager, Any], Awaitable[None]]:
        return terminate


class TestSQLite(Conformance):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url

    @pytest.fixture
    def tables_url(self, sqlite_tables_url: str) -> str:
        return sqlite_tables_url

    @pytest.fixture
    def second_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'second.db'}"

    @pytest.fixture
    def impatient_url(self, sqlite_url: str) -> str:
        return f"{sqlite_url}?timeout=0.01"


class TestDuckDB(Conformance):
    @pytest.fixture
    def url(self, duckdb_url: str) -> str:
        return duckdb_url

    @pytest.fixture
    def tables_url(self, duckdb_tables_url: str) -> str:
        return duckdb_tables_url

    @pytest.fixture
    def second_url(self, tmp_path: Path) -> str:
        return f"duckdb:///{tmp_path / 'second.duckdb'}"

    @pytest.fixture
    def impatient_url(self, duckdb_url: str) -> str:
        return f"{duckdb_url}?busy_timeout=0.01"

    @pytest.fixture
    def lose_connection(self) -> Callable[[DatabaseManager, Any], Awaitable[None]]:
        return close_cursor


class TestLake(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"delta:///{tmp_path / 'lake'}"

    @pytest.fixture
    def second_url(self, tmp_path: Path) -> str:
        return f"delta:///{tmp_path / 'second'}"

    @pytest.fixture
    def unreachable_url(self, tmp_path: Path) -> str:
        (tmp_path / "file").touch()
        return f"delta:///{tmp_path / 'file'}"

    @pytest.fixture
    def lose_connection(self) -> Callable[[DatabaseManager, Any], Awaitable[None]]:
        return close_cursor


async def terminate(db: DatabaseManager, session: Any) -> None:
    """Have the server end a session's connection, and wait until it has."""
    process = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    async with db.get_session() as other:
        # pg_terminate_backend with a timeout waits for the end of the process
        await other.execute(text("SELECT pg_terminate_backend(:process, 5000)"), {"process": process})


async def close_cursor(db: DatabaseManager, session: Any) -> None:
    """Close the connection under a DuckDB session, as nothing outside of the process can do it."""
    session._cursor.close()
