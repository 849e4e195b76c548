"""DatabaseManager: a URL becomes a backend, with its life cycle and its sessions."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from iftb_store.errors import InvalidValueError, NotConnectedError, Unsupported
from iftb_store.protocols import Backend, Capability
from iftb_store.registry import backend_for, parse_url, shown_url

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from iftb_store_migrations import SchemaStatus


class DatabaseManager:
    """Connections to one database, whose engine the URL's scheme chooses.

    ``async with DatabaseManager(url) as db`` connects and disconnects. Connecting or disconnecting twice does nothing the
    second time; a manager can connect again after it was disconnected. No schema is needed to connect.

    Args:
        database_url: e.g. ``postgresql://user:password@host/name``, ``sqlite:///bot.db``, ``duckdb:///research.duckdb``.
        pool_size: connections kept open.
        max_overflow: further connections while all of those are in use.
        echo: log every statement (SQLAlchemy's logger; parameters are hidden).

    Raises:
        URLError: the URL cannot be understood, or its scheme or an option of it is unknown.
        MissingDriverError: the scheme's driver is not installed.
    """

    def __init__(self, database_url: str | URL, pool_size: int = 5, max_overflow: int = 10, echo: bool = False) -> None:
        if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 1:
            raise InvalidValueError(f"pool_size must be a whole number of at least 1, not {pool_size!r}")
        if isinstance(max_overflow, bool) or not isinstance(max_overflow, int) or max_overflow < 0:
            raise InvalidValueError(f"max_overflow must be a whole number of at least 0, not {max_overflow!r}")
        self._url = parse_url(database_url)
        self._backend: Backend = backend_for(self._url.drivername)(
            self._url, pool_size=pool_size, max_overflow=max_overflow, echo=echo
        )
        self._connected = False
        self._connecting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"DatabaseManager({shown_url(self._url)!r})"

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

    # the owner's document creates the test tables through this name
    _engine = engine

    async def connect(self) -> None:
        """Open the database and prove that it answers.

        Raises:
            OperationalError: it cannot be reached or opened.
        """
        async with self._connecting:
            if not self._connected:
                await self._backend.connect()
                self._connected = True

    async def disconnect(self) -> None:
        """Close every connection."""
        async with self._connecting:
            if self._connected:
                self._connected = False
                await self._backend.disconnect()

    def get_session(self) -> AbstractAsyncContextManager[Any]:
        """Open a session: ``async with db.get_session() as session``.

        It commits on a clean exit and rolls back on an exception or a cancellation. On PostgreSQL and SQLite it is a
        SQLAlchemy AsyncSession; on DuckDB an object with its execute, commit and rollback.

        Raises:
            NotConnectedError: before connect().
            OperationalError: on a clean exit, where an error that was caught inside took the transaction with it.
        """
        self._require_connected()
        return self._backend.session()

    async def migrate(self) -> None:
        """Bring the schema to this version's revision, from nothing, from an older one, or by adopting an identical one.

        Safe to run twice and from several processes at once: one works, the others wait, bounded.

        Raises:
            SchemaError: the tables there are not ours and carry no revision, or are of a newer version.
        """
        from iftb_store_migrations import upgrade

        self._require_migrations()
        await self._backend.with_connection(upgrade)

    async def create_tables(self) -> None:
        """Create the tables that are missing and stamp the newest revision; for tests and first steps.

        Raises:
            SchemaError: tables of ours are there at another revision.
        """
        from iftb_store_migrations import create

        self._require_migrations()
        await self._backend.with_connection(create)

    async def status(self) -> SchemaStatus:
        """Return the engine and its version, the schema's revision and this version's, and the rows of each table."""
        from iftb_store_migrations import status

        self._require_migrations()
        return await self._backend.with_connection(status, read_only=True)

    def _require_connected(self) -> None:
        if not self._connected:
            raise NotConnectedError(
                f"{self!r} is not connected; await connect() first, or use `async with DatabaseManager(url) as db`"
            )

    def _require_migrations(self) -> None:
        self._require_connected()
        if Capability.MIGRATIONS not in self.capabilities:
            raise Unsupported(f"the backend of {self._url.get_backend_name()} declares no migrations")
