"""The SQL that differs between engines: how to find unreadable values, and how to write a value."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection

from iftb_store.doctor.sqlite_decimals import AS_SORTABLE, AS_SORTABLE_NEGATIVE, PLAIN, PLAIN_NEGATIVE, UNSORTABLE
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import ColumnKind
from iftb_store.schema.types import FIRST_US, LAST_US, from_epoch_us


@dataclass(frozen=True)
class Engine:
    """The SQL fragments of one engine; ``{}`` is replaced by a column, or by a table's name.

    Attributes:
        begin: the first statements of the doctor's transaction, which then reads one snapshot, sees every row, and writes
            nothing.
        row: an expression that identifies a row, even if all of its columns are equal to those of another row.
        unreadable: by kind of column, the condition that a value (not NULL) cannot be read back as it was written.
        microseconds: a readable time as whole microseconds since 1970-01-01 UTC.
        month: the number of a time's calendar month in UTC, counted from the year 0.
        day: the day of the month of a time in UTC.
        shown_time: a time as text, or as a number of microseconds.
        shown_text: a text in a form that the driver can return, whatever bytes it contains.
        text_parameter: a bound parameter that accepts a value selected with `shown_text`.
        character: the function that returns the character with a given number.
        divided: the operator of integer division.
        zero: zero in the engine's form of decimals.
        now: the current time.
        new_id: a new id for a row of a table.
        sequence: the query for the last number of a table's sequence and whether this role may read it; empty if the engine
            has no sequences.
        set_sequence: the statement that moves a table's sequence to its largest id.
        leaves_gaps: whether a transaction that is rolled back leaves a gap in the ids.
        invalid: the query for indexes of iftb-store's tables that the engine has marked as invalid; it returns (table, index,
            whether the index is unique).
        unlogged: the query for tables of iftb-store that a crash of the engine would empty.
        creators: the query for schemas in the search_path in which other roles may create objects, and for these roles; the
            owners of the schemas and of iftb-store's tables are excluded.
        plain_decimals: if the engine stores decimals in another form, pairs of the condition that a value is a decimal in
            plain digits, and the expression that converts it.
        compared: a text as it must be compared. On PostgreSQL it is cast to text, because other roles may have put operators
            for other types into the search_path.
        lag: the window function that returns the previous row's value.
    """

    unreadable: dict[ColumnKind, str]
    microseconds: str
    month: str
    day: str
    shown_time: str
    zero: str
    new_id: str
    begin: tuple[str, ...] = ()
    row: str = "rowid"
    shown_text: str = "{}"
    text_parameter: str = ":{}"
    character: str = "chr"
    divided: str = "/"
    now: str = "now()"
    sequence: str = ""
    set_sequence: str = ""
    leaves_gaps: bool = True
    invalid: str = ""
    unlogged: str = ""
    creators: str = ""
    plain_decimals: tuple[tuple[str, str], ...] = ()
    compared: str = "{}"
    lag: str = "LAG"

    def literal(self, value: str | bytes) -> str:
        """Return an SQL expression, with printable characters only, for a text that was selected with `shown_text`."""
        try:
            shown = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            return f"CAST(x'{bytes(error.object).hex()}' AS TEXT)"
        pieces: list[str] = []
        for is_printable, chars in groupby(shown, str.isprintable):
            text = "".join(chars)
            quoted = "'" + text.replace("'", "''") + "'"
            pieces += [quoted] if is_printable else [f"{self.character}({ord(char)})" for char in text]
        return " || ".join(pieces) or "''"


_NAMES = ", ".join(f"'{name}'" for name in TABLES)
# a JSON array of texts
_TEXT = r'"([^"\\]|\\.)*"'
_TEXTS = rf"^\s*\[\s*({_TEXT}(\s*,\s*{_TEXT})*\s*)?\]\s*$"

_POSTGRESQL = Engine(
    # if row-level security hides rows, reading raises an error instead of returning only some rows
    begin=("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", "SET LOCAL row_security = off"),
    row="(CAST(tableoid AS text) || CAST(ctid AS text))",
    unreadable={
        ColumnKind.DECIMAL: "{} = 'NaN'",
        ColumnKind.TIME: "({0} < '0001-01-01 00:00:00+00' OR {0} >= '10000-01-01 00:00:00+00')",
        ColumnKind.JSON: "json_typeof({}) NOT IN ('object', 'null')",
        ColumnKind.TEXTS: f"CAST({{}} AS text) OPERATOR(pg_catalog.!~) '{_TEXTS}'",
    },
    # uses only operators and functions of pg_catalog, see `iftb_store_postgres.session.PostgresDriver`
    microseconds="CAST(EXTRACT(EPOCH FROM {}) OPERATOR(pg_catalog.*) 1000000 AS bigint)",
    month=(
        "(CAST(EXTRACT(YEAR FROM {0} AT TIME ZONE 'UTC') AS bigint) * 12"
        " + CAST(EXTRACT(MONTH FROM {0} AT TIME ZONE 'UTC') AS bigint))"
    ),
    day="CAST(EXTRACT(DAY FROM {} AT TIME ZONE 'UTC') AS bigint)",
    shown_time="CAST({} AT TIME ZONE 'UTC' AS text)",
    zero="CAST(0 AS numeric)",
    new_id="nextval(pg_get_serial_sequence('{0}', 'id'))",
    sequence="""
        SELECT last_value, pg_catalog.has_sequence_privilege(sequence, 'USAGE')
            OR pg_catalog.has_sequence_privilege(sequence, 'SELECT')
        FROM (SELECT CAST(CAST(pg_catalog.pg_get_serial_sequence('{0}', 'id') AS regclass) AS oid) AS sequence) ours
        JOIN pg_catalog.pg_class ON pg_class.oid = sequence JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        JOIN pg_catalog.pg_sequences ON schemaname = nspname AND sequencename = relname""",
    # never moves the sequence back, because it may have been moved forward and not been used yet
    set_sequence=(
        "SELECT setval(pg_get_serial_sequence('{0}', 'id'), "
        "GREATEST((SELECT MAX(id) FROM {0}), nextval(pg_get_serial_sequence('{0}', 'id'))))"
    ),
    invalid=f"""
        SELECT tables.relname, indexes.relname, indisunique
        FROM pg_index JOIN pg_class AS indexes ON indexes.oid = indexrelid JOIN pg_class AS tables ON tables.oid = indrelid
        WHERE NOT indisvalid AND pg_table_is_visible(indrelid)
            AND tables.relname IN ({_NAMES})
        ORDER BY 1, 2""",
    # every member of a role has the role's rights; superusers are left out, because they have all rights
    creators=f"""
        SELECT CAST(pg_catalog.quote_ident(CAST(nspname AS text)) AS text),
            CASE WHEN grantee = CAST(0 AS oid) THEN 'PUBLIC'
                ELSE pg_catalog.quote_ident(CAST(pg_catalog.pg_get_userbyid(grantee) AS text)) END
        FROM pg_catalog.pg_namespace,
            pg_catalog.aclexplode(COALESCE(nspacl, pg_catalog.acldefault('n', nspowner))) AS granted
        WHERE nspname = ANY (pg_catalog.current_schemas(false)) AND nspname <> 'pg_catalog' AND privilege_type = 'CREATE'
            AND grantee <> nspowner
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE pg_roles.oid = grantee AND rolsuper)
            AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_class
                WHERE relowner = grantee AND pg_catalog.pg_table_is_visible(pg_class.oid)
                    AND relname IN ({_NAMES}))
        ORDER BY 1, 2""",
    compared="CAST({} AS text)",
    lag="pg_catalog.lag",
    unlogged=f"""
        SELECT relname FROM pg_class
        WHERE relpersistence = 'u' AND relkind = 'r' AND pg_table_is_visible(oid)
            AND relname IN ({_NAMES})
        ORDER BY 1""",
)

_SQLITE = Engine(
    unreadable={
        ColumnKind.DECIMAL: UNSORTABLE,
        ColumnKind.TIME: f"(typeof({{0}}) <> 'integer' OR {{0}} NOT BETWEEN {FIRST_US} AND {LAST_US})",
        ColumnKind.INTEGER: "typeof({}) <> 'integer'",
        ColumnKind.TEXT: "(typeof({0}) <> 'text' OR instr({0}, char(0)) > 0)",
        ColumnKind.JSON: "(typeof({0}) <> 'text' OR NOT json_valid({0}) OR json_type({0}) NOT IN ('object', 'null'))",
        ColumnKind.TEXTS: (
            "(typeof({0}) <> 'text' OR CASE WHEN json_valid({0}) THEN json_type({0}) <> 'array'"
            " OR EXISTS (SELECT 1 FROM json_each({0}) AS item WHERE item.type <> 'text') ELSE 1 END)"
        ),
    },
    microseconds="{}",
    # subtracting the remainder rounds times before 1970 down to their second
    month=(
        "(CAST(strftime('%Y', ({0} - ((({0}) % 1000000) + 1000000) % 1000000) / 1000000, 'unixepoch') AS INTEGER) * 12 + "
        "CAST(strftime('%m', ({0} - ((({0}) % 1000000) + 1000000) % 1000000) / 1000000, 'unixepoch') AS INTEGER))"
    ),
    day="CAST(strftime('%d', {} / 1000000, 'unixepoch') AS INTEGER)",
    shown_time="{}",
    # the driver cannot return text that is not valid UTF-8
    shown_text="CAST({} AS BLOB)",
    text_parameter="CAST(:{} AS TEXT)",
    character="char",
    zero="'a0'",
    now="CAST(strftime('%s', 'now') AS INTEGER) * 1000000",
    new_id="(SELECT MAX(id) FROM {0}) + rowid",
    leaves_gaps=False,
    plain_decimals=((PLAIN, AS_SORTABLE), (PLAIN_NEGATIVE, AS_SORTABLE_NEGATIVE)),
)

_DUCKDB = Engine(
    unreadable={
        ColumnKind.TIME: "({0} < '0001-01-01 00:00:00+00'::TIMESTAMPTZ OR {0} >= '10000-01-01 00:00:00+00'::TIMESTAMPTZ)",
        ColumnKind.JSON: "json_type({}) NOT IN ('OBJECT', 'NULL')",
        ColumnKind.TEXTS: f"(NOT regexp_full_match({{}}, '{_TEXTS}'))",
        ColumnKind.TEXT: "contains({}, chr(0))",
    },
    microseconds="epoch_us({})",
    month="(year(make_timestamp(epoch_us({0}))) * 12 + month(make_timestamp(epoch_us({0}))))",
    day="day(make_timestamp(epoch_us({})))",
    shown_time="CAST({} AS VARCHAR)",
    divided="//",
    zero="0",
    new_id="nextval('{0}_id_seq')",
    sequence="""
        SELECT last_value, TRUE FROM duckdb_sequences()
        WHERE sequence_name = '{0}_id_seq' AND database_name = current_database() AND schema_name = current_schema()""",
    set_sequence="SELECT setval('{0}_id_seq', (SELECT MAX(id) FROM {0}))",
)

_ENGINES = {"postgresql": _POSTGRESQL, "sqlite": _SQLITE, "duckdb": _DUCKDB}


def find_engine(conn: Connection) -> Engine:
    """Return the SQL fragments for a connection's engine, one of those whose tables iftb-store's migrations create."""
    return _ENGINES[conn.dialect.name]


def format_text(value: Any) -> str:
    """Return a value selected with `Engine.shown_text` as text."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def time_of(value: Any) -> str:
    """Return a value selected with `Engine.shown_time` as a time in UTC for people."""
    if isinstance(value, int) and FIRST_US <= value <= LAST_US:
        return from_epoch_us(value).replace(tzinfo=None).isoformat(" ")
    return format_text(value).removesuffix("+00")
