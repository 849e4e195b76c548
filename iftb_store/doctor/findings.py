"""The result of an examination: one `Finding` for each kind of problem in each place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["error", "warning", "note"]
#: Worst first; a note is not a problem.
SEVERITY_ORDER: tuple[Severity, ...] = get_args(Severity)

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
    severity: Severity
    table: str
    where: str
    rows: tuple[str, ...]
    count: int
    remedy: str
    statements: tuple[str, ...] = ()
