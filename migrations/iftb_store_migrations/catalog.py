"""Reads the definitions of iftb-store's tables from the engine's catalog, and compares them with the models.

The expected definitions are not derived from the models in Python. Instead the models' tables are created temporarily in the same
engine (on SQLite and DuckDB in memory, on PostgreSQL as temporary tables in a savepoint), and the same query reads both catalogs.
The order of columns is not compared, because a later revision can only append columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, Dialect, TextClause, bindparam, create_engine, inspect, text
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.schema import CreateIndex, ExecutableDDLElement

from iftb_store.errors import SchemaError
from iftb_store.schema.dialect import Catalog, SchemaDialect
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.schema.tables import Base
from iftb_store.schema.views import VIEWS, create_view_sql

TABLES = tuple(Base.metadata.tables)
#: The part of a view in a `Catalog`.
DEFINITION = "definition"
#: A function that creates the tables and views of a revision in an empty schema.
Build = Callable[[Connection, str], None]

# qualified with pg_catalog, so that only the engine's functions and operators are called, whatever others have put into a schema
# of the search_path
_POSTGRESQL = text("""
    WITH ours AS (
        SELECT oid, relname FROM pg_catalog.pg_class
        WHERE relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(oid)
            AND relname = ANY (CAST(CAST(:tables AS text[]) AS name[]))
    )
    SELECT relname, pg_catalog.concat('column ', attname),
           pg_catalog.concat_ws(' ', pg_catalog.format_type(atttypid, atttypmod), 'COLLATE ' || CAST(collname AS text),
                     CASE WHEN attnotnull THEN 'NOT NULL' END,
                     'DEFAULT ' || pg_catalog.pg_get_expr(adbin, adrelid),
                     CASE attidentity WHEN 'd' THEN 'IDENTITY' WHEN 'a' THEN 'IDENTITY ALWAYS' END)
    FROM ours JOIN pg_catalog.pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_catalog.pg_attrdef ON adrelid = attrelid AND adnum = attnum
    LEFT JOIN pg_catalog.pg_collation ON pg_collation.oid = attcollation AND collname <> 'default'
    UNION ALL
    SELECT relname, pg_catalog.concat('constraint ', conname), pg_catalog.pg_get_constraintdef(pg_constraint.oid)
    FROM ours JOIN pg_catalog.pg_constraint ON conrelid = ours.oid AND contype IN ('p', 'u', 'c', 'f', 'x')
    UNION ALL
    SELECT ours.relname, pg_catalog.concat('index ', indexes.relname), pg_catalog.pg_get_indexdef(indexrelid, 0, true)
    FROM ours JOIN pg_catalog.pg_index ON indrelid = ours.oid
    JOIN pg_catalog.pg_class AS indexes ON indexes.oid = indexrelid
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conindid = indexrelid AND conrelid = ours.oid)
""").bindparams(tables=list(TABLES))

# PostgreSQL records no dependency on its own objects, so a recorded dependency on an operator or a function is somebody else's
_FOREIGN = text("""
    WITH ours AS (
        SELECT oid, relname FROM pg_catalog.pg_class
        WHERE relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(oid)
            AND relname = ANY (CAST(CAST(:tables AS text[]) AS name[]))
    ), parts AS (
        SELECT relname, CAST('pg_catalog.pg_constraint' AS regclass) AS kind, pg_constraint.oid AS part
        FROM ours JOIN pg_catalog.pg_constraint ON conrelid = ours.oid
        UNION ALL
        SELECT relname, CAST('pg_catalog.pg_class' AS regclass), indexrelid
        FROM ours JOIN pg_catalog.pg_index ON indrelid = ours.oid
        UNION ALL
        SELECT relname, CAST('pg_catalog.pg_attrdef' AS regclass), pg_attrdef.oid
        FROM ours JOIN pg_catalog.pg_attrdef ON adrelid = ours.oid
    )
    SELECT DISTINCT CAST(relname AS text), pg_catalog.concat(object.type, ' ', object.identity)
    FROM parts JOIN pg_catalog.pg_depend ON classid = CAST(kind AS oid) AND objid = part,
        LATERAL pg_catalog.pg_identify_object(refclassid, refobjid, 0) AS object
    WHERE refclassid = CAST(CAST('pg_catalog.pg_operator' AS regclass) AS oid)
        OR refclassid = CAST(CAST('pg_catalog.pg_proc' AS regclass) AS oid)
    ORDER BY 1, 2
""").bindparams(tables=list(TABLES))

# an unterminated comment extends to the end; otherwise each /* in it would be scanned to the end
_COMMENT = re.compile(r"--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_OWNERS = text("""
    SELECT CAST(relname AS text), pg_catalog.quote_ident(CAST(pg_catalog.pg_get_userbyid(relowner) AS text))
    FROM pg_catalog.pg_class
    WHERE relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(oid)
        AND relname = ANY (CAST(CAST(:tables AS text[]) AS name[])) AND NOT pg_catalog.pg_has_role(relowner, 'USAGE')
    ORDER BY 1
""").bindparams(tables=list(TABLES))

_SQLITE = text(
    "SELECT tbl_name, type, name, sql FROM sqlite_master "
    "WHERE tbl_name IN :tables AND type IN ('table', 'index') AND sql IS NOT NULL"
).bindparams(bindparam("tables", TABLES, expanding=True))

_DUCKDB = text("""
    WITH ours AS (
        SELECT table_oid, table_name FROM duckdb_tables()
        WHERE table_name IN :tables AND database_name = current_database() AND schema_name = current_schema()
    )
    SELECT table_name, 'column ' || column_name,
           concat_ws(' ', data_type, CASE WHEN NOT is_nullable THEN 'NOT NULL' END, 'DEFAULT ' || column_default)
    FROM duckdb_columns() SEMI JOIN ours USING (table_oid) WHERE database_name = current_database()
    UNION ALL
    SELECT table_name, 'constraint ' || constraint_text, constraint_text
    FROM duckdb_constraints() SEMI JOIN ours USING (table_oid)
    WHERE database_name = current_database() AND constraint_type <> 'NOT NULL'
    UNION ALL
    SELECT table_name, 'index ' || index_name, sql
    FROM duckdb_indexes() SEMI JOIN ours USING (table_oid) WHERE database_name = current_database()
    UNION ALL
    SELECT table_name, 'sequence ' || sequence_name,
           concat_ws(' ', 'INCREMENT BY', increment_by, CASE WHEN cycle THEN 'CYCLE' END)
    FROM ours JOIN duckdb_sequences() ON sequence_name = table_name || '_id_seq'
    WHERE database_name = current_database() AND schema_name = current_schema()
""").bindparams(bindparam("tables", TABLES, expanding=True))

# whatever has the name of a view, with its definition if it is a view; views are not read, only their definitions
_VIEWS = {
    "postgresql": text("""
        SELECT CAST(relname AS text), CASE WHEN relkind = 'v' THEN pg_catalog.concat_ws(
            ' ', pg_catalog.pg_get_viewdef(oid), CAST(reloptions AS text)) END
        FROM pg_catalog.pg_class
        WHERE pg_catalog.pg_table_is_visible(oid) AND relname = ANY (CAST(CAST(:views AS text[]) AS name[]))
    """).bindparams(views=list(VIEWS)),
    "sqlite": text(
        "SELECT lower(name), CASE type WHEN 'view' THEN sql END FROM sqlite_master "
        "WHERE lower(name) IN :views AND type IN ('table', 'view')"
    ).bindparams(bindparam("views", tuple(VIEWS), expanding=True)),
    "duckdb": text("""
        SELECT view_name, sql FROM duckdb_views()
        WHERE view_name IN :views AND database_name = current_database() AND schema_name = current_schema()
        UNION ALL
        SELECT table_name, NULL FROM duckdb_tables()
        WHERE table_name IN :views AND database_name = current_database() AND schema_name = current_schema()
    """).bindparams(bindparam("views", tuple(VIEWS), expanding=True)),
}

_MAY_CREATE = text("""
    SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')
        AND NOT pg_catalog.pg_is_in_recovery() AND pg_catalog.current_setting('transaction_read_only') = 'off'
""")


def list_present_tables(conn: Connection, schema: SchemaDialect | None = None) -> list[str]:
    """Return the names of iftb-store's tables that exist in the connection's current schema, in the models' order."""
    found = _READ[conn.dialect.name](conn) if schema is None else schema.read_catalog(conn)
    return [name for name in TABLES if name in found]


def is_stamped(conn: Connection) -> bool:
    """Return whether the version table exists."""
    if conn.dialect.name == "postgresql":
        return bool(conn.execute(text(f"SELECT pg_catalog.to_regclass('{VERSION_TABLE}') IS NOT NULL")).scalar_one())
    return inspect(conn).has_table(VERSION_TABLE)


def create_missing(conn: Connection) -> None:
    """Create iftb-store's missing tables from the models."""
    if conn.dialect.name == "postgresql":
        # not create_all's own check: SQLAlchemy's catalog queries call functions that others could have put into the search_path
        present = list_present_tables(conn)
        missing = [table for name, table in Base.metadata.tables.items() if name not in present]
        Base.metadata.create_all(conn, missing, checkfirst=False)
    else:
        Base.metadata.create_all(conn)


def refuse_foreign(conn: Connection) -> None:
    """Raise if a table of iftb-store would call an operator or a function that is not built into PostgreSQL.

    Raises:
        SchemaError: a default, an index or a constraint of a table would call such an operator or function; the caller must
            then roll back the creation of the tables.
    """
    found = conn.execute(_FOREIGN).all() if conn.dialect.name == "postgresql" else []
    if found:
        uses = "; ".join(f"{table} would call the {what}" for table, what in found)
        raise SchemaError(
            "PostgreSQL would use operators or functions that other roles have put into a schema of the search_path instead "
            f"of its own: {uses}. Drop them and let nobody else create objects in that schema (REVOKE CREATE ON SCHEMA … FROM "
            "PUBLIC), or remove the schema from the search_path; then migrate again"
        )


def refuse_owners(conn: Connection) -> None:
    """Raise if a table belongs to a role of which the current role is not a member.

    The triggers of such a table would run with the rights of whoever writes to it.

    Raises:
        SchemaError: a table belongs to such a role.
    """
    found = conn.execute(_OWNERS).all() if conn.dialect.name == "postgresql" else []
    if found:
        tables = ", ".join(f"{table} to {role}" for table, role in found)
        raise SchemaError(
            "the database has tables with the names of iftb-store's, without a recorded revision, owned by other roles: "
            f"{tables}. Rename or drop them, or migrate as their owner"
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """A part of a table, e.g. "index ix_trades_recent", that differs from the models; ``part`` None means the whole table.

    It may also be a view, whose only part is its definition.

    ``actual`` is the definition in the database, None if the part is missing. ``expected`` is the definition of the models, None
    if the models have no such part.
    """

    table: str
    part: str | None
    actual: str | None
    expected: str | None

    def __str__(self) -> str:
        if self.table in VIEWS:
            return f"view {self.table} " + ("is missing" if self.part is None else "has another definition")
        if self.part is None:
            return f"table {self.table} is missing"
        if self.actual is None:
            return f"{self.part} of {self.table} is missing"
        if self.expected is None:
            return f"{self.part} of {self.table} is not part of iftb-store"
        return f"{self.part} of {self.table} is {self.actual}, should be {self.expected}"


def differences(
    conn: Connection, schema: SchemaDialect | None = None, revision: str | None = None, build: Build | None = None
) -> list[Difference]:
    """Return how iftb-store's tables in the database differ from the models; empty if they are identical.

    Nothing is changed. On PostgreSQL the comparison needs the right to create temporary tables; it rolls them back.
    With a ``schema`` only the names of tables and columns are compared.

    Args:
        conn: the connection.
        schema: the schema of a backend that the migrations do not know.
        revision: the revision whose tables and views are compared instead of the models.
        build: creates the tables and views of the revision.
    """
    if schema is not None:
        expected = _list_columns() if build is None else _columns_of(_read_expected_in_memory("sqlite", revision, build))
        return [one for one in _compare(schema.read_catalog(conn), expected) if one.part is None or one.actual is None]
    return list(_compare(read_parts(conn), list_expected_parts(conn, revision, build)))


def list_differences(conn: Connection) -> tuple[list[Difference], bool]:
    """Return the differences that this role can see, and whether they are complete.

    On PostgreSQL, without the right to create temporary tables, only missing tables and missing parts are found.
    """
    if conn.dialect.name != "postgresql" or conn.execute(_MAY_CREATE).scalar_one():
        return differences(conn), True
    found = _compare(read_parts(conn), _list_parts(conn.dialect))
    return [difference for difference in found if difference.actual is None], False


def creation(dialect: Dialect) -> Iterator[tuple[str, str | None, str]]:
    """Yield the statements that create the tables, their indexes and the views, as (name of the table or view, part, SQL).

    The part is "index NAME", as in a `Difference`, or None for the table itself.
    """
    made: list[tuple[str, str | None, str]] = []

    def gather(ddl: ExecutableDDLElement | TextClause, *args: object, **options: object) -> None:
        sql = " ".join(str(ddl.compile(dialect=dialect)).split())
        if isinstance(ddl, CreateIndex) and ddl.element.table is not None:
            made.append((ddl.element.table.name, f"index {ddl.element.name}", sql))
        else:
            made.append((table.name, None, sql))

    for table in Base.metadata.tables.values():
        table.create(MockConnection(dialect, gather), checkfirst=False)
    yield from made
    for view, name in VIEWS.items():
        yield from ((view, None, sql) for sql in create_view_sql(Base.metadata.tables[name], dialect.name))


def _compare(actual: Catalog, expected: Catalog) -> Iterator[Difference]:
    for table in expected:
        if table not in actual:
            yield Difference(table, None, None, "")
            continue
        found, required = actual[table], expected[table]
        yield from (Difference(table, part, None, required[part]) for part in required if part not in found)
        yield from (Difference(table, part, found[part], None) for part in found if part not in required)
        yield from (
            Difference(table, part, found[part], required[part])
            for part in required
            if part in found and found[part] != required[part]
        )


def _list_parts(dialect: Dialect) -> Catalog:
    """Return the names of the models' columns, constraints and indexes, with an empty text as the definition of each.

    The definitions are left empty because only an engine can write them in the form of its catalog.
    """
    catalog = _list_columns()
    for table, index, sql in creation(dialect):
        if table in VIEWS:
            catalog[table] = {DEFINITION: ""}
            continue
        parts = [f"constraint {name}" for name in re.findall(r"\bCONSTRAINT (\w+)", sql)] if index is None else [index]
        catalog[table] |= dict.fromkeys(parts, "")
    return catalog


def _list_columns() -> Catalog:
    return {name: {f"column {column.name}": "" for column in table.columns} for name, table in Base.metadata.tables.items()}


def _columns_of(catalog: Catalog) -> Catalog:
    return {
        table: {part: "" for part in parts if part.startswith("column ")}
        for table, parts in catalog.items()
        if table not in VIEWS
    }


def list_expected_parts(conn: Connection, revision: str | None = None, build: Build | None = None) -> Catalog:
    """Return the tables and views of the models, or of a revision that ``build`` creates, as this engine describes them."""
    if conn.dialect.name == "postgresql":
        savepoint = conn.begin_nested()
        try:
            conn.execute(text("SET LOCAL search_path TO pg_temp"))
            return _create_and_read(conn, revision, build)
        finally:
            savepoint.rollback()
    return _read_expected_in_memory(conn.dialect.name, revision, build)


@cache
def _read_expected_in_memory(dialect: str, revision: str | None, build: Build | None) -> Catalog:
    engine = create_engine({"sqlite": "sqlite://", "duckdb": "duckdb:///:memory:"}[dialect])
    try:
        with engine.begin() as fresh:
            return _create_and_read(fresh, revision, build)
    finally:
        engine.dispose()


def _create_and_read(conn: Connection, revision: str | None, build: Build | None) -> Catalog:
    if revision is None or build is None:
        Base.metadata.create_all(conn, checkfirst=False)
    else:
        build(conn, revision)
    return read_parts(conn)


def read_parts(conn: Connection) -> Catalog:
    """Return the tables and the views of iftb-store that exist, tables in the models' order first."""
    found = _READ[conn.dialect.name](conn)
    return {name: found[name] for name in TABLES if name in found} | _read_views(conn)


def has_rows(conn: Connection, name: str) -> bool:
    """Return whether a table of iftb-store has rows; False for a view."""
    return name not in VIEWS and conn.execute(text(f"SELECT 1 FROM {name} LIMIT 1")).first() is not None


def drop_parts(conn: Connection, names: Iterable[str]) -> None:
    """Drop tables and views, with the sequences of the tables."""
    for name in sorted(names, key=lambda name: name not in VIEWS):
        conn.execute(text(f"DROP {'VIEW' if name in VIEWS else 'TABLE'} {name}"))
        if conn.dialect.name == "duckdb" and name not in VIEWS and "id" in Base.metadata.tables[name].columns:
            conn.execute(text(f"DROP SEQUENCE {name}_id_seq"))


def _read_views(conn: Connection) -> Catalog:
    normalise = _normalise if conn.dialect.name == "sqlite" else str
    found = {str(name): definition for name, definition in conn.execute(_VIEWS[conn.dialect.name])}
    return {name: {DEFINITION: "no view" if found[name] is None else normalise(found[name])} for name in VIEWS if name in found}


def _read_postgresql(conn: Connection) -> Catalog:
    return _gather(conn.execute(_POSTGRESQL))


def _read_duckdb(conn: Connection) -> Catalog:
    return _gather(conn.execute(_DUCKDB))


def _read_sqlite(conn: Connection) -> Catalog:
    rows = conn.execute(_SQLITE).all()
    parts = ((table, part, definition) for table, kind, name, sql in rows for part, definition in _sqlite_parts(kind, name, sql))
    return _gather(parts)


_READ: dict[str, Callable[[Connection], Catalog]] = {
    "postgresql": _read_postgresql,
    "sqlite": _read_sqlite,
    "duckdb": _read_duckdb,
}


def _gather(rows: Iterable[Sequence[str]]) -> Catalog:
    catalog: Catalog = {}
    for table, part, definition in rows:
        catalog.setdefault(table, {})[part] = definition
    return catalog


def _sqlite_parts(kind: str, name: str, sql: str) -> Iterator[tuple[str, str]]:
    sql = _normalise(sql)
    if kind == "index":
        yield f"index {name}", sql
        return
    body, _, options = sql.partition("(")[2].rpartition(")")
    for item in _split(body):
        words = item.split()
        if words[0] == "constraint":
            yield f"constraint {words[1]}", item
        elif words[0].partition("(")[0] in ("primary", "unique", "check", "foreign"):
            yield f"constraint {item}", item
        else:
            yield f"column {words[0]}", item.partition(" ")[2]
    if options.strip():
        yield "option", options.strip()


def _normalise(sql: str) -> str:
    """Remove comments and the quotes of names from SQL, and normalise case and spaces; text literals stay unchanged."""
    pieces = re.split(r"('(?:[^']|'')*')", _COMMENT.sub(" ", sql))
    return "".join(piece if piece.startswith("'") else re.sub(r'["`\[\]]', "", _fold(piece)) for piece in pieces)


def _fold(piece: str) -> str:
    # no spaces beside parentheses and commas, because authors of SQL use them differently
    return re.sub(r"\s*([(),])\s*", r"\1", re.sub(r"\s+", " ", piece.lower()))


def _split(body: str) -> Iterator[str]:
    depth = start = 0
    for position, character in enumerate(body):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield body[start:position].strip()
            start = position + 1
    yield body[start:].strip()
