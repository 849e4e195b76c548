"""The history of the schema: the known revisions, a database's current revision, upgrade and downgrade.

Alembic's module-wide ``op`` and ``context`` are not used, because two databases that one event loop migrates concurrently would
share them. A revision's ``upgrade`` and ``downgrade`` take their `Operations` as an argument instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic.ddl.impl import DefaultImpl
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, text
from sqlalchemy.exc import DBAPIError

from iftb_store.errors import SchemaError
from iftb_store.schema.dialect import SchemaDialect
from iftb_store.schema.revision import VERSION_TABLE, check_revision
from iftb_store.schema.views import VIEWS
from iftb_store_migrations.catalog import (
    TABLES,
    Difference,
    create_missing,
    differences,
    drop_parts,
    has_rows,
    is_stamped,
    list_expected_parts,
    list_present_tables,
    read_parts,
    refuse_foreign,
    refuse_owners,
)
from iftb_store_migrations.lock import find_cause, hold_migration_lock

_SHOWN = 5
# the SQLSTATE of PostgreSQL's refusal to drop what other objects depend on
_DEPENDENTS = "2BP01"
# the revision that creates the views, which a backend's own scripts may leave out
_VIEWS_SINCE = "0003"
# defined as Alembic defines it
_VERSION = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)


class DuckDBImpl(DefaultImpl):
    """Alembic's implementation class for DuckDB; defining the class registers DuckDB with Alembic."""

    __dialect__ = "duckdb"
    transactional_ddl = True


def head() -> str:
    """Return the newest revision that this version of the package knows."""
    return revisions()[-1]


def revisions() -> list[str]:
    """Return every revision that this version of the package knows, oldest first."""
    return [script.revision for script in _scripts().walk_revisions()][::-1]


def current(conn: Connection) -> str | None:
    """Return the revision that is recorded in the database, even one that this version does not know; None if none is recorded.

    Raises:
        SchemaError: several revisions are recorded.
    """
    if not is_stamped(conn):
        return None
    found = sorted(str(row[0]) for row in conn.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).all())
    if len(found) > 1:
        raise SchemaError(
            f"the schema's revision is ambiguous: {VERSION_TABLE} holds {', '.join(found)}; delete all but the one that matches "
            "the tables"
        )
    return found[0] if found else None


def upgrade(conn: Connection, revision: str = "head", schema: SchemaDialect | None = None) -> None:
    """Upgrade the schema to a revision; do nothing if it is already at that revision.

    The schema may be missing or at an older revision. Tables without a recorded revision are adopted if they are identical to
    this version's or an earlier one's. With a ``schema``, its scripts create and change the tables.

    Raises:
        SchemaError: tables of iftb-store have no recorded revision and differ from this version's or belong to other roles; or a
            newer version migrated them; or the newest revision is recorded and a table is missing; or ``revision`` is unknown; or
            a table would call an operator or a function that somebody else defined; or ``schema`` lacks a script; or, on
            PostgreSQL, somebody else's view depends on an object that the migration drops.
        OperationalError: another migration of this database did not end in time.
    """
    with hold_migration_lock(conn, schema), _as_schema_error():
        adopt_or_refuse(conn, schema)
        operations = Operations(_context(conn)) if schema is None else None
        scripts = list(_scripts().iterate_revisions(revision, current(conn)))[::-1]
        # a backend's own scripts may leave out the views
        known = None if schema is None else {*schema.scripts, _VIEWS_SINCE}
        lacking = [] if known is None else [script.revision for script in scripts if script.revision not in known]
        if lacking:
            raise SchemaError(
                f"the backend's SchemaDialect has no script for revision {', '.join(lacking)}; nothing was changed; use a "
                "version of the backend that has it, or as the backend's author: add it to `scripts`"
            )
        for script in scripts:
            if schema is None:
                script.module.upgrade(operations)
            else:
                for statement in schema.scripts.get(script.revision, ()):
                    conn.exec_driver_sql(statement)
            _stamp(conn, script.revision)
        refuse_foreign(conn)


def downgrade(conn: Connection, revision: str = "base") -> None:
    """Downgrade the schema to a revision; do nothing if it is already at that revision.

    ``base`` drops iftb-store's tables with every row.

    Raises:
        SchemaError: for the same reasons as in `upgrade`.
        OperationalError: another migration of this database did not end in time.
    """
    with hold_migration_lock(conn), _as_schema_error():
        adopt_or_refuse(conn)
        operations = Operations(_context(conn))
        for script in list(_scripts().iterate_revisions(current(conn), revision)):
            script.module.downgrade(operations)
            _stamp(conn, None if script.down_revision is None else str(script.down_revision))


def create(conn: Connection, schema: SchemaDialect | None = None) -> None:
    """Create iftb-store's missing tables from the models and record the newest revision.

    Raises:
        SchemaError: the database is at another revision, or has tables of iftb-store that differ from this version's.
        OperationalError: another migration of this database did not end in time.
    """
    if schema is not None:
        upgrade(conn, schema=schema)
        return
    with hold_migration_lock(conn), _as_schema_error():
        revision = current(conn)
        if revision is not None:
            check_revision(True, revision)
        elif not list_present_tables(conn):
            _drop_or_refuse_later(conn, None)
        elif any(one.part is not None for one in differences(conn)):
            # before a view over such a table is created
            check_revision(True, _find_revision(conn))
        create_missing(conn)
        refuse_foreign(conn)
        adopt_or_refuse(conn)


def adopt_or_refuse(conn: Connection, schema: SchemaDialect | None = None) -> None:
    """Record the revision of iftb-store's tables if none is recorded and they are identical to those of a revision.

    Raises:
        SchemaError: tables without a recorded revision differ from those of every revision or belong to other roles; or a newer
            version migrated the tables; or the newest revision is recorded and a table is missing; or something else than
            iftb-store's table or view has a name of which a later revision creates one.
    """
    revision, tables = current(conn), list_present_tables(conn, schema)
    if revision is not None:
        if revision not in revisions():
            check_revision(True, revision)
        missing = [table for table in TABLES if table not in tables]
        if revision == head() and missing:
            raise SchemaError(
                f"the database is at revision {revision}, but has no table {' or '.join(missing)}; "
                "restore the database from a backup, or begin with an empty database: await db.create_tables()"
            )
    elif tables:
        revision = _find_revision(conn, schema)
        refuse_owners(conn)
        _stamp(conn, revision)
        if schema is None and revision == head():
            # the views may be missing
            create_missing(conn)
    if schema is None and revision != head():
        _drop_or_refuse_later(conn, revision)


def _find_revision(conn: Connection, schema: SchemaDialect | None = None) -> str:
    """Return the newest revision whose tables are identical to the database's; views may be missing.

    Raises:
        SchemaError: there is none; the message names the differences from the revision that has the fewest.
    """
    found: list[list[Difference]] = []
    for revision in revisions()[::-1]:
        compared = differences(conn, schema, revision, _build)
        found.append([one for one in compared if one.part is not None or one.table not in VIEWS])
        if not found[-1]:
            return revision
    raise _different_error(min(found, key=len))


def _drop_or_refuse_later(conn: Connection, revision: str | None) -> None:
    """Drop empty tables and views that exist too early: a revision after ``revision`` creates them, in the same form.

    ``Base.metadata.create_all`` of a newer iftb-store has created them in this older database.

    Raises:
        SchemaError: something else has the name of such a table or view, or such a table has rows.
    """
    known = {} if revision is None else list_expected_parts(conn, revision, _build)
    found = {name: parts for name, parts in read_parts(conn).items() if name not in known}
    later = [list_expected_parts(conn, one, _build) for one in revisions() if found and one > (revision or "")]
    others = [name for name, parts in found.items() if parts not in [one.get(name) for one in later] or has_rows(conn, name)]
    if others:
        raise SchemaError(
            f"the database has something named {' and '.join(others)} that is not iftb-store's view or table of this name; "
            "rename or drop it, then migrate again"
        )
    drop_parts(conn, found)


def _build(conn: Connection, revision: str) -> None:
    """Create the tables and views of a revision in an empty schema."""
    operations = Operations(_context(conn))
    for script in list(_scripts().iterate_revisions(revision, None))[::-1]:
        script.module.upgrade(operations)


def _different_error(found: Sequence[Difference]) -> SchemaError:
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return SchemaError(
        "the database has tables with the names of iftb-store's, without a recorded revision, and with other definitions: "
        f"{'; '.join(map(str, found[:_SHOWN]))}{more}. Rename or drop them, or make them identical, then migrate again"
    )


def _stamp(conn: Connection, revision: str | None) -> None:
    """Record a revision in the version table; for None, leave the table empty.

    Alembic's own statements would compare values in a WHERE clause, which could call an operator that another user defined. The
    statements here have no WHERE clause.
    """
    if not is_stamped(conn):
        _VERSION.create(conn, checkfirst=False)
    conn.execute(_VERSION.delete())
    if revision is not None:
        conn.execute(_VERSION.insert().values(version_num=revision))


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory(Path(__file__).parent)


def _context(conn: Connection) -> MigrationContext:
    return MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE})


@contextmanager
def _as_schema_error() -> Iterator[None]:
    try:
        yield
    except (CommandError, RevisionError) as error:
        raise SchemaError(f"the schema cannot be migrated: {error}") from error
    except DBAPIError as error:
        if (cause := find_cause(error, _DEPENDENTS)) is None:
            raise
        raise SchemaError(
            "the schema cannot be migrated, because an object that is not iftb-store's depends on what the migration drops: "
            f"{'; '.join((getattr(cause, 'detail', None) or str(cause)).splitlines())}. Nothing was changed; drop that object, "
            "migrate, then create it again"
        ) from error
