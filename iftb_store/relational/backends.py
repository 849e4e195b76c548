"""The base class of backends on SQLAlchemy: connects and disconnects the engine, and opens sessions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NoReturn, SupportsIndex

from sqlalchemy import Pool, QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from iftb_store._io.tasks import run_to_end
from iftb_store._io.turns import other_loop_error
from iftb_store.errors import operational_error, refuse_pickling
from iftb_store.protocols import Isolation
from iftb_store.relational.migrated import Migrated
from iftb_store.relational.open_sessions import DISCONNECTED, OpenSessions
from iftb_store.relational.sessions import StoreSession, close_now, open_session


class EngineBackend(Migrated):
    """Base class of a backend that holds a SQLAlchemy engine while it is connected."""

    #: Whether to run a query before a COMMIT after a caught error; see `iftb_store.relational.sessions.Opener`.
    probes: ClassVar[bool]
    #: Whether the engine supports isolation levels. If not, a session above READ COMMITTED takes the write lock with its first
    #: statement, so that such sessions run one after the other.
    isolates: ClassVar[bool]
    #: SQLAlchemy's execution options of a connection for each isolation, if ``isolates``. These are PostgreSQL's.
    isolation_options: ClassVar[Mapping[Isolation, Mapping[str, Any]]] = {
        "read committed": {"isolation_level": "READ COMMITTED"},
        "snapshot": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        "repeatable read": {"isolation_level": "REPEATABLE READ"},
        "serializable": {"isolation_level": "SERIALIZABLE"},
    }
    #: Whether a connection works only in the event loop in which it was opened.
    loop_bound: ClassVar[bool] = True
    #: The key of the engine's write lock in this process; None if the engine allows several writers at a time.
    write_lock: Hashable | None = None

    #: The URL with the password hidden, quoted for the commands that messages contain.
    shown_url: str = "URL"

    def __init__(self) -> None:
        self._engine: AsyncEngine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._moving = threading.Lock()
        #: The arguments of the engine's pool: pool_size and max_overflow, among others.
        self.pool_options: dict[str, Any] = {}
        #: Set once this backend is disconnected: no connection may be opened any more.
        self.closing = threading.Event()
        self.sessions = OpenSessions[StoreSession]()
        #: Whether the schema's revision was checked and found usable.
        self.schema_seen = False

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        refuse_pickling(self)

    @property
    def engine(self) -> AsyncEngine | None:
        """The SQLAlchemy engine, or None if not connected."""
        self.enter_loop()
        return self._engine

    @property
    def pool(self) -> Pool | None:
        """The engine's connection pool, or None if not connected."""
        return self._engine.pool if self._engine is not None else None

    @property
    def in_use(self) -> int:
        """The number of connections that are checked out of the pool."""
        pool = self.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    @property
    def capacity(self) -> int:
        """The largest number of connections that the pool may open."""
        return int(self.pool_options["pool_size"] + self.pool_options["max_overflow"])

    async def disconnect(self, grace: float) -> None:
        """Wait for open sessions, then close them and every connection; see `iftb_store.protocols.Backend.disconnect`."""
        self.enter_loop()
        engine = self._engine
        if engine is None:
            return
        self.closing.set()
        left: list[StoreSession] | None = None
        try:
            left = await self.sessions.end(grace)
        finally:
            # if the wait was cancelled, close every session that is still open
            left = list(self.sessions) if left is None else left
            await run_to_end(self._close(engine, left))

    async def _close(self, engine: AsyncEngine, left: list[StoreSession]) -> None:
        await asyncio.gather(*(close_now(session, self) for session in left))
        await engine.dispose()
        self._engine = None

    def interrupt(self, driver: Any) -> None:
        """Do nothing: most drivers stop a cancelled statement themselves; a backend overrides this method for other drivers."""

    def forget(self, driver: Any) -> None:
        """Do nothing; a backend may override this method to close a driver's connection that the pool gives up.

        The server then ends the connection too. The event loop of the connection is already closed, so nothing can be awaited.
        """

    def enter_loop(self) -> None:
        """Create a new pool for the running event loop, if the event loop in which the backend was connected is closed.

        Raises:
            NotConnectedError: the event loop in which the backend was connected is still open, and the backend's connections work
                only in that event loop.
        """
        # outside of any event loop nothing can be sent to a connection, so there is nothing to check
        loop = asyncio._get_running_loop()
        if self._engine is None or not self.loop_bound or self._loop is loop or loop is None:
            return
        with self._moving:
            if self._loop is loop:
                return
            if self._loop is not None and not self._loop.is_closed():
                raise other_loop_error("the manager")
            pool = self._engine.pool
            # callers that hold the engine keep using it with a new pool; the connections of the old pool are closed below
            self._engine.sync_engine.dispose(close=False)
            self.sessions = OpenSessions[StoreSession]()
            self._loop = loop
        while isinstance(pool, QueuePool) and pool.checkedin():
            record = pool._pool.get(block=False)
            if record.dbapi_connection is not None:
                self.forget(record.driver_connection)

    def refuse_after_disconnect(self, open_connection: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """Wrap the function that opens connections, so that it raises OperationalError once this backend is disconnected.

        A session that waits for a connection during the disconnect would otherwise open a new connection afterwards.
        """
        self.closing = over = threading.Event()

        async def opening() -> Any:
            if over.is_set():
                raise operational_error(DISCONNECTED)
            return await open_connection()

        return opening

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[StoreSession]:
        """Open a session, committed on a clean exit; see `iftb_store.protocols.Backend.session`."""
        self.enter_loop()
        engine = self._engine
        if engine is not None and isolation is not None and self.isolates:
            engine = engine.execution_options(**self.isolation_options[isolation])
        async with open_session(self, None if self.closing.is_set() else engine, isolation=isolation) as session:
            yield session

    async def keep_engine(self, engine: AsyncEngine, proof: str) -> None:
        """Run the statement ``proof`` to check that the database answers, then store the engine in this backend.

        If the statement fails, dispose of the engine and raise the error.
        """
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql(proof)
        except BaseException:
            # a cancellation too: no connection may remain
            await engine.dispose()
            raise
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self.schema_seen = False
