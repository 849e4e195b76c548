"""The repository of OHLCV bars: each method checks and normalises its arguments, then calls the backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

from iftb_store._io.tasks import import_modules
from iftb_store.batches.bars import BarBatch, make_batch
from iftb_store.batches.resampling import Buckets, make_bars
from iftb_store.errors import InvalidValueError
from iftb_store.models import OHLCVBar, Series, UpsertReport
from iftb_store.registry import require_arrow
from iftb_store.repositories.base import Repository
from iftb_store.repositories.streams import Stream
from iftb_store.schema.scope import check_window, make_filter
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import Decimals
from iftb_store.values.timeframes import Timeframe, check_timeframe, shift

if TYPE_CHECKING:
    import pyarrow as pa

    ArrowData: TypeAlias = pa.Table | pa.RecordBatch | pa.RecordBatchReader | Iterable[Any] | Any

_FROM_FLOAT = partial(checks.choice, choices=get_args(Decimals))
_MICROSECOND = timedelta(microseconds=1)


class OHLCVRepository(Repository):
    """Reads and writes OHLCV bars.

    A series consists of the bars with the same (exchange, symbol, timeframe). These three and the timestamp are the key of
    a bar.
    """

    async def insert_many(self, bars: Sequence[OHLCVBar]) -> int:
        """Insert all bars or none, and return the number of bars; ``id`` and ``created_at`` of the objects are ignored.

        Raises:
            IntegrityError: a bar is already stored, or the batch has a duplicate; nothing was inserted.
            InvalidValueError: a bar cannot be stored; the message names the bar; nothing was inserted.
        """
        listed = _bars(bars)
        if listed:
            async with self._stores() as stores:
                await stores.bars.write(BarBatch(listed, self._now()), "insert")
        return len(listed)

    @overload
    async def upsert_many(self, bars: Sequence[OHLCVBar], *, report: Literal[False] = False) -> int: ...

    @overload
    async def upsert_many(self, bars: Sequence[OHLCVBar], *, report: Literal[True]) -> UpsertReport: ...

    async def upsert_many(self, bars: Sequence[OHLCVBar], *, report: bool = False) -> int | UpsertReport:
        """Insert the new bars and overwrite the values of the bars that are already stored; write all bars or none.

        If a key occurs several times in the batch, the last bar wins. A stored bar keeps its ``id`` and ``created_at``.

        Returns:
            The number of distinct keys in the batch, changed or not. With ``report``, which takes longer, the numbers of
            bars that were inserted, updated and unchanged.

        Raises:
            InvalidValueError: a bar cannot be stored; the message names the bar; nothing was written.
        """
        checks.boolean(report, "report")
        batch = await make_batch(_bars(bars), self._now())
        counts = None
        if len(batch):
            async with self._stores() as stores:
                counts = await stores.bars.write(batch, "count" if report else "upsert")
        if not report:
            return len(batch)
        inserted, updated = counts or (0, 0)
        return UpsertReport(inserted, updated, len(batch) - inserted - updated)

    async def delete_range(
        self, symbol: str, timeframe: Timeframe, start: datetime, end: datetime, exchange: str = "binance"
    ) -> int:
        """Delete the bars of a series with start <= timestamp <= end (naive times are UTC); return the number of deleted bars.

        Raises:
            InvalidValueError: start is after end, or the timeframe is unknown.
        """
        window = _window(symbol, timeframe, start, end, exchange)
        async with self._stores() as stores:
            return await stores.bars.delete(window)

    async def resample(
        self,
        symbol: str,
        source: Timeframe,
        target: Timeframe,
        start: datetime,
        end: datetime,
        exchange: str = "binance",
        *,
        partial: bool = False,
    ) -> list[OHLCVBar]:
        """Return bars of a longer timeframe, computed in the engine from the stored bars of ``source``, oldest first.

        The bars with start <= timestamp <= end are grouped into buckets of the target timeframe. Buckets begin at multiples
        of it since 1970-01-01 UTC; weeks begin on Monday, months on day 1. Each bucket becomes one bar, with its start as
        timestamp, the open of the bucket's first bar, the highest high, the lowest low, the close of the last bar, and the
        exact sums of volume, quote_volume and trades_count. A sum is None if the value of any bar in the bucket is None.
        The resulting bars are not stored, so their id and created_at are None.

        Args:
            symbol: the symbol of the series.
            source: the timeframe of the stored bars.
            target: the timeframe of the returned bars, a multiple of ``source``; for 1M, ``source`` must divide the day.
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive.
            exchange: the exchange of the series.
            partial: whether to return also the bars of incomplete buckets, in which a bar is missing or outside the window.

        Raises:
            InvalidValueError: start is after end, a timeframe is unknown, the target is not a multiple of the source, or a
                sum exceeds the range of its column.
        """
        step, wanted = check_timeframe(source, "source"), check_timeframe(target, "target")
        window = _window(symbol, step, start, end, exchange)
        buckets = Buckets(step, wanted)
        checks.boolean(partial, "partial")
        async with self._stores() as stores:
            found = await stores.bars.resample(window, buckets)
        names = window.equal["symbol"], window.equal["exchange"], wanted
        return make_bars(buckets, found, names, partial=partial)

    async def list_series(self) -> list[Series]:
        """Return all stored series, ordered by exchange, symbol and timeframe; text is compared by its bytes.

        Each `Series` has the first and last timestamp, the number of bars, and in ``missing`` the number of bars that are
        missing in the gaps that get_gaps returns (for 1M one bar per calendar month). ``missing`` is 0 for an unknown
        timeframe, which only raw SQL can have stored.
        """
        async with self._stores(snapshot=True) as stores:
            return await stores.bars.list_series()

    async def get_range(
        self, symbol: str, timeframe: Timeframe, start: datetime, end: datetime, exchange: str = "binance"
    ) -> list[OHLCVBar]:
        """Return the bars of a series with start <= timestamp <= end (naive times are UTC), oldest first.

        Raises:
            InvalidValueError: start is after end, or the timeframe is unknown.
        """
        window = _window(symbol, timeframe, start, end, exchange)
        async with self._stores() as stores:
            return await stores.bars.read(window)

    async def get_latest(self, symbol: str, timeframe: Timeframe, limit: int = 100, exchange: str = "binance") -> list[OHLCVBar]:
        """Return the newest ``limit`` bars of a series, newest first; fewer if the series has fewer bars.

        Raises:
            InvalidValueError: limit is below 1, or the timeframe is unknown.
        """
        series = _series(symbol, timeframe, exchange)
        newest = replace(series, limit=checks.integer(limit, "limit", least=1))
        async with self._stores() as stores:
            return await stores.bars.read(newest, descending=True)

    async def get_gaps(
        self,
        symbol: str,
        timeframe: Timeframe,
        exchange: str = "binance",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[tuple[datetime, datetime]]:
        """Return the gaps of a series, oldest first, as pairs (time of the last bar before, time of the first bar after).

        The missing bars lie strictly between the two times of a pair. ``start`` and ``end`` are inclusive and should be
        times at which a bar begins. If they are given, bars missing at the edges of the window are reported as gaps too,
        as if there were a bar one step before start and one step after end; a window without bars is one such gap.

        Raises:
            InvalidValueError: start is after end, the timeframe is unknown, or a gap would reach outside the years 1 to 9999.
        """
        series = _series(symbol, timeframe, exchange)
        first, last = checks.optional(checks.utc, start, "start"), checks.optional(checks.utc, end, "end")
        if first is not None and last is not None:
            check_window(first, last)
        step = series.equal["timeframe"]
        before = None if first is None else _beyond(first, step, -1, "start")
        after = None if last is None else _beyond(last, step, 1, "end")
        async with self._stores() as stores:
            return await stores.bars.get_gaps(replace(series, start=first, end=last), before, after)

    async def read_arrow(
        self,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
    ) -> pa.Table:
        """Return the bars of all series, or only the selected bars, as a pyarrow.Table, read from a snapshot.

        Columns are the fields of OHLCVBar in their order: decimals as decimal128(38, 18), times as timestamp[us, UTC].
        Rows have start <= timestamp <= end (naive times are UTC) and are ordered by (exchange, symbol, timeframe,
        timestamp), text compared by its bytes. Without ``exchange``, bars of all exchanges are returned.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, or the timeframe is unknown.
        """
        return await self._table(make_filter(BARS, start, end, exchange=exchange, symbol=symbol, timeframe=timeframe))

    async def write_arrow(
        self, data: ArrowData, mode: Literal["upsert", "insert"] = "upsert", *, decimals: Decimals | None = None
    ) -> int:
        """Write the bars of an Arrow table, record batches or a data frame; the rules of upsert_many or insert_many apply.

        ``data`` is a pyarrow Table, RecordBatch or RecordBatchReader, a Polars or pandas frame (any object with Arrow's
        PyCapsule interface), or an iterable of these. All of it is read into memory, then all rows are written or none; to
        keep memory constant, write one batch after the other in one session. Columns are those of read_arrow, in any order;
        quote_volume and trades_count may be missing; id and created_at are ignored. Text may be dictionary-encoded. Numbers
        may be decimals of any precision and scale, whole numbers, or decimals as text, if DECIMAL(38,18) holds them
        exactly. Times may have any unit and time zone, if they are whole microseconds; without a zone they are UTC. Rows
        are written in key order.

        Args:
            data: the rows.
            mode: "upsert": of rows with the same key the last is written, and stored bars are overwritten; "insert": a
                duplicate is an error.
            decimals: "from_float": accept floats and store the shortest decimal for each float; None: refuse floats.

        Returns:
            The number of distinct keys.

        Raises:
            IntegrityError: with "insert", a bar is already stored or the data has a duplicate; nothing was inserted.
            InvalidValueError: a column is missing, unknown or of another type, or a row cannot be stored; the message names
                the column or row; nothing was written.
            MissingDriverError: pyarrow is not installed; the message contains the install command.
        """
        checks.choice(mode, "mode", ("upsert", "insert"))
        checks.optional(_FROM_FLOAT, decimals, "decimals")
        require_arrow()
        await import_modules("pyarrow", "iftb_store.batches.arrow_input")
        from iftb_store.batches.arrow import ArrowBatch
        from iftb_store.batches.arrow_input import collect_rows, prepare_rows

        given = await collect_rows(data)
        table = await asyncio.to_thread(prepare_rows, given, from_float=decimals is not None, last_wins=mode == "upsert")
        if table.num_rows:
            batch = ArrowBatch(table, self._now())
            async with self._stores() as stores:
                await stores.bars.write(batch, mode)
        return table.num_rows

    def stream_range(
        self,
        symbol: str,
        timeframe: Timeframe,
        start: datetime,
        end: datetime,
        exchange: str = "binance",
        *,
        batch_size: int = 10_000,
    ) -> Stream[list[OHLCVBar]]:
        """Return a stream of the bars of get_range, in constant memory: ``async for bars in repo.stream_range(…)``.

        Every list except the last has ``batch_size`` bars; no list is empty. If the repository has a manager, the stream
        opens one session and reads a snapshot, so it does not show later writes. If the repository has a session, each batch
        is a separate read, like a call of get_range: it shows what this and other sessions have written since the previous
        batch, and the session can be used for other work between batches. A bar that nobody writes or deletes during the
        stream is returned exactly once.

        The stream returns its connection when it ends, fails, is cancelled or is closed. If you stop reading before the
        end, close it with ``async with repo.stream_range(…) as stream`` or ``await stream.aclose()``; after a plain
        ``break`` Python closes it soon afterwards.

        Raises:
            InvalidValueError: start is after end, the timeframe is unknown, or batch_size is below 1.
        """
        window = _window(symbol, timeframe, start, end, exchange)
        return Stream(self._lists(replace(window, limit=checks.integer(batch_size, "batch_size", least=1))))

    def stream_arrow(
        self,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        batch_size: int = 65_536,
    ) -> Stream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory: ``async for batch in repo.stream_arrow(…)``.

        Batches have the schema and order of read_arrow and 1 to ``batch_size`` rows each. stream_range explains which
        concurrent writes a stream shows, and how to close the stream.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, the timeframe is unknown, or batch_size is below 1.
        """
        return self._stream(make_filter(BARS, start, end, exchange=exchange, symbol=symbol, timeframe=timeframe), batch_size)

    async def _lists(self, window: RowFilter) -> AsyncGenerator[list[OHLCVBar]]:
        async with self._stores(snapshot=True) as stores:
            while bars := await stores.bars.read(window):
                last = bars[-1].timestamp
                yield bars
                if len(bars) < (window.limit or 0) or (window.end is not None and last >= window.end):
                    return
                # timestamps are whole microseconds, so no bar lies between ``last`` and the next microsecond
                window = replace(window, start=last + _MICROSECOND)


def _bars(bars: Sequence[OHLCVBar]) -> Sequence[OHLCVBar]:
    if isinstance(bars, list | tuple):
        return bars
    try:
        return list(bars)
    except TypeError as error:
        raise InvalidValueError(f"bars must be a list of OHLCVBar, not {type(bars).__name__}") from error


def _series(symbol: object, timeframe: object, exchange: object) -> RowFilter:
    names = checks.name_text(symbol, "symbol"), check_timeframe(timeframe), checks.name_text(exchange, "exchange")
    return RowFilter(BARS, {"exchange": names[2], "symbol": names[0], "timeframe": names[1]})


def _window(symbol: object, timeframe: object, start: object, end: object, exchange: object) -> RowFilter:
    series = _series(symbol, timeframe, exchange)
    first, last = checks.utc(start, "start"), checks.utc(end, "end")
    check_window(first, last)
    return replace(series, start=first, end=last)


def _beyond(edge: datetime, timeframe: str, steps: int, name: str) -> datetime:
    try:
        return shift(edge, timeframe, steps)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name} is at the end of the calendar: {error}") from error
