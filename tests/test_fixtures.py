"""The tests' own fixtures: empty tables whatever the test before did, and a combination with each value of a parameter."""

from __future__ import annotations

import itertools

import pytest

from tests.conftest import find_combined
from tests.support.postgres_tables import KeptDatabase

_ID = "SELECT id FROM system_events"
_INSERT = "INSERT INTO system_events (event_type, severity, message) VALUES ('a', 'info', '')"
_TABLES = """
    CREATE TABLE system_events (id bigserial PRIMARY KEY, event_type text, severity text, message text);
    CREATE TABLE iftb_store_version (version_num text);
    INSERT INTO iftb_store_version VALUES ('0001');
"""


@pytest.fixture
def kept(kept_postgres: KeptDatabase) -> KeptDatabase:
    """The run's database with a table that the run has kept, in which a test has written a row."""
    kept_postgres.prepare(_TABLES)
    kept_postgres.execute(_INSERT)
    return kept_postgres


def test_a_kept_table_is_empty_and_its_ids_begin_again(kept: KeptDatabase) -> None:
    (made,) = kept.fetch("SELECT 'system_events'::regclass::oid")
    kept.execute("UPDATE iftb_store_version SET version_num = '0009'")
    kept.prepare(_TABLES)
    assert kept.fetch(_ID) == []
    kept.execute(_INSERT)
    assert kept.fetch(_ID) == [1]
    assert kept.fetch("SELECT version_num FROM iftb_store_version") == ["0001"]
    assert kept.fetch("SELECT 'system_events'::regclass::oid") == [made]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE system_events ADD COLUMN note text",
        "ALTER TABLE system_events ALTER COLUMN message SET DEFAULT ''",
        "ALTER TABLE system_events ADD CHECK (event_type <> 'b')",
        "ALTER TABLE system_events ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON system_events USING (false)",
        "CREATE RULE none AS ON INSERT TO system_events DO INSTEAD NOTHING",
        "CREATE INDEX more ON system_events (message)",
        "CREATE VIEW ours AS SELECT 1",
        "CREATE FUNCTION ours() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE ours AS ENUM ('a')",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT ALL ON SCHEMA public TO PUBLIC",
        "GRANT SELECT ON system_events TO PUBLIC",
        "COMMENT ON TABLE system_events IS 'ours'",
        "DROP TABLE system_events",
        "ANALYZE system_events",
        "INSERT INTO system_events (message) SELECT repeat(n::text, 9) FROM generate_series(1, 5000) n",
    ],
)
def test_tables_are_made_anew_after_a_change_of_more_than_rows(kept: KeptDatabase, change: str) -> None:
    (made,) = kept.fetch("SELECT 'system_events'::regclass::oid")
    kept.execute(change)
    kept.prepare(_TABLES)
    assert kept.fetch(_ID) == []
    assert kept.fetch("SELECT 'system_events'::regclass::oid") != [made]


def test_each_value_of_each_parameter_is_in_one_of_the_chosen_combinations() -> None:
    names, numbers = ("a", "b"), (1, 2, 3)
    products = {pair: {("test", "name", pair[0]), ("test", "number", pair[1])} for pair in itertools.product(names, numbers)}
    combined = find_combined(products)
    chosen = products.keys() - combined
    assert len(chosen) == 3
    assert ({name for name, _ in chosen}, {number for _, number in chosen}) == ({*names}, {*numbers})


def test_a_test_without_parameters_is_always_chosen() -> None:
    assert find_combined({"one": set[object](), "two": set[object]()}) == set()
