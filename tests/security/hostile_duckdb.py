"""Malicious DuckDB files: each attack changes a valid store."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb

from iftb_store.schema.revision import HEAD

TABLES = ("ohlcv", "trades", "positions", "system_events", "bar_digests", "iftb_store_version")
READERS = ("read_text('{}')", "read_blob('{}')", "read_csv('{}', header = false)", "'{}'", "glob('{}')")
OPERATORS = ("+", "-", "*", "/", "//", "%", "||", "~~", "!~~", "^@", "&", "|", "~", "@", "->>", "**")
FUNCTIONS = (
    "bit_xor", "contains", "count", "count_star", "current_database", "current_schema", "current_setting", "day",
    "duckdb_columns", "duckdb_functions", "duckdb_sequences", "duckdb_tables", "duckdb_views", "epoch_us", "hash", "json_type",
    "length", "lower", "ltrim", "make_timestamp", "max", "min", "month", "nextval", "now", "octet_length", "strlen", "sum",
    "trim", "version", "year",
)  # fmt: skip
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n"
SECRET = "(SELECT content FROM read_text('{}'))"

Attack = Callable[[duckdb.DuckDBPyConnection, random.Random, Path], None]


def view_of_a_file(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Replace a table by a view of a file, with the table's columns."""
    table = chance.choice(TABLES)
    reader = chance.choice(READERS[:2])
    kept = _columns(connection, table)
    texts = [name for name, kind in kept if kind == "VARCHAR"]
    stolen = chance.choice(texts)
    value = f"(SELECT content::VARCHAR FROM {reader.format(secret)})"
    columns = ", ".join(f"{value if name == stolen else _sample(name, kind)} AS {name}" for name, kind in kept)
    _replaced(connection, table, f"SELECT {columns}")


def view_that_never_ends(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Replace a table by a view that never returns its first row."""
    table = chance.choice(TABLES)
    columns = ", ".join(f"{_sample(name, kind)} AS {name}" for name, kind in _columns(connection, table))
    _replaced(connection, table, f"SELECT {columns} FROM ({ENDLESS}) endless WHERE i < 0")


def view_of_another_case(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Name the view in another case: SQL finds it, a comparison of texts does not."""
    table = chance.choice(TABLES)
    connection.execute(f"DROP TABLE {table}")
    connection.execute(f"CREATE VIEW {table.upper()} AS SELECT * FROM read_text('{secret}')")


def macro_of_a_function(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Shadow functions that the store's statements call."""
    for name in chance.sample(FUNCTIONS, 3):
        parameters = chance.choice(["", "a", "a, b"])
        body = chance.choice(["42", "'x'", "TRUE", SECRET.format(secret)])
        connection.execute(f'CREATE OR REPLACE MACRO "{name}"({parameters}) AS {body}')


def macro_of_an_operator(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Shadow an operator."""
    connection.execute(f'CREATE MACRO "{chance.choice(OPERATORS)}"(a, b) AS {chance.choice(["7", "TRUE", "a"])}')


def table_macro(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Shadow the functions that list the schema: they list nothing, or read a file."""
    for name in ("duckdb_functions", "duckdb_tables", "duckdb_views", "duckdb_databases", "duckdb_columns"):
        body = chance.choice(["SELECT 'ohlcv' AS table_name", f"SELECT * FROM read_text('{secret}')", ENDLESS])
        connection.execute(f"CREATE MACRO {name}() AS TABLE {body}")


def shadowed_type(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Shadow a type that is an alias in DuckDB."""
    kind = chance.choice(["ENUM ('a')", "INTEGER", "STRUCT(a INTEGER)"])
    connection.execute(f"CREATE TYPE json AS {kind}")


def trigger(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Run another statement at each write."""
    first, second = chance.sample(TABLES[:4], 2)
    name = chance.choice(["tr", "a\x1b[2Jb", "tr" * 500])
    connection.execute(f'CREATE TRIGGER "{name}" AFTER INSERT ON {first} FOR EACH STATEMENT DELETE FROM {second}')


def generated_column(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Compute a large value when a column is read."""
    _redefined(connection, chance.choice(TABLES[:4]), "g VARCHAR GENERATED ALWAYS AS (repeat('x', 100000000))")


def costly_expression(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Compute a large value when a row is written."""
    table = chance.choice(TABLES[:4])
    parts = ("CHECK (length(repeat('x', 100000000)) > 1)", "g VARCHAR DEFAULT (repeat('x', 100000000))")
    _redefined(connection, table, chance.choice(parts))


def costly_index(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Compute a value for an index."""
    connection.execute(f"CREATE INDEX mine ON {chance.choice(TABLES[:4])} ((repeat(symbol, 100)))")


def version(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Claim another revision, several, or none."""
    connection.execute("DELETE FROM iftb_store_version")
    for _ in range(chance.choice([0, 1, 3])):
        value = chance.choice([HEAD, "9999", "\x1b]0;owned\x07", f"{HEAD}'; DROP TABLE ohlcv; --", "x" * 9_999])
        connection.execute("INSERT INTO iftb_store_version VALUES ($1) ON CONFLICT DO NOTHING", [value])


def long_texts(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Store long texts that are small in the file."""
    connection.execute(f"UPDATE system_events SET message = repeat('{chance.choice('xyz')}', {chance.choice([10**5, 10**7])})")


def objects_of_others(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Add views, macros and schemas with other names: they are never read."""
    connection.execute(f"CREATE VIEW mine AS SELECT * FROM read_text('{secret}')")
    connection.execute(f"CREATE VIEW duckdb_tables AS {ENDLESS}")
    connection.execute("CREATE SCHEMA system")
    connection.execute("CREATE SCHEMA temp")
    connection.execute(f"CREATE MACRO mine() AS {SECRET.format(secret)}")


def collation(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Take different texts for equal."""
    table = chance.choice(TABLES[:4])
    column = chance.choice([name for name, kind in _columns(connection, table) if kind == "VARCHAR"])
    name = chance.choice(["NOCASE", "NOACCENT", "NFC", "nocase.noaccent"])
    _redefined(connection, table, "", (f" {column} VARCHAR", f" {column} VARCHAR COLLATE {name}"))


def literal_default(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Give each of many rows a long text."""
    connection.execute("INSERT INTO system_events (event_type, severity, message) SELECT '', 'info', '' FROM range(20000)")
    text, name = "x" * chance.choice([100, 10_000, 1 << 20]), chance.choice(["exchange", "mine"])
    if name == "exchange":
        connection.execute("ALTER TABLE system_events DROP COLUMN exchange")
    connection.execute(f"ALTER TABLE system_events ADD COLUMN {name} VARCHAR DEFAULT '{text}'")


def sequence(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Leave no ids, or take them from a sequence whose name is a statement."""
    table = chance.choice(TABLES[:4])
    name = chance.choice(["x; CREATE TABLE owned AS SELECT 42 AS a; --", 'a"b', "it's", "\x1b[2J", "nextval('x')", "s" * 9_999])
    quoted = '"' + name.replace('"', '""') + '"'
    options = chance.choice(["", "START 9223372036854775807", "MAXVALUE 3 CYCLE", "INCREMENT BY -1 MAXVALUE 0 START 0"])
    connection.execute(f"CREATE SEQUENCE {quoted} {options}")
    literal = quoted.replace("'", "''")
    connection.execute(f"ALTER TABLE {table} ADD COLUMN mine BIGINT")
    connection.execute(f"ALTER TABLE {table} ALTER COLUMN mine SET DEFAULT nextval('{literal}')")
    if chance.random() < 0.3:
        connection.execute(f"ALTER TABLE {table} ALTER COLUMN id DROP DEFAULT")


def large_schema(connection: duckdb.DuckDBPyConnection, chance: random.Random, secret: Path) -> None:
    """Keep 10,000 tables, or a table of 2,000 columns."""
    if chance.random() < 0.5:
        connection.begin()
        for number in range(10_000):
            connection.execute(f"CREATE TABLE t{number} (a INTEGER)")
        connection.commit()
        return
    columns = ", ".join(f"c{number} {chance.choice(['VARCHAR', 'INTEGER DEFAULT 1'])}" for number in range(2_000))
    _redefined(connection, chance.choice(TABLES[:4]), columns)


ATTACKS: tuple[Attack, ...] = (
    view_of_a_file,
    view_that_never_ends,
    view_of_another_case,
    macro_of_a_function,
    macro_of_an_operator,
    table_macro,
    shadowed_type,
    trigger,
    generated_column,
    costly_expression,
    costly_index,
    version,
    long_texts,
    objects_of_others,
    collation,
    literal_default,
    sequence,
    large_schema,
)


def change(path: Path, chance: random.Random, *, attack: Attack, secret: Path) -> None:
    """Change a valid store."""
    with closing(duckdb.connect(str(path))) as connection:
        attack(connection, chance, secret)


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    return [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info('{table}')").fetchall()]


def _sample(name: str, kind: str) -> str:
    known = {"severity": "'info'", "version_num": f"'{HEAD}'", "timeframe": "'1h'", "side": "'long'", "status": "'open'"}
    if kind.startswith("TIMESTAMP"):
        return "TIMESTAMPTZ '2024-01-01 00:00:00+00'"
    return known.get(name, "'{}'" if kind == "JSON" else f"'{name}'" if kind == "VARCHAR" else f"1::{kind}")


def _replaced(connection: duckdb.DuckDBPyConnection, table: str, query: str) -> None:
    connection.execute(f"DROP TABLE {table}")
    connection.execute(f"CREATE VIEW {table} AS {query}")


def _redefined(connection: duckdb.DuckDBPyConnection, table: str, part: str, changed: tuple[str, str] = ("", "")) -> None:
    ((sql,),) = connection.execute("SELECT sql FROM duckdb_tables() WHERE table_name = $1", [table]).fetchall()
    for (index,) in connection.execute("SELECT index_name FROM duckdb_indexes() WHERE table_name = $1", [table]).fetchall():
        connection.execute(f"DROP INDEX {index}")
    connection.execute(f"DROP TABLE {table}")
    whole = sql.rstrip().removesuffix(";").removesuffix(")").replace(*changed, 1)
    connection.execute(f"{whole}{', ' if part else ''}{part})")
