"""What our names are in a PostgreSQL database: a view or a foreign table would run what its maker wrote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from iftb_store.schema.revision import OUR_TABLES, not_a_table

#: The kind of each of our names, as the search_path resolves it; names that are not there are left out.
KINDS = f"""
    SELECT relname::pg_catalog.text, relkind::pg_catalog.text FROM pg_catalog.pg_class
    WHERE oid OPERATOR(pg_catalog.=) ANY (
        ARRAY[{", ".join(f"pg_catalog.to_regclass('{name}')" for name in OUR_TABLES)}]::pg_catalog.oid[]
    )"""

_TABLES = ("r", "p")
_WORDS = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence", "i": "index", "I": "index", "c": "type"}


def tables_among(rows: Iterable[Any]) -> set[str]:
    """Return which of our names are tables, ordinary or partitioned, by the rows of `KINDS`.

    Raises:
        SchemaError: one is something else.
    """
    kinds = {str(name): str(kind) for name, kind in rows}
    for name, kind in kinds.items():
        if kind not in _TABLES:
            raise not_a_table(name, _WORDS.get(kind, f"relation of the kind {kind}"))
    return set(kinds)
