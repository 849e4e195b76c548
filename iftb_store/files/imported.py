"""ImportedFile, the result of importing one file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """The result of importing one file.

    Attributes:
        path: the file.
        table: the table of the rows; empty if the file has no rows and does not name its table.
        rows: number of rows written; bars that the file contains more than once count once.
        series: (exchange, symbol, timeframe) of the bars if all belong to one series, otherwise None.
        first: the earliest time of the rows, None if there are no rows.
        last: the latest time of the rows, None if there are no rows.
        inserted: number of rows that were new.
        changed: number of rows that were stored with other values.
        equal: number of rows that were stored with the same values.
        rounded: number of values that were rounded to 18 places.
        skipped: number of rows without prices that were skipped.
        notes: remarks for the user on how the file was read, e.g. that floats were converted.
    """

    path: Path
    table: str
    rows: int
    series: tuple[str, str, str] | None
    first: datetime | None
    last: datetime | None
    inserted: int = 0
    changed: int = 0
    equal: int = 0
    rounded: int = 0
    skipped: int = 0
    notes: tuple[str, ...] = ()
