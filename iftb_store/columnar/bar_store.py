"""The reading methods of a store of bars, as queries that run in DuckDB."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import ClassVar, NamedTuple, TypeVar

import pyarrow as pa

from iftb_store.abilities import Edges
from iftb_store.batches.bars import KEY, VALUES
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.columnar.bars import gaps_sql
from iftb_store.columnar.driver import SLICE, Cursor
from iftb_store.columnar.many_series import DUCKDB, many_buckets_sql, many_gaps_sql, series_sql, to_gaps
from iftb_store.columnar.query import Query
from iftb_store.columnar.reading import read_newest, read_oldest
from iftb_store.columnar.resampling import read_buckets, read_many_buckets, read_resampled
from iftb_store.errors import explain_unreadable
from iftb_store.models import OHLCVBar, Series
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.schema.types import from_epoch_us

T = TypeVar("T")

# the greatest number of bars in one query over many series, unless a symbol has more
_BARS = 10_000_000


class ColumnarBars(ABC):
    """Reads the bars of one session; a subclass runs the queries and writes. See `iftb_store.protocols.BarStore`."""

    #: Whether reading two columns twice costs little, as it does in a local file.
    reads_twice: ClassVar[bool] = False

    @abstractmethod
    async def run(self, selection: RowFilter, work: Callable[[Cursor], T], columns: Sequence[str] = BARS.columns) -> T:
        """Run ``work`` in a thread with a cursor whose table ``ohlcv`` has at least the selected rows and the given columns."""

    async def read(self, series: RowFilter, *, descending: bool = False) -> list[OHLCVBar]:
        """Return the bars of a series, oldest first, or newest first if ``descending``; at most ``series.limit``."""
        read = read_newest if descending else read_oldest
        return await self.run(series, lambda cursor: read(cursor, series))

    async def resample(self, series: RowFilter, buckets: Buckets) -> list[Bucket]:
        """Return the bars of a series aggregated by bucket, ordered by the bucket's number."""
        query = Query(series)
        twice = self.reads_twice
        table = await self.run(series, lambda cursor: read_resampled(cursor, query, buckets, twice=twice), (*KEY, *VALUES))
        return await asyncio.to_thread(read_buckets, table)

    async def list_series(self) -> list[Series]:
        """Return every stored series with its first and last time and its numbers of bars and of missing bars."""
        rows = await self.run(RowFilter(BARS), lambda cursor: cursor.fetch(series_sql(DUCKDB, BARS.name)), KEY)
        with explain_unreadable(BARS.name):
            return [
                Series(exchange, symbol, timeframe, from_epoch_us(first), from_epoch_us(last), count, missing)
                for exchange, symbol, timeframe, first, last, count, missing in rows
            ]

    async def find_exchanges(self, window: RowFilter) -> list[str]:
        """Return the exchanges that have bars in a window; see `iftb_store.abilities.SupportsExchanges`."""
        query = Query(window)
        sql = f"SELECT DISTINCT exchange FROM {query.source} ORDER BY exchange"
        rows = await self.run(window, lambda cursor: cursor.fetch(sql, query.values), KEY)
        return [exchange for (exchange,) in rows]

    async def get_gaps(
        self, series: RowFilter, before: datetime | None, after: datetime | None
    ) -> list[tuple[datetime, datetime]]:
        """Return the times (last bar before, first bar after) of every gap, oldest first, computed in the engine."""
        query = Query(series)
        sql = gaps_sql(query, series.equal["timeframe"], before, after)
        rows = await self.run(series, lambda cursor: cursor.fetch(sql, query.values), KEY)
        with explain_unreadable(BARS.name):
            return [(from_epoch_us(earlier), from_epoch_us(later)) for earlier, later in rows]

    async def stream_gaps(self, window: RowFilter, edges: Mapping[str, Edges]) -> AsyncGenerator[pa.Table]:
        """Yield the gaps of many series; see `iftb_store.abilities.SupportsManySeries`."""
        # with an end, a series without bars in the window is a gap
        for part in await self._divide(window, every=window.end is not None):
            table = await self._find_gaps(part, window, edges)
            if table.num_rows:
                yield to_gaps(table)

    async def stream_buckets(self, window: RowFilter, buckets: Buckets) -> AsyncGenerator[list[tuple[str, str, Bucket]]]:
        """Yield the buckets of many series; see `iftb_store.abilities.SupportsManySeries`."""
        for part in await self._divide(window):
            query = part.query()
            sql = many_buckets_sql(DUCKDB, BARS.name, query.conditions, buckets)
            table = await self._query(part, sql, query, (*KEY, *VALUES))
            for first in range(0, table.num_rows, SLICE):
                yield await asyncio.to_thread(read_many_buckets, table.slice(first, SLICE))

    async def _find_gaps(self, part: _Part, window: RowFilter, edges: Mapping[str, Edges]) -> pa.Table:
        query = part.query()
        chosen = list(query.conditions)
        inside = [f"timestamp {sign} {query.bound(moment)}" for _, sign, moment in window.bounds]

        def bound(moment: datetime | None) -> str | None:
            return None if moment is None else f"epoch_us({query.bound(moment)})"

        bounds = {name: (bound(before), bound(after)) for name, (before, after) in edges.items()}
        sql = many_gaps_sql(DUCKDB, BARS.name, chosen, inside, bounds)
        return await self._query(part, sql, query, KEY)

    async def _query(self, part: _Part, sql: str, query: Query, columns: Sequence[str]) -> pa.Table:
        table, _ = await self.run(part.selection, lambda cursor: cursor.table(sql, query.values), columns)
        return table

    async def _divide(self, window: RowFilter, *, every: bool = False) -> list[_Part]:
        """Divide a selection into one part per exchange, or into several parts by symbol if an exchange has many bars.

        The parts are in order of exchange and symbol. Only the bars in the window are counted. With ``every``, the parts also
        contain the series that have no bars in the window.
        """
        selection = RowFilter(BARS, window.equal) if every else window
        query = Query(selection)
        inside = [f"timestamp {sign} {query.bound(moment)}" for _, sign, moment in window.bounds] if every else []
        counted = f"count(*) FILTER ({' AND '.join(inside)})" if inside else "count(*)"
        sql = f"SELECT exchange, symbol, {counted} FROM {query.source} GROUP BY exchange, symbol ORDER BY exchange, symbol"
        rows = await self.run(selection, lambda cursor: cursor.fetch(sql, query.values), KEY)
        parts = list[_Part]()
        for exchange, found in groupby(rows, itemgetter(0)):
            chosen = replace(selection, equal={"exchange": exchange, **selection.equal})
            ranges = _pack((symbol, count) for _, symbol, count in found)
            parts += [_Part(chosen, symbols if len(ranges) > 1 else None) for symbols in ranges]
        return parts


class _Part(NamedTuple):
    """The series that one query reads: a selection, and its first and last symbol, or None for all symbols."""

    selection: RowFilter
    symbols: tuple[str, str] | None

    def query(self) -> Query:
        """Return the conditions that select the part."""
        query = Query(self.selection)
        if self.symbols is not None:
            query.conditions.append(f"symbol BETWEEN {' AND '.join(map(query.bound, self.symbols))}")
        return query


def _pack(counts: Iterable[tuple[str, int]]) -> list[tuple[str, str]]:
    """Return ranges (first, last) of consecutive symbols; a range of several symbols has at most `_BARS` bars."""
    ranges, total = list[tuple[str, str]](), 0
    for symbol, count in counts:
        total += count
        if ranges and total <= _BARS:
            ranges[-1] = (ranges[-1][0], symbol)
        else:
            ranges.append((symbol, symbol))
            total = count
    return ranges
