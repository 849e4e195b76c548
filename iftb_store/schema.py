"""Tells whether the schema that was found can be used, and which command helps where it cannot."""

from __future__ import annotations

from iftb_store.errors import SchemaError

#: Our Alembic version table; an app's own ``alembic_version`` in the same database is another one.
VERSION_TABLE = "iftb_store_version"


def check_revision(has_tables: bool, stamped: str | None) -> None:
    """Accept our tables at this version's revision, or unstamped.

    Raises:
        SchemaError: no tables of ours, or an older or newer revision; the message names the command.
    """
    if not has_tables:
        raise SchemaError("the database has no tables of iftb-store; run `iftb-store migrate URL` or await db.migrate()")
    if stamped is None:
        return
    from iftb_store_migrations import head, revisions

    if stamped == head():
        return
    if stamped in revisions():
        raise SchemaError(
            f"the database stands at revision {stamped}, behind {head()} of this version; "
            "run `iftb-store migrate URL` or await db.migrate()"
        )
    raise SchemaError(
        f"the database was migrated by a newer iftb-store: it stands at revision {stamped}, this version knows up to {head()}; "
        "run `pip install --upgrade iftb-store`"
    )
