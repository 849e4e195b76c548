"""Checks of the schema: the revision, and columns, constraints and indexes that are missing or different."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text
from sqlalchemy.schema import AddConstraint

from iftb_store.doctor.checks import Finding, FindingSeverity
from iftb_store.doctor.partitions import find_partition_problems
from iftb_store.doctor.sql import Engine, find_engine
from iftb_store.errors import SchemaError
from iftb_store.health import advise
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.schema.scope import TABLES
from iftb_store.schema.tables import Base
from iftb_store.schema.views import VIEWS
from iftb_store.schema.visibility import Hidden, find_hidden, find_obstacles

if TYPE_CHECKING:
    from iftb_store_migrations import Difference

# parts without which rows are lost or duplicated
_MATTERS = ("table", "column", "sequence", *(f"constraint {kind}" for kind in ("pk", "uq", "PRIMARY", "UNIQUE")), "index uq")
_SHOWN = 5
_AFTER = "fix the problems in the rows first, or this fix fails"


def schema_findings(conn: Connection) -> tuple[list[Finding], bool]:
    """Return the problems of the schema, and whether the schema is complete enough to examine the rows."""
    from iftb_store_migrations import current, find_state, list_present_tables

    engine = find_engine(conn)
    try:
        state = find_state(current(conn), bool(list_present_tables(conn)))
    except SchemaError as error:
        return [_revision("error", str(error))], False
    found, usable = revision_findings(state)
    if not usable:
        return found, False
    differences = list(_differences(conn, engine, found))
    found += _findings(conn, differences)
    whole = not any(
        one.table in TABLES and one.actual is None and (one.part or "column").startswith("column") for one in differences
    )
    hidden = find_hidden(conn, [*TABLES])
    found += find_partition_problems(conn)
    found += map(_hidden, (one for one in hidden if one.kind != "insert"))
    return found, whole and not find_obstacles(hidden)


def revision_findings(state: str) -> tuple[list[Finding], bool]:
    """Return the problems of the revision, from `SchemaStatus.state`, and whether the tables can be used."""
    if state not in ("unstamped", "current"):
        return [_revision("error", *advise(state))], False
    remedy = "the tables have no revision; `iftb-store migrate URL` adds it if iftb-store created them"
    return [_revision("warning", remedy)] if state == "unstamped" else [], True


def _hidden(one: Hidden) -> Finding:
    reports = one.kind == "policies"
    remedy = f"{one.reason}; {one.remedy}" if reports else f"no row was examined: {one.reason}; {one.remedy}"
    statements = (one.statement,) if one.statement else ()
    return Finding(one.kind, "note" if reports else "error", one.table, one.part, (), 1, remedy, statements)


def _revision(severity: FindingSeverity, remedy: str) -> Finding:
    return Finding("schema", severity, VERSION_TABLE, "revision", (), 1, remedy)


def _differences(conn: Connection, engine: Engine, found: list[Finding]) -> Iterator[Difference]:
    from iftb_store_migrations import list_differences

    differences, complete = list_differences(conn)
    if not complete:
        remedy = "this role may not create temporary tables, so only names were compared; run the doctor as the owner"
        found.append(Finding("definitions not examined", "note", "", "schema", (), 1, remedy))
    # skip what iftb-store does not expect: users may add tables, columns and indexes
    yield from (difference for difference in differences if difference.expected is not None)
    # names of users' indexes may contain any character
    quoted = conn.dialect.identifier_preparer.quote
    for table, index, is_unique in _select(conn, engine.invalid):
        remedy = f"a failed CREATE INDEX CONCURRENTLY left this index, and no query uses it; {_AFTER}"
        severity: FindingSeverity = "error" if is_unique else "warning"
        statement = f"REINDEX INDEX CONCURRENTLY {quoted(index)}"
        found.append(Finding("invalid index", severity, table, f"index {index}", (), 1, remedy, (statement,)))
    for schema, role in _select(conn, engine.creators):
        remedy = (
            f"{role} may create functions and operators in the schema {schema}, which PostgreSQL calls instead of built-in "
            "ones if their types fit better, with the rights of the role that runs a statement"
        )
        statement = f"REVOKE CREATE ON SCHEMA {schema} FROM {role}"
        found.append(Finding("schema of others", "warning", "", f"schema {schema}", (), 1, remedy, (statement,)))
    for (table,) in _select(conn, engine.unlogged):
        remedy = "a crash of the server empties an unlogged table, and replicas do not have its rows"
        statement = f"ALTER TABLE {quoted(table)} SET LOGGED"
        found.append(Finding("unlogged table", "error", table, "", (), 1, remedy, (statement,)))


def _select(conn: Connection, sql: str) -> Iterable[Any]:
    return conn.execute(text(sql)) if sql else ()


def _findings(conn: Connection, differences: list[Difference]) -> Iterator[Finding]:
    from iftb_store_migrations import creation

    made = list(creation(conn.dialect))
    for table, of_table in groupby(differences, key=lambda difference: difference.table):
        here, made_here = list(of_table), [(index, sql) for name, index, sql in made if name == table]
        if table in VIEWS:
            yield _view_finding(here[0], [sql for _, sql in made_here])
            continue
        view = f"{table}_view"
        drop = [f"DROP VIEW IF EXISTS {view}"] if view in VIEWS else []
        create = [sql for name, _, sql in made if name == view]
        if conn.dialect.name != "postgresql" and any(map(_needs_new_table, here)):
            told = "; ".join(map(str, here[:_SHOWN])) + (f"; and {len(here) - _SHOWN} more" if len(here) > _SHOWN else "")
            remedy = f"{told}; {_AFTER}; the old table remains as {table}_before; drop it when everything works"
            yield _finding(here[0], len(here), remedy, [*drop, *_rebuild_sql(table, made_here), *create])
            continue
        for difference in here:
            statements = list(_statements(conn, difference, made_here))
            if _changes_type(difference):
                # PostgreSQL refuses to change the type of a column under a view
                statements = [*drop, *statements, *create]
            remedy = _AFTER if statements else "restore the table from a backup, or copy its rows to a new database"
            yield _finding(difference, 1, f"{difference}; {remedy}", statements)


def _view_finding(difference: Difference, created: list[str]) -> Finding:
    statements = (f"DROP VIEW IF EXISTS {difference.table}", *created)
    if difference.part is None:
        return Finding("view missing", "warning", difference.table, "", (), 1, str(difference), statements)
    remedy = (
        f"{difference}, so queries of it may give other results; if it is a table, which DROP VIEW cannot drop, rename it first"
    )
    return Finding("view differs", "warning", difference.table, "", (), 1, remedy, statements)


def _finding(difference: Difference, count: int, remedy: str, statements: list[str]) -> Finding:
    part = difference.part or "table"
    kind = f"{part.split()[0]} {'missing' if difference.actual is None else 'differs'}"
    severity: FindingSeverity = "error" if part.startswith(_MATTERS) else "warning"
    return Finding(kind, severity, difference.table, difference.part or "", (), count, remedy, tuple(statements))


def _needs_new_table(difference: Difference) -> bool:
    """Return whether an engine that cannot alter constraints and types needs a new table, with the rows copied, for the fix."""
    part = difference.part or ""
    return part.startswith("constraint") or (part.startswith("column") and difference.actual is not None)


def _statements(conn: Connection, difference: Difference, made: list[tuple[str | None, str]]) -> Iterator[str]:
    kind, _, name = (difference.part or "").partition(" ")
    if difference.part is None:
        yield from (sql for _, sql in made)
    elif kind == "index":
        if difference.actual is not None:
            yield f"DROP INDEX {name}"
        yield from (sql for index, sql in made if index == difference.part)
    elif conn.dialect.name == "postgresql" and kind == "constraint":
        yield from _constraint_sql(conn, difference, name)
    elif conn.dialect.name == "postgresql" and kind == "column":
        yield from _alter_sql(conn, difference, name)


def _constraint_sql(conn: Connection, difference: Difference, name: str) -> Iterator[str]:
    if difference.actual == f"{difference.expected} NOT VALID":
        yield f"ALTER TABLE {difference.table} VALIDATE CONSTRAINT {name}"
        return
    if difference.actual is not None:
        yield f"ALTER TABLE {difference.table} DROP CONSTRAINT {name}"
    for constraint in Base.metadata.tables[difference.table].constraints:
        if constraint.name == name:
            yield str(AddConstraint(constraint, isolate_from_table=False).compile(dialect=conn.dialect))


def _alter_sql(conn: Connection, difference: Difference, name: str) -> Iterator[str]:
    actual, expected = difference.actual, difference.expected
    if actual is None or expected is None:
        return
    column = Base.metadata.tables[difference.table].columns[name]
    alter = f"ALTER TABLE {difference.table} ALTER COLUMN {name}"
    if _changes_type(difference):
        yield f"{alter} TYPE {column.type.compile(dialect=conn.dialect)}"
    if "DEFAULT" in expected and expected.partition("DEFAULT ")[2] != actual.partition("DEFAULT ")[2]:
        yield f"{alter} SET DEFAULT {expected.partition('DEFAULT ')[2]}"
    if "NOT NULL" in expected and "NOT NULL" not in actual:
        yield f"{alter} SET NOT NULL"
    if "IDENTITY" in expected and "IDENTITY" not in actual:
        yield f"{alter} ADD GENERATED BY DEFAULT AS IDENTITY"


def _changes_type(difference: Difference) -> bool:
    """Return whether two definitions of a column, e.g. numeric(38,18) NOT NULL DEFAULT 0, have different types."""
    actual, expected = difference.actual, difference.expected
    if actual is None or expected is None or not (difference.part or "").startswith("column "):
        return False
    types = [re.split(" NOT NULL| DEFAULT| IDENTITY", definition, maxsplit=1)[0] for definition in (actual, expected)]
    return types[0] != types[1]


def _rebuild_sql(table: str, made: list[tuple[str | None, str]]) -> Iterator[str]:
    """Yield the statements that create a table again and copy its rows, for engines that cannot alter constraints."""
    columns = ", ".join(Base.metadata.tables[table].columns.keys())
    yield from (f"DROP INDEX IF EXISTS {part.removeprefix('index ')}" for part, _ in made if part is not None)
    yield f"ALTER TABLE {table} RENAME TO {table}_before"
    yield from (sql for part, sql in made if part is None)
    yield f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}_before"
    yield from (sql for part, sql in made if part is not None)
