"""One PostgreSQL database for all tests of a run: emptied, or with empty tables that are kept from one test to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iftb_store.schema.revision import VERSION_TABLE

_SIZE = 64 * 1024
# a test that failed may have left connections, and their locks
_ENDED = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_DROPPED = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
# where an object of the schema or a change of one shows as another row; the temporary tables of a session end with it
_CATALOGS = {
    "pg_class": "oid >= 16384 AND relpersistence <> 't' AND relnamespace <> 'pg_toast'::regnamespace",
    "pg_attribute": "attrelid >= 16384",
    "pg_attrdef": "true",
    "pg_index": "indexrelid >= 16384",
    "pg_constraint": "oid >= 16384",
    "pg_inherits": "true",
    "pg_partitioned_table": "true",
    "pg_policy": "true",
    "pg_trigger": "true",
    "pg_rewrite": "oid >= 16384",
    "pg_proc": "oid >= 16384",
    "pg_type": "oid >= 16384",
    "pg_collation": "oid >= 16384",
    "pg_operator": "oid >= 16384",
    "pg_cast": "oid >= 16384",
    "pg_statistic_ext": "true",
    "pg_description": "objoid >= 16384",
    "pg_namespace": "nspname !~ '^pg_(toast_)?temp_'",
}
# without statistics, and small: so that a test's plans do not depend on the tests before it
_FRESH = f"""
    SELECT NOT EXISTS (
        SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        AND (reltuples <> -1 OR pg_relation_size(oid) > {_SIZE})
    )
"""
_STATE = "SELECT md5(concat_ws(' ', {}))".format(
    ", ".join(
        f"(SELECT string_agg(ctid::text || xmin::text, ' ' ORDER BY ctid) FROM {catalog} WHERE {condition})"
        for catalog, condition in _CATALOGS.items()
    )
)
_TABLES = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
)
_SEQUENCES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'"


class KeptDatabase:
    """A database of the run, whose tables are made anew only if a test has changed more than their rows.

    Attributes:
        url: its URL.
        execute: executes statements in it.
        fetch: executes a statement in it and returns the first column of its rows.
    """

    def __init__(self, url: str, execute: Callable[[str], None], fetch: Callable[[str], list[Any]]) -> None:
        self.url, self.execute, self.fetch = url, execute, fetch
        self._made: tuple[str, str] | None = None
        self._emptied = ""

    def empty(self) -> None:
        """Drop all that is in the schema."""
        self.execute(f"{_ENDED}; {_DROPPED}")
        self._made = None

    def prepare(self, tables: str) -> None:
        """Make sure of empty tables: of those of the last test, or of new ones by the statements ``tables``."""
        self.execute(_ENDED)
        if self._made == (tables, self._find_state()) and self.fetch(_FRESH) == [True]:
            self.execute(self._emptied)
            return
        self.execute(_DROPPED)
        self.execute(tables)
        (revision,) = self.fetch(f"SELECT version_num FROM {VERSION_TABLE}")
        deleted = [f"DELETE FROM public.{name}" for name in self.fetch(_TABLES)]
        restarted = [f"SELECT setval('public.{name}', 1, false)" for name in self.fetch(_SEQUENCES)]
        self._emptied = ";".join((*deleted, *restarted, f"INSERT INTO public.{VERSION_TABLE} VALUES ('{revision}')"))
        self._made = tables, self._find_state()

    def _find_state(self) -> str:
        found: str = self.fetch(_STATE)[0]
        return found
