"""Checks that no view or foreign table has the name of an iftb-store table.

Reading a view or a foreign table could run code of the role that created it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from iftb_store.errors import operational_error
from iftb_store.relational import Hidden, describe
from iftb_store.schema.revision import OUR_TABLES, VERSION_TABLE, find_foreign_collation, not_a_table_error
from iftb_store.schema.table_spec import OUR_COLUMNS

_NAMES = ", ".join(f"'{name}'" for name in OUR_TABLES)

#: For each name of an iftb-store table, as the search_path resolves it: its kind, whether this role may read it, and its columns
#: whose collation lets different texts be equal. A name that does not exist has no row. If a name exists only in a schema of the
#: search_path that this role may not use, its row has that schema: PostgreSQL resolves the name as if neither existed.
KINDS = f"""
    WITH entries AS (
        SELECT (pg_catalog.regexp_matches(
            pg_catalog.current_setting('search_path'), '"(?:[^"]|"")*"|[^,"[:space:]]+', 'g'))[1] AS entry
    ), path AS (
        SELECT CASE WHEN entry OPERATOR(pg_catalog.~) '^"?[$]user"?$' THEN current_user::pg_catalog.text
            WHEN pg_catalog.left(entry, 1) OPERATOR(pg_catalog.=) '"'
            THEN pg_catalog.replace(pg_catalog.substr(entry, 2, pg_catalog.length(entry) OPERATOR(pg_catalog.-) 2), '""', '"')
            ELSE pg_catalog.lower(entry) END AS name
        FROM entries
    )
    SELECT relname::pg_catalog.text, relkind::pg_catalog.text, '' AS schema,
        pg_catalog.has_any_column_privilege(oid, 'SELECT') AS readable,
        pg_catalog.quote_ident(current_user::pg_catalog.text) AS role, (
            SELECT pg_catalog.string_agg(pg_catalog.concat(attname::pg_catalog.text, ' ', collname::pg_catalog.text), ',')
            FROM pg_catalog.pg_attribute
            JOIN pg_catalog.pg_collation ON pg_collation.oid OPERATOR(pg_catalog.=) attcollation
            WHERE attrelid OPERATOR(pg_catalog.=) pg_class.oid AND NOT collisdeterministic) AS collations
    FROM pg_catalog.pg_class
    WHERE oid OPERATOR(pg_catalog.=) ANY (
        ARRAY[{", ".join(f"pg_catalog.to_regclass('{name}')" for name in OUR_TABLES)}]::pg_catalog.oid[])
    UNION
    SELECT relname::pg_catalog.text, '', pg_catalog.quote_ident(nspname::pg_catalog.text), FALSE,
        pg_catalog.quote_ident(current_user::pg_catalog.text), NULL::pg_catalog.text
    FROM path JOIN pg_catalog.pg_namespace ON nspname::pg_catalog.text OPERATOR(pg_catalog.=) path.name
    JOIN pg_catalog.pg_class ON relnamespace OPERATOR(pg_catalog.=) pg_namespace.oid
    WHERE relname::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY[{_NAMES}]::pg_catalog.text[])
        AND relkind::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p']::pg_catalog.text[])
        AND NOT pg_catalog.has_schema_privilege(pg_namespace.oid, 'USAGE')
        AND pg_catalog.to_regclass(relname::pg_catalog.text) IS NULL
    ORDER BY 1"""

_TABLES = ("r", "p")
_WORDS = {"v": "view", "m": "materialized view", "f": "foreign table", "S": "sequence", "i": "index", "I": "index", "c": "type"}


def find_tables(rows: Iterable[Any]) -> set[str]:
    """Return the tables of iftb-store that exist, ordinary or partitioned; ``rows`` are the rows of the query `KINDS`.

    Raises:
        SchemaError: something that is not a table, e.g. a view, has the name of an iftb-store table; or a column of iftb-store
            has a collation in which different texts can be equal.
        OperationalError: a table is in a schema that this role may not use, or the role may not read the version table.
    """
    found = list(rows)
    hidden = [Hidden("usage", name, schema, role) for name, _, schema, _, role, _ in found if schema]
    hidden += [
        Hidden("select", name, "", role)
        for name, _, schema, readable, role, _ in found
        if name == VERSION_TABLE and not (schema or readable)
    ]
    for name, kind, schema, _, _, collations in found:
        if not schema and kind not in _TABLES:
            raise not_a_table_error(name, _WORDS.get(kind, f"relation of the kind {kind}"))
        for part in collations.split(",") if collations else ():
            column, _, collation = part.partition(" ")
            if column in OUR_COLUMNS[name]:
                raise find_foreign_collation(name, column, collation)
    if hidden:
        raise operational_error(describe(hidden))
    return {name for name, *_ in found}
