"""Tests of failures outside of iftb-store: a connect that fails, a lost connection, a lock timeout and a deadlock."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, StoreError, TransientError
from iftb_store.protocols import Capability, Isolation
from iftb_store.testing import raw
from iftb_store.testing.fixtures import PASSWORD, SuiteFixtures, describe_error, find_error, needs, wait_briefly
from iftb_store.testing.rows import add, change, read_names, read_value
from iftb_store.testing.samples import hourly

Lose = Callable[[DatabaseManager, Any], Awaitable[None]]


async def connect_to(url: str) -> None:
    """Connect to a URL and disconnect; skip the test if the connect succeeds."""
    manager = DatabaseManager(url)
    await manager.connect()
    await manager.disconnect()
    pytest.skip("supply the fixture `unreachable_url`: the backend can connect to the default")


class ConnectFailureTests(SuiteFixtures):
    """A failed connect raises OperationalError, and the error shows no password."""

    async def test_a_connect_that_fails_is_an_operational_error(self, unreachable_url: str) -> None:
        error = await find_error(connect_to(unreachable_url))
        assert isinstance(error, OperationalError), (
            f"a connect that fails must raise OperationalError, not an exception of the driver: {describe_error(error)}"
        )

    async def test_a_connect_that_fails_shows_no_password(self, unreachable_url: str, caplog: pytest.LogCaptureFixture) -> None:
        given = make_url(unreachable_url)
        url = given.set(username=given.username or "bot", password=PASSWORD).render_as_string(hide_password=False)
        with caplog.at_level(0):
            error = await find_error(connect_to(url))
        assert isinstance(error, OperationalError | StoreError), (
            "a failed connect must raise OperationalError, or URLError if the URL must not contain a password: "
            f"{describe_error(error)}"
        )
        shown = "".join(traceback.format_exception(error)) + repr(error) + caplog.text
        lines = [line.replace(PASSWORD, "[the password]") for line in shown.splitlines() if PASSWORD in line]
        assert lines == [], f"no error, cause of an error or log of a failed connect may show the password: {lines}"


async def _read(session: Any) -> None:
    await read_names(session)


async def _write(session: Any) -> None:
    await add(session, "after")


async def _write_bars(session: Any) -> None:
    await OHLCVRepository(session).upsert_many(hourly(3))


async def _execute(session: Any) -> None:
    await session.execute(text("SELECT COUNT(*) FROM ohlcv"))


async def _commit(session: Any) -> None:
    await session.commit()


class LostConnectionTests(SuiteFixtures):
    """After a lost connection, the session's calls raise OperationalError, its writes are not stored, and the manager works."""

    @pytest.mark.parametrize("call", [_read, _write, _write_bars, _execute, _commit], ids=lambda call: call.__name__)
    async def test_a_call_after_a_lost_connection_is_an_operational_error(
        self, db: DatabaseManager, lose_connection: Lose, call: Callable[[Any], Awaitable[None]]
    ) -> None:
        error: Exception | None = None
        with suppress(OperationalError):
            async with db.get_session() as session:
                await add(session, "before")
                await lose_connection(db, session)
                error = await find_error(call(session))
        assert isinstance(error, OperationalError), (
            f"after a lost connection a call must raise OperationalError, not an exception of the driver: {describe_error(error)}"
        )
        assert await raw.count(db, "ohlcv") == 0, "writes whose connection was lost before the commit must not be stored"

    async def test_a_session_that_lost_its_connection_commits_nothing_in_silence(
        self, db: DatabaseManager, lose_connection: Lose
    ) -> None:
        error: OperationalError | None = None
        try:
            async with db.get_session() as session:
                await add(session, "before")
                await lose_connection(db, session)
                for _ in range(2):
                    await find_error(_write(session))
        except OperationalError as raised:
            error = raised
        stored = [name for (name,) in await raw.fetch(db, "SELECT symbol FROM ohlcv")]
        assert (stored, error is None) == ([], False), (
            f"a session whose connection was lost must store none of its writes, including later ones, and its exit must raise "
            f"OperationalError: {stored} is stored, {describe_error(error)}"
        )

    async def test_the_manager_works_after_a_lost_connection(self, db: DatabaseManager, lose_connection: Lose) -> None:
        with suppress(OperationalError):
            async with db.get_session() as session:
                await add(session, "before")
                await lose_connection(db, session)
                await find_error(_read(session))
        error = await find_error(add(db))
        assert error is None, f"after a lost connection the manager must open another one: {describe_error(error)}"


class LockTimeoutTests(SuiteFixtures):
    """A write that waits too long for a lock raises TransientError, which db.run retries."""

    async def test_a_lock_timeout_is_a_transient_error(self, db: DatabaseManager, impatient_url: str) -> None:
        await add(db)
        written, go = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with db.get_session() as session:
                await change(session, "ROW", 1)
                written.set()
                await go.wait()

        async with DatabaseManager(impatient_url) as impatient:
            holding = asyncio.create_task(hold())
            await written.wait()
            error = await find_error(change(impatient, "ROW", 2))
            go.set()
            await holding
            assert isinstance(error, TransientError), (
                f"a write that waits too long for the lock of another session must raise TransientError, as it would succeed "
                f"later: {describe_error(error)}"
            )
            await change(impatient, "ROW", 3)
        assert await read_value(db) == 3


@dataclass
class Crossing:
    """One of two sessions that change the same two rows in opposite orders, so that they deadlock or conflict.

    Attributes:
        name: the beginning of the names of the rows that the session inserts.
        order: the names of the two rows that the session changes.
        has_written: set after the first change.
        acknowledged: the names of the inserts that returned.
        caught: the first error that was caught inside the session.
        raised: the error of the session's exit.
    """

    name: str
    order: list[str]
    has_written: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: set[str] = field(default_factory=set)
    caught: OperationalError | None = None
    raised: OperationalError | None = None

    async def run(self, db: DatabaseManager, other: Crossing) -> None:
        """Insert a row, change both rows, and insert another row, even if one of these steps fails."""
        try:
            async with db.get_session() as session:
                await self._insert(session, "before")
                await change(session, self.order[0], 1)
                self.has_written.set()
                await wait_briefly(db, other.has_written)
                try:
                    await change(session, self.order[1], 1)
                except OperationalError as error:
                    self.caught = error
                with suppress(OperationalError):
                    await self._insert(session, "after")
        except OperationalError as error:
            self.raised = error

    async def _insert(self, session: Any, when: str) -> None:
        await add(session, f"{self.name} {when}")
        self.acknowledged.add(f"{self.name} {when}")


class DeadlockTests(SuiteFixtures):
    """If a deadlock or a conflict ends a session, its writes are stored completely or not at all, and its error is transient."""

    async def test_a_deadlock_never_stores_half_a_session(self, db: DatabaseManager) -> None:
        needs(db, Capability.PARALLEL_WRITERS)
        names = ["a", "b"]
        for name in names:
            await add(db, name)
        first, second = Crossing("first", names), Crossing("second", names[::-1])
        await asyncio.gather(first.run(db, second), second.run(db, first))
        stored = {name for (name,) in await raw.fetch(db, "SELECT symbol FROM ohlcv")}
        for session in (first, second):
            found = {name for name in stored if name.startswith(session.name)}
            expected = set() if session.raised else session.acknowledged
            assert found == expected, (
                "a session must be stored completely, or its exit must raise, also after a deadlock that was caught in it "
                f"({session.caught}): its inserts {sorted(session.acknowledged)} returned, {sorted(found)} are stored, and "
                f"{describe_error(session.raised)} at its exit"
            )
        errors = [error for session in (first, second) for error in (session.caught, session.raised) if error is not None]
        assert all(isinstance(error, TransientError) for error in errors), (
            f"a deadlock must be a TransientError, so that db.run retries the transaction: {list(map(describe_error, errors))}"
        )

    @pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
    async def test_a_caught_serialization_failure_never_stores_half_a_session(
        self, db: DatabaseManager, isolation: Isolation
    ) -> None:
        needs(db, Capability.PARALLEL_WRITERS)
        needs(db, Capability.ISOLATION)
        await add(db, "row")
        acknowledged, writing = set[str](), list[asyncio.Task[None]]()
        caught: OperationalError | None = None
        raised: OperationalError | None = None
        try:
            async with db.get_session(isolation=isolation) as session:
                await add(session, "before")
                acknowledged.add("before")
                await read_value(session, "row")
                # an engine that isolates by locks makes this writer wait for the session
                writing.append(asyncio.create_task(change(db, "row", 1)))
                await asyncio.wait(writing, timeout=1)
                try:
                    await change(session, "row", 2)
                except OperationalError as error:
                    caught = error
                with suppress(OperationalError):
                    await add(session, "after")
                    acknowledged.add("after")
        except OperationalError as error:
            raised = error
        await asyncio.gather(*writing)
        stored = {name for (name,) in await raw.fetch(db, "SELECT symbol FROM ohlcv")} - {"row"}
        assert stored == (set() if raised else acknowledged), (
            "after a caught serialization failure the session's exit must store every write that returned, or raise; "
            f"{sorted(acknowledged)} returned, {sorted(stored)} are stored, {describe_error(raised)} at its exit"
        )
        errors = [error for error in (caught, raised) if error is not None]
        assert all(isinstance(error, TransientError) for error in errors), list(map(describe_error, errors))


class FailureTests(ConnectFailureTests, LostConnectionTests, LockTimeoutTests, DeadlockTests):
    """All tests of failures outside of iftb-store."""
