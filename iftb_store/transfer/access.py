"""Opens sessions that fail if they cannot read every row of a table, so that a transfer never mistakes some rows for all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.exc import OperationalError

from iftb_store.abilities import ConnectedStore, SupportsWholeReads
from iftb_store.errors import InvalidValueError
from iftb_store.protocols import Isolation
from iftb_store.schema.table_spec import TableSpec
from iftb_store.values.display import type_name


async def require_complete_reads(session: Any, tables: Iterable[TableSpec], *, insert: bool = False) -> None:
    """Raise an error if a session cannot read all rows of the tables; see `iftb_store.abilities.SupportsWholeReads`.

    Raises:
        OperationalError: rows are hidden from the session's role, or the role may not read one of the tables, or, with
            ``insert``, not insert into it.
    """
    backend = getattr(session, "iftb_store_backend", None)
    if isinstance(backend, SupportsWholeReads):
        await backend.require_whole(session, [table.name for table in tables], insert=insert)


async def describe_hidden_rows(db: ConnectedStore, tables: Iterable[TableSpec]) -> str:
    """Explain why rows of these tables are hidden from this role, and what to do; an empty text if no rows are hidden."""
    async with db.get_session() as session:
        try:
            await require_complete_reads(session, tables)
        except OperationalError as error:
            return str(error.orig)
    return ""


@asynccontextmanager
async def open_complete_session(
    db: ConnectedStore, tables: Iterable[TableSpec], *, insert: bool = False, isolation: Isolation | None = None
) -> AsyncIterator[Any]:
    """Open a session that can read all rows of the tables, or fail.

    Raises:
        OperationalError: rows are hidden from the session's role, or the role may not read one of the tables, or, with
            ``insert``, not insert into it.
    """
    async with db.get_session(isolation=isolation) as session:
        await require_complete_reads(session, tables, insert=insert)
        yield session


def check_store(value: object, name: str) -> None:
    """Raise an error unless an argument is a connected store.

    Raises:
        InvalidValueError: the argument is something else, e.g. a URL or a session.
    """
    if not isinstance(value, ConnectedStore):
        raise InvalidValueError(f"{name} must be a connected store, e.g. a DatabaseManager, not {type_name(value)}")


async def require_distinct(source: ConnectedStore, destination: ConnectedStore) -> None:
    """Check that the source and the destination are different databases.

    Raises:
        InvalidValueError: the source and the destination are the same database.
    """
    if await source.identity() == await destination.identity():
        raise InvalidValueError("the source and the destination are the same database; give two different ones")
