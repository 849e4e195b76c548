"""Limits a transfer to the tables that every store keeps, and reports which tables were left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from iftb_store.abilities import ConnectedStore
from iftb_store.errors import Unsupported
from iftb_store.protocols import Capability
from iftb_store.schema.scope import TABLES, TableScope
from iftb_store.schema.table_spec import BARS, TableSpec

T = TypeVar("T")


class Report(list[T]):
    """The results of a transfer: one for each series of bars, and one for each other table or selected part of it.

    Attributes:
        left_out: the names of the tables that were left out, because one of the stores does not keep them.
    """

    def __init__(self, results: Iterable[T] = (), left_out: tuple[str, ...] = ()) -> None:
        super().__init__(results)
        self.left_out = left_out


def find_kept_tables(db: ConnectedStore) -> list[TableSpec]:
    """Return the tables that a store keeps: only the bars, unless its backend declares RECORDS; those of its revision."""
    if Capability.RECORDS not in db.capabilities:
        return [BARS]
    revision = _find_older_revision(db)
    return [table for table in TABLES.values() if revision is None or table.since <= revision]


def _find_older_revision(db: ConnectedStore) -> str | None:
    """Return the revision of a store that `iftb_store.transfer.older` reads; None for any other store."""
    revision: str | None = getattr(db, "older_revision", None)
    return revision


def has_digests(db: ConnectedStore) -> bool:
    """Return whether a store has the table of digests, in which a copy records checksums of the destination's bars."""
    return Capability.MIGRATIONS in db.capabilities


def limit_scope(scope: TableScope | None, **stores: ConnectedStore) -> tuple[TableScope, tuple[str, ...]]:
    """Limit a selection to the tables that every store keeps; return (selection, names of the tables that were left out).

    Args:
        scope: the selection of tables and rows; None for all.
        stores: the stores, by their names in the error message, e.g. source and destination.

    Raises:
        Unsupported: the scope selects a table by name, and one of the stores does not keep this table.
    """
    scope = scope or TableScope()
    left_out: list[str] = []
    for name, db in stores.items():
        kept = find_kept_tables(db)
        lacking = [table.name for table in scope.tables if table not in kept]
        if lacking and scope.named:
            if (revision := _find_older_revision(db)) is not None:
                raise Unsupported(
                    f"the {name} is at revision {revision}, which has no {' and no '.join(lacking)}; migrate it first, or leave "
                    "these tables out"
                )
            raise Unsupported(
                f"the {name} keeps only bars, no {' and no '.join(lacking)}; leave these tables out, or "
                "use a database that keeps them, e.g. PostgreSQL"
            )
        scope = scope.limit(kept)
        left_out += lacking
    return scope, tuple(left_out)
