"""The views for SQL that people write, one per table: the same query of a view gives the same answer on every engine.

All numbers, including ids and counts, are DOUBLE; a time is UTC text of fixed width, ``YYYY-MM-DD HH:MM:SS.ffffff``; text,
including JSON, compares by its bytes. Queries of a view do not use the indexes of its table.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, inspect, text

from iftb_store.schema.types import ExactDecimal, JSONObject, UTCDateTime

#: The views, each with the table whose rows it shows.
VIEWS = {
    f"{table}_view": table
    for table in ("ohlcv", "trades", "positions", "system_events", "fills", "ledger_entries", "balance_snapshots")
}


def complement_digits(digits: str) -> str:
    """Return an SQLite expression that replaces each digit d by 9 - d in the text of another SQL expression, ``digits``."""
    for low, high in ("09", "18", "27", "36", "45"):
        digits = f"replace(replace(replace({digits}, '{low}', 'x'), '{high}', '{low}'), 'x', '{high}')"
    return digits


# SQLite: the sortable text of a negative decimal has the nines' complement of its digits; a cast ignores the tilde at its end
_SQLITE_DECIMAL = (
    f"CASE WHEN {{0}} < 'U' THEN -CAST({complement_digits('substr({0}, 2)')} AS REAL) ELSE CAST(substr({{0}}, 2) AS REAL) END"
)
_MICROSECONDS = "(({0} % 1000000) + 1000000) % 1000000"
# for each engine the SQL of a decimal, a time, a whole number, JSON and other text
_EXPRESSIONS = {
    "sqlite": (
        _SQLITE_DECIMAL,
        f"strftime('%Y-%m-%d %H:%M:%S', ({{0}} - {_MICROSECONDS}) / 1000000, 'unixepoch') || printf('.%06d', {_MICROSECONDS})",
        "CAST({0} AS REAL)",
        "{0}",
        "{0}",
    ),
    "duckdb": (
        "CAST({0} AS DOUBLE)",
        "strftime(make_timestamp(epoch_us({0})), '%Y-%m-%d %H:%M:%S.%f')",
        "CAST({0} AS DOUBLE)",
        "CAST({0} AS VARCHAR)",
        "{0}",
    ),
    "postgresql": (
        "CAST({0} AS double precision)",
        "pg_catalog.to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') COLLATE pg_catalog.\"C\"",
        "CAST({0} AS double precision)",
        'CAST({0} AS text) COLLATE pg_catalog."C"',
        'CAST({0} AS text) COLLATE pg_catalog."C"',
    ),
}
# a view of PostgreSQL 15 or newer reads with the rights of whoever queries it, so that row-level security holds
_INVOKER = (
    "DO $$ BEGIN IF CAST(pg_catalog.current_setting('server_version_num') AS integer) OPERATOR(pg_catalog.>=) 150000 "
    "THEN ALTER VIEW {0} SET (security_invoker = true); END IF; END $$"
)


def create_view_sql(table: sa.Table, dialect: str) -> list[str]:
    """Return the statements that create the view of a table on an engine; the dialect is sqlite, duckdb or postgresql."""
    columns = ", ".join(f"{_expression(column, dialect)} AS {column.name}" for column in table.columns)
    statement = f"CREATE VIEW {table.name}_view AS SELECT {columns} FROM {table.name}"
    return [statement, _INVOKER.format(f"{table.name}_view")] if dialect == "postgresql" else [statement]


def create_views(metadata: sa.MetaData, connection: Connection, **options: Any) -> None:
    """Create the missing views of the tables that exist; SQLAlchemy calls this function after it has created tables.

    A table of an older revision, which lacks a column, gets no view.
    """
    if connection.dialect.name not in _EXPRESSIONS:
        return
    for view, table in VIEWS.items():
        if not _exists(connection, table) or _exists(connection, view):
            continue
        present = connection.execute(text(f"SELECT * FROM {table} LIMIT 0")).keys()
        if all(column.name in present for column in metadata.tables[table].columns):
            for statement in create_view_sql(metadata.tables[table], connection.dialect.name):
                connection.execute(text(statement.replace(":", r"\:")))


def drop_views(metadata: sa.MetaData, connection: Connection, **options: Any) -> None:
    """Drop the views; SQLAlchemy calls this function before it drops tables."""
    if connection.dialect.name in _EXPRESSIONS:
        for view in VIEWS:
            connection.execute(text(f"DROP VIEW IF EXISTS {view}"))


def _exists(connection: Connection, name: str) -> bool:
    if connection.dialect.name == "postgresql":
        # SQLAlchemy's own query calls functions that others could have put into the search_path
        return bool(connection.execute(text(f"SELECT pg_catalog.to_regclass('{name}') IS NOT NULL")).scalar_one())
    found = inspect(connection)
    return found.has_table(name) or name in found.get_view_names()


def _expression(column: sa.Column[Any], dialect: str) -> str:
    decimal, time, number, json, words = _EXPRESSIONS[dialect]
    kinds = {ExactDecimal: decimal, UTCDateTime: time, sa.BigInteger: number, JSONObject: json}
    template = next((sql for kind, sql in kinds.items() if isinstance(column.type, kind)), words)
    return template.format(f"{column.table.name}.{column.name}" if dialect == "postgresql" else column.name)
