"""Runs checks as SQL: counts all problems in one read of a table, then reads the first few rows that have each problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import Connection, Table, text

from iftb_store.doctor.sql import Engine, format_text, time_of
from iftb_store.schema.table_spec import SERIES

FindingSeverity = Literal["error", "warning", "note"]
#: Worst first; a note is not a problem.
SEVERITY_ORDER: tuple[FindingSeverity, ...] = get_args(FindingSeverity)

#: Maximum number of rows that a finding names.
SHOWN_ROWS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem that the doctor found.

    Attributes:
        kind: the problem in two or three words, e.g. "duplicate bars".
        severity: an error causes wrong results or failing calls; a warning is a contradiction or can become an error; a
            note is for information and needs no action.
        table: the table's name.
        where: the place, e.g. a series of bars (exchange, symbol, timeframe), a column, a constraint; empty for the whole table.
        rows: the first few rows, at most `SHOWN_ROWS`: the times of bars (UTC), the ids of other rows.
        count: the number of rows; for gaps, sequences and the schema, the number of gaps, sequences or differences.
        remedy: what to do, as a sentence.
        statements: SQL statements that fix the problem, to be run unchanged in this order; empty if no statement can.
    """

    kind: str
    severity: FindingSeverity
    table: str
    where: str
    rows: tuple[str, ...]
    count: int
    remedy: str
    statements: tuple[str, ...] = ()


#: Placeholder in a condition; it is replaced by the condition that selects the series.
HERE = "<series>"

# a fixing statement names up to this many rows by their ids, and selects more by the condition that finds them
_MOST_NAMED = 50


@dataclass(frozen=True, slots=True)
class Check:
    """A kind of problem of rows: the SQL condition that finds the rows, and what to report in the finding.

    Attributes:
        kind: the `Finding.kind` to report.
        severity: the `Finding.severity` to report.
        table: the table of the row.
        where: the `Finding.where` to report.
        condition: the SQL condition; it may contain `HERE`, a placeholder for the condition that selects one series.
        remedy: the `Finding.remedy` to report.
        fix: the statement that fixes the rows, without its WHERE clause; None if no statement can.
        before: statements to run before ``fix``.
    """

    kind: str
    severity: FindingSeverity
    table: Table
    where: str
    condition: str
    remedy: str
    fix: str | None = None
    before: tuple[str, ...] = ()


class SeriesRows:
    """One series of bars: its exchange, symbol and timeframe, and the SQL conditions that select its bars."""

    def __init__(self, engine: Engine, key: Sequence[str | bytes]) -> None:
        self.values: dict[str, object] = dict(zip(SERIES, key, strict=True))
        self.exchange, self.symbol, self.timeframe = map(format_text, key)
        self.shown = f"{self.exchange} {self.symbol} {self.timeframe}"
        #: The condition that selects the series: with bound parameters (`values`), and with literals, to be printed.
        self.condition = " AND ".join(
            f"{engine.compared.format(name)} = {engine.compared.format(engine.text_parameter.format(name))}"
            for name in self.values
        )
        self.literal = " AND ".join(f"{name} = {engine.literal(value)}" for name, value in zip(SERIES, key, strict=True))


def run_checks(conn: Connection, engine: Engine, table: Table, checks: Sequence[Check]) -> list[Finding]:
    """Run the checks of one table; return a finding for each check that found problems."""
    counts = ", ".join(f"COUNT(*) FILTER (WHERE {check.condition})" for check in checks)
    row = conn.execute(text(f"SELECT {counts} FROM {table.name}")).one()
    return [make_finding(conn, engine, check, count) for check, count in zip(checks, row, strict=True) if count]


def make_finding(
    conn: Connection, engine: Engine, check: Check, count: int, *, only: str = "", series: SeriesRows | None = None
) -> Finding:
    """Return the finding for a check that found problems; reads the first few rows that have the problem.

    Args:
        conn: the connection.
        engine: the engine's SQL fragments.
        check: the check.
        count: the number of rows that have the problem.
        only: an SQL condition that limits the check to some rows; empty for all rows.
        series: the series to which the check is limited; None for all.
    """
    name, values = check.table.name, series.values if series else {}
    where, literal = join_conditions(check.condition, only), check.condition
    if series is not None:
        where = join_conditions(series.condition, where.replace(HERE, series.condition))
        literal = join_conditions(series.literal, literal.replace(HERE, series.literal))
    statements: tuple[str, ...] = ()
    if check.fix is not None:
        # the printed statement must not contain the condition in ``only``, which is too long to understand
        named = _name_rows(conn, name, where, values, count) or ("" if only else literal)
        statements = (*check.before, f"{check.fix} WHERE {named}") if named else ()
    waits = check.fix is not None and not statements
    return Finding(
        check.kind,
        check.severity,
        name,
        join_conditions(series.shown if series else "", check.where, by=" "),
        read_first_rows(conn, engine, check.table, where, values, is_series=series is not None),
        count,
        f"{check.remedy}; first fix the values that cannot be read, and run the doctor again" if waits else check.remedy,
        statements,
    )


def _name_rows(conn: Connection, table: str, condition: str, values: Mapping[str, object], count: int) -> str:
    """Read the ids of the rows that meet ``condition``, and return an SQL condition that selects exactly these ids.

    The result is empty if there are too many rows, an id is not an integer, or other rows have one of the ids.
    """
    if count > _MOST_NAMED:
        return ""
    ids = [id_ for (id_,) in conn.execute(text(f"SELECT id FROM {table} WHERE {condition} ORDER BY id"), values)]
    if not all(isinstance(id_, int) for id_ in ids):
        return ""
    named = f"id = {ids[0]}" if len(ids) == 1 else f"id IN ({', '.join(map(str, ids))})"
    with_others = conn.execute(text(f"SELECT COUNT(*) FROM {table} WHERE {named}")).scalar_one()
    return named if with_others == len(ids) else ""


def read_first_rows(
    conn: Connection, engine: Engine, table: Table, condition: str, values: Mapping[str, object], *, is_series: bool
) -> tuple[str, ...]:
    """Return the first few rows as text: for bars the time, and the series unless it is known; for other rows the id."""
    if table.name != "ohlcv":
        sql = f"SELECT id FROM {table.name} WHERE {condition} ORDER BY id LIMIT {SHOWN_ROWS}"
        return tuple(str(id_) for (id_,) in conn.execute(text(sql), values))
    names = () if is_series else SERIES
    columns = ", ".join([*map(engine.shown_text.format, names), engine.shown_time.format("timestamp")])
    sql = f"SELECT {columns} FROM ohlcv WHERE {condition} ORDER BY {', '.join([*names, 'timestamp'])} LIMIT {SHOWN_ROWS}"
    return tuple(" ".join([*map(format_text, series), time_of(moment)]) for *series, moment in conn.execute(text(sql), values))


def join_conditions(*conditions: str, by: str = " AND ") -> str:
    """Join conditions that must all hold; empty conditions are skipped."""
    return by.join(filter(None, conditions))


def select_repeated(engine: Engine, table: Table, key: str, which: str) -> str:
    """Return the SQL condition for duplicates: of the rows with the same key, all except the row with the smallest id.

    Only rows that meet the SQL condition ``which`` are compared and selected.
    """
    numbered = (
        f"SELECT {engine.row} AS place, ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY id, {engine.row}) AS number "
        f"FROM {table.name} WHERE {which}"
    )
    return f"{engine.row} IN (SELECT place FROM ({numbered}) numbered WHERE number > 1)"
