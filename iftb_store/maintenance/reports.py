"""The reports of `prune` and `rollup`; their fields are what the commands print with --json."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from iftb_store.values.timeframes import Timeframe


@dataclass(frozen=True, slots=True)
class PrunedPart:
    """The rows of one series of bars, or of one other table, that were deleted.

    Attributes:
        table: the table's name.
        series: the series of the bars, e.g. ``binance BTCUSDT 1m``; empty for another table.
        rows: the number of deleted rows; after a dry run, the number of rows that would be deleted.
    """

    table: str
    series: str
    rows: int


@dataclass(frozen=True, slots=True)
class PruneReport:
    """The result of `prune`.

    Attributes:
        before: rows older than this time, UTC, were deleted.
        parts: the deleted rows of each series of bars and of each other table, in the order of tables and series; a series
            without such rows is left out.
        partitions: the names of the partitions of bars that were dropped whole; their rows are in ``parts`` too.
        daily_bars: the number of daily bars that ``keep_daily`` stored.
        dry_run: whether this was a dry run: nothing was changed, and the numbers are what would be done.
    """

    before: datetime
    parts: tuple[PrunedPart, ...]
    partitions: tuple[str, ...]
    daily_bars: int
    dry_run: bool

    @property
    def rows(self) -> int:
        """The number of deleted rows of all parts."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True, slots=True)
class RolledUpSeries:
    """The bars of a longer timeframe that were computed from one series.

    Attributes:
        exchange: the exchange of the series.
        symbol: the symbol of the series.
        stored: the number of bars that were stored; after a dry run, the number that would be stored.
    """

    exchange: str
    symbol: str
    stored: int


@dataclass(frozen=True, slots=True)
class RollupReport:
    """The result of `rollup`.

    Attributes:
        source: the timeframe of the bars that were read.
        target: the timeframe of the bars that were stored.
        series: one result for each series of the source timeframe, ordered by exchange and symbol; empty if there is none.
        dry_run: whether this was a dry run: nothing was stored.
    """

    source: Timeframe
    target: Timeframe
    series: tuple[RolledUpSeries, ...]
    dry_run: bool

    @property
    def stored(self) -> int:
        """The number of stored bars of all series."""
        return sum(one.stored for one in self.series)
