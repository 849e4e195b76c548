"""PostgresBackend: connects to one PostgreSQL database, keeps the connection pool and opens sessions."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import asyncpg
from sqlalchemy import URL, Connection, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from iftb_store.errors import SchemaError, TransientError, operational_error
from iftb_store.health import Encryption, Partitioning
from iftb_store.protocols import Capability
from iftb_store.relational import (
    EngineBackend,
    RelationalStores,
    describe,
    find_hidden,
    find_obstacles,
    hold_connection,
    quote_url,
    run_to_end,
    watch,
)
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store_postgres.connection import BoundedConnection, keep_alive, search_temporary_tables_last
from iftb_store_postgres.credentials import forget_variables, tls_problem
from iftb_store_postgres.errors import translate
from iftb_store_postgres.guard import GuardedLoop
from iftb_store_postgres.moves import move_bars
from iftb_store_postgres.partitions import create_missing, find_table, read_partitioning
from iftb_store_postgres.pool import FAILURES, PostgresPool, check_before_commit
from iftb_store_postgres.poolers import find_ignored_parameters, find_refused_parameter
from iftb_store_postgres.session import PostgresDriver
from iftb_store_postgres.standby import CommitLog, Position, check_replayed
from iftb_store_postgres.strangers import KINDS, find_tables
from iftb_store_postgres.tls import SYSTEM, make_system_context, read_encryption, warn_of_plaintext
from iftb_store_postgres.url import FOREVER, parse_options

T = TypeVar("T")

NOT_CONNECTED = "the database is not connected; await connect() first"

# not the system identifier of the server, because a standby has the same one
_IDENTITY = """
SELECT pg_catalog.concat_ws(' ', pg_catalog.pg_postmaster_start_time(), pg_catalog.current_database(),
    coalesce(CAST(CAST(pg_catalog.to_regclass('ohlcv') AS oid) AS text), CAST(pg_catalog.current_schema() AS text)))
"""


class PostgresBackend(EngineBackend):
    """PostgreSQL through SQLAlchemy and asyncpg, with a pool that checks each connection before handing it out.

    URLs: ``postgresql://user:password@host:5432/database``. The schemes ``postgres://`` and ``postgresql+asyncpg://`` are
    accepted too; the directory of a Unix socket goes into ``?host=``.

    Options of the URL:

    - libpq's ``sslmode`` (or ``ssl``), ``sslrootcert``, ``sslcert``, ``sslkey`` and other TLS options;
    - ``connect_timeout``: seconds (default: 10);
    - ``statement_timeout``: e.g. 500ms, 60s, 5min (default: 60s; 0 for none);
    - ``pool_timeout``: seconds to wait for a free connection (default: 30);
    - ``statement_cache_size``: number of prepared statements per connection (default: 100);
    - ``application_name`` and ``search_path``.

    Some poolers refuse or ignore ``statement_timeout`` or ``search_path`` when a connection starts. Behind such a pooler they are
    set in each transaction, and the client limits the time of reads outside a transaction. A pooler in transaction mode needs
    ``statement_cache_size=0``.
    """

    probes = True
    isolates = True
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability) - {Capability.BACKUP}

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        super().__init__()
        self.shown_url = quote_url(url)
        self._options = parse_options(url)
        # startup parameters that a pooler refuses or ignores; once known, they are sent with each transaction instead
        self._refused: set[str] = set()
        self._knows_ignored = False
        self.pool_options = {"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": self._options.pool_timeout}
        self._echo = echo
        self._commits = CommitLog()

    async def connect(self) -> None:
        """Create the pool and check with one connection that the server answers."""
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self.refuse_after_disconnect(self._open),
            poolclass=PostgresPool,
            echo=self._echo,
            hide_parameters=True,
            **self.pool_options,
        )
        # listen before watch() does: watch() treats a COMMIT as sent from its own listener on
        event.listen(engine.sync_engine, "commit", check_before_commit)
        watch(engine, translate, _connection_is_gone)
        self._commits = CommitLog()
        self._commits.watch(engine)
        await self.keep_engine(engine, "SELECT 1")

    async def identity(self) -> str:
        """Return a text that identifies the database: the server's start time, the database and the schema of its tables."""
        self.enter_loop()
        if self._engine is None:
            raise operational_error(NOT_CONNECTED)
        async with self._engine.connect() as connection:
            return str((await connection.exec_driver_sql(_IDENTITY)).scalar_one())

    def forget(self, driver: Any) -> None:
        """Shut down the connection's socket, so that the server notices that the client is gone."""
        with suppress(OSError):
            driver._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    async def read_encryption(self) -> Encryption:
        """Return whether the pool's connections are encrypted and verified; see `iftb_store.abilities.SupportsEncryption`."""
        self.enter_loop()
        if self._engine is None:
            raise operational_error(NOT_CONNECTED)
        async with self._engine.connect() as connection:
            return read_encryption((await connection.get_raw_connection()).driver_connection)

    async def require_whole(self, session: AsyncSession, tables: Sequence[str], *, insert: bool) -> None:
        """Raise if this role cannot see or insert every row; see `iftb_store.abilities.SupportsWholeReads`.

        ``row_security = off`` makes later statements of the transaction fail if a policy that is created meanwhile would hide
        rows.
        """
        await session.execute(text("SET LOCAL row_security = off"))
        names = [*tables, VERSION_TABLE]
        hidden = await session.run_sync(lambda own: find_hidden(own.connection(), names))
        # the version table is never inserted into, so a missing right to do so does not matter
        found = [one for one in find_obstacles(hidden, insert=insert) if one.kind != "insert" or one.table != VERSION_TABLE]
        if found:
            raise operational_error(describe(found))

    async def list_partitions(self) -> Partitioning:
        """Return the partitions of ohlcv; see `iftb_store.abilities.SupportsPartitions`."""
        async with self._separate_connection() as connection:
            return await read_partitioning(connection, await find_table(connection))

    async def partition_bars(self, by: str, *, ahead: int, progress: Callable[[str, int, int | None], None]) -> Partitioning:
        """Move the bars into a partitioned table; see `iftb_store.abilities.SupportsPartitions`."""
        async with self._separate_connection() as connection:
            found = await read_partitioning(connection, await find_table(connection))
            if found.by is None:
                await move_bars(connection, by, ahead, progress)
            elif found.by != by:
                raise SchemaError(
                    f"ohlcv is already partitioned, by {found.by}; to partition it by {by}, copy it to a new database with "
                    "`iftb-store copy`, and partition that one first"
                )
            else:
                await create_missing(connection, ahead=ahead, start=None)
            return await read_partitioning(connection, await find_table(connection))

    async def create_partitions(self, *, ahead: int, start: datetime | None) -> tuple[str, ...]:
        """Create the missing partitions; see `iftb_store.abilities.SupportsPartitions`."""
        async with self._separate_connection() as connection:
            return await create_missing(connection, ahead=ahead, start=start)

    @asynccontextmanager
    async def _separate_connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection outside of the pool, without a statement timeout, and translate the errors of the block."""
        self.enter_loop()
        if self._engine is None:
            raise operational_error(NOT_CONNECTED)
        connection = await self._open_patient()
        try:
            yield connection
        except FAILURES as error:
            raise translate(error, lost=connection.is_closed()) or error from error
        finally:
            self._commits.note_commit()
            await run_to_end(connection.close())

    @classmethod
    def stores(cls, session: AsyncSession) -> RelationalStores:
        """Return the objects that read and write rows in a session of a manager, or in an app's own session on asyncpg."""
        return RelationalStores(PostgresDriver(session))

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` in one transaction on a separate connection; migrations take an advisory lock in that transaction.

        Raises:
            SchemaError: something that is not a table, e.g. a view, has the name of an iftb-store table.
        """
        self.enter_loop()
        self.schema_seen = False
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=self._open_patient, poolclass=NullPool, echo=self._echo, hide_parameters=True
        )
        watch(engine, translate, _connection_is_gone)
        async with engine.connect() as connection:
            # in a separate transaction, because ``work`` may have to configure its transaction before any query
            async with connection.begin():
                find_tables((await connection.exec_driver_sql(KINDS)).all())
            async with connection.begin():
                if read_only:
                    # nothing else limits the wait for a table that an operator or a migration has locked
                    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {self._options.settings['statement_timeout']}")
                result = await connection.run_sync(work)
        self._commits.note_commit()
        return result

    async def find_position(self) -> Position:
        """Return the position that a standby must have replayed; see `iftb_store.abilities.SupportsStandby`."""
        self.enter_loop()
        if self._engine is None:
            raise operational_error(NOT_CONNECTED)
        try:
            return await self._commits.find_position(self._engine)
        except FAILURES as error:
            raise translate(error) or error from error

    async def has_replayed(self, session: AsyncSession, position: Position) -> bool:
        """Return whether a session's server has replayed the write-ahead log up to a position; see `SupportsStandby`."""
        async with hold_connection(session) as pooled:
            driver: Any = pooled.driver_connection
            try:
                return await check_replayed(driver, position)
            except FAILURES as error:
                raise translate(error, lost=driver.is_closed()) or error from error

    async def _open(self) -> Any:
        return await self._connection(self._options.command_timeout, self._options.settings)

    async def _open_patient(self) -> Any:
        return await self._connection(FOREVER, {**self._options.settings, "statement_timeout": "0"})

    async def _connection(self, command_timeout: float, settings: dict[str, str]) -> Any:
        running = asyncio.get_running_loop()
        guarded: Any = GuardedLoop(running, clear_text=self._options.clear_text)
        sent = {name: value for name, value in settings.items() if name not in self._refused}
        connection: Any = None
        try:
            connection = await asyncpg.connect(
                # asyncpg takes the password of the key only in the URL
                self._options.dsn.update_query_dict(
                    {"sslpassword": self._options.key_password} if self._options.key_password else {}
                ).render_as_string(),
                password=self._options.password.bare if self._options.password else None,
                timeout=self._options.connect_timeout or FOREVER,
                command_timeout=command_timeout,
                statement_cache_size=self._options.cache_size,
                server_settings=sent,
                connection_class=BoundedConnection,
                loop=guarded,
                ssl=await self._system_context(),
            )
            if not self._knows_ignored:
                self._refused |= await find_ignored_parameters(connection, sent)
                self._knows_ignored = True
            if self._options.cache_size and not self._refused:
                # a pooler would share the changed search_path with other clients
                await search_temporary_tables_last(connection, self._options.connect_timeout or FOREVER)
        except BaseException as error:
            # also on a cancellation
            forget_variables(error)
            if connection is not None:
                connection.terminate()
            if not isinstance(error, (*FAILURES, ValueError)):
                raise
            if (refused := find_refused_parameter(error, sent)) is not None:
                self._refused.add(refused)
                return await self._connection(command_timeout, settings)
            where = (
                f"{self._options.dsn.host or self._options.dsn.query.get('host', 'localhost')}:{self._options.dsn.port or 5432}"
            )
            translated = translate(error) or operational_error(
                f"the connection could not be made ({type(error).__name__})", error
            )
            problem = self._tls_problem(error)
            if not isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
                # that error is the server's answer over TLS, which says more than the guard's refusal of the next attempt,
                # without TLS
                problem = guarded.refusal or problem
            message = f"cannot connect to PostgreSQL at {where}: {problem or translated.args[0]}"
            passes = problem is None and isinstance(translated, TransientError)
            raise operational_error(message, error, transient=passes) from error
        # the connection has started, so the guard has nothing left to do; asyncpg finds its tasks by their event loop
        connection._loop = running
        connection.set_in_transactions({name: value for name, value in settings.items() if name in self._refused})
        keep_alive(connection)
        warn_of_plaintext(connection)
        return connection

    async def _system_context(self) -> ssl.SSLContext | None:
        """Return the TLS context for ``sslrootcert=system``, which asyncpg cannot create; None for any other sslrootcert.

        The hundreds of certificates are read in a thread, because reading them would block the event loop.
        """
        options = {name: str(value) for name, value in self._options.dsn.query.items()}
        if options.get("sslrootcert") != SYSTEM:
            return None
        return await asyncio.to_thread(make_system_context, options, self._options.key_password)

    def _tls_problem(self, error: Exception) -> str | None:
        """Return a message that names the TLS file of the URL that cannot be used, or None if the error has another cause."""
        if isinstance(error, asyncpg.ClientConfigurationError | ssl.SSLError | FileNotFoundError | PermissionError):
            return tls_problem({name: str(value) for name, value in self._options.dsn.query.items()}, self._options.key_password)
        return None


def _connection_is_gone(connection: Connection, error: BaseException) -> bool:
    return bool(connection.invalidated)
