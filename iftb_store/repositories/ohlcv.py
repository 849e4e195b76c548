"""The repository of bars: checks and normalises what it is given once, then delegates to the backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from iftb_store._io.tasks import import_modules
from iftb_store.batches.bars import BarBatch, distinct_batch
from iftb_store.batches.resampling import Buckets, resampled
from iftb_store.errors import InvalidValueError
from iftb_store.models import OHLCVBar, Series, UpsertReport
from iftb_store.registry import require_arrow
from iftb_store.repositories.base import Repository
from iftb_store.repositories.streams import Stream
from iftb_store.schema.scope import check_order, selected
from iftb_store.schema.table_spec import BARS
from iftb_store.values import checks
from iftb_store.values.timeframes import check_timeframe, shift

if TYPE_CHECKING:
    import pyarrow as pa

    ArrowData: TypeAlias = pa.Table | pa.RecordBatch | pa.RecordBatchReader | Iterable[Any] | Any

_FROM_FLOAT = partial(checks.choice, choices=("from_float",))
_MICROSECOND = timedelta(microseconds=1)


class OHLCVRepository(Repository):
    """OHLCV bars. A series is (exchange, symbol, timeframe); with the timestamp it is the key of a bar."""

    async def insert_many(self, bars: Sequence[OHLCVBar]) -> int:
        """Insert bars, all or none; return their number. ``id`` and ``created_at`` of the objects are ignored.

        Raises:
            IntegrityError: a bar is stored already, or stands twice in the batch; nothing was inserted.
            InvalidValueError: a bar cannot be stored; the message names it; nothing was inserted.
        """
        listed = _bars(bars)
        if listed:
            async with self._stores() as stores:
                await stores.ohlcv.insert_many(BarBatch(listed, self._now()))
        return len(listed)

    @overload
    async def upsert_many(self, bars: Sequence[OHLCVBar], *, report: Literal[False] = False) -> int: ...

    @overload
    async def upsert_many(self, bars: Sequence[OHLCVBar], *, report: Literal[True]) -> UpsertReport: ...

    async def upsert_many(self, bars: Sequence[OHLCVBar], *, report: bool = False) -> int | UpsertReport:
        """Insert bars, overwriting the values of those stored already, all or none.

        Where a key stands twice in the batch the last one wins. ``id`` and ``created_at`` of a stored bar stay.

        Returns:
            The number of distinct keys in the batch, changed or not; with ``report`` how many of them were inserted, how
            many stored bars were updated and how many were left as they are, which takes longer.

        Raises:
            InvalidValueError: a bar cannot be stored; the message names it; nothing was written.
        """
        checks.boolean(report, "report")
        batch = await distinct_batch(_bars(bars), self._now())
        inserted = updated = 0
        if len(batch):
            async with self._stores() as stores:
                if report:
                    inserted, updated = await stores.ohlcv.upsert_counted(batch)
                else:
                    await stores.ohlcv.upsert_many(batch)
        return UpsertReport(inserted, updated, len(batch) - inserted - updated) if report else len(batch)

    async def delete_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str = "binance") -> int:
        """Delete the bars with start <= timestamp <= end (naive times are UTC); return their number.

        Raises:
            InvalidValueError: start after end, or an unknown timeframe.
        """
        window = _window(symbol, timeframe, start, end, exchange)
        async with self._stores() as stores:
            return await stores.ohlcv.delete_range(*window)

    async def resample(
        self,
        symbol: str,
        source: str,
        target: str,
        start: datetime,
        end: datetime,
        exchange: str = "binance",
        *,
        partial: bool = False,
    ) -> list[OHLCVBar]:
        """Return bars of a coarser timeframe, computed in the engine from those of ``source``, oldest first.

        The bars with start <= timestamp <= end go in. A bar that comes out begins where its bucket does: buckets count from
        1970-01-01 UTC, weeks begin on Monday, months on the first. It has the open of the first bar, the highest high, the
        lowest low, the close of the last, and the exact sums of volume, quote_volume and trades_count; a sum over a bar that
        has None is None. It is stored nowhere, so id and created_at are None.

        Args:
            symbol: of the series.
            source: the timeframe of the bars that go in.
            target: the timeframe of those that come out; a multiple of ``source``, for 1M a source that divides the day.
            start: the first moment that counts, naive is UTC.
            end: the last moment that counts.
            exchange: of the series.
            partial: return bars of incomplete buckets, too: where a bar is missing, or lies outside the window.

        Raises:
            InvalidValueError: start after end, an unknown timeframe, a target that is no multiple, or a sum that passes the
                range of its column.
        """
        step, wanted = check_timeframe(source, "source"), check_timeframe(target, "target")
        window = _window(symbol, step, start, end, exchange)
        buckets = Buckets(step, wanted)
        checks.boolean(partial, "partial")
        async with self._stores() as stores:
            found = await stores.ohlcv.resample(*window, buckets)
        return resampled(buckets, found, (window[0], window[4], wanted), partial=partial)

    async def list_series(self) -> list[Series]:
        """Return what series there are, by (exchange, symbol, timeframe), text by its bytes.

        Of each its first and last timestamp, the number of its bars, and how many are missing between the two on the
        timeframe's grid: the sum over the holes of get_gaps, where the step of 1M is the calendar month; 0 for a timeframe
        that is unknown, which only raw SQL can have stored.
        """
        async with self._stores(snapshot=True) as stores:
            return await stores.ohlcv.list_series()

    async def get_range(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str = "binance"
    ) -> list[OHLCVBar]:
        """Return the bars with start <= timestamp <= end (naive times are UTC), oldest first.

        Raises:
            InvalidValueError: start after end, or an unknown timeframe.
        """
        window = _window(symbol, timeframe, start, end, exchange)
        async with self._stores() as stores:
            return await stores.ohlcv.get_range(*window)

    async def get_latest(self, symbol: str, timeframe: str, limit: int = 100, exchange: str = "binance") -> list[OHLCVBar]:
        """Return the newest bars, newest first.

        Raises:
            InvalidValueError: limit below 1, or an unknown timeframe.
        """
        series = _series(symbol, timeframe, exchange)
        count = checks.integer(limit, "limit", least=1)
        async with self._stores() as stores:
            return await stores.ohlcv.get_latest(series[0], series[1], count, series[2])

    async def get_gaps(
        self,
        symbol: str,
        timeframe: str,
        exchange: str = "binance",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[tuple[datetime, datetime]]:
        """Return the holes of a series as (last bar before, first bar after) pairs, oldest first.

        The missing bars lie strictly between the two times of a pair. With ``start`` and ``end`` (both counted in, and
        meant to lie where bars are due) what is missing at the edges is told as if a bar stood one step before start and
        one step after end; an empty window is one such pair.

        Raises:
            InvalidValueError: start after end, an unknown timeframe, or an edge outside the years 1 to 9999.
        """
        series = _series(symbol, timeframe, exchange)
        first = None if start is None else checks.utc(start, "start")
        last = None if end is None else checks.utc(end, "end")
        if first is not None and last is not None:
            check_order(first, last)
        before = None if first is None else _beyond(first, series[1], -1, "start")
        after = None if last is None else _beyond(last, series[1], 1, "end")
        async with self._stores() as stores:
            return await stores.ohlcv.get_gaps(series[0], series[1], series[2], (first, last, before, after))

    async def read_arrow(
        self,
        symbol: str | None = None,
        timeframe: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
    ) -> pa.Table:
        """Return bars as a pyarrow.Table, from one state of the database: those of every series that is not excluded.

        Columns are the fields of OHLCVBar in their order: decimals as decimal128(38, 18), times as timestamp[us, UTC].
        Rows stand in the order of (exchange, symbol, timeframe, timestamp), text by its bytes; start <= timestamp <= end
        (naive times are UTC). An ``exchange`` that is not given means all of them.

        Raises:
            MissingDriverError: pyarrow is not installed; the message is the install line.
            InvalidValueError: start after end, or an unknown timeframe.
        """
        return await self._table(selected(BARS, start, end, exchange=exchange, symbol=symbol, timeframe=timeframe))

    async def write_arrow(
        self,
        data: ArrowData,
        mode: Literal["upsert", "insert"] = "upsert",
        *,
        decimals: Literal["from_float"] | None = None,
    ) -> int:
        """Write the rows of a table, of record batches or of a data frame, under the rules of upsert_many or insert_many.

        ``data`` is a pyarrow Table, RecordBatch or RecordBatchReader, a Polars or pandas frame (anything with Arrow's
        PyCapsule interface), or an iterable of these. It is read whole and written all or nothing; for constant memory write
        batch after batch in one session. Columns are those of read_arrow, in any order; quote_volume and trades_count may be
        missing, id and created_at are ignored. Text may be dictionary-encoded; decimals of any precision and scale, whole
        numbers and text of decimals are taken where DECIMAL(38,18) holds their values exactly; times of any unit and zone
        where they are whole microseconds, those without a zone as UTC. Rows are written in key order.

        Args:
            data: the rows.
            mode: "upsert", where the last row of a key wins and stored bars are overwritten, or "insert".
            decimals: "from_float" takes floats, as the shortest decimal that gives each; else they are refused.

        Returns:
            The number of distinct keys.

        Raises:
            IntegrityError: on insert, a bar is stored already or stands twice; nothing was inserted.
            InvalidValueError: a column is missing, unknown or of another type, or a row cannot be stored; the message names
                it; nothing was written.
            MissingDriverError: pyarrow is not installed; the message is the install line.
        """
        checks.choice(mode, "mode", ("upsert", "insert"))
        checks.optional(_FROM_FLOAT, decimals, "decimals")
        require_arrow()
        await import_modules("iftb_store.batches.arrow_input")
        from iftb_store.batches.arrow import ArrowBatch
        from iftb_store.batches.arrow_input import gathered, prepared

        given = await gathered(data)
        table = await asyncio.to_thread(prepared, given, from_float=decimals is not None, last_wins=mode == "upsert")
        if table.num_rows:
            batch = ArrowBatch(table, self._now())
            async with self._stores() as stores:
                await (stores.ohlcv.upsert_many(batch) if mode == "upsert" else stores.ohlcv.insert_many(batch))
        return table.num_rows

    def stream_range(
        self,
        symbol: str,
        timeframe: str,
        start: datetime,
        end: datetime,
        exchange: str = "binance",
        *,
        batch_size: int = 10_000,
    ) -> Stream[list[OHLCVBar]]:
        """Read what get_range returns batch by batch, in constant memory: ``async for bars in repo.stream_range(…)``.

        Every list but the last has ``batch_size`` bars; none is empty. Given the manager, the stream is a session of its own
        from the first batch to the end and shows one state of the database, whatever is written meanwhile. Given a session,
        each batch is a read of its own, as a call of get_range at that moment would be: it shows what the session and
        others have written ahead of the stream's place, and the session is free for other work between batches. A bar that
        is neither written nor deleted meanwhile comes exactly once.

        A stream that ends, fails, is cancelled or closed gives its connection back. Where it is left half-read, close it:
        ``async with repo.stream_range(…) as stream`` does, or ``await stream.aclose()``; after a bare ``break`` Python
        closes it soon after.

        Raises:
            InvalidValueError: start after end, an unknown timeframe, or batch_size below 1.
        """
        window = _window(symbol, timeframe, start, end, exchange)
        return Stream(self._lists(*window, checks.integer(batch_size, "batch_size", least=1)))

    def stream_arrow(
        self,
        symbol: str | None = None,
        timeframe: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        batch_size: int = 65_536,
    ) -> Stream[pa.RecordBatch]:
        """Read what read_arrow returns as record batches, in constant memory: ``async for batch in repo.stream_arrow(…)``.

        Batches have the table's schema and order, 1 to ``batch_size`` rows each. What a stream shows and how it is closed
        is told at stream_range.

        Raises:
            MissingDriverError: pyarrow is not installed; the message is the install line.
            InvalidValueError: start after end, an unknown timeframe, or batch_size below 1.
        """
        return self._stream(selected(BARS, start, end, exchange=exchange, symbol=symbol, timeframe=timeframe), batch_size)

    async def _lists(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str, size: int
    ) -> AsyncGenerator[list[OHLCVBar]]:
        async with self._stores(snapshot=True) as stores:
            while bars := await stores.ohlcv.get_page(symbol, timeframe, start, end, exchange, size):
                last = bars[-1].timestamp
                yield bars
                if len(bars) < size or last >= end:
                    return
                # no bar lies between two microseconds
                start = last + _MICROSECOND


def _bars(bars: Sequence[OHLCVBar]) -> Sequence[OHLCVBar]:
    if isinstance(bars, list | tuple):
        return bars
    try:
        return list(bars)
    except TypeError as error:
        raise InvalidValueError(f"a list of OHLCVBar is wanted, not {type(bars).__name__}") from error


def _series(symbol: object, timeframe: object, exchange: object) -> tuple[str, str, str]:
    return checks.name_text(symbol, "symbol"), check_timeframe(timeframe), checks.name_text(exchange, "exchange")


def _window(
    symbol: object, timeframe: object, start: object, end: object, exchange: object
) -> tuple[str, str, datetime, datetime, str]:
    names = _series(symbol, timeframe, exchange)
    first, last = checks.utc(start, "start"), checks.utc(end, "end")
    check_order(first, last)
    return names[0], names[1], first, last, names[2]


def _beyond(edge: datetime, timeframe: str, steps: int, name: str) -> datetime:
    try:
        return shift(edge, timeframe, steps)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name} lies at the calendar's end: {error}") from error
