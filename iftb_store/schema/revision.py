"""Checks whether the schema of a database can be used; if it cannot, the error names the command to run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from iftb_store.errors import SchemaError
from iftb_store.values.display import show

#: The Alembic version table of iftb-store; an app can have its own ``alembic_version`` in the same database.
VERSION_TABLE = "iftb_store_version"

#: Every revision that this version of the package knows, oldest first. They are listed here because reading them from the
#: migrations would import Alembic, which would block the event loop; a test compares this list with the migrations.
REVISIONS = ("0001", "0002", "0003", "0004")
HEAD = REVISIONS[-1]
#: A table and the column that the newest revision added to it: tables without a recorded revision are older if it is missing.
NEWEST_COLUMN = ("trades", "account")
#: Maximum length of a table's definition in characters. A longer one may have huge default values, which are not stored in
#: the rows but appear in every row that is read.
LONGEST_DEFINITION = 65_536
#: The names of iftb-store's tables; if such a name exists in a database, it must be a table.
OUR_TABLES = (
    "ohlcv",
    "trades",
    "positions",
    "system_events",
    "bar_digests",
    "fills",
    "ledger_entries",
    "balance_snapshots",
    VERSION_TABLE,
)

#: SQL functions that a table's definition may call: they are fast, and their results are no longer than their arguments.
_HARMLESS = """
    abs ceil ceiling coalesce current_date current_timestamp date date_part date_trunc datetime day epoch_us floor
    gen_random_uuid get_current_timestamp greatest ifnull iif instr julianday least length lower ltrim max min month nextval
    now nullif random round rtrim sign strftime strlen substr substring time to_timestamp today trim trunc typeof unicode
    unixepoch upper uuid year
"""
HARMLESS_FUNCTIONS = frozenset(_HARMLESS.split())


_reads_older: ContextVar[bool] = ContextVar("iftb_store_reads_older", default=False)


@contextmanager
def read_older() -> Iterator[None]:
    """Accept tables of an older revision within the block; whoever reads them must not name columns that it lacks."""
    token = _reads_older.set(True)
    try:
        yield
    finally:
        _reads_older.reset(token)


def check_revision(has_tables: bool, stamped: str | None, url: str = "URL", *, has_newest: bool = True) -> bool:
    """Return True if the tables are at this version's revision; tables without a revision are accepted, and count as such.

    Within `read_older`, return False for an older revision.

    Args:
        has_tables: whether the database has tables of iftb-store.
        stamped: the revision that is recorded in the database, or None.
        url: the database's URL as an argument of a command, with the password hidden.
        has_newest: whether the database has `NEWEST_COLUMN`, or no such table; it matters only if no revision is recorded.

    Raises:
        SchemaError: there are no tables, or their revision is older or newer; the message names the command to run.
    """
    if not has_tables:
        raise SchemaError(f"the database has no tables of iftb-store; run `iftb-store migrate {url}` or await db.migrate()")
    if stamped is None and not has_newest:
        table, column = NEWEST_COLUMN
        raise SchemaError(
            f"the tables have no recorded revision and are older than {HEAD} of this version: {table} has no column {column}; "
            f"run `iftb-store migrate {url}` or await db.migrate()"
        )
    if stamped in (None, HEAD):
        return True
    if stamped in REVISIONS and _reads_older.get():
        return False
    if stamped in REVISIONS:
        raise SchemaError(
            f"the database is at revision {stamped}, which is older than {HEAD} of this version; "
            f"run `iftb-store migrate {url}` or await db.migrate()"
        )
    raise SchemaError(
        f"the database was migrated by a newer iftb-store: it is at revision {stamped}, this version knows up to {HEAD}; "
        "run `pip install --upgrade iftb-store`"
    )


def not_a_table_error(name: str, kind: str) -> SchemaError:
    """Return the error for a view or other object that has the name of a table of iftb-store but is not a table.

    Such an object is not read, because reading it could run code of whoever created it.
    """
    return SchemaError(
        f"{show(name)} is a {kind} and not a table of iftb-store; it was not read, as that could run the code of whoever "
        "created it; drop or rename it, or use another database"
    )


def foreign_part_error(table: str, part: str) -> SchemaError:
    """Return the error for a part of a table, e.g. a trigger or a generated column, that could run somebody else's code."""
    return SchemaError(
        f"the table {show(table)} has {part}, which is not part of iftb-store; the table was not read, as that could run the "
        "code of whoever created it; drop that part, use another database, or, if you trust whoever made it, add "
        "?trusted=true to the URL (a backup that is restored by its path is never trusted; copy from its URL instead)"
    )


def foreign_collation(table: str, column: str, collation: str) -> SchemaError:
    """Return the error for a column whose collation is not bytewise, so that two different keys could compare as equal."""
    return SchemaError(
        f"the column {show(column)} of the table {show(table)} has the collation {show(collation)}, in which different "
        "texts can be equal, so that one row would be taken for another; nothing was read; create the table without that "
        "collation, or use another database"
    )
