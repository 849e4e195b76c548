"""Tells whether the schema that was found can be used, and which command helps where it cannot."""

from __future__ import annotations

from iftb_store.errors import SchemaError

#: Our Alembic version table; an app's own ``alembic_version`` in the same database is another one.
VERSION_TABLE = "iftb_store_version"

#: Every revision that this version of the package knows, oldest first. A test compares them with the history's directory: to
#: read that takes Alembic, whose import would hold up the event loop in a process's first call.
REVISIONS = ("0001",)
HEAD = REVISIONS[-1]


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
