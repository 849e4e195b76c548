"""The report of `copy_from`; its fields are what the command prints with --json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from iftb_store.transfer.reports import CopyReport

#: The programs whose databases can be read: "original" is the storage layer that iftb-store replaces.
Program: TypeAlias = Literal["original", "freqtrade", "vnpy"]


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row of another program's database that the rules of iftb-store refuse.

    Attributes:
        table: the row's table in that database.
        id: the row's id there.
        reason: why the row is refused.
        correction: what would be changed so that it can be stored; empty if nothing can be done.
        accepted: whether it was stored with this correction, because ``accept`` was given.
    """

    table: str
    id: int
    reason: str
    correction: str
    accepted: bool


@dataclass(frozen=True, slots=True)
class ForeignReport:
    """The result of `copy_from`.

    Attributes:
        program: the program whose database was read.
        read: the number of rows that were read, by their table there.
        refused: the rows that the rules of iftb-store refuse, in the order of tables and ids.
        notes: what was left out, e.g. columns and tables that iftb-store does not have, and how values were converted.
        copied: the result of the copy, which is verified.
    """

    program: Program
    read: dict[str, int]
    refused: tuple[RefusedRow, ...]
    notes: tuple[str, ...]
    copied: CopyReport
