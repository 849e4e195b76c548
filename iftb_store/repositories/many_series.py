"""The reads of gaps and of longer bars of every series in one call, as streams of Arrow batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from iftb_store._io.tasks import import_modules
from iftb_store.abilities import Edges, SupportsManySeries, SupportsSeries
from iftb_store.batches.resampling import Bucket, Buckets, make_bars
from iftb_store.errors import InvalidValueError, explain_unreadable
from iftb_store.models import OHLCVBar
from iftb_store.protocols import Stores
from iftb_store.registry import find_lookups, require_arrow
from iftb_store.repositories.base import Repository
from iftb_store.repositories.streams import Stream
from iftb_store.schema.scope import make_filter
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter
from iftb_store.values import checks
from iftb_store.values.timeframes import TIMEFRAMES, Timeframe, check_timeframe, shift

if TYPE_CHECKING:
    import pyarrow as pa

_MICROSECOND = timedelta(microseconds=1)
# the number of rows in a batch, and of buckets in one query for a single series
_ROWS = 10_000


class ManySeriesReads(Repository):
    """The methods of `OHLCVRepository` that read every series."""

    def get_gaps_all(
        self,
        *,
        timeframe: Timeframe | None = None,
        exchange: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Stream[pa.RecordBatch]:
        """Return a stream of the gaps of every series: ``async for batch in repo.get_gaps_all()``.

        The gaps are those that get_gaps returns for each series of list_series, with the same ``start`` and ``end``: if a series
        has no bars in a given window, the whole window is one gap. With a manager, the stream reads a snapshot; its memory is
        bounded. stream_range explains how to close the stream.

        Args:
            timeframe: only series of this timeframe; None for all.
            exchange: only series of this exchange; None for all.
            start: start of the time window, inclusive, a time at which bars begin; naive times are UTC. None: from the first
                bar of each series.
            end: end of the time window, inclusive. None: to the last bar of each series.

        Returns:
            Batches with the columns exchange, symbol, timeframe, first and last, ordered by them, text compared by its bytes.
            ``first`` is the time of the last bar before the gap, ``last`` that of the first bar after it. No batch is empty;
            without gaps there is no batch.

        Raises:
            InvalidValueError: start is after end, the timeframe is unknown; or, at the latest while the stream is read, a gap
                would reach outside the years 1 to 9999.
            MissingDriverError: pyarrow is not installed; the message contains the install command.

        Example:
            async for batch in ohlcv.get_gaps_all(exchange="binance"):
                (batch["symbol"].to_pylist(), batch["last"][0].as_py().hour)  # -> (['BTCUSDT'], 8)
        """
        window = make_filter(BARS, start, end, timeframe=timeframe, exchange=exchange)
        steps = (window.equal["timeframe"],) if timeframe is not None else TIMEFRAMES
        edges, refused = dict[str, Edges](), dict[str, InvalidValueError]()
        for step in steps:
            try:
                edges[step] = find_edges(window.start, window.end, step)
            except InvalidValueError as error:
                refused[step] = error
        if not edges:
            raise refused[steps[0]]
        require_arrow()
        return Stream(self._gaps(window, edges, refused))

    def resample_all(
        self,
        target: Timeframe,
        *,
        source: Timeframe,
        exchange: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        partial: bool = False,
    ) -> Stream[pa.RecordBatch]:
        """Return a stream of longer bars of every series of a timeframe: ``async for batch in repo.resample_all(…)``.

        The bars are those that resample returns for each series of ``source``. They are not stored: write_arrow stores a batch.
        With a manager, the stream reads a snapshot; its memory is bounded. stream_range explains how to close the stream.

        Args:
            target: the timeframe of the returned bars, a multiple of ``source``; for 1M, ``source`` must divide the day.
            source: the timeframe of the stored bars.
            exchange: only series of this exchange; None for all.
            start: start of the time window, inclusive; naive times are UTC. None: from the first bar of each series.
            end: end of the time window, inclusive. None: to the last bar of each series.
            partial: whether to return also the bars of incomplete buckets, in which a bar is missing or outside the window.

        Returns:
            Batches with the columns of read_arrow without id and created_at, ordered by exchange, symbol and timestamp, text
            compared by its bytes. No batch is empty; without bars there is no batch.

        Raises:
            InvalidValueError: start is after end, a timeframe is unknown, the target is not a multiple of the source; or, while
                the stream is read, a sum exceeds the range of its column.
            MissingDriverError: pyarrow is not installed; the message contains the install command.

        Example:
            async for batch in ohlcv.resample_all("4h", source="1h"):
                (batch.num_rows, batch["timeframe"][0].as_py())  # -> (5, '4h')
        """
        step, wanted = check_timeframe(source, "source"), check_timeframe(target, "target")
        buckets = Buckets(step, wanted)
        checks.boolean(partial, "partial")
        window = make_filter(BARS, start, end, timeframe=step, exchange=exchange)
        require_arrow()
        return Stream(self._longer_bars(window, buckets, wanted, partial=partial))

    async def _gaps(
        self, window: RowFilter, edges: dict[str, Edges], refused: dict[str, InvalidValueError]
    ) -> AsyncGenerator[pa.RecordBatch]:
        """Yield the gaps; if a series is stored whose timeframe is a key of ``refused``, raise the error given there."""
        await import_modules("pyarrow", "iftb_store.batches.arrow")
        async with self._stores(snapshot=True) as stores:
            for *_, timeframe in await _find_series(stores, RowFilter(BARS, window.equal)) if refused else ():
                if timeframe in refused:
                    raise refused[timeframe]
            bars = stores.bars
            found = bars.stream_gaps(window, edges) if isinstance(bars, SupportsManySeries) else _scan_gaps(stores, window, edges)
            async with aclosing(found) as parts:
                async for part in parts:
                    for batch in part.to_batches(_ROWS):
                        yield batch

    async def _longer_bars(
        self, window: RowFilter, buckets: Buckets, target: Timeframe, *, partial: bool
    ) -> AsyncGenerator[pa.RecordBatch]:
        await import_modules("pyarrow", "iftb_store.batches.arrow")
        async with self._stores(snapshot=True) as stores:
            bars = stores.bars
            found = (
                bars.stream_buckets(window, buckets)
                if isinstance(bars, SupportsManySeries)
                else _scan_buckets(stores, window, buckets)
            )
            async with aclosing(found) as parts:
                async for part in parts:
                    batch = await asyncio.to_thread(_make_batch, part, buckets, target, partial=partial)
                    if batch.num_rows:
                        yield batch


def find_edges(start: datetime | None, end: datetime | None, timeframe: str) -> Edges:
    """Return the times of the imaginary bars one step before and one step after a window; None where it has no limit.

    Raises:
        InvalidValueError: a time is outside the years 1 to 9999.
    """
    return (
        None if start is None else _beyond(start, timeframe, -1, "start"),
        None if end is None else _beyond(end, timeframe, 1, "end"),
    )


def _beyond(edge: datetime, timeframe: str, steps: int, name: str) -> datetime:
    try:
        return shift(edge, timeframe, steps)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name} is at the end of the calendar: {error}") from error


async def _find_series(stores: Stores, selection: RowFilter) -> list[tuple[str, str, str]]:
    """Return the selected series as (exchange, symbol, timeframe), in this order."""
    for finder in (stores.bars, find_lookups(stores)):
        if isinstance(finder, SupportsSeries):
            found = await finder.find_series(selection)
            break
    else:
        listed = await stores.bars.list_series()
        found = [
            (one.exchange, one.symbol, one.timeframe)
            for one in listed
            if all(getattr(one, name) == value for name, value in selection.equal.items())
        ]
    with explain_unreadable(BARS.name):
        # only raw SQL can have stored another timeframe
        return sorted(series for series in found if series[2] in TIMEFRAMES)


async def _scan_gaps(stores: Stores, window: RowFilter, edges: dict[str, Edges]) -> AsyncGenerator[pa.Table]:
    """Yield the gaps of one series after the other."""
    rows = list[tuple[Any, ...]]()
    for series in await _find_series(stores, RowFilter(BARS, window.equal)):
        selection = replace(window, equal=dict(zip(SERIES, series, strict=True)))
        rows += [(*series, *gap) for gap in await stores.bars.get_gaps(selection, *edges[series[2]])]
        while len(rows) >= _ROWS:
            yield await asyncio.to_thread(_make_gaps, rows[:_ROWS])
            del rows[:_ROWS]
    if rows:
        yield await asyncio.to_thread(_make_gaps, rows)


def _make_gaps(rows: list[tuple[Any, ...]]) -> pa.Table:
    import pyarrow as pa

    from iftb_store.batches.arrow import GAPS

    return pa.table(
        [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), GAPS.types, strict=True)], schema=GAPS
    )


async def _scan_buckets(stores: Stores, window: RowFilter, buckets: Buckets) -> AsyncGenerator[list[tuple[str, str, Bucket]]]:
    """Yield the buckets of one series after the other, a limited number at a time."""
    for series in await _find_series(stores, RowFilter(BARS, window.equal)):
        left: RowFilter | None = replace(window, equal=dict(zip(SERIES, series, strict=True)))
        while left is not None:
            with explain_unreadable(BARS.name):
                first = await stores.bars.read(replace(left, limit=1))
                if not first:
                    break
                start = first[0].timestamp
                part = replace(left, start=start, end=_end_part(buckets, start, left.end))
            yield [(*series[:2], bucket) for bucket in await stores.bars.resample(part, buckets)]
            left = None if part.end == left.end or part.end is None else replace(left, start=part.end + _MICROSECOND)


def _end_part(buckets: Buckets, start: datetime, end: datetime | None) -> datetime | None:
    """Return the end of the last bucket that a query from ``start`` may compute, or ``end`` if that is earlier."""
    try:
        last = buckets.start(buckets.number(start) + _ROWS) - _MICROSECOND
    except (InvalidValueError, OverflowError, ValueError):
        return end
    return last if end is None else min(last, end)


def _make_batch(found: list[tuple[str, str, Bucket]], buckets: Buckets, target: Timeframe, *, partial: bool) -> pa.RecordBatch:
    import pyarrow as pa

    from iftb_store.batches.arrow import arrow_schema

    bars = list[OHLCVBar]()
    with explain_unreadable(BARS.name):
        for (exchange, symbol), series in groupby(found, itemgetter(0, 1)):
            bars += make_bars(buckets, (bucket for *_, bucket in series), (symbol, exchange, target), partial=partial)
    schema = pa.schema([arrow_schema(BARS).field(name) for name in BARS.compared])
    arrays = [pa.array(list(map(attrgetter(name), bars)), schema.field(name).type) for name in schema.names]
    return pa.record_batch(arrays, schema=schema)
