"""A PostgreSQL role that is no superuser, and another role's tables with rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from tests.security.rows import fill


@pytest.fixture(scope="session")
def reader(postgres_database: tuple[str, Callable[[str], None]]) -> Iterator[str]:
    """A role that is no superuser; its rights are those that a test grants."""
    name = f"iftb_reader_{uuid4().hex}"
    _, execute = postgres_database
    execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    yield name
    execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
async def owner(postgres_tables_url: str, reader: str) -> str:
    """URL of a superuser, over tables with rows that the reader may read and write."""
    await fill(postgres_tables_url, reader)
    return postgres_tables_url


@pytest.fixture
def hidden(owner: str, reader: str) -> str:
    """URL of the reader, before any policy is made."""
    return make_url(owner).set(username=reader, password=reader).render_as_string(hide_password=False)
