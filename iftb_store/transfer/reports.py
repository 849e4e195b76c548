"""The reports that the functions of transfers return; their fields are what the commands print with --json."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iftb_store.transfer.planner import Copied
    from iftb_store.transfer.verify import Contents, Difference, Verified


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A backup that was written.

    Attributes:
        path: the file.
        engine: the URL scheme that opens the file, e.g. sqlite.
        size: the size of the file in bytes.
        tables: number of rows by table name.
    """

    path: Path
    engine: str
    size: int
    tables: dict[str, int]


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """The result of copying one series of bars, or one of the other tables.

    Attributes:
        table: the table's name.
        series: the series of the bars, e.g. ``binance BTCUSDT 1m``; empty for a whole table.
        source: the number of rows in the source and their checksum, which is empty for rows that a dry run did not read.
        inserted: number of rows that the destination lacked.
        updated: number of rows that had other values in the destination.
        unchanged: number of rows that the destination already had with the same values.
        deleted: number of rows that only the destination had and that were deleted, if ``delete`` was given.
        kept: number of rows that only the destination has and that were not deleted.
        unread: number of rows of the destination that were not read, because it keeps digests of their days that equal the
            source's. If another client has changed a row of such a day since, a copy notices this only when it reads the day;
            it reads one in 30 such days, at random, and with ``full`` every day.
        equal: whether a check confirmed that the destination has every row of the source; if ``kept`` is 0, it has no other rows.
    """

    table: str
    series: str
    source: Contents
    inserted: int
    updated: int
    unchanged: int
    deleted: int
    kept: int
    unread: int
    equal: bool


@dataclass(frozen=True, slots=True)
class CopyReport:
    """The result of a copy.

    Attributes:
        parts: one result for each series of bars, and one for each other table or selected part of it, even if it has no rows,
            in the order of tables and series.
        left_out: the names of the tables that were left out, because one of the stores does not keep them.
        created_tables: whether the destination had no tables, so that they were created.
        dry_run: whether this was a dry run: nothing was written, and the numbers count the rows that would be written.
    """

    parts: tuple[CopiedPart, ...]
    left_out: tuple[str, ...]
    created_tables: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """The result of a restore.

    Attributes:
        path: the backup file.
        parts: one result for each series of bars, and one for each other table, even if it has no rows.
        left_out: the names of the tables that were left out, because the backup or the database does not keep them.
    """

    path: Path
    parts: tuple[CopiedPart, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifiedPart:
    """The result of comparing one series of bars, or one of the other tables.

    Attributes:
        table: the table's name.
        series: the series, e.g. ``binance BTCUSDT 1m``; empty for a whole table.
        source: the number of rows in the source and their checksum.
        destination: the number of rows in the destination and their checksum.
        equal: whether both stores have the same rows with the same values.
        differences: the differing values of the first few rows that differ.
    """

    table: str
    series: str
    source: Contents
    destination: Contents
    equal: bool
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of comparing two stores.

    Attributes:
        equal: whether both stores have the same selected rows with the same values; True if neither has such a row.
        parts: one result for each series of bars, and one for each other table or selected part of it, even if it has no rows.
        left_out: the names of the tables that were left out, because one of the stores does not keep them.
    """

    equal: bool
    parts: tuple[VerifiedPart, ...]
    left_out: tuple[str, ...]


def report_copied(parts: Iterable[Copied]) -> tuple[CopiedPart, ...]:
    """Convert the results of a finished copy to the parts of its report."""
    return tuple(
        CopiedPart(
            part.table,
            part.series,
            part.source,
            part.inserted,
            part.updated,
            part.unchanged,
            part.deleted,
            part.kept,
            part.unread,
            part.equal,
        )
        for part in parts
    )


def report_verified(parts: Iterable[Verified]) -> tuple[VerifiedPart, ...]:
    """Convert the results of a comparison to the parts of its report."""
    return tuple(
        VerifiedPart(part.table, part.series, part.source, part.destination, part.equal, tuple(part.differences))
        for part in parts
    )
