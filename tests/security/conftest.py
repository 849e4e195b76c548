"""A role of PostgreSQL that is no superuser, over tables with rows of another one's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository
from iftb_store.testing.samples import hourly, trade
from tests.security.rows import ROWS, execute


@pytest.fixture(scope="session")
def reader(postgres_database: tuple[str, Callable[[str], None]]) -> Iterator[str]:
    """A role that is no superuser; its rights are those that a test grants."""
    name = f"iftb_reader_{uuid4().hex}"
    _, execute = postgres_database
    execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    yield name
    execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
async def owner(postgres_url: str, reader: str) -> str:
    """URL of a superuser, over tables with rows that the reader may read and write."""
    async with DatabaseManager(postgres_url) as db:
        await db.create_tables()
        async with db.get_session() as session:
            for number in range(ROWS):
                await TradeRepository(session).insert(trade(trade_id=str(number)))
            await OHLCVRepository(session).insert_many(hourly(ROWS))
    await execute(
        postgres_url,
        f"GRANT USAGE ON SCHEMA public TO {reader};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {reader};"
        f"GRANT UPDATE ON ALL SEQUENCES IN SCHEMA public TO {reader}",
    )
    return postgres_url


@pytest.fixture
def hidden(owner: str, reader: str) -> str:
    """URL of the reader, before any policy is made."""
    return make_url(owner).set(username=reader, password=reader).render_as_string(hide_password=False)
