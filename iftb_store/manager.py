"""DatabaseManager: a URL becomes a backend, with its life cycle and its sessions."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, TypeVar

from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError

from iftb_store._io.semaphore import FairSemaphore
from iftb_store._io.turns import check_process
from iftb_store.errors import (
    CommitOutcomeUnknown,
    InvalidValueError,
    NotConnectedError,
    StoreError,
    TransientError,
    Unsupported,
    operational_error,
    refuse_pickling,
)
from iftb_store.health import Health, PoolState, SchemaStatus, advice, prove_writable, warnings_of
from iftb_store.protocols import (
    ISOLATIONS,
    Backend,
    Capability,
    Encryption,
    Isolation,
    SupportsBackup,
    SupportsEncryption,
    SupportsMigrations,
)
from iftb_store.registry import backend_for
from iftb_store.url import parse_url, shown_url, without_secrets
from iftb_store.values import checks
from iftb_store.values.display import kind, shown

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

A = TypeVar("A")
T = TypeVar("T")

# seconds; a try waits up to the first before it is run again, the next up to twice as long, up to the second
_BACKOFF = 0.05
_LONGEST_BACKOFF = 5.0

_DECLARED: dict[type[Any], Capability] = {
    SupportsMigrations: Capability.MIGRATIONS,
    SupportsBackup: Capability.BACKUP,
}

_log = logging.getLogger(__name__)


class DatabaseManager:
    """Connections to one database, whose engine the URL's scheme chooses.

    ``async with DatabaseManager(url) as db`` connects and disconnects. Connecting or disconnecting twice does nothing the
    second time; a manager can connect again after it was disconnected. No schema is needed to connect.

    Making a manager imports its engine's driver, up to half a second of an event loop that runs already (DuckDB's the longest).
    From connect() on, no call holds the loop up for imports: what else is needed is imported in a thread.

    Args:
        database_url: e.g. ``postgresql://user:password@host/name``, ``sqlite:///bot.db``, ``duckdb:///research.duckdb``.
        pool_size: connections kept open.
        max_overflow: further connections while all of those are in use.
        echo: log every statement (SQLAlchemy's logger; parameters are hidden).

    Raises:
        URLError: the URL cannot be understood, or its scheme or an option of it is unknown.
        InvalidValueError: pool_size below 1, max_overflow below 0, or one of the two or echo of another type.
        MissingDriverError: the scheme's driver is not installed.
    """

    def __init__(self, database_url: str | URL, pool_size: int = 5, max_overflow: int = 10, echo: bool = False) -> None:
        pool_size, max_overflow = checks.integer(pool_size, "pool_size", least=1), checks.integer(max_overflow, "max_overflow")
        checks.boolean(echo, "echo")
        database_url = parse_url(database_url)
        self._backend: Backend = backend_for(database_url.drivername)(
            database_url, pool_size=pool_size, max_overflow=max_overflow, echo=echo
        )
        self._url = without_secrets(database_url)
        self._connected = False
        self._process = os.getpid()
        self._connecting = FairSemaphore()

    def __repr__(self) -> str:
        return f"DatabaseManager({shown_url(self._url)!r})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        refuse_pickling(self)

    async def __aenter__(self) -> DatabaseManager:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.disconnect()

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the backend declares beyond the contract."""
        return self._backend.capabilities

    @property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy AsyncEngine, on PostgreSQL and SQLite.

        Raises:
            NotConnectedError: before connect().
            Unsupported: the backend has none.
        """
        self._require_connected()
        engine = self._backend.engine
        if engine is None:
            raise Unsupported(
                f"{self._url.get_backend_name()} has no SQLAlchemy engine; use get_session(), or create_tables() for the schema"
            )
        return engine

    @property
    def in_use(self) -> int:
        """The connections that sessions hold at this moment; 0 when every one is back."""
        return self._backend.in_use

    async def identity(self) -> str:
        """Return what tells the tables from all others: two managers have the same where they work on the same tables.

        Raises:
            NotConnectedError: before connect().
        """
        self._require_connected()
        return await self._backend.identity()

    # the owner's document creates the test tables through this name
    _engine = engine

    async def connect(self) -> None:
        """Open the database and prove that it answers.

        Raises:
            OperationalError: it cannot be reached or opened.
        """
        if self._connected:
            check_process(self._process, self)
        async with self._connecting:
            if not self._connected:
                self._process = os.getpid()
                await self._backend.connect()
                self._connected = True

    async def disconnect(self, grace: float = 10.0) -> None:
        """Wait for the sessions in use, then close every connection; new sessions are refused from the beginning on.

        Args:
            grace: the seconds to wait at most. Sessions still open then are rolled back and closed: their later use, and
                a clean exit that would have committed something, raises OperationalError.

        Raises:
            InvalidValueError: grace is no number of seconds, 0 or more.
        """
        wait = checks.seconds(grace, "grace")
        if self._connected:
            check_process(self._process, self)
        async with self._connecting:
            if self._connected:
                self._connected = False
                try:
                    await self._backend.disconnect(wait)
                except NotConnectedError:
                    # it belongs to another event loop, which goes on
                    self._connected = True
                    raise

    def get_session(self, *, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Any]:
        """Open a session: ``async with db.get_session() as session``.

        It commits on a clean exit and rolls back on an exception or a cancellation; a cancellation while the COMMIT itself is
        under way leaves its outcome open. On PostgreSQL and SQLite it is a
        SQLAlchemy AsyncSession; on DuckDB an object with its execute, commit and rollback.

        Args:
            isolation: as for `run`; "snapshot" reads one state of the database from its first statement to its end,
                writes nothing and keeps no writer waiting.

        Raises:
            NotConnectedError: before connect().
            InvalidValueError: an unknown isolation.
            Unsupported: the backend does not declare ISOLATION, and more than "read committed" was asked for.
            OperationalError: on a clean exit, where an error that was caught inside took the transaction with it.
        """
        self._require_connected()
        self._check_isolation(isolation)
        return self._backend.session(isolation)

    async def run(
        self,
        work: Callable[[Any], Awaitable[T]],
        *,
        retries: int = 8,
        isolation: Isolation | None = None,
        idempotent: bool = False,
    ) -> T:
        """Run ``work(session)`` in a transaction of its own and return its result; run it again where that can help.

        It is run again, in a new transaction, after a `TransientError`: a serialization failure, a deadlock, a connection
        lost before COMMIT was sent, a locked SQLite database, a conflict or a lock that was not granted in time on DuckDB.
        Before each further run a random time passes, up to 0.05 s at first, then up to twice as long each time, at most
        5 s. Any other error, and a cancellation, passes through unchanged, and nothing is stored. So ``work`` may be run
        several times: what it does besides the session should bear that, and it leaves COMMIT to this method.

        Where the connection is lost while COMMIT is under way, the transaction may be stored. It is then run again only
        where it is ``idempotent``. A cancellation during the COMMIT passes through, and leaves its outcome open too.

        Args:
            work: an async callable that takes a session, as `get_session` gives it.
            retries: how often it is run again at most; 0 for never.
            isolation: None for the contract's (as READ COMMITTED). With "repeatable read" or "serializable" the transaction
                begins with the first statement, be it a read, and what it has read does not change under it. PostgreSQL
                runs such transactions side by side and fails those that conflict; on SQLite and DuckDB they take the write
                lock and come one after the other, which is serializable. A "snapshot" reads one state of the database and
                writes nothing; it takes no lock.
            idempotent: that ``work`` was stored already does no harm, as where it records trades and upserts bars.

        Raises:
            TransientError: from the last try; nothing is stored.
            CommitOutcomeUnknown: the connection was lost while COMMIT was under way, and ``work`` was not run again, or
                also failed then: it is stored once or not at all (where idempotent: once, several times or not at all).
            InvalidValueError: retries below 0, an unknown isolation, or an argument of another type.
            Unsupported: the backend does not declare ISOLATION, and more than "read committed" was asked for.
        """
        if not callable(work):
            raise InvalidValueError(f"work must be an async function that takes a session, not {kind(work)}")
        left = checks.integer(retries, "retries")
        checks.boolean(idempotent, "idempotent")
        self._check_isolation(isolation)
        backoff = _BACKOFF
        failure: TransientError | CommitOutcomeUnknown
        unknown: CommitOutcomeUnknown | None = None
        while True:
            self._require_connected()
            try:
                async with self._backend.session(isolation) as session:
                    result = await work(session)
            except CommitOutcomeUnknown as error:
                if not (idempotent and left):
                    raise
                failure = unknown = error
            except TransientError as error:
                if not left:
                    # an earlier try may be stored, which this error denies
                    raise unknown or error from error
                failure = error
            else:
                return result
            _log.info("a transaction is run again, %d times more at most: %s", left, failure)
            left -= 1
            # full jitter: tasks that clashed do not come back together
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 - nothing secret hangs on it
            backoff = min(backoff * 2, _LONGEST_BACKOFF)

    async def ping(self, within: float = 5.0) -> float:
        """Prove with one statement that the database answers; return the seconds that it took.

        Raises:
            OperationalError: it did not answer ``within`` so many seconds, or cannot be reached.
            NotConnectedError: before connect().
            InvalidValueError: ``within`` is no number of seconds, 0 or more.
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
        """Find out whether the database answers, its schema can be used and it takes writes; no row is left behind.

        Args:
            within: the seconds for an answer, and again for the proof that it takes writes (a locked SQLite file takes as
                long as its busy timeout). Counting the rows takes as long as it takes.

        Raises:
            NotConnectedError: before connect().
            Unsupported: the backend declares no MIGRATIONS.
            InvalidValueError: ``within`` is no number of seconds, 0 or more.
        """
        self.ability(SupportsMigrations)
        round_trip, schema, writable = None, None, False
        protection: Encryption | tuple[None, None] = None, None
        problems: list[str] = []
        warnings: list[str] = []
        try:
            round_trip = await self.ping(within)
            if isinstance(self._backend, SupportsEncryption):
                protection = await self._backend.read_encryption()
            schema = await self.status()
            warnings += warnings_of(schema.encoding)
            problems += advice(schema.state)
            if schema.missing_rights:
                problems.append(schema.missing_rights)
            elif schema.tables:
                async with asyncio.timeout(within), self._backend.session() as session:
                    await prove_writable(session, schema.tables)
                writable = True
        except TimeoutError:
            problems.append(f"it could not be proved within {within:g} s that the database takes writes")
        except (DBAPIError, StoreError) as error:
            problems.append(str(error.orig if isinstance(error, DBAPIError) else error))
        pool = PoolState(self._backend.in_use, self._backend.capacity)
        healthy = writable and not problems
        return Health(healthy, round_trip is not None, round_trip, writable, pool, schema, problems, warnings, *protection)

    async def migrate(self) -> None:
        """Bring the schema to this version's revision, from nothing, from an older one, or by adopting an identical one.

        Safe to run twice and from several processes at once: one works, the others wait, bounded.

        Raises:
            SchemaError: the tables there are not ours and carry no revision, or are of a newer version.
        """
        await self.ability(SupportsMigrations).migrate()

    async def create_tables(self) -> None:
        """Create the tables that are missing and stamp the newest revision; for tests and first steps.

        Raises:
            SchemaError: tables of ours are there at another revision.
        """
        await self.ability(SupportsMigrations).create_tables()

    async def status(self) -> SchemaStatus:
        """Return the engine and its version, the schema's revision and this version's, and the rows of each table."""
        return await self.ability(SupportsMigrations).status()

    def ability(self, protocol: type[A]) -> A:
        """Return what the backend can do besides, e.g. ``db.ability(SupportsBackup)``.

        Args:
            protocol: one of `iftb_store.protocols`: SupportsMigrations, SupportsBackup.

        Raises:
            NotConnectedError: before connect().
            Unsupported: the backend does not declare it.
            InvalidValueError: it is no such protocol.
        """
        if not getattr(protocol, "_is_runtime_protocol", False):
            raise InvalidValueError(f"protocol must be one of iftb_store.protocols, e.g. SupportsBackup, not {shown(protocol)}")
        self._require_connected()
        capability = _DECLARED.get(protocol)
        if not isinstance(self._backend, protocol) or (capability is not None and capability not in self.capabilities):
            what = protocol.__name__ if capability is None else capability.name.lower()
            raise Unsupported(f"the backend of {self._url.get_backend_name()} declares no {what}")
        return self._backend

    def _check_isolation(self, isolation: Isolation | None) -> None:
        if isolation is not None and isolation not in ISOLATIONS:
            raise InvalidValueError(f"isolation must be one of {', '.join(ISOLATIONS)}, not {shown(isolation)}")
        if isolation not in (None, "read committed") and Capability.ISOLATION not in self.capabilities:
            raise Unsupported(f"the backend of {self._url.get_backend_name()} declares no isolation but read committed")

    def _require_connected(self) -> None:
        if not self._connected:
            raise NotConnectedError(
                f"{self!r} is not connected; await connect() first, or use `async with DatabaseManager(url) as db`"
            )
        check_process(self._process, self)
