"""Reads of a manager with ``read_url``: on the standby if it has replayed the manager's last commit, else on the primary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from iftb_store._io.semaphore import FairSemaphore
from iftb_store.abilities import SupportsStandby
from iftb_store.errors import StoreError, TransientError, Unsupported, URLError, operational_error
from iftb_store.protocols import Backend, Isolation, Session
from iftb_store.registry import find_backend
from iftb_store.url import format_url, hide_secrets, parse_url

T = TypeVar("T")

# seconds that a read waits at most for a connection to the standby and for its answer; then it goes to the primary
_OPENING = 2.0
#: Seconds in which all reads go to the primary after the standby has failed.
PAUSE = 5.0

_log = logging.getLogger(__name__)


def make_standby(primary: Backend, read_url: str | URL, options: Mapping[str, Any]) -> StandbyReads:
    """Return a `StandbyReads`, not yet connected, that reads on the standby of a primary.

    Args:
        primary: the backend of the manager.
        read_url: the URL of the standby.
        options: the options of the manager's backend.

    Raises:
        URLError: the URL cannot be parsed or has an unknown option; the message names read_url.
        Unsupported: the URL leads to another engine, or the engine has no standbys.
    """
    try:
        url = parse_url(read_url)
        kind = find_backend(url.drivername)
        if isinstance(primary, SupportsStandby) and isinstance(primary, kind):
            return StandbyReads(primary, kind(url, **options), format_url(hide_secrets(url)))
    except URLError as error:
        raise URLError(f"read_url: {error}") from error
    raise Unsupported(
        "read_url must lead to a standby of the database, and only PostgreSQL has standbys; give the URLs of PostgreSQL servers, "
        "or leave read_url out"
    )


class StandbyReads:
    """Sends reads to the standby of a primary, and to the primary while the standby lags behind or fails.

    Args:
        primary: the backend of the manager.
        standby: the backend of ``read_url``.
        url: the standby's URL as text for messages, with the password hidden.
    """

    def __init__(self, primary: Backend, standby: Backend, url: str) -> None:
        self.primary, self.standby, self._url = primary, standby, url
        self._connecting = FairSemaphore()
        self._is_connected = False
        self._paused_until = 0.0
        self._failed = False

    async def connect(self) -> None:
        """Connect to the standby; if that fails, log a warning: later reads try again."""
        try:
            await self._connect()
        except (DBAPIError, StoreError, TimeoutError) as error:
            self._pause(error)

    async def disconnect(self, grace: float) -> None:
        """Wait for the sessions on the standby to end, then close its connections."""
        async with self._connecting:
            if self._is_connected:
                self._is_connected = False
                await self.standby.disconnect(grace)

    @asynccontextmanager
    async def session(self, isolation: Isolation | None) -> AsyncIterator[Session]:
        """Open a session that only reads, on the standby or on the primary."""
        async with AsyncExitStack() as stack:
            session = await self._enter(stack, isolation)
            if session is None:
                yield await stack.enter_async_context(self.primary.session(isolation))
                return
            try:
                yield session
            except TransientError as error:
                # the caller's next attempt goes to the primary
                self._pause(error)
                raise

    async def read(self, work: Callable[[Session], Awaitable[T]], isolation: Isolation | None = None) -> T:
        """Run ``work(session)``, which only reads, on the standby; if that fails, or the standby lags behind, on the primary."""
        try:
            async with AsyncExitStack() as stack:
                if (session := await self._enter(stack, isolation)) is not None:
                    return await work(session)
        except TransientError as error:
            self._pause(error)
        except OperationalError as error:
            _log.info("a read failed on the standby, and is repeated on the primary: %s", error)
        async with self.primary.session(isolation) as session:
            return await work(session)

    async def find_problem(self) -> str | None:
        """Return why reads go to the primary, as one line; None if the standby can be used."""
        async with AsyncExitStack() as stack:
            try:
                if await self._open(stack, None) is None:
                    return f"the standby {self._url} has not replayed this manager's last commit yet; reads go to the primary"
            except (DBAPIError, StoreError, TimeoutError) as error:
                return f"{self._describe(error)}; reads go to the primary"
        return None

    async def _enter(self, stack: AsyncExitStack, isolation: Isolation | None) -> Session | None:
        """Return a session on the standby that ``stack`` closes; None if the primary has to be used."""
        if monotonic() < self._paused_until:
            return None
        try:
            session = await self._open(stack, isolation)
        except (DBAPIError, StoreError, TimeoutError) as error:
            self._pause(error)
            return None
        if self._failed:
            self._failed = False
            _log.info("reads go to the standby %s again", self._url)
        return session

    async def _open(self, stack: AsyncExitStack, isolation: Isolation | None) -> Session | None:
        """Open a session on the standby; return None if the standby has not replayed the last commit."""
        primary, standby = self.primary, self.standby
        # the manager has checked this
        assert isinstance(primary, SupportsStandby)  # noqa: S101
        assert isinstance(standby, SupportsStandby)  # noqa: S101
        async with asyncio.timeout(_OPENING), AsyncExitStack() as opening:
            await self._connect()
            # asked before the session begins: it must see every commit that ended before this call
            position = await primary.find_position()
            session = await opening.enter_async_context(self.standby.session(isolation))
            if not await standby.has_replayed(session, position):
                return None
            stack.push_async_exit(opening.pop_all())
            return session

    async def _connect(self) -> None:
        if self._is_connected:
            return
        async with asyncio.timeout(_OPENING), self._connecting:
            if not self._is_connected:
                await self.standby.connect()
                self._is_connected = True

    def _pause(self, error: BaseException) -> None:
        self._paused_until = monotonic() + PAUSE
        if not self._failed:
            self._failed = True
            _log.warning("%s; reads go to the primary until it can be used again. This is logged once", self._describe(error))

    def _describe(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            error = operational_error(f"it did not answer within {_OPENING:g} s")
        return f"the standby {self._url} cannot be used: {error.orig if isinstance(error, DBAPIError) else error}"
