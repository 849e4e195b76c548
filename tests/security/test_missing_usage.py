"""A schema that a PostgreSQL role may not use is named, however search_path writes it, and never mistaken for an empty one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from iftb_store import DatabaseManager, SchemaError, TradeRepository
from iftb_store.doctor import examine
from tests.security.rows import execute

_NAMES = {
    "odd": ('"My, ""Schema"', '"My, ""Schema" , public'),
    "plain": ("bots", "nowhere, BOTS, bots"),
    "own": ("{role}", '"$user"'),
}


@dataclass(frozen=True)
class Closed:
    """Tables in a schema that a role may not use.

    Attributes:
        owner: URL of a superuser.
        reader: URL of the role, whose search_path names the schema.
        schema: quoted as SQL.
        role: the role.
    """

    owner: str
    reader: str
    schema: str
    role: str

    @property
    def grant(self) -> str:
        """The GRANT that gives access to the schema."""
        return f"GRANT USAGE ON SCHEMA {self.schema} TO {self.role}"


@pytest.fixture(params=_NAMES)
async def closed(request: pytest.FixtureRequest, postgres_url: str, reader: str) -> AsyncIterator[Closed]:
    """Tables in a schema of each name."""
    schema, path = (words.format(role=reader) for words in _NAMES[request.param])
    owner = make_url(postgres_url).update_query_dict({"search_path": schema})
    role = make_url(postgres_url).set(username=reader, password=reader).update_query_dict({"search_path": path})
    await execute(postgres_url, f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")
    async with DatabaseManager(owner) as db:
        await db.create_tables()
    await execute(postgres_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}")
    yield Closed(postgres_url, role.render_as_string(hide_password=False), schema, reader)
    await execute(postgres_url, f"DROP SCHEMA {schema} CASCADE")


async def test_every_call_names_the_schema_and_the_grant(closed: Closed) -> None:
    async with DatabaseManager(closed.reader) as db:
        for call in (db.status, db.migrate, db.create_tables, partial(examine, db), TradeRepository(db).get_recent):
            with pytest.raises(OperationalError, match=re.escape(closed.grant)):
                await call()
        assert closed.grant in str((await db.health()).problems)
    await execute(closed.owner, closed.grant)
    async with DatabaseManager(closed.reader) as db:
        assert await TradeRepository(db).get_recent() == []


async def test_tables_in_a_schema_that_is_not_in_the_search_path_hide_nothing(closed: Closed) -> None:
    other = make_url(closed.reader).update_query_dict({"search_path": "public"})
    async with DatabaseManager(other) as db:
        assert (await db.status()).state == "empty"


async def test_a_schema_that_is_closed_later_is_not_taken_for_missing_tables(closed: Closed) -> None:
    await execute(closed.owner, closed.grant)
    async with DatabaseManager(closed.reader) as db:
        assert await TradeRepository(db).get_recent() == []
        await execute(closed.owner, closed.grant.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
        with pytest.raises(SchemaError, match="or this role may not use its schema"):
            await TradeRepository(db).get_recent()


async def test_a_session_of_an_app_gets_an_error_that_names_the_schema(owner: str, hidden: str, reader: str) -> None:
    await execute(owner, f"REVOKE USAGE ON SCHEMA public FROM PUBLIC, {reader}")
    engine = create_async_engine(make_url(hidden).set(drivername="postgresql+asyncpg"))
    async with AsyncSession(engine) as session:
        with pytest.raises(SchemaError, match="or this role may not use its schema"):
            await TradeRepository(session).get_recent()
    await engine.dispose()
