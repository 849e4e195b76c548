"""What an examination finds: one `Finding` for each kind of fault in each place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["error", "warning", "note"]
#: Worst first. Notes are no faults.
SEVERITY_ORDER: tuple[Severity, ...] = get_args(Severity)

#: How many rows a finding names.
SHOWN_ROWS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem that the doctor found.

    Attributes:
        kind: the problem in two or three words, e.g. "duplicate bars".
        severity: an error causes wrong results or failing calls; a warning is a contradiction or can become an error; a
            note is for information and needs no action.
        table: the table's name.
        where: a series of bars (exchange, symbol, timeframe), a column, a constraint …; empty for the whole table.
        rows: the first few rows, at most `SHOWN_ROWS`: the times of bars (UTC), the ids of others.
        count: the number of rows (for gaps, sequences and the schema, the number of these).
        remedy: what to do, as a sentence.
        statements: SQL that fixes it, to be run unchanged in this order; empty if no statement can.
    """

    kind: str
    severity: Severity
    table: str
    where: str
    rows: tuple[str, ...]
    count: int
    remedy: str
    statements: tuple[str, ...] = ()
