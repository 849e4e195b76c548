"""Checks of single values: NULL in a required column, values that cannot be read back, unusable names, unknown words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Column, Table

from iftb_store.doctor.checks import Check, join_conditions
from iftb_store.doctor.sql import Engine
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import ColumnKind, describe_column
from iftb_store.schema.tables import Base, Key
from iftb_store.values.checks import LONGEST_NAME

BARS, TRADES, POSITIONS, EVENTS, FILLS, LEDGER, BALANCES = (Base.metadata.tables[name] for name in TABLES)

_WORDS = {
    ColumnKind.DECIMAL: "a decimal with at most 20 digits before and 18 after the point",
    ColumnKind.TIME: "a time of the years 1 to 9999",
    ColumnKind.JSON: "a JSON object",
    ColumnKind.INTEGER: "a whole number",
    ColumnKind.TEXT: "text",
    ColumnKind.TEXTS: "a JSON array of texts",
}


def list_value_checks(engine: Engine, table: Table) -> Iterator[Check]:
    """Yield the checks that look at each value separately."""
    for column in table.columns:
        name = column.name
        if not column.nullable:
            yield _missing(engine, table, column)
        wrong = _unreadable(engine, column)
        if wrong is not None:
            yield from _unreadables(engine, table, column, f"{name} IS NOT NULL AND {wrong}")
        unusable = _unusable(engine, table, column)
        if unusable is not None:
            kind, condition, known = unusable
            if wrong is not None:
                # do not report a value twice
                condition = f"NOT {wrong} AND {condition}"
            yield _wrong(kind, table, column, condition, f"{name} {known}")


def readable_sql(engine: Engine, table: Table, columns: Iterable[Column[Any]]) -> str:
    """Return the SQL condition that a row has only valid values in these columns."""
    parts = []
    for column in columns:
        wrong, unusable = _unreadable(engine, column), _unusable(engine, table, column)
        sound = " AND ".join(f"NOT {fault}" for fault in (wrong, unusable and unusable[1]) if fault)
        if not column.nullable:
            parts += [f"{column.name} IS NOT NULL", sound]
        elif sound:
            parts.append(f"({column.name} IS NULL OR ({sound}))")
    return join_conditions(*parts)


def _unreadable(engine: Engine, column: Column[Any]) -> str | None:
    wrong = engine.unreadable.get(describe_column(column).kind)
    return None if wrong is None else wrong.format(column.name)


def _unusable(engine: Engine, table: Table, column: Column[Any]) -> tuple[str, str, str] | None:
    """Return (kind of problem, SQL condition for wrong values, rule in words) for a column that does not accept every text.

    Such a column accepts only certain words, or only names. For any other column the result is None.
    """
    choices = describe_column(column).choices
    if choices:
        words = ", ".join(f"'{choice}'" for choice in choices)
        unknown = f"({engine.compared.format(column.name)} NOT IN ({words}))"
        return f"unknown {column.name}", unknown, f"must be one of {', '.join(choices)}"
    if not isinstance(column.type, Key) or column.nullable:
        return None
    space = " || ".join(["' '", *(f"{engine.character}({code})" for code in (9, 10, 13))])
    blank = f"(trim({column.name}, {space}) = '' OR length({engine.compared.format(column.name)}) > {LONGEST_NAME})"
    if describe_column(column).default == "":
        blank = f"({engine.compared.format(column.name)} <> '' AND {blank})"
        return "unusable name", blank, f"must have 1 to {LONGEST_NAME} characters and not be blank, or be empty"
    return "unusable name", blank, f"must have 1 to {LONGEST_NAME} characters and not be blank"


def _missing(engine: Engine, table: Table, column: Column[Any]) -> Check:
    condition, name = f"{column.name} IS NULL", column.name
    default = describe_column(column).default
    if default is not None:
        remedy = f"{name} must not be NULL; set the text of a row that does not set it"
        fix = f"UPDATE {table.name} SET {name} = '{default}'"
        return Check("missing value", "error", table, name, condition, remedy, fix)
    if column.server_default is not None:
        remedy = f"{name} must not be NULL; set the current time, as for a new row"
        return Check("missing value", "error", table, name, condition, remedy, f"UPDATE {table.name} SET {name} = {engine.now}")
    return _wrong("missing value", table, column, condition, f"{name} must not be NULL")


def _unreadables(engine: Engine, table: Table, column: Column[Any], condition: str) -> Iterator[Check]:
    name, kind = column.name, describe_column(column).kind
    if kind == ColumnKind.DECIMAL and engine.plain_decimals:
        remedy = "decimals are stored here as sortable text, see docs/sql.md; plain digits are read and compared wrongly"
        for is_plain, converted in engine.plain_decimals:
            fix = f"UPDATE {table.name} SET {name} = {converted.format(name)}"
            yield Check("plain decimal", "error", table, name, is_plain.format(name), remedy, fix)
            condition = f"{condition} AND NOT {is_plain.format(name)}"
    why = f"{name} cannot be read as {_WORDS[kind]}"
    if column.nullable:
        remedy = f"{why}; set the correct value, or NULL"
        yield Check("unreadable value", "error", table, name, condition, remedy, f"UPDATE {table.name} SET {name} = NULL")
    else:
        yield _wrong("unreadable value", table, column, condition, why)


def _wrong(kind: str, table: Table, column: Column[Any], condition: str, why: str) -> Check:
    if table is BARS:
        remedy = f"{why}; delete these bars and import them again"
        return Check(kind, "error", table, column.name, condition, remedy, f"DELETE FROM {table.name}")
    remedy = f"{why}; set the correct value: UPDATE {table.name} SET {column.name} = … WHERE id = …"
    return Check(kind, "error", table, column.name, condition, remedy)
