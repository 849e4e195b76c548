"""PostgresBackend: one database of a server, its pool, sessions and life cycle."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

import asyncpg
from sqlalchemy import URL, Connection, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from iftb_store.errors import TransientError, URLError, operational_error
from iftb_store.protocols import Capability, Encryption
from iftb_store.relational import EngineBackend, RelationalStores, describe, find_hidden, obstacles, watch
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store_postgres.connections import BoundedConnection, keep_alive, look_in_temporary_tables_last
from iftb_store_postgres.credentials import Hidden, forget_variables, tls_problem
from iftb_store_postgres.driver import PostgresDriver
from iftb_store_postgres.errors import translate
from iftb_store_postgres.guard import GuardedLoop
from iftb_store_postgres.pool import FAILURES, PostgresPool, check_before_commit
from iftb_store_postgres.poolers import ignored_parameters, refused_parameter
from iftb_store_postgres.strangers import KINDS, tables_among
from iftb_store_postgres.tls import SYSTEM, check_system_authorities, read_encryption, system_context, warn_of_plaintext

T = TypeVar("T")

# what asyncpg understands in its own URL
_PASSED_ON = (
    "host", "port", "user", "password", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword",
    "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
    "service", "servicefile",
)  # fmt: skip
_OWN = ("ssl", "connect_timeout", "statement_timeout", "statement_cache_size", "pool_timeout", "application_name", "search_path")
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSION_ATTRS = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
_DURATION = re.compile(r"(\d{1,9})(ms|s|min|h)?")
# as strict as the driver's own parser of URLs is lax; with commas between several hosts
_HOST = re.compile(r"[\w.:,-]+|[\da-fA-F.]*:[\da-fA-F:.]*%\w+")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
# the client waits longer than the server's own timeout, as long again, at most this, for a server that is gone
_GRACE = 5.0
_FOREVER = 86_400.0
# not the system's identifier, which a standby shares
_IDENTITY = """
SELECT pg_catalog.concat_ws(' ', pg_catalog.pg_postmaster_start_time(), pg_catalog.current_database(),
    coalesce(CAST(CAST(pg_catalog.to_regclass('ohlcv') AS oid) AS text), CAST(pg_catalog.current_schema() AS text)))
"""


class PostgresBackend(EngineBackend):
    """PostgreSQL through SQLAlchemy and asyncpg, with a pool that checks a connection before it gives it out.

    URLs: ``postgresql://user:password@host:5432/database`` (also ``postgres://`` and ``postgresql+asyncpg://``; a socket's
    directory as ``?host=``). Options: libpq's ``sslmode`` (or ``ssl``), ``sslrootcert``, ``sslcert``, ``sslkey`` …;
    ``connect_timeout`` in seconds (10); ``statement_timeout`` as 500ms, 60s, 5min (60s; 0 for none); ``pool_timeout``,
    the seconds to wait for a free connection (30); ``statement_cache_size`` (0 behind a pooler); ``application_name``;
    ``search_path``.

    Behind a pooler that refuses ``statement_timeout`` or ``search_path`` when a connection starts, or ignores them, they are set
    for each transaction, and reads outside one are timed by the client. A pooler in transaction mode needs
    ``statement_cache_size=0``.
    """

    probes = True
    isolates = True
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability) - {Capability.BACKUP}

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        super().__init__()
        query = {name: value for name, value in url.query.items() if isinstance(value, str)}
        if twice := sorted(set(url.query) - set(query)):
            raise URLError(f"the option {twice[0]!r} is a duplicate in the PostgreSQL URL; give it once")
        unknown = sorted(set(query) - {*_PASSED_ON, *_OWN})
        if unknown and ("password" in query or "sslpassword" in query):
            # the rest of a password with an &, perhaps
            raise URLError("an unknown option in the PostgreSQL URL; percent-encode & and = in a password")
        if unknown:
            known = ", ".join(sorted({*_PASSED_ON, *_OWN}))
            raise URLError(f"unknown option {unknown[0]!r} in the PostgreSQL URL; the known ones are {known}")
        if url.host and not _HOST.fullmatch(url.host):
            raise URLError(
                f"{url.host[:40]!a} is not a host in the PostgreSQL URL; percent-encode @ : / ? # in the user and the password"
            )
        if url.port is not None and not 0 < url.port < 65_536:
            raise URLError(f"the port must lie between 1 and 65535 in the PostgreSQL URL, not {url.port}")
        passed = {name: query[name] for name in _PASSED_ON if name in query}
        if "ssl" in query:
            passed["sslmode"] = {"true": "require", "false": "disable"}.get(query["ssl"].lower(), query["ssl"])
        if passed.get("sslmode", "prefer") not in _SSLMODES:
            raise URLError(f"sslmode must be one of {', '.join(_SSLMODES)}, not {passed['sslmode'][:20]!r}")
        check_system_authorities(passed)
        if passed.get("target_session_attrs", "any") not in _SESSION_ATTRS:
            wrong = passed["target_session_attrs"][:20]
            raise URLError(f"target_session_attrs must be one of {', '.join(_SESSION_ATTRS)}, not {wrong!r}")
        # that it was written says that a password may pass in clear text
        self._clear_text = passed.get("sslmode") == "disable"
        # neither stands in the DSN, which the driver's errors may quote and a traceback with variables would show
        self._password = Hidden(passed.pop("password", None) or url.password or "")
        self._key_password = Hidden(passed.pop("sslpassword", ""))
        self._dsn = URL.create("postgresql", url.username, None, url.host, url.port, url.database, passed)
        statement_timeout = _duration(query.get("statement_timeout", "60s"), "statement_timeout")
        self._connect_timeout = _duration(query.get("connect_timeout", "10"), "connect_timeout")
        self._command_timeout = statement_timeout + min(statement_timeout, _GRACE) if statement_timeout else _FOREVER
        self._cache_size = _number(query.get("statement_cache_size", "100"), "statement_cache_size")
        # the startup parameters that a pooler refuses or ignores; once known, they are sent with each transaction instead
        self._refused: set[str] = set()
        self._knows_ignored = False
        self._settings = {
            "application_name": query.get("application_name", "iftb-store"),
            "statement_timeout": f"{round(statement_timeout * 1000)}",
            "timezone": "UTC",
        }
        if "search_path" in query:
            self._settings["search_path"] = query["search_path"]
        pool_timeout = _duration(query.get("pool_timeout", "30"), "pool_timeout")
        self._pool = {"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": pool_timeout}
        self._echo = echo

    async def connect(self) -> None:
        """Make the pool and prove with one connection that the server answers."""
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._opening(self._open),
            poolclass=PostgresPool,
            echo=self._echo,
            hide_parameters=True,
            **self._pool,
        )
        # before watch, for which a COMMIT is under way from then on
        event.listen(engine.sync_engine, "commit", check_before_commit)
        watch(engine, translate, _connection_is_gone)
        await self._keep(engine, "SELECT 1")

    async def identity(self) -> str:
        """The server by its start, the database, and the schema that its names are looked up in."""
        self.enter_loop()
        if self._engine is None:
            raise operational_error("the database is not connected")
        async with self._engine.connect() as connection:
            return str((await connection.exec_driver_sql(_IDENTITY)).scalar_one())

    def forget(self, driver: Any) -> None:
        """Shut the connection's socket, from which the server learns that nobody is there."""
        with suppress(OSError):
            driver._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    async def read_encryption(self) -> Encryption:
        """Tell what TLS does for a connection of the pool; see `iftb_store.protocols.SupportsEncryption`."""
        self.enter_loop()
        if self._engine is None:
            raise operational_error("the database is not connected")
        async with self._engine.connect() as connection:
            return read_encryption((await connection.get_raw_connection()).driver_connection)

    async def require_whole(self, session: AsyncSession, tables: Sequence[str], *, insert: bool) -> None:
        """See `iftb_store.protocols.SupportsWholeReads`; row_security = off also fails what is hidden by a later policy."""
        await session.execute(text("SET LOCAL row_security = off"))
        names = [*tables, VERSION_TABLE]
        hidden = await session.run_sync(lambda own: find_hidden(own.connection(), names))
        # nobody inserts into the version's
        found = [one for one in obstacles(hidden, insert=insert) if one.kind != "insert" or one.table != VERSION_TABLE]
        if found:
            raise operational_error(describe(found))

    @classmethod
    def stores(cls, session: AsyncSession) -> RelationalStores:
        """Return the stores of a session, a manager's or an app's own on asyncpg."""
        return RelationalStores(PostgresDriver(session))

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run ``work`` in one transaction of a connection of its own; migrations take their own advisory lock in it.

        Raises:
            SchemaError: one of our names is something else than a table.
        """
        self.enter_loop()
        self.schema_seen = False
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=self._open_patient, poolclass=NullPool, echo=self._echo, hide_parameters=True
        )
        watch(engine, translate, _connection_is_gone)
        async with engine.connect() as connection:
            # in a transaction of its own: the work may have to set up its own before any query
            async with connection.begin():
                tables_among((await connection.exec_driver_sql(KINDS)).all())
            async with connection.begin():
                if read_only:
                    # nobody else bounds the wait for a table that an operator or a migration has locked
                    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {self._settings['statement_timeout']}")
                return await connection.run_sync(work)

    async def _open(self) -> Any:
        return await self._connection(self._command_timeout, self._settings)

    async def _open_patient(self) -> Any:
        return await self._connection(_FOREVER, {**self._settings, "statement_timeout": "0"})

    async def _connection(self, command_timeout: float, settings: dict[str, str]) -> Any:
        running = asyncio.get_running_loop()
        guarded: Any = GuardedLoop(running, clear_text=self._clear_text)
        sent = {name: value for name, value in settings.items() if name not in self._refused}
        connection: Any = None
        try:
            connection = await asyncpg.connect(
                # which takes the key's password in no other way
                self._dsn.update_query_dict({"sslpassword": self._key_password} if self._key_password else {}).render_as_string(),
                password=self._password.bare if self._password else None,
                timeout=self._connect_timeout or _FOREVER,
                command_timeout=command_timeout,
                statement_cache_size=self._cache_size,
                server_settings=sent,
                connection_class=BoundedConnection,
                loop=guarded,
                ssl=await self._system_context(),
            )
            if not self._knows_ignored:
                self._refused |= await ignored_parameters(connection, sent)
                self._knows_ignored = True
            if self._cache_size and not self._refused:
                # behind a pooler, it would be set for others
                await look_in_temporary_tables_last(connection, self._connect_timeout or _FOREVER)
        except BaseException as error:
            # of a cancellation, too
            forget_variables(error)
            if connection is not None:
                connection.terminate()
            if not isinstance(error, (*FAILURES, ValueError)):
                raise
            if (refused := refused_parameter(error, sent)) is not None:
                self._refused.add(refused)
                return await self._connection(command_timeout, settings)
            where = f"{self._dsn.host or self._dsn.query.get('host', 'localhost')}:{self._dsn.port or 5432}"
            translated = translate(error) or operational_error(
                f"the connection could not be made ({type(error).__name__})", error
            )
            problem = self._tls_problem(error)
            if not isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
                # that one is the answer to a try over TLS, which says more than the refusal of the next without
                problem = guarded.refusal or problem
            message = f"cannot connect to PostgreSQL at {where}: {problem or translated.args[0]}"
            passes = problem is None and isinstance(translated, TransientError)
            raise operational_error(message, error, transient=passes) from error
        # the guard's work is done, and asyncpg looks for its tasks by their loop
        connection._loop = running
        connection.set_in_transactions({name: value for name, value in settings.items() if name in self._refused})
        keep_alive(connection)
        warn_of_plaintext(connection)
        return connection

    async def _system_context(self) -> ssl.SSLContext | None:
        """Make what asyncpg cannot; reading some hundred certificates would hold the event loop."""
        options = {name: str(value) for name, value in self._dsn.query.items()}
        if options.get("sslrootcert") != SYSTEM:
            return None
        return await asyncio.to_thread(system_context, options, self._key_password)

    def _tls_problem(self, error: Exception) -> str | None:
        """Name the file of the URL's that TLS failed for, where it was one."""
        if isinstance(error, asyncpg.ClientConfigurationError | ssl.SSLError | FileNotFoundError | PermissionError):
            return tls_problem({name: str(value) for name, value in self._dsn.query.items()}, self._key_password)
        return None


def _connection_is_gone(connection: Connection, error: BaseException) -> bool:
    return bool(connection.invalidated)


def _duration(given: str, name: str) -> float:
    match = _DURATION.fullmatch(given.strip())
    if match is None:
        raise URLError(f"{name} must be a time like 500ms, 60s, 5min or a number of seconds, not {given[:20]!r}")
    return int(match[1]) * _SECONDS[match[2] or "s"]


def _number(given: str, name: str) -> int:
    if not given.isdecimal() or len(given) > 6:
        raise URLError(f"{name} must be a whole number, not {given[:20]!r}")
    return int(given)
