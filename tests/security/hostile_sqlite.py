"""Malicious SQLite files: each attack changes a valid store."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from iftb_store.schema.revision import HEAD

TABLES = ("ohlcv", "trades", "positions", "system_events", "bar_digests", "iftb_store_version")
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
LARGE = "hex(zeroblob(400000000))"
# stars that are tried in every combination
SLOW = f"printf('%.5000c', 'a') GLOB '{'*a' * 12}*b'"

Attack = Callable[[sqlite3.Connection, random.Random], None]


def view_that_never_ends(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Replace a table by a view with endless rows, with the table's columns."""
    table = chance.choice(TABLES)
    columns = ", ".join(f"i AS {row[1]}" for row in connection.execute(f"PRAGMA table_info({table})"))
    connection.execute(f"DROP TABLE {table}")
    name = table.upper() if chance.random() < 0.2 else table
    connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM ({ENDLESS}) {chance.choice(['', 'WHERE i < 0'])}")


def view_of_views(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Replace a table by a view that takes ages to compile."""
    connection.execute("CREATE VIEW v0 AS SELECT 1 AS id")
    for number in range(1, 30):
        connection.execute(f"CREATE VIEW v{number} AS SELECT id FROM v{number - 1} UNION ALL SELECT id FROM v{number - 1}")
    if chance.random() < 0.7:
        table = chance.choice(TABLES)
        connection.execute(f"DROP TABLE {table}")
        connection.execute(f"CREATE VIEW {table} AS SELECT * FROM v29")


def virtual_table(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Replace a table by a virtual table."""
    table = chance.choice(TABLES)
    columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({table})"))
    connection.execute(f"DROP TABLE {table}")
    if chance.random() < 0.5:
        connection.execute(f"CREATE VIRTUAL TABLE {table} USING fts5({columns})")
    else:
        _define(connection, table, f"CREATE /* */ VIRTUAL\nTABLE {table} USING fts5({columns})", 2)


def trigger(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Make a write endless, or undo other writes."""
    table = chance.choice(TABLES)
    when = chance.choice(["BEFORE INSERT", "AFTER INSERT", "AFTER UPDATE", "BEFORE DELETE"])
    body = chance.choice([f"SELECT count(*) FROM ({ENDLESS})", "DELETE FROM trades"])
    name = chance.choice(["tr", "a\x1b[2Jb"])
    connection.execute(f'CREATE TRIGGER "{name}" {when} ON {table} BEGIN {body}; END')


def trigger_behind_a_key(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Make a delete endless, by a table that refers to ours."""
    connection.execute("CREATE TABLE notes (trade_id TEXT REFERENCES trades (trade_id) ON DELETE CASCADE)")
    connection.execute("INSERT INTO notes SELECT trade_id FROM trades")
    connection.execute(f"CREATE TRIGGER tr AFTER DELETE ON notes BEGIN SELECT count(*) FROM ({ENDLESS}); END")


def generated_column(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Compute a large value when a row is read."""
    table = chance.choice(TABLES)
    connection.execute(f"ALTER TABLE {table} ADD COLUMN g TEXT AS ({chance.choice([LARGE, f'length({LARGE})'])})")


def costly_expression(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Compute something large or slow when a row is written or checked for damage."""
    table, value = chance.choice(TABLES), chance.choice([f"length({LARGE}) > 0", SLOW, "length(randomblob(900000000)) > 0"])
    _redefine(connection, table, chance.choice([f"CHECK ({value})", f"g TEXT DEFAULT ({value})"]))


def costly_table_of_others(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Do so in another table of the file."""
    connection.execute("CREATE TABLE mine (a)")
    connection.executemany("INSERT INTO mine VALUES (?)", [(1,)] * 200)
    _redefine(connection, "mine", f"CHECK (length({LARGE}) > 0)")


def costly_index(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Compute something for an index, or for its condition."""
    table = chance.choice(TABLES[:4])
    sql = f"CREATE INDEX mine ON {table} ({{}})"
    connection.execute(sql.format("hex(symbol)"))
    _define(connection, "mine", sql.format(f"hex(symbol || {LARGE})"))


def unknown_function(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Call a function that does not exist, or that a schema may not call."""
    call = chance.choice(["nothing(1)", "load_extension('x')", "regexp('a', 'b')", "'a' REGEXP 'b'", "'a' COLLATE nothing = 'b'"])
    _redefine(connection, chance.choice(TABLES[:4]), f"CHECK ({call})")


def forged_schema(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Make the list of the schema's objects contradict their definitions, or share pages."""
    table = chance.choice(TABLES)
    connection.execute("PRAGMA writable_schema = ON")
    forged = (
        ("UPDATE sqlite_master SET rootpage = 1 WHERE name = ?", table),
        ("UPDATE sqlite_master SET rootpage = 0 WHERE name = ?", table),
        ("UPDATE sqlite_master SET rootpage = 99999 WHERE name = ?", table),
        ("UPDATE sqlite_master SET type = 'view' WHERE name = ?", table),
        ("UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'ohlcv') WHERE name = ?", table),
        (f"UPDATE sqlite_master SET sql = 'CREATE VIEW {table} AS {ENDLESS}', rootpage = 0 WHERE name = ?", table),
        (f"UPDATE sqlite_master SET sql = 'CREATE TABLE {table} (id)' WHERE name = ?", table),
        ("UPDATE sqlite_master SET sql = CAST(x'435245415445205441424c4520ff' AS TEXT) WHERE name = ?", table),
        ("INSERT INTO sqlite_master SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master WHERE name = ?", table),
    )
    sql, name = chance.choice(forged)
    connection.execute(sql, (name,))


def version(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Claim another revision, several, or none."""
    connection.execute("DELETE FROM iftb_store_version")
    for _ in range(chance.choice([0, 1, 3])):
        value = chance.choice([HEAD, "9999", "\x1b]0;owned\x07", f"{HEAD}'; DROP TABLE ohlcv; --", "x" * 9_999, 7, b"\xff", 1.5])
        connection.execute("INSERT OR IGNORE INTO iftb_store_version VALUES (?)", (value,))


def values(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Store values that do not fit their columns."""
    table = chance.choice(TABLES[:4])
    column = chance.choice([row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "id"])
    value = chance.choice([b"\xff\x00", "a\x00b", 1e308, -(2**63), "e" * 10**6, "\x1b[31m", None])
    connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE id = (SELECT max(id) FROM {table})", (value,))


def collation(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Take different texts for equal, or compare by what is not there."""
    table = chance.choice(TABLES[:4])
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    column = chance.choice([row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[2] == "TEXT"])
    name = chance.choice(["NOCASE", "RTRIM", "nothing", '"\x1b[2J"'])
    _define(connection, table, sql.replace(f" {column} TEXT", f" {column} TEXT COLLATE {name}"))


def literal_default(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Give each of many rows a long text that the file holds once."""
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "INSERT INTO system_events (event_type, severity, message) SELECT '', 'info', '' FROM n"
    )
    text, name = "x" * chance.choice([100, 60_000, 1 << 20]), chance.choice(["exchange", "mine"])
    if name == "exchange":
        connection.execute("ALTER TABLE system_events DROP COLUMN exchange")
    connection.execute(f"ALTER TABLE system_events ADD COLUMN {name} TEXT DEFAULT '{text}'")


def sequence(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Leave no ids, or such as no table has."""
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'trades'").fetchone()
    connection.execute("CREATE TABLE mine (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    last = chance.choice([2**63 - 1, -(2**63), "x" * 10_000, b"\xff", None])
    connection.execute("INSERT INTO sqlite_sequence VALUES ('trades', ?)", (last,))
    if chance.random() < 0.7:
        _define(connection, "trades", sql.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT", 1))


def large_schema(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Keep 10,000 tables, or tables of nearly 2,000 columns, the most that SQLite takes."""
    if chance.random() < 0.5:
        connection.execute("BEGIN")
        for number in range(chance.choice([9_900, 10_000])):
            connection.execute(f"CREATE TABLE t{number} (a)")
        return
    for table in chance.sample(TABLES[:4], 2):
        columns = ", ".join(f"c{number} {chance.choice(['', 'TEXT', 'DEFAULT 1'])}" for number in range(1_950))
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        # columns come before the constraints
        place = sql.index("CONSTRAINT")
        _define(connection, table, f"{sql[:place]}{columns}, {sql[place:]}")


ATTACKS: tuple[Attack, ...] = (
    view_that_never_ends,
    view_of_views,
    virtual_table,
    trigger,
    trigger_behind_a_key,
    generated_column,
    costly_expression,
    costly_table_of_others,
    costly_index,
    unknown_function,
    forged_schema,
    version,
    values,
    collation,
    literal_default,
    sequence,
    large_schema,
)


def change(path: Path, chance: random.Random, *, attack: Attack) -> None:
    """Change a valid store."""
    with closing(sqlite3.connect(path)) as connection:
        # otherwise SQLite refuses to write it
        connection.execute("PRAGMA ignore_check_constraints = ON")
        try:
            attack(connection, chance)
        except sqlite3.IntegrityError:
            # a value that a constraint refuses: the file stays valid
            connection.rollback()
        connection.commit()


def _define(connection: sqlite3.Connection, name: str, sql: str, page: int | None = None) -> None:
    """Write a definition into the schema without SQLite's checks."""
    connection.execute("PRAGMA writable_schema = ON")
    if page is None:
        connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, name))
    else:
        connection.execute("INSERT INTO sqlite_master VALUES ('table', ?, ?, ?, ?)", (name, name, page, sql))


def _redefine(connection: sqlite3.Connection, table: str, part: str) -> None:
    (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if part.startswith("g "):
        # before the constraints, in the place of columns
        _define(connection, table, sql.replace("(", f"({part}, ", 1))
    else:
        _define(connection, table, f"{sql.rstrip().removesuffix(')')}, {part})")
