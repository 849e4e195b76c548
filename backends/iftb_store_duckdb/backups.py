"""A backup of a DuckDB database: copied by DuckDB itself, in one transaction, into a file that it has open meanwhile."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import duckdb

from iftb_store_duckdb.driver import Cursor
from iftb_store_duckdb.files import create_log, create_private

_names = count()


def back_up(cursor: Cursor, path: str) -> None:
    """Copy everything: tables with their keys, indexes and defaults, and sequences with the place where they stand."""
    name = f"iftb_store_backup_{next(_names)}"
    create_private(Path(path))
    quoted = path.replace("'", "''")
    ((source,),) = cursor.fetch("SELECT current_database()")
    cursor.table(f"ATTACH '{quoted}' AS {name} (TYPE duckdb)")
    try:
        create_log(path)
        cursor.table(f'COPY FROM DATABASE "{source.replace(chr(34), 2 * chr(34))}" TO {name}')
        cursor.table(f"CHECKPOINT {name}")
    finally:
        _detach(cursor, name)


def _detach(cursor: Cursor, name: str) -> None:
    while True:
        try:
            cursor.table(f"DETACH {name}")
        except duckdb.InterruptException:
            # it was meant for the statement before, and comes too late for it
            continue
        return
