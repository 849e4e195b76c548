"""DatabaseManager, which opens the database of a URL and provides sessions for reading and writing."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, TypeVar

from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError

from iftb_store._io.semaphore import FairSemaphore
from iftb_store._io.turns import check_process
from iftb_store.abilities import (
    SupportsBackup,
    SupportsEncryption,
    SupportsLookups,
    SupportsMigrations,
    SupportsPoolStatus,
    SupportsStatus,
    SupportsWholeReads,
)
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
from iftb_store.health import (
    NO_REVISIONS,
    Encryption,
    Health,
    PoolState,
    SchemaStatus,
    StoreSize,
    advise,
    find_warnings,
    prove_writable,
)
from iftb_store.protocols import ISOLATIONS, Backend, Capability, Isolation, Session, Stores
from iftb_store.registry import find_backend, get_stores
from iftb_store.schema.table_spec import BARS, EVENTS, POSITIONS, SERIES, TRADES, RowFilter, TableSpec
from iftb_store.schema.types import EPOCH
from iftb_store.url import format_url, hide_secrets, parse_url
from iftb_store.values import checks
from iftb_store.values.display import show, type_name

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

A = TypeVar("A")
T = TypeVar("T")

# in seconds: the limit of the random wait starts at _BACKOFF and doubles with each retry, up to _LONGEST_BACKOFF
_BACKOFF = 0.05
_LONGEST_BACKOFF = 5.0
# rows of a read that only counts them
_COUNTED = 65_536

# the capability that declares an optional ability, if one does, and what to do without the ability
_ABILITIES: dict[type[Any], tuple[Capability | None, str]] = {
    SupportsMigrations: (Capability.MIGRATIONS, "it creates its tables by itself, so leave this call out"),
    SupportsBackup: (Capability.BACKUP, "use iftb_store.backup(db, path), which copies the rows to an SQLite file"),
    SupportsStatus: (None, "use db.status(), which counts the rows"),
    SupportsEncryption: (None, "use db.health(), whose `encrypted` is None on such a backend"),
    SupportsPoolStatus: (None, "use db.health(), whose `pool` is None on such a backend"),
    SupportsWholeReads: (None, "its reads always return all rows, so leave this call out"),
}

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

    Raises:
        URLError: the URL cannot be parsed, or its scheme or one of its options is unknown.
        InvalidValueError: pool_size is below 1, max_overflow is below 0, or an argument has another type.
        MissingDriverError: the driver for the scheme is not installed.
    """

    def __init__(self, database_url: str | URL, pool_size: int = 5, max_overflow: int = 10, echo: bool = False) -> None:
        pool_size, max_overflow = checks.integer(pool_size, "pool_size", least=1), checks.integer(max_overflow, "max_overflow")
        checks.boolean(echo, "echo")
        database_url = parse_url(database_url)
        self._backend: Backend = find_backend(database_url.drivername)(
            database_url, pool_size=pool_size, max_overflow=max_overflow, echo=echo
        )
        self._url = hide_secrets(database_url)
        self._connected = False
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
        engine = self._backend.engine if Capability.SQLALCHEMY in self.capabilities else None
        if engine is None:
            raise Unsupported(
                f"{self._url.get_backend_name()} has no SQLAlchemy engine; use get_session(), or create_tables() for the schema"
            )
        return engine

    @property
    def in_use(self) -> int:
        """The number of connections that sessions use at the moment; 0 if no session uses one."""
        return self._backend.in_use if isinstance(self._backend, SupportsPoolStatus) else 0

    async def identity(self) -> str:
        """Return a text that identifies the database tables; two managers of the same tables return the same text.

        Raises:
            NotConnectedError: before connect().
        """
        self._require_connected()
        return await self._backend.identity()

    # the specification of this project creates the tables for its tests through the name _engine
    _engine = engine

    async def connect(self) -> None:
        """Open the database and check that it answers.

        Raises:
            OperationalError: the database cannot be reached or opened.
        """
        if self._connected:
            check_process(self._process, self)
        async with self._connecting:
            if not self._connected:
                self._process = os.getpid()
                await self._backend.connect()
                self._connected = True

    async def disconnect(self, grace: float = 10.0) -> None:
        """Refuse new sessions, wait for the open sessions to end, then close every connection.

        Args:
            grace: maximum seconds to wait. After that, sessions that are still open are rolled back and closed. A later call
                on such a session raises OperationalError, and so does a clean exit if the session had writes to commit.

        Raises:
            InvalidValueError: grace is not a number of seconds, 0 or more.
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
                    # the manager belongs to another event loop and stays connected there
                    self._connected = True
                    raise

    def get_session(self, *, isolation: Isolation | None = None) -> AbstractAsyncContextManager[Session]:
        """Open a session: ``async with db.get_session() as session``.

        The session commits on a clean exit and rolls back on an exception or a cancellation. After a cancellation during the
        COMMIT it is unknown whether the transaction is stored. The session is a SQLAlchemy AsyncSession on PostgreSQL and
        SQLite; on DuckDB it is an object with the members of `iftb_store.protocols.Session`.

        Args:
            isolation: the isolation level, see `run`. With "snapshot" the session reads a snapshot, which its first statement
                takes; the session cannot write, and writers never wait for it.

        Raises:
            NotConnectedError: before connect().
            InvalidValueError: an unknown isolation.
            Unsupported: the backend does not declare ISOLATION, and isolation is stronger than "read committed".
            OperationalError: on a clean exit, if an error that was caught inside the block has ended the transaction.
        """
        self._require_connected()
        self._check_isolation(isolation)
        return self._backend.session(isolation)

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
                records trades and upserts bars.

        Raises:
            TransientError: the last attempt failed with this error; nothing is stored.
            CommitOutcomeUnknown: the connection was lost during COMMIT, and ``work`` was not retried or the retries failed
                too. The writes are stored once or not at all, or, with ``idempotent``, possibly several times.
            InvalidValueError: retries is below 0, the isolation is unknown, or an argument has another type.
            Unsupported: the backend does not declare ISOLATION, and isolation is stronger than "read committed".
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
                async with self._backend.session(isolation) as session:
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

        Raises:
            OperationalError: the database did not answer in ``within`` seconds, or cannot be reached.
            NotConnectedError: before connect().
            InvalidValueError: ``within`` is not a number of seconds, 0 or more.
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

        Raises:
            NotConnectedError: before connect().
            InvalidValueError: ``within`` is not a number of seconds, 0 or more.
        """
        self._require_connected()
        round_trip, schema, writable = None, None, False
        protection: Encryption | tuple[None, None] = None, None
        problems: list[str] = []
        warnings: list[str] = []
        try:
            round_trip = await self.ping(within)
            if isinstance(self._backend, SupportsEncryption):
                protection = await self._backend.read_encryption()
            schema = await self.status()
            warnings += find_warnings(schema.encoding)
            problems += advise(schema.state)
            if schema.missing_rights:
                problems.append(schema.missing_rights)
            elif schema.tables:
                async with asyncio.timeout(within), self._backend.session() as session:
                    if Capability.RAW_WRITES in self.capabilities:
                        await prove_writable(session, schema.tables)
                    else:
                        await _prove_bars_writable(session)
                writable = True
        except TimeoutError:
            problems.append(f"it could not be verified within {within:g} s that the database accepts writes")
        except (DBAPIError, StoreError) as error:
            problems.append(str(error.orig if isinstance(error, DBAPIError) else error))
        pool = PoolState(self._backend.in_use, self._backend.capacity) if isinstance(self._backend, SupportsPoolStatus) else None
        healthy = writable and not problems
        return Health(healthy, round_trip is not None, round_trip, writable, pool, schema, problems, warnings, *protection)

    async def migrate(self) -> None:
        """Create the schema, or update an older schema to the revision of this version of iftb-store.

        If the tables are identical to those of iftb-store but have no revision, `migrate` only records the revision. Repeated
        calls, and calls from several processes at once, are safe: one process migrates, the others wait for a limited time.

        Raises:
            SchemaError: the tables have no revision and differ from those of iftb-store, or a newer version created them.
        """
        await self.ability(SupportsMigrations).migrate()

    async def create_tables(self) -> None:
        """Create the missing tables and record the newest revision; for tests and first steps.

        Raises:
            SchemaError: tables of iftb-store exist at another revision.
        """
        await self.ability(SupportsMigrations).create_tables()

    async def status(self) -> SchemaStatus:
        """Return the engine and its version, the schema's revision, the newest known revision and each table's row count.

        Without the capability MIGRATIONS there are no revisions; then the number of series is counted too, and the number and
        size of the files are reported if the backend knows them.

        Raises:
            NotConnectedError: before connect().
        """
        if Capability.MIGRATIONS in self.capabilities:
            return await self.ability(SupportsMigrations).status()
        self._require_connected()
        size = await self._backend.measure() if isinstance(self._backend, SupportsStatus) else StoreSize("")
        series, rows, records = size.series, size.rows, dict[str, int]()
        keeps_records = Capability.RECORDS in self.capabilities
        if series is None or rows is None or keeps_records:
            async with self._backend.session() as session:
                stores = get_stores(session)
                if series is None or rows is None:
                    found = await stores.bars.list_series()
                    series, rows = len(found), sum(one.count for one in found)
                if keeps_records:
                    records = {table.name: await _count_rows(stores, table) for table in (TRADES, POSITIONS, EVENTS)}
        engine, tables = self._url.get_backend_name(), {BARS.name: rows, **records}
        return SchemaStatus(
            engine, size.version, None, "", tables, NO_REVISIONS, None, series=series, files=size.files, bytes=size.bytes
        )

    def ability(self, protocol: type[A]) -> A:
        """Return the backend, typed as the given optional protocol, e.g. ``db.ability(SupportsBackup)``.

        Args:
            protocol: an optional protocol from `iftb_store.abilities`, e.g. SupportsMigrations or SupportsBackup.

        Raises:
            NotConnectedError: before connect().
            Unsupported: the backend does not implement the protocol, or does not declare its capability.
            InvalidValueError: ``protocol`` is not one of these protocols.
        """
        if not getattr(protocol, "_is_runtime_protocol", False):
            raise InvalidValueError(f"protocol must be one of iftb_store.abilities, e.g. SupportsBackup, not {show(protocol)}")
        self._require_connected()
        capability, remedy = _ABILITIES.get(protocol, (None, ""))
        if not isinstance(self._backend, protocol) or (capability is not None and capability not in self.capabilities):
            what = protocol.__name__ if capability is None else capability.name.lower()
            reason = f"the backend of {self._url.get_backend_name()} does not support {what}"
            raise Unsupported(f"{reason}; {remedy}" if remedy else reason)
        return self._backend

    def _check_isolation(self, isolation: Isolation | None) -> None:
        if isolation is not None and isolation not in ISOLATIONS:
            raise InvalidValueError(f"isolation must be one of {', '.join(ISOLATIONS)}, not {show(isolation)}")
        if isolation not in (None, "read committed") and Capability.ISOLATION not in self.capabilities:
            raise Unsupported(
                f"the backend of {self._url.get_backend_name()} supports only the isolation read committed; leave isolation out, "
                "or use PostgreSQL, SQLite or DuckDB"
            )

    def _require_connected(self) -> None:
        if not self._connected:
            raise NotConnectedError(
                f"{self!r} is not connected; await connect() first, or use `async with DatabaseManager(url) as db`"
            )
        check_process(self._process, self)


async def _prove_bars_writable(session: Any) -> None:
    """Check that bars can be written: delete those of a series that nobody has, which takes write locks, and roll back."""
    series = dict.fromkeys(SERIES, "iftb-store") | {"timeframe": "1m"}
    await get_stores(session).bars.delete(RowFilter(BARS, series, start=EPOCH, end=EPOCH))
    await session.rollback()


async def _count_rows(stores: Stores, table: TableSpec) -> int:
    if isinstance(stores, SupportsLookups) and stores.lookups is not None:
        return sum(count for _, count in await stores.lookups.count_rows(RowFilter(table)))
    count, selection = 0, RowFilter(table, limit=_COUNTED)
    while (part := await stores.read_rows(selection)).num_rows:
        count += part.num_rows
        selection = replace(selection, after=(part["id"][-1].as_py(),))
    return count
