"""Finds out whether PostgreSQL hides rows from a role, so that nobody mistakes the visible rows for all rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, text

#: policies: row-level security hides rows from other roles. row security: it hides rows from this role. insert: this role may
#: not insert; reported only if requested. usage: this role lacks USAGE on the table's schema; without this right PostgreSQL
#: treats the names in the schema as if they did not exist. select: this role may not read the table.
HiddenKind = Literal["policies", "row security", "usage", "select", "insert", "detached partition", "foreign partition"]
_REPORTED: tuple[HiddenKind, ...] = ("policies", "insert")

# PostgreSQL no longer reads a partition that is being detached, although it still belongs to the table. The column
# inhdetachpending exists since PostgreSQL 14; to_jsonb makes the query work on older versions too.
# Every operator is from pg_catalog, in case the schemas of the search_path contain foreign operators.
_HIDDEN = text("""
    WITH RECURSIVE ours AS (
        SELECT oid, relname, relrowsecurity FROM pg_catalog.pg_class
        WHERE relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(oid)
            AND relname = ANY (CAST(CAST(:tables AS text[]) AS name[]))
    ), parts AS (
        SELECT relname, oid AS part, CAST(FALSE AS boolean) AS detached FROM ours
        UNION ALL
        SELECT relname, inhrelid,
            CAST(pg_catalog.to_jsonb(inherits) OPERATOR(pg_catalog.->>) 'inhdetachpending' AS boolean)
        FROM parts JOIN pg_catalog.pg_inherits AS inherits ON inhparent = part
    ), hidden AS (
        SELECT relname, 'policies' AS kind, '' AS part FROM ours WHERE relrowsecurity
        UNION ALL
        SELECT relname, 'row security', '' FROM ours WHERE pg_catalog.row_security_active(oid)
        UNION ALL
        SELECT relname, 'select', '' FROM ours
        WHERE EXISTS (
            SELECT FROM pg_catalog.pg_attribute
            WHERE attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
                AND NOT pg_catalog.has_column_privilege(attrelid, attnum, 'SELECT'))
        UNION ALL
        SELECT relname, 'insert', '' FROM ours WHERE NOT pg_catalog.has_table_privilege(oid, 'INSERT')
        UNION ALL
        SELECT relname, 'detached partition', CAST(CAST(part AS regclass) AS text) FROM parts WHERE detached
        UNION ALL
        SELECT parts.relname, 'foreign partition', CAST(CAST(part AS regclass) AS text)
        FROM parts JOIN pg_catalog.pg_class AS foreigners ON foreigners.oid = part
        WHERE foreigners.relkind = 'f'
    )
    SELECT kind, CAST(relname AS text), part, pg_catalog.quote_ident(CAST(current_user AS text)) FROM hidden
    ORDER BY kind, relname, part""")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A reason why a role can see only some rows of a table, or none.

    Attributes:
        kind: the kind of reason, see `HiddenKind`.
        table: the name of the table.
        part: the name of a partition or of the schema, quoted as SQL; empty if the reason concerns the whole table.
        role: the role, quoted as SQL.
    """

    kind: HiddenKind
    table: str
    part: str
    role: str

    @property
    def reason(self) -> str:
        """A sentence for messages that says which rows are hidden, or which right is missing."""
        return {
            "policies": f"{self.table} has row-level security: roles to which its policies apply can see only some of its rows",
            "row security": f"row-level security lets the role {self.role} see only some of the rows of {self.table}",
            "usage": f"the role {self.role} may not use the schema {self.part}, which holds {self.table}",
            "select": f"the role {self.role} may not read {self.table}",
            "insert": f"the role {self.role} may not insert into {self.table}",
            "detached partition": f"the partition {self.part} of {self.table} is being detached, so its rows are not read",
            "foreign partition": f"the partition {self.part} of {self.table} is on another server, which may hide rows of it",
        }[self.kind]

    @property
    def remedy(self) -> str:
        """The action that makes all rows visible."""
        return {
            "policies": "connect as the owner of the tables, or as a role with BYPASSRLS, for work that needs all rows",
            "row security": "connect as the owner of the tables, or as a role with BYPASSRLS",
            "usage": f"as the schema's owner: {self.statement}",
            "select": f"as the owner: {self.statement}",
            "insert": f"as the owner: {self.statement}",
            "detached partition": f"finish detaching it ({self.statement}), and attach it again if its rows belong to the table",
            "foreign partition": "move its rows to an ordinary partition, or detach it and copy them from the other server",
        }[self.kind]

    @property
    def statement(self) -> str:
        """The SQL statement that makes the hidden rows visible; empty if no single statement does."""
        return {
            "usage": f"GRANT USAGE ON SCHEMA {self.part} TO {self.role}",
            "select": f"GRANT SELECT ON {self.table} TO {self.role}",
            "insert": f"GRANT INSERT ON {self.table} TO {self.role}",
            "detached partition": f"ALTER TABLE {self.table} DETACH PARTITION {self.part} FINALIZE",
        }.get(self.kind, "")


def find_hidden(conn: Connection, tables: Sequence[str]) -> list[Hidden]:
    """Return the reasons why tables hide rows from the connection's role; empty on engines other than PostgreSQL."""
    if conn.dialect.name != "postgresql":
        return []
    return [Hidden(*row) for row in conn.execute(_HIDDEN, {"tables": list(tables)}).all()]


def find_obstacles(hidden: Iterable[Hidden], *, insert: bool = False) -> list[Hidden]:
    """Select the reasons that prevent a role from reading every row or, if ``insert`` is set, from inserting rows."""
    return [one for one in hidden if one.kind not in _REPORTED or (insert and one.kind == "insert")]


def describe(hidden: Sequence[Hidden]) -> str:
    """Return one message that says why tables are hidden and how to make them visible.

    Tables with the same reason are listed together.
    """
    tables: dict[tuple[HiddenKind, str], list[str]] = {}
    for one in hidden:
        tables.setdefault((one.kind, one.part), []).append(one.table)
    joint = [Hidden(kind, ", ".join(names), part, hidden[0].role) for (kind, part), names in tables.items()]
    return "; ".join(f"{one.reason}; {one.remedy}" for one in joint)
