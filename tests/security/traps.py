"""Functions and operators that shadow PostgreSQL's if a call has no exact match in pg_catalog; none may be called."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent
_PACKAGES = ("iftb_store", "backends/iftb_store_postgres", "migrations/iftb_store_migrations")
_CALLED = re.compile(r"\b([a-z_0-9]+)\s*\(", re.IGNORECASE)

# One signature each: any role that may create in a schema of the search_path can write these. Nobody may execute them, so even a
# statement that finds no row fails if it refers to one of them.
_PLANT = """
CREATE SCHEMA traps;
SET search_path = traps;
DO $plant$
DECLARE
    types text[] := ARRAY[
        'text', 'varchar', 'bpchar', 'name', '"char"', 'int2', 'int4', 'int8', 'numeric', 'float8', 'timestamptz', 'timestamp',
        'interval', 'date', 'json', 'jsonb', 'bool', 'oid', 'regclass', 'text[]', 'varchar[]', 'name[]', 'int8[]', 'int4[]'];
    common text[] := ARRAY[
        'text', 'varchar', 'name', 'int2', 'int4', 'int8', 'numeric', 'timestamptz', 'interval', 'oid', 'regclass', 'bool'];
    body text := 'LANGUAGE plpgsql AS $body$ BEGIN RAISE EXCEPTION ''a trap was called''; END $body$';
    l text; r text; operator text; function text; suffix text;
BEGIN
    FOREACH l IN ARRAY types LOOP
        suffix := translate(l, '[]"', '___');
        EXECUTE format('CREATE FUNCTION trap_sign_%s(%s) RETURNS %s %s', suffix, l, l, body);
        EXECUTE format('CREATE OPERATOR - (FUNCTION = trap_sign_%s, RIGHTARG = %s)', suffix, l);
        FOREACH r IN ARRAY types LOOP
            suffix := translate(l || '_' || r, '[]"', '___');
            EXECUTE format('CREATE FUNCTION trap_compare_%s(%s, %s) RETURNS boolean %s', suffix, l, r, body);
            EXECUTE format('CREATE FUNCTION trap_compute_%s(%s, %s) RETURNS %s %s', suffix, l, r, l, body);
            FOREACH operator IN ARRAY ARRAY['=', '<>', '<', '>', '<=', '>=', '~~', '!~~', '~'] LOOP
                EXECUTE format('CREATE OPERATOR %s (FUNCTION = trap_compare_%s, LEFTARG = %s, RIGHTARG = %s)',
                    operator, suffix, l, r);
            END LOOP;
            FOREACH operator IN ARRAY ARRAY['+', '-', '*', '/', '%', '||', '->', '->>'] LOOP
                EXECUTE format('CREATE OPERATOR %s (FUNCTION = trap_compute_%s, LEFTARG = %s, RIGHTARG = %s)',
                    operator, suffix, l, r);
            END LOOP;
        END LOOP;
    END LOOP;
    FOR function IN
        SELECT DISTINCT proname FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (ARRAY[{names}])
    LOOP
        FOREACH l IN ARRAY types LOOP
            EXECUTE format('CREATE FUNCTION %I(%s) RETURNS %s %s', function, l, l, body);
        END LOOP;
        FOREACH l IN ARRAY common LOOP
            FOREACH r IN ARRAY common LOOP
                EXECUTE format('CREATE FUNCTION %I(%s, %s) RETURNS %s %s', function, l, r, l, body);
            END LOOP;
            EXECUTE format('CREATE FUNCTION %I(%s, int4, %s) RETURNS %s %s', function, l, l, l, body);
            EXECUTE format('CREATE FUNCTION %I(%s, text, text) RETURNS %s %s', function, l, l, body);
            EXECUTE format('CREATE FUNCTION %I(text, VARIADIC %s[]) RETURNS text %s', function, l, body);
        END LOOP;
    END LOOP;
END $plant$;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA traps FROM PUBLIC;
GRANT USAGE ON SCHEMA traps TO PUBLIC;
RESET search_path
"""


def plant() -> str:
    """Return the statements that create the traps: operators of any two types, and functions of any name that the store calls."""
    sources = [path.read_text() for package in _PACKAGES for path in (_ROOT / package).rglob("*.py")]
    names = sorted({name.lower() for source in sources for name in _CALLED.findall(source)})
    return _PLANT.replace("{names}", ", ".join(f"'{name}'" for name in names))
