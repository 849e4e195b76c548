"""Reads a store of an older schema revision as if it were migrated: the columns that it lacks have their defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pyarrow as pa

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.arrow import selection_schema
from iftb_store.errors import SchemaError
from iftb_store.protocols import Capability, Isolation, Stores
from iftb_store.registry import get_stores
from iftb_store.schema.revision import read_older
from iftb_store.schema.table_spec import BARS, COVERAGE, AskedRange, RowFilter, TableSpec
from iftb_store.transfer.lookups import get_lookups


async def open_older(db: ConnectedStore) -> ConnectedStore:
    """Return the store; if its schema is of an older revision, an object that reads its rows as those of the newest one.

    Raises:
        SchemaError: the store has no tables, or a newer version migrated them.
    """
    if Capability.MIGRATIONS not in db.capabilities:
        return db
    try:
        async with db.get_session() as session:
            await get_stores(session).read_rows(RowFilter(BARS, limit=1))
    except SchemaError:
        status = await db.status()
        if status.state != "behind" or status.revision is None:
            raise
        # its other members are those of the store
        return cast("ConnectedStore", OlderStore(db, status.revision))
    return db


class OlderStore:
    """A store of an older revision, to be read; what it does not define here is that of the store.

    Attributes:
        older_revision: the revision of the store's schema.
    """

    def __init__(self, db: ConnectedStore, revision: str) -> None:
        self._db, self.older_revision = db, revision

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    @asynccontextmanager
    async def get_session(self, *, isolation: Isolation | None = None) -> AsyncIterator[Any]:
        """Open a session whose stores read rows of the newest revision; see `iftb_store.DatabaseManager.get_session`."""
        async with self._db.get_session(isolation=isolation) as session:
            yield _OlderSession(session, self.older_revision)


class _OlderSession:
    """A session, which is also its own backend, as far as transfers ask it for stores and for complete reads."""

    def __init__(self, session: Any, revision: str) -> None:
        self._session, self._revision = session, revision
        self.iftb_store_backend = self

    def __getattr__(self, name: str) -> Any:
        backend = self._session.iftb_store_backend
        if name == "require_whole" and hasattr(backend, name):
            return lambda _, *args, **named: backend.require_whole(self._session, *args, **named)
        return getattr(self._session, name) if hasattr(self._session, name) else getattr(backend, name)

    def stores(self, session: Any) -> Any:
        return _OlderStores(get_stores(self._session), self._revision)


class _OlderStores:
    """The stores of a session; rows are read in the columns that the revision has."""

    def __init__(self, stores: Stores, revision: str) -> None:
        self._stores, self._revision = stores, revision
        self.lookups = _OlderLookups(get_lookups(stores), revision)

    def __getattr__(self, name: str) -> Any:
        if name == "coverage":
            if self._revision < COVERAGE.since:
                raise AttributeError(name)
            return _OlderCoverage(self._stores)
        return getattr(self._stores, name)

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the selected rows, see `Stores.read_rows`; a column that the revision lacks has its default in each row."""
        wanted = selection_schema(selection)
        lacking = _find_lacking(selection.table, self._revision)
        older = _narrow(selection, lacking)
        if older is None:
            return wanted.empty_table()
        if lacking:
            older = replace(older, only=tuple(name for name in wanted.names if name not in lacking))
        with read_older():
            rows = await self._stores.read_rows(older)
        for name in (name for name in wanted.names if name in lacking):
            rows = rows.append_column(wanted.field(name), pa.repeat(pa.scalar(lacking[name], pa.string()), rows.num_rows))
        return rows.select(wanted.names)


class _OlderCoverage:
    """The ranges that were asked for, to be read."""

    def __init__(self, stores: Any) -> None:
        self._coverage = stores.coverage

    async def read(self, series: RowFilter) -> list[AskedRange]:
        with read_older():
            found: list[AskedRange] = await self._coverage.read(series)
        return found


class _OlderLookups:
    """The lookups of a session that its source needs; conditions on columns that the revision lacks go by their defaults."""

    def __init__(self, lookups: Any, revision: str) -> None:
        self._lookups, self._revision = lookups, revision
        self.count_rows = partial(self._look_up, lookups.count_rows, [((), 0)])
        self.find_greatest_id = partial(self._look_up, lookups.find_greatest_id, None)

    async def _look_up(self, find: Any, nothing: Any, selection: RowFilter) -> Any:
        older = _narrow(selection, _find_lacking(selection.table, self._revision))
        if older is None:
            return nothing
        with read_older():
            return await find(older)


def _find_lacking(table: TableSpec, revision: str) -> dict[str, str | None]:
    """Return the columns that later revisions add to a table, each with the text of older rows in it."""
    return {name: spec.default for name, spec in table.specs.items() if spec.since is not None and spec.since > revision}


def _narrow(selection: RowFilter, lacking: dict[str, str | None]) -> RowFilter | None:
    """Return the selection without conditions on lacking columns, or None if no row meets them."""
    if any(value != lacking[name] for name, value in selection.equal.items() if name in lacking):
        return None
    if selection.tag is not None and "tags" in lacking:
        return None
    return replace(selection, equal={name: value for name, value in selection.equal.items() if name not in lacking})
