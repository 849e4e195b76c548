"""DatabaseManager, which opens the database of a URL and provides sessions for reading and writing."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, TypeVar, get_args

from sqlalchemy import URL, text

from iftb_store._io.semaphore import FairSemaphore
from iftb_store._io.turns import check_process
from iftb_store.abilities import ABILITIES, SupportsEngine, SupportsMigrations, SupportsPoolStatus
from iftb_store.errors import (
    CommitOutcomeUnknown,
    InvalidValueError,
    NotConnectedError,
    SchemaError,
    TransientError,
    Unsupported,
    operational_error,
    refuse_pickling,
)
from iftb_store.health import Health, SchemaStatus
from iftb_store.measuring import check_health, measure_backend
from iftb_store.protocols import Backend, Capability, Isolation, Session
from iftb_store.registry import find_backend
from iftb_store.standby import make_standby
from iftb_store.url import fill_url, format_url, hide_secrets, parse_url, quote_url
from iftb_store.values import checks
from iftb_store.values.display import show, type_name

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

A = TypeVar("A")
T = TypeVar("T")

# in seconds: the limit of the random wait starts at _BACKOFF and doubles with each retry, up to _LONGEST_BACKOFF
_BACKOFF = 0.05
_LONGEST_BACKOFF = 5.0

_log = logging.getLogger(__name__)


class DatabaseManager:
    """Connections to one database; the scheme of the URL selects the engine.

    ``async with DatabaseManager(url) as db`` connects and disconnects. A second connect() or disconnect() has no effect.
    A disconnected manager can connect again. The database needs no schema for connect().

    Creating a manager imports the engine's driver, which blocks a running event loop for up to half a second (longest for
    DuckDB). connect() and later calls do not block the loop with imports: they import all other modules in a thread.

    Args:
        database_url: e.g. ``postgresql://user:password@host/name``, ``sqlite:///bot.db``, ``duckdb:///research.duckdb``.
        pool_size: number of connections that the manager keeps open.
        max_overflow: maximum number of additional connections while all ``pool_size`` connections are in use.
        echo: whether SQLAlchemy's logger logs every statement, without its parameters.
        read_url: the URL of a streaming standby of a PostgreSQL database. Snapshot sessions, and reads of repositories that
            are given the manager, go there once it has replayed the manager's last commit, otherwise to ``database_url``; also
            while it does not answer, which is logged as a warning. All else, e.g. get_session(), works on ``database_url``.

    Raises:
        Unsupported: read_url is given, and the engine has no standbys.
        URLError: the URL cannot be parsed, or its scheme or one of its options is unknown.
        InvalidValueError: pool_size is below 1, max_overflow is below 0, or an argument has another type.
        MissingDriverError: the driver for the scheme is not installed.

    Example:
        async with DatabaseManager("sqlite:///bot.db") as db:
            len(await OHLCVRepository(db).get_latest("BTCUSDT", "1h", limit=5))  # -> 5
    """

    def __init__(
        self,
        database_url: str | URL,
        pool_size: int = 5,
        max_overflow: int = 10,
        echo: bool = False,
        *,
        read_url: str | URL | None = None,
    ) -> None:
        pool_size, max_overflow = checks.integer(pool_size, "pool_size", least=1), checks.integer(max_overflow, "max_overflow")
        checks.boolean(echo, "echo")
        database_url = parse_url(database_url)
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": max_overflow, "echo": echo}
        self._backend: Backend = find_backend(database_url.drivername)(database_url, **options)
        self._url = hide_secrets(database_url)
        self._standby = None if read_url is None else make_standby(self._backend, read_url, options)
        self._is_connected = False
        self._process = os.getpid()
        self._connecting = FairSemaphore()

    def __repr__(self) -> str:
        return f"DatabaseManager({format_url(self._url)!r})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        refuse_pickling(self)

    async def __aenter__(self) -> DatabaseManager:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.disconnect()

    @property
    def url(self) -> str:
        """The URL as text for messages, with the password hidden."""
        return format_url(self._url)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The optional capabilities that the backend declares."""
        return self._backend.capabilities

    @property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy AsyncEngine; only PostgreSQL and SQLite have one.

        Raises:
            NotConnectedError: before connect().
            Unsupported: the backend has no SQLAlchemy engine.
        """
        self._require_connected()
        if Capability.SQLALCHEMY in self.capabilities and isinstance(self._backend, SupportsEngine):
            engine = self._backend.engine
            if engine is not None:
                return engine
        raise Unsupported(
            f"{self._url.get_backend_name()} has no SQLAlchemy engine; use get_session(), or create_tables() for the schema"
        )

    @property
    def in_use(self) -> int:
        """The number of connections that sessions use at the moment, including those to a standby; 0 if no session uses one."""
        backends = [self._backend, *([self._standby.standby] if self._standby else [])]
        return sum(backend.in_use for backend in backends if isinstance(backend, SupportsPoolStatus))

    async def identity(self) -> str:
        """Return a text that identifies the database tables.

        Returns:
            The text; two managers of the same tables return the same text, even if their URLs differ.

        Raises:
            NotConnectedError: before connect().

        Example:
            async with DatabaseManager("sqlite:///./bot.db?mode=ro") as other:
                await other.identity() == await db.identity()  # -> True
        """
        self._require_connected()
        return await self._backend.identity()

    # the specification of this project creates the tables for its tests through the name _engine
    _engine = engine

    async def connect(self) -> None:
        """Open the database and check that it answers. A second call has no effect.

        Raises:
            OperationalError: the database cannot be reached or opened.

        Example:
            db = DatabaseManager("sqlite:///bot.db")
            await db.connect()
            (await db.status()).engine  # -> 'sqlite'
            await db.disconnect()
        """
        if self._is_connected:
            check_process(self._process, self)
        async with self._connecting:
            if not self._is_connected:
                self._process = os.getpid()
                await self._backend.connect()
                self._is_connected = True
                if self._standby is not None:
                    await self._standby.connect()

    async def disconnect(self, grace: float = 10.0) -> None:
        """Refuse new sessions, wait for the open sessions to end, then close every connection. A second call has no effect.

        Args:
            grace: maximum seconds to wait. After that, sessions that are still open are rolled back and closed. A later call
                on such a session raises OperationalError, and so does a clean exit if the session had writes to commit.

        Raises:
            InvalidValueError: grace is not a number of seconds, 0 or more.

        Example:
            await db.disconnect(grace=2)
            db.in_use  # -> 0
        """
        wait = checks.seconds(grace, "grace")
        if self._is_connected:
            check_process(self._process, self)
        async with self._connecting:
            if self._is_connected:
                self._is_connected = False
                try:
                    if self._standby is not None:
                        await self._standby.disconnect(wait)
                    await self._backend.disconnect(wait)
                except NotConnectedError:
                    # the manager belongs to another event loop and stays connected there
                    self._is_connected = True
                    raise

    def get_session(self, *, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Session]:
        """Open a session: ``async with db.get_session() as session``.

        The session commits on a clean exit and rolls back on an exception or a cancellation. After a cancellation during the
        COMMIT it is unknown whether the transaction is stored.

        Args:
            isolation: the isolation level, see `run`; None: the default. With "snapshot" the session reads a snapshot, which its
                first statement takes, on the standby if there is a read_url; it cannot write, and writers never wait for it.

        Returns:
            The context manager of a session: of a SQLAlchemy AsyncSession on PostgreSQL and SQLite; on the other engines, of an
            object with the members of `iftb_store.Session`.

        Raises:
            NotConnectedError: before connect().
            InvalidValueError: an unknown isolation.
            Unsupported: the backend does not declare ISOLATION, and isolation is stronger than "read committed".
            OperationalError: on a clean exit, if an error that was caught inside the block has ended the transaction.

        Example:
            async with db.get_session() as session:
                await TradeRepository(session).insert(new_trade)
                await PositionRepository(session).update_position(new_position)
            len(await trades.get_open())  # -> 2
        """
        self._require_connected()
        self._check_isolation(isolation)
        return self._open_session(isolation)

    async def run(
        self,
        work: Callable[[Session], Awaitable[T]],
        *,
        retries: int = 8,
        isolation: Isolation | None = None,
        idempotent: bool = False,
    ) -> T:
        """Run ``work(session)`` in a new transaction and return its result; retry it after a transient error.

        A retry runs ``work`` again in a new transaction after a `TransientError`: a serialization failure, a deadlock, a
        connection lost before COMMIT was sent, a locked SQLite database, or a conflict or lock timeout on DuckDB. The wait
        before a retry is random, up to 0.05 s at first; the limit doubles with each retry, up to 5 s. `run` raises any other
        error, and a cancellation, unchanged, and nothing is stored. ``work`` must not commit. As ``work`` may run several
        times, everything that it does outside the session must be harmless when repeated.

        If the connection is lost during COMMIT, the transaction may be stored; ``work`` is then retried only if it is
        ``idempotent``. After a cancellation during COMMIT it is also unknown whether the transaction is stored.

        Args:
            work: an async callable that takes a session, as `get_session` yields it.
            retries: maximum number of retries; 0 for none.
            isolation: None for the default (like READ COMMITTED). With "repeatable read" or "serializable" the transaction
                begins with the first statement, even a read, and the data that it has read does not change until it ends.
                PostgreSQL runs these transactions concurrently, and a conflicting transaction fails. On SQLite and DuckDB
                they take the write lock and run one after the other, so they are serializable. With "snapshot" the
                transaction reads a snapshot; it cannot write and takes no lock.
            idempotent: whether ``work`` may run again after its writes were stored, without harm, e.g. because it only
                records trades and upserts bars; log_event appends an event each time.

        Returns:
            What ``work`` returned in the attempt that was committed.

        Raises:
            TransientError: the last attempt failed with this error; nothing is stored.
            CommitOutcomeUnknown: the connection was lost during COMMIT, and ``work`` was not retried or the retries failed
                too. The writes are stored once or not at all, or, with ``idempotent``, possibly several times.
            InvalidValueError: retries is below 0, the isolation is unknown, or an argument has another type.
            Unsupported: the backend does not declare ISOLATION, and isolation is stronger than "read committed".
            NotConnectedError: before connect().

        Example:
            async def work(session):
                return await TradeRepository(session).record(new_trade)

            await db.run(work, idempotent=True)  # -> 3
        """
        if not callable(work):
            raise InvalidValueError(f"work must be an async function that takes a session, not {type_name(work)}")
        left = checks.integer(retries, "retries")
        checks.boolean(idempotent, "idempotent")
        self._check_isolation(isolation)
        backoff = _BACKOFF
        failure: TransientError | CommitOutcomeUnknown
        unknown: CommitOutcomeUnknown | None = None
        while True:
            self._require_connected()
            try:
                async with self._open_session(isolation) as session:
                    result = await work(session)
            except CommitOutcomeUnknown as error:
                if not (idempotent and left):
                    raise
                failure = unknown = error
            except TransientError as error:
                if not left:
                    # a TransientError would claim that nothing is stored, but an earlier attempt may have been committed
                    raise unknown or error from error
                failure = error
            else:
                return result
            _log.info("retrying a transaction, at most %d more times: %s", left, failure)
            left -= 1
            # the wait is random ("full jitter"), so that conflicting tasks do not retry at the same moment
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 - not used for security
            backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def ping(self, within: float = 5.0) -> float:
        """Run one statement to check that the database answers; return the duration in seconds.

        Args:
            within: maximum seconds to wait for the answer.

        Returns:
            The duration, including the wait for a free connection.

        Raises:
            OperationalError: the database did not answer in ``within`` seconds, or cannot be reached.
            NotConnectedError: before connect().
            InvalidValueError: ``within`` is not a number of seconds, 0 or more.

        Example:
            await db.ping(within=5) < 5  # -> True
        """
        checks.seconds(within, "within")
        self._require_connected()
        began = monotonic()
        try:
            async with asyncio.timeout(within), self._backend.session() as session:
                await session.execute(text("SELECT 1"))
        except TimeoutError as error:
            raise operational_error(f"the database did not answer within {within:g} s", error, transient=True) from error
        return monotonic() - began

    async def health(self, within: float = 5.0) -> Health:
        """Check whether the database answers, has a usable schema and accepts writes; the check stores nothing.

        Args:
            within: maximum seconds to wait for an answer, and again for the check of writes; on a locked SQLite file the
                check of writes waits for the busy timeout instead. Counting the rows has no time limit.

        Returns:
            The result; problems of the database are in its ``problems`` and are not raised.

        Raises:
            NotConnectedError: before connect().
            InvalidValueError: ``within`` is not a number of seconds, 0 or more.

        Example:
            health = await db.health()
            (health.healthy, health.problems)  # -> (True, [])
        """
        self._require_connected()
        return await check_health(self._backend, self._standby, quote_url(self._url), self.ping, self.status, within)

    async def migrate(self) -> None:
        """Create the schema, or update an older schema to the revision of this version of iftb-store.

        If the tables are identical to those of iftb-store but have no revision, `migrate` only records the revision. Repeated
        calls, and calls from several processes at once, are safe: one process migrates, the others wait for a limited time.

        Raises:
            SchemaError: the tables have no revision and differ from those of iftb-store, or a newer version created them.
            Unsupported: the backend has no migrations.
            NotConnectedError: before connect().
            OperationalError: the role may not create the tables, or the database failed.

        Example:
            await db.migrate()
            (await db.status()).state  # -> 'current'
        """
        await self.ability(SupportsMigrations).migrate()

    async def create_tables(self) -> None:
        """Create the missing tables and record the newest revision; for tests and first steps.

        Raises:
            SchemaError: tables of iftb-store exist at another revision.
            Unsupported: the backend has no migrations.
            NotConnectedError: before connect().
            OperationalError: the role may not create the tables, or the database failed.

        Example:
            async with DatabaseManager("sqlite:///:memory:") as db:
                await db.create_tables()
                (await db.status()).tables["trades"]  # -> 0
        """
        try:
            await self.ability(SupportsMigrations).create_tables()
        except SchemaError as error:
            raise SchemaError(fill_url(str(error), quote_url(self._url))) from error

    async def status(self) -> SchemaStatus:
        """Count the rows, and read the engine's version and the schema's revision.

        Returns:
            The status. Without the capability MIGRATIONS there are no revisions; then the number of series is counted too, and
            the number and size of the files are reported if the backend knows them.

        Raises:
            NotConnectedError: before connect().
            OperationalError: the database failed.

        Example:
            status = await db.status()
            (status.engine, status.state, status.tables["ohlcv"])  # -> ('sqlite', 'current', 23)
        """
        if Capability.MIGRATIONS in self.capabilities:
            return await self.ability(SupportsMigrations).status()
        self._require_connected()
        return await measure_backend(self._backend, self._url.get_backend_name())

    def ability(self, protocol: type[A]) -> A:
        """Return the backend, typed as the given optional protocol, e.g. ``db.ability(SupportsBackup)``.

        Args:
            protocol: an optional protocol from `iftb_store.abilities`, e.g. SupportsMigrations or SupportsBackup.

        Returns:
            The backend.

        Raises:
            NotConnectedError: before connect().
            Unsupported: the backend does not implement the protocol, or does not declare its capability.
            InvalidValueError: ``protocol`` is not one of these protocols.

        Example:
            from iftb_store.abilities import SupportsBackup

            db.ability(SupportsBackup).backup_scheme  # -> 'sqlite'
        """
        if not getattr(protocol, "_is_runtime_protocol", False):
            raise InvalidValueError(f"protocol must be one of iftb_store.abilities, e.g. SupportsBackup, not {show(protocol)}")
        self._require_connected()
        capability, remedy = ABILITIES.get(protocol, (None, ""))
        if not isinstance(self._backend, protocol) or (capability is not None and capability not in self.capabilities):
            what = " ".join(re.findall("[A-Z][a-z]*", protocol.__name__.removeprefix("Supports"))).lower()
            reason = f"the backend of {self._url.get_backend_name()} does not support {what}"
            raise Unsupported(f"{reason}; {remedy}" if remedy else reason)
        return self._backend

    def _open_session(self, isolation: Isolation | None) -> AbstractAsyncContextManager[Session]:
        if isolation == "snapshot" and self._standby is not None:
            return self._standby.session(isolation)
        return self._backend.session(isolation)

    def _check_isolation(self, isolation: Isolation | None) -> None:
        if isolation is not None and isolation not in get_args(Isolation):
            raise InvalidValueError(f"isolation must be one of {', '.join(get_args(Isolation))}, not {show(isolation)}")
        if isolation not in (None, "read committed") and Capability.ISOLATION not in self.capabilities:
            raise Unsupported(
                f"the backend of {self._url.get_backend_name()} supports only the isolation read committed; leave isolation out, "
                "or use PostgreSQL, SQLite or DuckDB"
            )

    def _require_connected(self) -> None:
        if not self._is_connected:
            raise NotConnectedError(
                f"{self!r} is not connected; await connect() first, or use `async with DatabaseManager(url) as db`"
            )
        check_process(self._process, self)
