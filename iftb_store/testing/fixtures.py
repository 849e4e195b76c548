"""Fixtures and helpers of the conformance suite: connected managers with and without tables, and checks of capabilities."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, TypeVar

import pytest
import pytest_asyncio
from sqlalchemy import make_url

from iftb_store import DatabaseManager, InvalidValueError
from iftb_store.protocols import Capability
from iftb_store.testing.samples import Clock

#: The password that no error and no log may show.
PASSWORD = "s3cr3t-pass"  # noqa: S105 - what must not be shown

T = TypeVar("T")


@pytest.mark.asyncio
class SuiteFixtures:
    """Fixtures that all parts of the suite share.

    Attributes:
        time_limit: maximum seconds for a test, including its fixtures. It applies only if pytest has no other limit from the
            mark ``timeout``, the option ``--timeout``, the environment variable PYTEST_TIMEOUT or the setting ``timeout``.
    """

    time_limit: ClassVar[float] = 120

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Set the time limit of the class; pytest calls this method for each test before it creates the test."""
        tests = metafunc.definition.parent
        if tests is not None and not _is_limited(metafunc):
            tests.add_marker(pytest.mark.timeout(self.time_limit))

    @pytest.fixture
    def url(self) -> str:
        """The URL of a new, empty database; each subclass must override this fixture."""
        raise NotImplementedError("supply the fixture `url`: the URL of a fresh, empty database for each test")

    async def make_tables(self, db: DatabaseManager) -> None:
        """Create the tables of a new database, if the backend has the capability MIGRATIONS."""
        if Capability.MIGRATIONS in db.capabilities:
            await db.create_tables()

    async def migrate(self, db: DatabaseManager) -> None:
        """Migrate the database; override this and `make_tables` if the database user of ``url`` may not change the schema."""
        await db.migrate()

    @pytest.fixture(autouse=True)
    def every_connection_is_given_back(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Fail a test if one of its managers is disconnected while sessions still use connections of this manager.

        A test that disconnects on purpose while a session is open requests the fixture `leaves_sessions_open`.
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
            assert kept == [], f"every session must give its connection back at its end: {kept}"

    @pytest.fixture(autouse=True)
    def skips_what_the_backend_lacks(self, request: pytest.FixtureRequest) -> None:
        """Skip a test that `requires` a capability which the backend does not declare."""
        required: tuple[Capability, ...] = getattr(request.function, "required", ())
        if required:
            declared = DatabaseManager(request.getfixturevalue("url")).capabilities
            for capability in required:
                if capability not in declared:
                    pytest.skip(f"{capability.name} is not declared")

    @pytest.fixture
    def leaves_sessions_open(self) -> None:
        """Marks a test that disconnects on purpose while a session is open."""

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
    def second_url(self) -> str:
        """Optional: the URL of a second new, empty database. Without it, the tests that need two databases are skipped."""
        pytest.skip("supply the fixture `second_url`: the URL of another new, empty database")

    @pytest.fixture
    def impatient_url(self) -> str:
        """Optional: the URL of the same database as ``url``, with which a write waits only milliseconds for a lock.

        Most engines have an option of the URL for it. Without it, the test of lock timeouts is skipped.
        """
        pytest.skip("supply the fixture `impatient_url`: `url` with a wait of a few milliseconds for locks")

    @pytest.fixture
    def unreachable_url(self, url: str) -> str:
        """Optional: a URL to which no connection can be made; by default, ``url`` with a database that does not exist.

        The tests also add a password to it. If your backend takes a password elsewhere, e.g. as an option, put `PASSWORD` there.
        """
        given = make_url(url)
        return given.set(database=f"{given.database}/no/such/database").render_as_string(hide_password=False)

    @pytest.fixture
    def lose_connection(self) -> Callable[[DatabaseManager, Any], Awaitable[None]]:
        """Optional: an async function (manager, session) that cuts the session's connection, as a restart of the server does.

        By default it closes the driver's connection of an AsyncSession; without the capability SQLALCHEMY the tests are skipped.
        """
        return close_driver_connection

    @pytest.fixture
    def clock(self) -> Clock:
        """A clock for repositories, which shows the same time until the test moves it."""
        return Clock()


def _is_limited(metafunc: pytest.Metafunc) -> bool:
    """Return whether a test has a time limit already, or cannot have one because pytest-timeout is switched off."""
    config = metafunc.config
    if not config.pluginmanager.hasplugin("timeout"):
        return True
    configured = (config.getoption("timeout"), os.environ.get("PYTEST_TIMEOUT"), config.getini("timeout"))
    return metafunc.definition.get_closest_marker("timeout") is not None or any(limit not in (None, "") for limit in configured)


class Interruption(Exception):
    """Raised by a test inside a session."""


@asynccontextmanager
async def interrupted(db: DatabaseManager) -> AsyncIterator[Any]:
    """Open a session and raise an exception at its end; fail the test if the session suppresses the exception."""
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
    """Check that ``call(name, value)`` raises, for each case, an InvalidValueError whose message has the name and the remedy."""
    for name, value in cases:
        try:
            await call(name, value)
        except InvalidValueError as error:
            assert name in str(error), f"the error that refuses {name} = {value!r} does not contain {name}: {error}"  # noqa: PT017
            assert remedy in str(error), f"the error that refuses {name} = {value!r} does not contain {remedy}: {error}"  # noqa: PT017
        else:
            pytest.fail(f"{name} = {value!r} was not refused")


async def close_driver_connection(db: DatabaseManager, session: Any) -> None:
    """Close the driver's connection of an AsyncSession; skip the test if the backend has another class of sessions."""
    needs(db, Capability.SQLALCHEMY)
    await (await (await session.connection()).get_raw_connection()).driver_connection.close()


async def find_error(call: Awaitable[object]) -> Exception | None:
    """Await a call; return the exception that it raises, or None."""
    try:
        await call
    except Exception as error:
        # the caller checks the error's type
        return error
    return None


def describe_error(error: BaseException | None) -> str:
    """Return the module, the type and the text of an exception, for the message of a failed test."""
    return "nothing was raised" if error is None else f"{type(error).__module__}.{type(error).__qualname__} was raised: {error}"


async def wait_briefly(db: DatabaseManager, event: asyncio.Event) -> None:
    """Wait for an event in another session, but not for long: an engine may make that session wait for the current one.

    An engine with one writer at a time always does this; an engine that locks rows in serializable transactions may do it.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(1 if Capability.PARALLEL_WRITERS in db.capabilities else 0.05):
            await event.wait()


def requires(*capabilities: Capability) -> Callable[[T], T]:
    """Return a decorator of a test, or of a class of tests, that skips them unless the backend declares the capabilities."""

    def mark(item: T) -> T:
        tests: list[Any] = (
            [getattr(item, name) for name in dir(item) if name.startswith("test_")] if isinstance(item, type) else [item]
        )
        for test in tests:
            test.required = (*getattr(test, "required", ()), *capabilities)
        return item

    return mark


def needs(db: DatabaseManager, capability: Capability) -> None:
    """Skip the test unless the backend declares the capability."""
    if capability not in db.capabilities:
        pytest.skip(f"{capability.name} is not declared")


def lacks(db: DatabaseManager, capability: Capability) -> None:
    """Skip the test if the backend declares the capability; for tests of the refusal on backends without the capability."""
    if capability in db.capabilities:
        pytest.skip(f"{capability.name} is declared")
