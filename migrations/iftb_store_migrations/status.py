"""Reads the status of a database: engine, revision, iftb-store's tables and their numbers of rows."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, text

from iftb_store.errors import operational_error
from iftb_store.health import SchemaState, SchemaStatus
from iftb_store.schema.dialect import SchemaDialect
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.schema.scope import TABLES
from iftb_store.schema.tables import Base
from iftb_store.schema.visibility import describe, find_hidden
from iftb_store_migrations.catalog import list_present_tables
from iftb_store_migrations.history import current, head, revisions

_VERSION = {
    "postgresql": text("SELECT pg_catalog.current_setting('server_version')"),
    "sqlite": text("SELECT sqlite_version()"),
    "duckdb": text("SELECT ltrim(version(), 'v')"),
}
_ENCODING = text("SELECT current_setting('server_encoding')")


def status(conn: Connection, schema: SchemaDialect | None = None) -> SchemaStatus:
    """Return the schema's revision and state and the number of rows of each table of users' data.

    It changes nothing and takes no lock.

    Raises:
        SchemaError: several revisions are recorded in the database.
        OperationalError: this role may not read one of the tables.
    """
    hidden = find_hidden(conn, [*TABLES, VERSION_TABLE])
    unreadable = [one for one in hidden if one.kind == "select"]
    if unreadable:
        raise operational_error(describe(unreadable))
    revision, present = current(conn), list_present_tables(conn, schema)
    tables = {
        name: conn.execute(select(func.count()).select_from(Base.metadata.tables[name])).scalar_one()
        for name in present
        if name in TABLES
    }
    return SchemaStatus(
        engine=conn.dialect.name,
        version=str(conn.execute(_VERSION[conn.dialect.name] if schema is None else text(schema.version)).scalar_one()),
        revision=revision,
        head=head(),
        tables=tables,
        state=find_state(revision, bool(present)),
        encoding=conn.execute(_ENCODING).scalar_one() if conn.dialect.name == "postgresql" else None,
        policies=tuple(one.table for one in hidden if one.kind == "policies"),
        missing_rights=describe([one for one in hidden if one.kind == "insert" and one.table != VERSION_TABLE]),
    )


def find_state(revision: str | None, has_tables: bool) -> SchemaState:
    """Return the state of a schema from its revision and whether it has tables; see `SchemaStatus`."""
    if revision is None:
        return "unstamped" if has_tables else "empty"
    if revision == head():
        return "current"
    return "behind" if revision in revisions() else "ahead"
