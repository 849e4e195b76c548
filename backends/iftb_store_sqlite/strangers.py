"""Refuses an SQLite file whose views, triggers or expressions could run somebody else's code, before any row is read."""

from __future__ import annotations

import itertools
import re
import sqlite3
from typing import Any

from iftb_store.errors import SchemaError
from iftb_store.schema.revision import (
    HARMLESS_FUNCTIONS,
    LONGEST_DEFINITION,
    OUR_TABLES,
    find_foreign_collation,
    foreign_part_error,
    not_a_table_error,
)
from iftb_store.schema.table_spec import DEFAULTS, FILLED_COLUMNS, OUR_COLUMNS
from iftb_store.values.display import show

_VIRTUAL = re.compile(r"create(?:\s|--[^\n]*\n|/\*.*?\*/)+virtual\b", re.IGNORECASE | re.DOTALL)
_OBJECTS = f"""
    SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB),
        substr(CAST(coalesce(sql, '') AS BLOB), 1, {LONGEST_DEFINITION + 1})
    FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')"""
# values of the column "hidden" of PRAGMA table_xinfo for generated columns, which are computed when read or stored
_GENERATED = (2, 3)
# actions of a foreign key that change the referring rows, and so run the triggers of their table
_ACTIONS = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})
_MOST_OBJECTS = 10_000
_BINARY = "BINARY"
_CALLS = ("Function", "PureFunc")
_COMPARISONS = ("Eq", "Ne")
_NUMBERS = itertools.count()


def refuse_foreign_objects(connection: sqlite3.Connection) -> None:
    """Raise if a view or virtual table has the name of an iftb-store table, or if such a table could run foreign code.

    Foreign code is in triggers, generated columns and expressions that iftb-store did not create; ``trusted=true`` in the URL
    allows them. SQLite itself refuses a schema in which the type of an entry contradicts its definition, so the check relies on
    the type.

    Raises:
        SchemaError: a view or a virtual table has the name of an iftb-store table; or a table of iftb-store has a trigger, a
            generated column, a default that iftb-store did not define, an expression that calls a function that could do
            harm, or a column with a collation; or the schema is too large to be checked.
    """
    tables, triggers = [], []
    # an application's own connection has no attribute ``trusted``
    trusted = getattr(connection, "trusted", False)
    ((count,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    if count > _MOST_OBJECTS and not trusted:
        raise SchemaError(
            f"the database has {count} tables, indexes, views and triggers, and at most {_MOST_OBJECTS} are checked; "
            "drop those that are not needed, or use another database"
        )
    for row in connection.execute(_OBJECTS):
        # damaged bytes need not be UTF-8
        kind, name, table, sql = (value.decode(errors="replace") for value in row)
        if kind == "trigger":
            triggers.append((table, name))
        elif kind in ("table", "view") and name.lower() in OUR_TABLES:
            if kind == "view" or _VIRTUAL.match(sql):
                raise not_a_table_error(name, "view" if kind == "view" else "virtual table")
            if len(sql) > LONGEST_DEFINITION and not trusted:
                raise foreign_part_error(name, f"a definition of more than {LONGEST_DEFINITION:,} characters")
            tables.append(name)
    for table in tables:
        _refuse_collations(connection, table)
    if not trusted:
        _refuse_code(connection, tables, triggers)


def _refuse_code(connection: sqlite3.Connection, tables: list[str], triggers: list[tuple[str, str]]) -> None:
    changed = _find_changed_tables(connection, {table for table, _ in triggers})
    for table, trigger in triggers:
        if table.lower() in changed:
            cause = "" if table.lower() in OUR_TABLES else " (run by a foreign key's action when a table of iftb-store changes)"
            raise foreign_part_error(table, f"the trigger {show(trigger)}{cause}")
    for table in tables:
        _refuse_expressions(connection, table)


def _find_changed_tables(connection: sqlite3.Connection, tables: set[str]) -> set[str]:
    """Return the names in lower case of the tables that can change when a table of iftb-store changes.

    These are iftb-store's own tables, and the tables that an action of a foreign key, e.g. ON DELETE CASCADE, would change.

    Args:
        connection: a connection to the database.
        tables: the tables to consider; tables that their foreign keys reference are considered too.
    """
    followers: dict[str, list[str]] = {}
    waiting, seen = list(tables), set[str]()
    while waiting:
        name = waiting.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        for row in connection.execute(f"PRAGMA foreign_key_list({_quote(name)})"):
            if not _ACTIONS.isdisjoint(row[5:7]):
                followers.setdefault(row[2].lower(), []).append(name.lower())
                waiting.append(row[2])
    waiting, changed = list(OUR_TABLES), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in changed:
            changed.add(name)
            waiting += followers.get(name, ())
    return changed


def _refuse_expressions(connection: sqlite3.Connection, table: str) -> None:
    for _, column, _, _, default, _, hidden in connection.execute(f"PRAGMA table_xinfo({_quote(table)})").fetchall():
        if hidden in _GENERATED:
            raise foreign_part_error(table, f"the generated column {show(column)}")
        # rows stored before a column was added do not contain it: SQLite evaluates the default for each of them
        ours = column.lower() in OUR_COLUMNS[table.lower()] and column.lower() not in FILLED_COLUMNS
        known = ("NULL", f"'{DEFAULTS[column.lower()]}'") if column.lower() in DEFAULTS else ("NULL",)
        if ours and default is not None and default.upper() not in known:
            raise foreign_part_error(table, f"a default of the column {show(column)}")
    try:
        # compiled but not run; the program contains every call of a default, a CHECK or an index
        program = _explain(connection, f"INSERT INTO {_quote(table)} DEFAULT VALUES")
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_ERROR:
            raise
        raise foreign_part_error(
            table, f"a default, a CHECK or an index that cannot be used ({show(str(error), 200)})"
        ) from error
    for _, operation, _, _, _, call, *_ in program:
        name = "||" if operation == "Concat" else str(call).partition("(")[0] if operation in _CALLS else None
        if name is not None and name not in HARMLESS_FUNCTIONS:
            raise foreign_part_error(table, f"a default, a CHECK or an index that calls {show(name)}")


def _refuse_collations(connection: sqlite3.Connection, table: str) -> None:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_xinfo({_quote(table)})").fetchall()]
    for column in columns:
        if column.lower() not in OUR_COLUMNS[table.lower()]:
            continue
        try:
            # compiled but not run; the comparison uses the column's collation
            program = _explain(connection, f"SELECT {_quote(column)} = '' FROM {_quote(table)}")
        except sqlite3.OperationalError as error:
            if "collation" not in str(error):
                raise
            raise find_foreign_collation(table, column, str(error).rpartition(": ")[2]) from error
        for _, operation, _, _, _, call, *_ in program:
            collation = str(call).rpartition("-")[0] if operation in _COMPARISONS and call else _BINARY
            if collation.upper() != _BINARY:
                raise find_foreign_collation(table, column, collation)


def _explain(connection: sqlite3.Connection, sql: str) -> list[Any]:
    # the number keeps the statement out of sqlite3's cache: EXPLAIN of a statement that was compiled before its table was dropped
    # reads memory that SQLite has freed
    return connection.execute(f"EXPLAIN {sql} -- {next(_NUMBERS)}").fetchall()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
