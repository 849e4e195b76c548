"""What a stranger's SQLite file could run, refused before anything of it is read: views, triggers, expressions."""

from __future__ import annotations

import re
import sqlite3

from iftb_store.errors import SchemaError
from iftb_store.schema.revision import HARMLESS_FUNCTIONS, OUR_TABLES, foreign_part, not_a_table
from iftb_store.values.display import shown

_VIRTUAL = re.compile(r"create(?:\s|--[^\n]*\n|/\*.*?\*/)+virtual\b", re.IGNORECASE | re.DOTALL)
_OBJECTS = """
    SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(coalesce(sql, '') AS BLOB)
    FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')"""
# of PRAGMA table_xinfo: a generated column, computed as it is read or stored
_GENERATED = (2, 3)
# of a foreign key: these change the rows that refer, and so run the triggers of their table
_ACTIONS = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})
_MOST_OBJECTS = 10_000
_CALLS = ("Function", "PureFunc")


def refuse_foreign_objects(connection: sqlite3.Connection) -> None:
    """Refuse names of ours that are no tables, and tables of ours that run what another wrote.

    SQLite itself refuses a schema whose rows belie their definitions, so that the type of a row can be believed.

    Raises:
        SchemaError: one is a view or a virtual table, or has a trigger, a generated column, or calls a function that could do
            harm.
    """
    tables, triggers = [], []
    ((count,),) = connection.execute("SELECT count(*) FROM sqlite_master")
    if count > _MOST_OBJECTS:
        raise SchemaError(
            f"the database has {count} tables, indexes, views and triggers, and at most {_MOST_OBJECTS} are checked; "
            "drop those that are not needed, or use another database"
        )
    for row in connection.execute(_OBJECTS):
        # damaged bytes need not be text
        kind, name, table, sql = (value.decode(errors="replace") for value in row)
        if kind == "trigger":
            triggers.append((table, name))
        elif kind in ("table", "view") and name.lower() in OUR_TABLES:
            if kind == "view" or _VIRTUAL.match(sql):
                raise not_a_table(name, "view" if kind == "view" else "virtual table")
            tables.append(name)
    changed = _changed_with_ours(connection, {table for table, _ in triggers})
    for table, trigger in triggers:
        if table.lower() in changed:
            cause = "" if table.lower() in OUR_TABLES else " (run by a foreign key's action when a table of iftb-store changes)"
            raise foreign_part(table, f"the trigger {shown(trigger)}{cause}")
    for table in tables:
        _refuse_expressions(connection, table)


def _changed_with_ours(connection: sqlite3.Connection, tables: set[str]) -> set[str]:
    """Return in lower case our tables and which of ``tables`` a foreign key's action changes when one of ours changes."""
    followers: dict[str, list[str]] = {}
    waiting, seen = list(tables), set[str]()
    while waiting:
        name = waiting.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        for row in connection.execute(f"PRAGMA foreign_key_list({_quoted(name)})"):
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
    for row in connection.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchall():
        if row[6] in _GENERATED:
            raise foreign_part(table, f"the generated column {shown(row[1])}")
    try:
        # compiled and not run: it has every call of a default, a CHECK and an index
        program = connection.execute(f"EXPLAIN INSERT INTO {_quoted(table)} DEFAULT VALUES").fetchall()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
            raise
        raise foreign_part(table, f"a default, a CHECK or an index that cannot be used ({shown(str(error), 200)})") from error
    for _, operation, _, _, _, call, *_ in program:
        name = "||" if operation == "Concat" else str(call).partition("(")[0] if operation in _CALLS else None
        if name is not None and name not in HARMLESS_FUNCTIONS:
            raise foreign_part(table, f"a default, a CHECK or an index that calls {shown(name)}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
