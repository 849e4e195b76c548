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
    """One thing that was found.

    Attributes:
        kind: what it is, in two or three words, such as "duplicate bars".
        severity: an error gives wrong answers or failing calls; a warning contradicts itself or can become an error; a
            note is worth knowing and needs nothing to be done.
        table: where.
        where: a series of bars (exchange, symbol, timeframe), a column, a constraint …; empty for the whole table.
        rows: the first few rows, at most `SHOWN_ROWS`: the times of bars (UTC), the ids of others.
        count: how many rows (of holes, sequences and the schema: how many of these) there are.
        remedy: what to do, as a sentence.
        statements: SQL that mends it, to be run as it is, in this order; empty where no statement can.
    """

    kind: str
    severity: Severity
    table: str
    where: str
    rows: tuple[str, ...]
    count: int
    remedy: str
    statements: tuple[str, ...] = ()
