"""Refuses a DuckDB file whose macros, views, triggers or expressions could run somebody else's code, before any row is read.

A macro with the name of a built-in function replaces that function, even `+` and count. So the queries here call
functions by their qualified names, and their only operators are comparisons, which no macro can replace.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from sqlalchemy.exc import OperationalError

from iftb_store.errors import operational_error
from iftb_store.schema.revision import (
    HARMLESS_FUNCTIONS,
    LONGEST_DEFINITION,
    OUR_TABLES,
    find_foreign_collation,
    foreign_part_error,
    not_a_table_error,
)
from iftb_store.schema.table_spec import OUR_COLUMNS
from iftb_store.values.display import show

#: Runs one query without parameters and returns its rows.
Fetch = Callable[[str], list[tuple[Any, ...]]]

_OWN = "database_name = system.main.current_database()"
_HERE = f"{_OWN} AND schema_name = system.main.current_schema()"
# judged by the database that contains the object; the flag "internal" could be set by a file
_NAMES = (
    ("function", "SELECT function_name, database_name FROM system.main.duckdb_functions()"),
    ("type", "SELECT type_name, database_name FROM system.main.duckdb_types()"),
    ("schema", "SELECT schema_name, database_name FROM system.main.duckdb_schemas()"),
)
# DuckDB's own functions are thousands, and most files have none: those of a file are looked for first
_OTHERS = "database_name IS DISTINCT FROM 'system' AND database_name IS DISTINCT FROM 'temp'"
_VIEWS = f"SELECT view_name FROM system.main.duckdb_views() WHERE {_HERE}"
_TABLES = f"SELECT table_name, sql FROM system.main.duckdb_tables() WHERE {_HERE}"
_INDEXES = f"SELECT table_name, sql FROM system.main.duckdb_indexes() WHERE {_HERE} AND sql IS NOT NULL"
_TRIGGERS = f"SELECT table_name, trigger_name FROM system.main.duckdb_triggers() WHERE {_HERE}"

_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\w+|[^\s\w]")
# words before a parenthesis that are not calls: keywords of definitions and expressions, and types
_BEFORE_BRACKETS = """
    all always and any as between bit case cast check collate decimal default else end enum exists from in is key list map
    not numeric on or over primary references some struct then try_cast union unique using values varchar when where
"""
_WORDS = frozenset(_BEFORE_BRACKETS.split())
_BYTE_BY_BYTE = frozenset({"binary", "c", "posix"})


def refuse_shadows(fetch: Fetch) -> None:
    """Raise if a database has macros, types or schemas that replace DuckDB's own.

    Raises:
        OperationalError: the database has such a macro, type or schema; the message names it.
    """
    for kind, query in _NAMES:
        if not fetch(f"{query} WHERE {_OTHERS}"):
            continue
        names: dict[str, set[str]] = {"system": set(), "temp": set()}
        for name, database in fetch(query):
            names.setdefault(database, set()).add(name)
        # names that the database of temporary tables has too are DuckDB's in every database, e.g. the schema main or the type
        # bigint
        own = {name.lower() for name in names.pop("system")} - {name.lower() for name in names.pop("temp")}
        shadows = sorted(name for found in names.values() for name in found if name.lower() in own)
        if shadows:
            raise _shadow_error("macro" if kind == "function" else kind, shadows[0], kind)


def _shadow_error(what: str, name: str, kind: str) -> OperationalError:
    return operational_error(
        f"the file has a {what} named {show(name)}, which replaces DuckDB's own {kind} and could make any statement "
        f"do something else; if you trust the file, drop the {what} with DuckDB itself; otherwise use another file"
    )


def refuse_foreign_objects(fetch: Fetch, *, trusted: bool) -> None:
    """Raise if a view has the name of an iftb-store table, or if a table of iftb-store has parts that could run foreign code.

    Such parts are triggers, generated columns and expressions that iftb-store did not create; ``trusted`` allows them.

    Raises:
        SchemaError: a view has the name of an iftb-store table; or a table of iftb-store has a trigger, a generated column, an
            expression that calls a function that could do harm, or a column with a collation.
    """
    for (name,) in fetch(_VIEWS):
        if name.lower() in OUR_TABLES:
            raise not_a_table_error(name, "view")
    for table, trigger in () if trusted else fetch(_TRIGGERS):
        if table.lower() in OUR_TABLES:
            raise foreign_part_error(table, f"the trigger {show(trigger)}")
    for table, sql in fetch(_TABLES):
        if table.lower() in OUR_TABLES:
            if len(sql) > LONGEST_DEFINITION and not trusted:
                raise foreign_part_error(table, f"a definition of more than {LONGEST_DEFINITION:,} characters")
            tokens = _inside(sql)
            _refuse_collations(table, tokens)
            if not trusted:
                _refuse_expressions(table, tokens)
    for table, sql in () if trusted else fetch(_INDEXES):
        if table.lower() in OUR_TABLES:
            _refuse_expressions(table, _inside(sql))


def _inside(sql: str) -> list[str]:
    # DuckDB generates the text from the parsed definition; only names precede the first parenthesis, and a quoted name may
    # contain one
    tokens = _TOKEN.findall(sql)
    return tokens[tokens.index("(") + 1 :] if "(" in tokens else []


def _refuse_collations(table: str, tokens: list[str]) -> None:
    """Raise if a column of iftb-store has a collation that does not compare bytes.

    A collation inside an expression is allowed; it is recognised by the parentheses around it.

    Args:
        table: the name of the table.
        tokens: the tokens of the table's definition.
    """
    depth, column = 0, tokens[0] if tokens else ""
    for word, following in pairwise(tokens):
        if word in {"(", ")"}:
            depth += 1 if word == "(" else -1
        elif depth == 0 and word == ",":
            column = following
        elif depth == 0 and word == "COLLATE" and following.strip('"').lower() not in _BYTE_BY_BYTE:
            name = column[1:-1].replace('""', '"') if column.startswith('"') else column
            if name.lower() in OUR_COLUMNS[table.lower()]:
                raise find_foreign_collation(table, name, following.strip('"'))


def _refuse_expressions(table: str, tokens: list[str]) -> None:
    if any(tokens[place : place + 3] == ["GENERATED", "ALWAYS", "AS"] for place in range(len(tokens))):
        raise foreign_part_error(table, "a generated column")
    for name in _calls(tokens):
        if name not in HARMLESS_FUNCTIONS:
            raise foreign_part_error(table, f"a default, a CHECK or an index that calls {show(name)}")


def _calls(tokens: list[str]) -> Iterator[str]:
    for place, token in enumerate(tokens[:-1]):
        if tokens[place + 1] != "(" or (place and tokens[place - 1].upper() == "REFERENCES"):
            continue
        if token.startswith('"'):
            yield token[1:-1].lower()
        elif (token[0].isalnum() or token[0] == "_") and token.lower() not in _WORDS:
            yield token.lower()
