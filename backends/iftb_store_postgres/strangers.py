"""What our names are in a PostgreSQL database: a view or a foreign table would run what its maker wrote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from iftb_store.schema import OUR_TABLES, foreign_collation, not_a_table
from iftb_store.selections import OUR_COLUMNS

#: The kind of each of our names, as the search_path resolves it, and its columns with a collation by which different texts can
#: be equal; names that are not there are left out.
KINDS = f"""
    SELECT relname::pg_catalog.text, relkind::pg_catalog.text, (
        SELECT pg_catalog.string_agg(pg_catalog.concat(attname::pg_catalog.text, ' ', collname::pg_catalog.text), ',')
        FROM pg_catalog.pg_attribute
        JOIN pg_catalog.pg_collation ON pg_collation.oid OPERATOR(pg_catalog.=) attcollation
        WHERE attrelid OPERATOR(pg_catalog.=) pg_class.oid AND NOT collisdeterministic)
    FROM pg_catalog.pg_class
    WHERE oid OPERATOR(pg_catalog.=) ANY (
        ARRAY[{", ".join(f"pg_catalog.to_regclass('{name}')" for name in OUR_TABLES)}]::pg_catalog.oid[]
    )"""

_TABLES = ("r", "p")
_WORDS = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence", "i": "index", "I": "index", "c": "type"}


def tables_among(rows: Iterable[Any]) -> set[str]:
    """Return which of our names are tables, ordinary or partitioned, by the rows of `KINDS`.

    Raises:
        SchemaError: one is something else, or a column of ours has such a collation.
    """
    names = set[str]()
    for name, kind, collations in rows:
        if kind not in _TABLES:
            raise not_a_table(name, _WORDS.get(kind, f"relation of the kind {kind}"))
        for part in collations.split(",") if collations else ():
            column, _, collation = part.partition(" ")
            if column in OUR_COLUMNS[name]:
                raise foreign_collation(name, column, collation)
        names.add(name)
    return names
