"""Databases behind a PgBouncer, in each of its modes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from tests.pgbouncer.bouncer import Bouncer, running

# a failed test may have left a transaction open
_EMPTY = "SET lock_timeout = '20s'; DROP SCHEMA public CASCADE; CREATE SCHEMA public"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip unless `nox -s pgbouncer` runs: the tests need a Debian package."""
    if "IFTB_STORE_TEST_PGBOUNCER" not in os.environ:
        pytest.skip("needs Debian's PgBouncer; `nox -s pgbouncer` runs it")


@pytest.fixture(scope="session")
def session_pooler(postgres_server: str) -> Iterator[Bouncer]:
    """A PgBouncer that gives a client one server connection for as long as it is connected."""
    with running(postgres_server, "session") as bouncer:
        yield bouncer


@pytest.fixture(scope="session")
def transaction_pooler(postgres_server: str) -> Iterator[Bouncer]:
    """A PgBouncer that gives a client another server connection for each transaction."""
    with running(postgres_server, "transaction", server_round_robin="1", min_pool_size="3") as bouncer:
        yield bouncer


@pytest.fixture
def database(postgres_database: tuple[str, Callable[[str], None]]) -> str:
    """Direct URL of an empty database; the poolers' server connections to it stay open, as with a long-running bot."""
    url, execute = postgres_database
    execute(_EMPTY)
    return url


@pytest.fixture
async def admin(database: str) -> AsyncIterator[Any]:
    """A direct connection to the database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture(params=["session", "transaction"])
def pooled_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh database through a pooler in each mode in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def session_url(session_pooler: Bouncer, database: str) -> str:
    """URL of a fresh database through a pooler in session mode, without any option."""
    return session_pooler.through(database)


@pytest.fixture
def transaction_url(transaction_pooler: Bouncer, database: str) -> str:
    """URL of a fresh database through a pooler in transaction mode, with the option that it needs."""
    return transaction_pooler.through(database, statement_cache_size="0")
