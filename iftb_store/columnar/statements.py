"""Compiles SQLAlchemy statements for DuckDB, and converts DuckDB's rows to SQLAlchemy's Result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from sqlalchemy import ClauseElement, Dialect, Insert, Result
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import ObjectNotExecutableError
from sqlalchemy.sql.compiler import SQLCompiler

from iftb_store.columnar.driver import Cursor, to_python_rows
from iftb_store.errors import Unsupported

_Process = Callable[[Any], Any]


class _Dialect(PGDialect):
    # DuckDB uses PostgreSQL's SQL dialect; the name selects the types that tables.py defines for DuckDB
    name = "duckdb"
    supports_native_decimal = True


#: The SQLAlchemy dialect that compiles statements for DuckDB.
SQLALCHEMY_DIALECT: Dialect = _Dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
# DuckDB itself refuses the exceptions that write, in a read-only transaction: nextval(), a WITH that inserts, EXPLAIN ANALYZE of
# a write. DuckDB classifies DESCRIBE, SHOW and SUMMARIZE as SELECT
_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
# the other pragmas change settings, or write the log into the database file
_NAMES_OF_PRAGMAS = """
    collations database_list database_size functions metadata_info platform show show_databases show_tables show_tables_expanded
    storage_info table_info user_agent version
"""
_READING_PRAGMAS = frozenset(_NAMES_OF_PRAGMAS.split())
# an unterminated comment extends to the end
_SKIPPED = re.compile(r"[\s;]+|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_WORD = re.compile(r"\w+")


class Compiled(NamedTuple):
    """A statement for DuckDB: its text, one list of values per execution, and the functions that decode its columns."""

    sql: str
    parameters: list[list[Any]]
    decoders: list[_Process | None]


def compile_statement(statement: object, params: Any) -> Compiled:
    """Compile ``text("… :name")`` or another SQLAlchemy statement, with a dict of parameters or a list of dicts.

    Raises:
        sqlalchemy.exc.ObjectNotExecutableError: ``statement`` is something else, e.g. a str.
    """
    if not isinstance(statement, ClauseElement):
        raise ObjectNotExecutableError(statement)
    if isinstance(statement, Insert):
        # otherwise SQLAlchemy would add a RETURNING clause for the new ids
        statement = statement.inline()
    sets: list[Mapping[str, Any]] = [params or {}] if isinstance(params, Mapping) or not params else list(params)
    compiler = statement.compile(dialect=SQLALCHEMY_DIALECT, column_keys=list(sets[0]) or None)
    if not isinstance(compiler, SQLCompiler):
        return Compiled(str(compiler), [[]], [])
    sql, parameters = "", []
    for values in sets:
        state = compiler.construct_expanded_state(values, escape_names=False)
        encoders: Mapping[str, Any] = {**compiler._bind_processors, **state.processors}
        sql = state.statement
        parameters.append([_encode(encoders.get(name), state.parameters[name]) for name in state.positiontup or ()])
    return Compiled(sql, parameters, _decoders(statement))


def parse_statement(cursor: Cursor, sql: str) -> tuple[duckdb.Statement, bool]:
    """Parse one statement; return the parsed statement, and whether its type is one that only reads.

    The type does not show everything: a SELECT whose function writes counts as reading.

    Raises:
        Unsupported: the text has no statement, several statements, or one that begins or ends a transaction.
    """
    statements = cursor.statements(sql)
    if len(statements) != 1:
        raise Unsupported(f"one statement at a time can be executed, not {len(statements)}; call execute() for each")
    (statement,) = statements
    kind = _kind(statement)
    if kind == duckdb.StatementType.TRANSACTION:
        raise Unsupported("the session begins and ends transactions itself; use session.commit() and session.rollback()")
    return statement, kind in _READS or (kind == duckdb.StatementType.PRAGMA and _read_second_word(sql) in _READING_PRAGMAS)


def fetch_result(cursor: Cursor, statement: duckdb.Statement, wanted: Compiled) -> Result[Any]:
    """Run a parsed statement once per set of parameters; return the rows of the last execution."""
    table, types = pa.table({}), list[str]()
    for parameters in wanted.parameters:
        table, types = cursor.table(statement, parameters)
    names = table.schema.names
    if (
        names in (["Count"], ["Success"])
        and "returning" not in wanted.sql.lower()
        and _kind(statement) != duckdb.StatementType.SELECT
    ):
        # DuckDB returns the number of changed rows as a row, which is not a row of the statement
        return _result([], [])
    rows = to_python_rows(table, types)
    if len(wanted.decoders) == len(names) and any(wanted.decoders):
        rows = [tuple(map(_encode, wanted.decoders, row)) for row in rows]
    return _result(names, rows)


def _kind(statement: duckdb.Statement) -> duckdb.StatementType | None:
    """Return the type of a statement, or None if DuckDB's Python client has no name for its type."""
    try:
        return statement.type
    except ValueError:
        return None


def _read_second_word(sql: str) -> str:
    at, word = 0, None
    for _ in range(2):
        while skipped := _SKIPPED.match(sql, at):
            at = skipped.end()
        word = _WORD.match(sql, at)
        at = word.end() if word else at
    return word[0].lower() if word else ""


def _result(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Result[Any]:
    return IteratorResult(SimpleResultMetaData(names), iter(rows))


def _encode(process: _Process | None, value: Any) -> Any:
    return value if process is None else process(value)


def _decoders(statement: ClauseElement) -> list[_Process | None]:
    columns = getattr(statement, "exported_columns", ())
    return [column.type.dialect_impl(SQLALCHEMY_DIALECT).result_processor(SQLALCHEMY_DIALECT, None) for column in columns]
