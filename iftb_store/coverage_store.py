"""The optional ability to keep which times of a series an exchange was asked for; see `iftb_store.abilities` for the others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from iftb_store.schema.table_spec import AskedRange, RowFilter


class CoverageStore(Protocol):
    """The table ``coverage`` in one session, part of RECORDS; ``series`` is a `RowFilter` of COVERAGE with all of SERIES."""

    async def lock(self, series: RowFilter) -> None:
        """Hold off other sessions that would change the ranges of the series, until the transaction ends."""
        ...

    async def read(self, series: RowFilter) -> list[AskedRange]:
        """Return the ranges of which a part lies in the window, oldest first; of all series if ``equal`` is empty."""
        ...

    async def replace(self, series: RowFilter, ranges: Sequence[AskedRange]) -> None:
        """Delete the ranges that `read` returns for the window, and store others of the series in their place."""
        ...

    async def read_runs(self, series: RowFilter) -> list[tuple[datetime, datetime, bool, int]]:
        """Return the runs of bars in the window as (first, last, whether the volume is 0, number of bars), from a snapshot.

        A run ends at a gap, see `iftb_store.protocols.BarStore.get_gaps`, and where the volume becomes 0 or other than 0.
        """
        ...


@runtime_checkable
class SupportsCoverage(Protocol):
    """The stores of a session that keep what was asked for; those of `iftb_store.relational` do."""

    @property
    def coverage(self) -> CoverageStore:
        """The store of the table ``coverage``."""
        ...
