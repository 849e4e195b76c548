"""Backs up a DuckDB database: reads the tables of iftb-store in one snapshot and writes them to a second one as Arrow batches.

DuckDB's own copy would have to attach the new file, which is not possible without access to other files.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import duckdb

from iftb_store.columnar import Cursor, SpillFolder, connect_closed
from iftb_store.errors import operational_error
from iftb_store.schema.revision import OUR_TABLES
from iftb_store.schema.table_spec import DIGESTS
from iftb_store.schema.tables import Base
from iftb_store.schema.views import VIEWS, create_view_sql
from iftb_store.values.display import show
from iftb_store_duckdb.files import create_log, create_private
from iftb_store_duckdb.url import Options

_log = logging.getLogger(__name__)

_HERE = "database_name = current_database() AND schema_name = current_schema()"
# the number of rows in one of DuckDB's row groups, so that a group is written once and not merged later
_ROWS = 122_880
# for tables with long texts: the number of rows that DuckDB processes at once
_LONG_ROWS = 2_048
_SHORT = ("ohlcv",)
_BATCH = "iftb_store_batch"
_SEQUENCES = f"""
    SELECT sequence_name, start_value, min_value, max_value, increment_by, cycle, last_value
    FROM duckdb_sequences() WHERE {_HERE}"""
_STORED = f"""
    SELECT column_name FROM duckdb_columns() WHERE {_HERE} AND table_name = $1 AND NOT is_generated ORDER BY column_index"""
_TRIGGERS = f"SELECT trigger_name, table_name FROM duckdb_triggers() WHERE {_HERE}"
_LITERAL = re.compile(r"\"(?:[^\"]|\"\")*\"|'((?:[^']|'')*)'")
# the last part of a name that may be qualified with a schema
_LAST_NAME = re.compile(r"(?:\"((?:[^\"]|\"\")*)\"|([^\".]+))\s*$")


def back_up(cursor: Cursor, options: Options, path: str, tell: Callable[[int, int], None]) -> None:
    """Copy the tables of iftb-store with their keys, indexes, defaults and sequences into the new file ``path``.

    The digests that `iftb-store copy` keeps in a destination are not copied; the next copy computes them again.

    Args:
        cursor: a cursor in a transaction, whose snapshot is copied.
        options: the options of the database's URL.
        path: the path of the new file.
        tell: called after each batch with the number of bytes written, and with the size of the source in bytes; the second
            number is never smaller than the first.
    """
    create_private(Path(path))
    create_log(path)
    spills = SpillFolder(f"{path}.tmp", given=False)
    config = {name: value for name, value in options.config.items() if name in ("threads", "memory_limit")}
    spills.enter()
    try:
        target = replace(options, path=path, config={**config, "temp_directory": spills.path}, external_access=False)
        with closing(connect_closed(target.path, target.config)) as copy, cursor.also_interrupt(copy):
            _warn_of_left_out(cursor)
            _copy(cursor, copy, lambda size: tell(size, max(size, _size(options.path))), path)
            copy.execute("CHECKPOINT")
    finally:
        spills.leave()


def _copy(cursor: Cursor, copy: duckdb.DuckDBPyConnection, tell: Callable[[int], None], path: str) -> None:
    tables = dict(cursor.fetch(f"SELECT table_name, sql FROM duckdb_tables() WHERE {_HERE} AND NOT internal"))
    _copy_sequences(cursor, copy, [tables[table] for table in OUR_TABLES if table in tables])
    for table in OUR_TABLES:
        if table not in tables:
            continue
        # use the table's own definition, which was checked, so that a table in which the doctor finds problems can be backed up
        # too
        _create(copy, tables[table])
        if table != DIGESTS.name:
            _copy_rows(cursor, copy, table, lambda: tell(_size(path)))
    for table, sql in cursor.fetch(f"SELECT table_name, sql FROM duckdb_indexes() WHERE {_HERE} AND sql IS NOT NULL"):
        if table in OUR_TABLES:
            _create(copy, sql)
    for (view,) in cursor.fetch(f"SELECT view_name FROM duckdb_views() WHERE {_HERE}"):
        if view in VIEWS and VIEWS[view] in tables:
            # not the file's definition, which nobody checked
            for sql in create_view_sql(Base.metadata.tables[VIEWS[view]], "duckdb"):
                _create(copy, sql)


def _copy_sequences(cursor: Cursor, copy: duckdb.DuckDBPyConnection, definitions: list[str]) -> None:
    named = {name for sql in definitions for name in _names_in_literals(sql)}
    # the sequences are read after the snapshot began, so they have moved past every id in it
    for name, start, low, high, step, cycle, last in cursor.fetch(_SEQUENCES):
        if name.lower() not in named:
            continue
        # the next value of an exhausted sequence lies outside its range
        start = min(max(start, low), high)
        # not the stored definition, in which DuckDB does not quote the name
        quoted = _quote(name)
        copy.execute(
            f"CREATE SEQUENCE {quoted} INCREMENT BY {int(step)} MINVALUE {int(low)} MAXVALUE {int(high)} START {int(start)} "
            + ("CYCLE" if cycle else "NO CYCLE")
        )
        if last is not None:
            literal = quoted.replace("'", "''")
            copy.execute(f"SELECT setval('{literal}', $1)", [last])


def _names_in_literals(sql: str) -> Iterator[str]:
    """Yield in lower case every name that a text literal in a definition could refer to, as in ``nextval('main."My Seq"')``."""
    for literal in _LITERAL.finditer(sql):
        name = _LAST_NAME.search(literal[1].replace("''", "'")) if literal[1] else None
        if name:
            yield (name[2] if name[1] is None else name[1].replace('""', '"')).strip().lower()


def _create(copy: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Run the CREATE statement of a table or an index; raise if the text is not exactly one CREATE statement."""
    statements = copy.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.CREATE:
        raise operational_error(f"the definition {show(sql, 200)} in the file is not a single CREATE statement; it was not run")
    copy.execute(statements[0])


def _copy_rows(cursor: Cursor, copy: duckdb.DuckDBPyConnection, table: str, tell: Callable[[], None]) -> None:
    # generated columns are computed again in the copy
    stored = ", ".join(_quote(name) for (name,) in cursor.fetch(_STORED, [table]))
    for batch in cursor.batches(f"SELECT {stored} FROM {table}", _ROWS if table in _SHORT else _LONG_ROWS):
        copy.register(_BATCH, batch)
        copy.execute(f"INSERT INTO {table} ({stored}) SELECT {stored} FROM {_BATCH}")
        copy.unregister(_BATCH)
        tell()


def _warn_of_left_out(cursor: Cursor) -> None:
    tables = [name for (name,) in cursor.fetch("SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary")]
    views = [name for (name,) in cursor.fetch("SELECT view_name FROM duckdb_views() WHERE NOT internal AND NOT temporary")]
    triggers = [name for name, table in cursor.fetch(_TRIGGERS) if table in OUR_TABLES]
    others = sorted({*tables, *views, *triggers} - {*OUR_TABLES, *VIEWS})
    if others:
        _log.warning(
            "the backup does not contain these objects, which do not belong to iftb-store: %s", ", ".join(map(show, others))
        )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _size(path: str) -> int:
    return sum(file.stat().st_size for file in (Path(path), Path(f"{path}.wal")) if file.exists())
