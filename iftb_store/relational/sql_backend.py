"""SqlBackend, the base class of backends on a SQL engine: a subclass adds a `SqlDialect` and a translation of errors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from sqlalchemy import URL, Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from iftb_store.errors import Unsupported, operational_error
from iftb_store.protocols import Capability
from iftb_store.relational.backends import EngineBackend
from iftb_store.relational.dialect import SqlDialect
from iftb_store.relational.open_sessions import DISCONNECTED, check_own_lock
from iftb_store.relational.sessions import watch
from iftb_store.relational.sql_driver import SqlDriver
from iftb_store.relational.stores import RelationalStores
from iftb_store.relational.write_lock import take_lock, take_lock_before_writes
from iftb_store.url import quote_url

T = TypeVar("T")


class SqlBackend(EngineBackend):
    """Runs all stores of iftb-store on an engine with an async SQLAlchemy dialect.

    A subclass sets ``capabilities`` and ``dialect``, and implements `create_engine`, `translate` and ``identity``. If its engine
    differs from the defaults, it also sets these attributes: ``isolation_options``, or ``isolates`` to False; ``probes`` to
    False, if a COMMIT of an aborted transaction raises an error by itself; ``loop_bound`` to False, if a connection works in any
    event loop; with one writer at a time, ``begin``, ``begin_snapshot``, ``lock_timeout`` and ``write_lock``. It overrides
    ``interrupt`` if the driver does not stop a statement whose task is cancelled.
    """

    #: The SQL of the engine.
    dialect: ClassVar[SqlDialect]
    capabilities: ClassVar[frozenset[Capability]]
    #: The statement that begins a transaction and takes the write lock, on an engine with one writer at a time; it must raise
    #: a transient error at once if another writer holds the lock. Empty if several sessions can write at a time.
    begin: ClassVar[str] = ""
    #: The statement that begins a transaction which reads a snapshot, on an engine with ``begin``.
    begin_snapshot: ClassVar[str] = "BEGIN"
    #: Seconds to wait for the write lock.
    lock_timeout: float = 30.0
    probes = True
    isolates = True

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        """Store the URL and the options of the pool; a subclass checks the options in the URL here.

        Raises:
            Unsupported: the backend does not declare Capability.BAR_KEY; without a unique key of bars, streams could lose bars.
        """
        super().__init__()
        if Capability.BAR_KEY not in self.capabilities:
            raise Unsupported(
                f"{type(self).__name__} does not declare Capability.BAR_KEY, which a SqlBackend needs; give the table ohlcv a "
                "unique constraint over exchange, symbol, timeframe and timestamp, and add BAR_KEY to the backend's capabilities"
            )
        self.url = url
        self.shown_url = quote_url(url)
        self.echo = echo
        self.pool_options.update(pool_size=pool_size, max_overflow=max_overflow)

    @abstractmethod
    def create_engine(self) -> AsyncEngine:
        """Return an engine with ``pool_options`` and `iftb_store.relational.StorePool`; do not connect."""

    @abstractmethod
    def translate(self, error: BaseException, /, *, lost: bool, committing: bool) -> Exception | None:
        """Return the IntegrityError, OperationalError or TransientError for a driver's exception, or None for any other.

        Args:
            error: the driver's exception.
            lost: whether the connection is closed.
            committing: whether a COMMIT was running; if the connection was lost meanwhile, return
                `iftb_store.errors.outcome_unknown`.
        """

    def is_gone(self, connection: Connection, error: BaseException) -> bool:
        """Return whether an error has ended the transaction: the connection is closed, or the engine rolled back by itself."""
        return connection.invalidated

    async def connect(self) -> None:
        """Create the engine and check that the database answers."""
        engine = self.create_engine()
        watch(engine, self.translate, self.is_gone)
        event.listen(engine.sync_engine, "do_connect", self._refuse_after_disconnect)
        if self.begin:
            event.listen(engine.sync_engine, "before_cursor_execute", take_lock_before_writes)
        self.closing.clear()
        await self.keep_engine(engine, "SELECT 1")

    def _refuse_after_disconnect(self, *args: Any) -> None:
        if self.closing.is_set():
            raise operational_error(DISCONNECTED)

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` with a connection in one transaction, which holds the write lock unless ``read_only``."""
        engine = self.engine
        if engine is None:
            raise operational_error("the database is not connected; await connect() first")
        self.schema_seen = False
        if not read_only:
            check_own_lock(self.write_lock)

        def run(connection: Connection) -> T:
            if self.begin and not read_only:
                take_lock(self, connection, None)
            return work(connection)

        async with engine.connect() as connection:
            result = await connection.run_sync(run)
            await connection.commit()
        return result

    @classmethod
    def stores(cls, session: AsyncSession) -> RelationalStores:
        """Return the stores of a session."""
        return RelationalStores(SqlDriver(session, cls.dialect))
