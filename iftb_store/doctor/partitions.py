"""Checks of the partitions of ohlcv on PostgreSQL: bars in the default partition, and a move that did not end."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from iftb_store.doctor.checks import Finding

# every operator is from pg_catalog, in case the schemas of the search_path contain foreign operators
_DEFAULTS = text("""
    SELECT CAST(CAST(pg_class.oid AS regclass) AS text) FROM pg_catalog.pg_inherits
    JOIN pg_catalog.pg_class ON pg_class.oid OPERATOR(pg_catalog.=) inhrelid
    WHERE inhparent OPERATOR(pg_catalog.=) CAST(pg_catalog.to_regclass('ohlcv') AS oid)
        AND CAST(pg_catalog.pg_get_expr(relpartbound, pg_class.oid) AS text) OPERATOR(pg_catalog.=) 'DEFAULT'
        AND relkind OPERATOR(pg_catalog.=) CAST('r' AS "char") AND pg_catalog.has_table_privilege(pg_class.oid, 'SELECT')""")
_LEFT = text("""
    SELECT pg_catalog.quote_ident(CAST(nspname AS text))
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid OPERATOR(pg_catalog.=) relnamespace
    WHERE pg_class.oid OPERATOR(pg_catalog.=) CAST(pg_catalog.to_regclass('iftb_store_move') AS oid)""")


def find_partition_problems(conn: Connection) -> Iterator[Finding]:
    """Yield the problems of the partitions of ohlcv; none on engines other than PostgreSQL."""
    if conn.dialect.name != "postgresql":
        return
    for (schema,) in conn.execute(_LEFT).all():
        remedy = (
            "a move of the bars into partitions did not end, and each write is made twice; the same `iftb-store migrate URL "
            "--partition-by …` continues it; to cancel it, run this"
        )
        statements = (
            f"DROP FUNCTION {schema}.iftb_store_mirror() CASCADE",
            f"DROP TABLE {schema}.iftb_store_ohlcv, {schema}.iftb_store_move",
        )
        yield Finding("unfinished move", "warning", "ohlcv", "", (), 1, remedy, statements)
    for (name,) in conn.execute(_DEFAULTS).all():
        count = conn.execute(text(f"SELECT pg_catalog.count(*) FROM {name}")).scalar_one()
        if count:
            remedy = (
                "the months or years of these bars have no partition, so queries of other times read them too; "
                "`iftb-store partitions URL --ahead 3` creates the missing partitions and moves them; run it regularly"
            )
            yield Finding("default partition", "warning", "ohlcv", name, (), count, remedy)
