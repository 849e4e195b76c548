"""What others put into a schema of the search_path is never called, nor taken for a table of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager
from iftb_store.testing import BackendConformance
from tests.security.traps import plant

Execute = Callable[[str], None]

_EMPTY = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user;
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public;
    GRANT ALL ON SCHEMA public TO {role}"""


@pytest.fixture(scope="module")
def trapped(postgres_server: str, postgres_connection: Callable[[str], Execute]) -> Iterator[tuple[str, str, Execute]]:
    """A role of a database whose search_path holds traps; its URL, its name, and what executes as a superuser."""
    name = f"iftb_{uuid4().hex}"
    server = postgres_connection(postgres_server)
    server(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    server(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    server(f"ALTER ROLE {name} SET search_path = public, traps")
    url = make_url(postgres_server).set(database=name)
    execute = postgres_connection(url.render_as_string(hide_password=False))
    execute(plant())
    yield url.set(username=name, password=name).render_as_string(hide_password=False), name, execute
    server(f"DROP DATABASE {name} WITH (FORCE)")
    server(f"DROP ROLE {name}")


@pytest.fixture
def trapped_url(trapped: tuple[str, str, Execute]) -> str:
    """URL of an empty database among traps, whose user may create tables."""
    url, role, execute = trapped
    execute(_EMPTY.format(role=role))
    return url


async def make_tables(db: DatabaseManager) -> None:
    """Migrate where no trap is in the way."""
    async with DatabaseManager(db._url.update_query_dict({"search_path": "public"})) as owner:
        await owner.migrate()


class TestPostgresAmongTraps(BackendConformance):
    """The whole suite, as a role that may own the tables and is no superuser."""

    @pytest.fixture
    def url(self, trapped_url: str) -> str:
        return trapped_url

    async def make_tables(self, db: DatabaseManager) -> None:
        await make_tables(db)

    async def migrate(self, db: DatabaseManager) -> None:
        await make_tables(db)
