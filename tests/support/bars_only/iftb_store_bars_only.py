"""A backend that keeps only bars, without migrations, SQLAlchemy sessions and raw writes; SQLite stores its bars.

It is found through its entry point in the dist-info directory beside it, like any third party's backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Executable, Result, text
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.ext.asyncio import AsyncEngine

from iftb_store.errors import NO_RAW_WRITES, Unsupported
from iftb_store.health import StoreSize
from iftb_store.protocols import BarStore, Capability, Isolation, RecordStore
from iftb_store.relational import StoreSession, is_read
from iftb_store.schema.tables import Base
from iftb_store_sqlite import SQLiteBackend

_BARS = Base.metadata.tables["ohlcv"]


def _size(path: str) -> int:
    return Path(path).stat().st_size


class BarsOnlySession:
    """A session whose raw SQL only reads, and returns times as SQLite stores them: whole microseconds."""

    def __init__(self, inner: StoreSession, backend: BarsOnlyBackend) -> None:
        self.inner = inner
        self.iftb_store_backend = backend

    @property
    def iftb_store_write_lock(self) -> Any:
        return self.inner.iftb_store_write_lock

    async def execute(self, statement: Executable, params: Any = None, /) -> Result[Any]:
        compiled = statement.compile(dialect=sqlite_dialect(paramstyle="named"))  # type: ignore[attr-defined]
        if not is_read(str(compiled)):
            raise Unsupported(NO_RAW_WRITES)
        return await self.inner.execute(text(str(compiled)), {**compiled.params, **(params or {})})

    async def commit(self) -> None:
        await self.inner.commit()

    async def rollback(self) -> None:
        await self.inner.rollback()


class BarsOnlyStores:
    """SQLite's stores of whole rows and of bars."""

    def __init__(self, session: BarsOnlySession) -> None:
        stores = SQLiteBackend.stores(session.inner)
        self.bars: BarStore = stores.bars
        self.read_rows = stores.read_rows
        self.write_rows = stores.write_rows
        self.delete_rows = stores.delete_rows

    @property
    def records(self) -> RecordStore:
        raise AssertionError("a repository asked a backend without RECORDS for its records")


class BarsOnlyBackend(SQLiteBackend):
    """SQLite with one table."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.BAR_KEY, Capability.ISOLATION})

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        super().__init__(url.set(drivername="sqlite"), pool_size=pool_size, max_overflow=max_overflow, echo=echo)

    @property
    def engine(self) -> AsyncEngine | None:
        return None

    async def connect(self) -> None:
        await super().connect()

        def create(connection: Connection) -> None:
            _BARS.create(connection, checkfirst=True)

        await self.with_connection(create)
        # SQLite would look for the other tables
        self.schema_seen = True

    async def measure(self) -> StoreSize:
        return StoreSize("3", files=1, bytes=_size(self._path))

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[Any]:
        async with super().session(isolation) as session:
            yield BarsOnlySession(session, self)

    @classmethod
    def stores(cls, session: Any) -> Any:
        return BarsOnlyStores(session)
