"""A fourth backend, based on SQLite, that breaks one rule of the contract: the URL's option ``fault`` names it.

It is found through its entry point in the dist-info directory beside it, like any third party's backend.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from iftb_store_sabotaged_calls import Stores
from sqlalchemy import URL, Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store.errors import TransientError, operational_error
from iftb_store.protocols import Isolation
from iftb_store_sqlite import SQLiteBackend

T = TypeVar("T")


class SabotagedBackend(SQLiteBackend):
    """SQLite with one fault, or with none."""

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        self.fault = str(url.query.get("fault", os.environ.get("IFTB_STORE_SABOTAGE", "none")))
        self._given = url
        plain = url.set(drivername="sqlite").difference_update_query(["fault"])
        if self.fault == "shows a password":
            plain = URL.create("sqlite", database=plain.database, query=plain.query)
        super().__init__(plain, pool_size=pool_size, max_overflow=max_overflow, echo=echo)

    async def connect(self) -> None:
        try:
            await super().connect()
        except OperationalError as error:
            if self.fault == "shows a password":
                raise operational_error(f"cannot open {self._given.render_as_string(hide_password=False)}", error) from error
            if self.fault == "raises the driver's error of a failed connect":
                raise sqlite3.OperationalError(str(error)) from error
            raise

    async def identity(self) -> str:
        # two files may have one name
        return Path(self._path).name if self.fault == "takes two databases for one" else await super().identity()

    async def with_connection(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        return await super().with_connection(work, read_only=read_only and self.fault != "locks for the status")

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[Any]:
        if self.fault == "keeps a connection" and self.engine is not None and not self.in_use:
            self._kept = await self.engine.connect()
        if self.fault == "forgets isolation":
            isolation = None
        elif self.fault == "locks for a snapshot" and isolation == "snapshot":
            isolation = "serializable"
        try:
            async with super().session(isolation) as session:
                try:
                    yield session
                except Exception:
                    # the planted fault: a commit instead of a rollback
                    if self.fault == "commits on error":
                        await session.commit()
                    raise
        except TransientError as error:
            if self.fault == "calls a lock timeout final":
                raise operational_error(str(error), error) from error
            raise

    @classmethod
    def stores(cls, session: AsyncSession) -> Any:
        backend = getattr(session, "iftb_store_backend", None)
        return Stores(SQLiteBackend.stores(session), session, getattr(backend, "fault", "none"))
