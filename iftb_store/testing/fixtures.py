"""Fixtures of the conformance suite: a connected manager with tables, one without, and the capabilities' guards."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from iftb_store import DatabaseManager, InvalidValueError
from iftb_store.protocols import Capability
from iftb_store.testing.samples import Clock


@pytest.mark.asyncio
class SuiteFixtures:
    """What all parts of the suite share.

    Attributes:
        time_limit: the seconds that a test may take, its fixtures included, if pytest is given no other limit: by the mark
            ``timeout``, the option ``--timeout``, the environment's PYTEST_TIMEOUT or the setting ``timeout``.
    """

    time_limit: ClassVar[float] = 120

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give the class its time limit: pytest calls this for each of its tests, before it makes them."""
        tests = metafunc.definition.parent
        if tests is not None and not _is_limited(metafunc):
            tests.add_marker(pytest.mark.timeout(self.time_limit))

    @pytest.fixture
    def url(self) -> str:
        """URL of a fresh, empty database; a subclass supplies it."""
        raise NotImplementedError("supply the fixture `url`: the URL of a fresh, empty database for each test")

    async def make_tables(self, db: DatabaseManager) -> None:
        """Create the tables of a fresh database."""
        if Capability.MIGRATIONS in db.capabilities:
            await db.create_tables()

    async def migrate(self, db: DatabaseManager) -> None:
        """Migrate as whoever may change the schema, where that is not the user of ``url``: override it with `make_tables`."""
        await db.migrate()

    @pytest.fixture(autouse=True)
    def every_connection_is_given_back(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """After every test, whatever it did: no manager of it was left with a connection checked out.

        A test of just that, which leaves a session open when it disconnects, asks for the fixture `leaves_sessions_open`.
        """
        kept: list[str] = []
        disconnect = DatabaseManager.disconnect

        async def looked_at(manager: DatabaseManager, *args: Any, **options: Any) -> None:
            if manager.in_use:
                kept.append(f"{manager!r} was disconnected while {manager.in_use} of its connections were checked out")
            await disconnect(manager, *args, **options)

        monkeypatch.setattr(DatabaseManager, "disconnect", looked_at)
        yield
        if "leaves_sessions_open" not in request.fixturenames:
            assert kept == []

    @pytest.fixture
    def leaves_sessions_open(self) -> None:
        """Says of a test that it disconnects while a session is open."""

    @pytest_asyncio.fixture
    async def empty_db(self, url: str) -> AsyncIterator[DatabaseManager]:
        """A connected manager of a database without tables."""
        async with DatabaseManager(url) as manager:
            yield manager

    @pytest_asyncio.fixture
    async def db(self, empty_db: DatabaseManager) -> DatabaseManager:
        """A connected manager of a database with tables."""
        await self.make_tables(empty_db)
        return empty_db

    @pytest.fixture
    def clock(self) -> Clock:
        """A clock for repositories that stands still until it is moved."""
        return Clock()


def _is_limited(metafunc: pytest.Metafunc) -> bool:
    """Tell whether a test has a time limit, or can have none as the plugin is switched off."""
    config = metafunc.config
    if not config.pluginmanager.hasplugin("timeout"):
        return True
    configured = (config.getoption("timeout"), os.environ.get("PYTEST_TIMEOUT"), config.getini("timeout"))
    return metafunc.definition.get_closest_marker("timeout") is not None or any(limit not in (None, "") for limit in configured)


class Interruption(Exception):
    """What a test raises inside a session."""


@asynccontextmanager
async def interrupted(db: DatabaseManager) -> AsyncIterator[Any]:
    """Open a session that ends with an exception, which must leave it as it is."""
    try:
        async with db.get_session() as session:
            yield session
            raise Interruption
    except Interruption:
        return
    pytest.fail("the session swallowed the exception")


async def assert_refused(
    call: Callable[[str, Any], Awaitable[object]], cases: Iterable[tuple[str, Any]], remedy: str = ""
) -> None:
    """Check that each (name, value) is refused by an InvalidValueError that holds the name and the remedy."""
    for name, value in cases:
        try:
            await call(name, value)
        except InvalidValueError as error:
            assert name in str(error), f"the refusal of {name} = {value!r} does not name it: {error}"  # noqa: PT017
            assert remedy in str(error), f"the refusal of {name} = {value!r} does not name {remedy}: {error}"  # noqa: PT017
        else:
            pytest.fail(f"{name} = {value!r} was not refused")


def needs(db: DatabaseManager, capability: Capability) -> None:
    """Skip a test of what the backend does not declare."""
    if capability not in db.capabilities:
        pytest.skip(f"{capability.name} is not declared")


def lacks(db: DatabaseManager, capability: Capability) -> None:
    """Skip a test of the refusal where the backend declares the capability."""
    if capability in db.capabilities:
        pytest.skip(f"{capability.name} is declared")
