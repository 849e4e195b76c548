"""SchemaDialect, with which a backend creates the tables of iftb-store on an engine that the migrations do not support."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from sqlalchemy import Connection, inspect

#: The parts (columns, constraints, indexes) of each table, with their definitions; a definition may be empty.
Catalog = dict[str, dict[str, str]]


def read_columns(conn: Connection) -> Catalog:
    """Return the names of the columns of every table in the connection's current schema, without their definitions."""
    catalog = inspect(conn)
    return {
        table: {f"column {column['name']}": "" for column in catalog.get_columns(table)} for table in catalog.get_table_names()
    }


def hold_no_lock(conn: Connection) -> AbstractContextManager[None]:
    """Return a context that takes no lock, for an engine whose transactions already exclude other migrations."""
    return nullcontext()


@dataclass(frozen=True, eq=False)
class SchemaDialect:
    """Describes how the tables are created, versioned and locked on an engine; the value of a backend's attribute ``schema``.

    Attributes:
        scripts: for each revision of `iftb_store.schema.revision.REVISIONS`, oldest first, the statements that lead to it from
            the revision before. The tables must be those of `iftb_store.schema.tables`, in the engine's types: text compares by
            its bytes, decimals have 38 digits with 18 after the point, times have microseconds, and at most one open position
            has the same exchange, symbol and side.
        version: the query for the engine's version, as text.
        lock: returns a context that keeps other migrations of this database out until the transaction ends.
        read_catalog: returns the tables of the database with the names of their columns.
    """

    scripts: Mapping[str, Sequence[str]]
    version: str
    lock: Callable[[Connection], AbstractContextManager[None]] = hold_no_lock
    read_catalog: Callable[[Connection], Catalog] = read_columns
