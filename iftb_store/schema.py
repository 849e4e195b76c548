"""Tells whether the schema that was found can be used, and which command helps where it cannot."""

from __future__ import annotations

from iftb_store.errors import SchemaError
from iftb_store.messages import shown

#: Our Alembic version table; an app's own ``alembic_version`` in the same database is another one.
VERSION_TABLE = "iftb_store_version"

#: Every revision that this version of the package knows, oldest first. A test compares them with the history's directory: to
#: read that takes Alembic, whose import would hold up the event loop in a process's first call.
REVISIONS = ("0001",)
HEAD = REVISIONS[-1]
#: Every name that must be a table wherever it is there.
OUR_TABLES = ("ohlcv", "trades", "positions", "system_events", VERSION_TABLE)

#: Characters of the definition of a table of ours: one that is longer fills columns with long texts, which no row stores.
LONGEST_DEFINITION = 65_536

#: SQL functions that a table's definition may call: quick, and their results are no longer than what they are given.
_HARMLESS = """
    abs ceil ceiling coalesce current_date current_timestamp date date_part date_trunc datetime day epoch_us floor
    gen_random_uuid get_current_timestamp greatest ifnull iif instr julianday least length lower ltrim max min month nextval
    now nullif random round rtrim sign strftime strlen substr substring time to_timestamp today trim trunc typeof unicode
    unixepoch upper uuid year
"""
HARMLESS_FUNCTIONS = frozenset(_HARMLESS.split())


def check_revision(has_tables: bool, stamped: str | None) -> None:
    """Accept our tables at this version's revision, or unstamped.

    Raises:
        SchemaError: no tables of ours, or an older or newer revision; the message names the command.
    """
    if not has_tables:
        raise SchemaError("the database has no tables of iftb-store; run `iftb-store migrate URL` or await db.migrate()")
    if stamped is None:
        return
    if stamped == HEAD:
        return
    if stamped in REVISIONS:
        raise SchemaError(
            f"the database stands at revision {stamped}, behind {HEAD} of this version; "
            "run `iftb-store migrate URL` or await db.migrate()"
        )
    raise SchemaError(
        f"the database was migrated by a newer iftb-store: it stands at revision {stamped}, this version knows up to {HEAD}; "
        "run `pip install --upgrade iftb-store`"
    )


def not_a_table(name: str, kind: str) -> SchemaError:
    """Return the error for a name of ours that is no table: to read it would run what its maker wrote."""
    return SchemaError(
        f"{shown(name)} is a {kind} and not a table of iftb-store; it was not read, as that could run what its maker wrote: "
        "drop or rename it, or use another database"
    )


def foreign_part(table: str, part: str) -> SchemaError:
    """Return the error for a part of a table of ours that would run what its maker wrote: a trigger, a generated column."""
    return SchemaError(
        f"the table {shown(table)} has {part}, which is not of iftb-store; the table was not read, as that could run what its "
        "maker wrote: drop that part, use another database, or, if you trust whoever made it, add ?trusted=true to the URL (a "
        "backup that is restored by its path is never trusted; copy from its URL instead)"
    )


def foreign_collation(table: str, column: str, collation: str) -> SchemaError:
    """Return the error for a column of ours whose texts are not compared byte by byte: rows would be taken for one another."""
    return SchemaError(
        f"the column {shown(column)} of the table {shown(table)} has the collation {shown(collation)}, by which different "
        "texts can be equal, so that rows would be taken for one another; nothing was read: make the table anew without that "
        "collation, or use another database"
    )
