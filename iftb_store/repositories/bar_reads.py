"""The reads of OHLCV bars: each method checks and normalises its arguments, then calls the backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, overload

from iftb_store.abilities import SupportsLookups, SupportsSeries
from iftb_store.batches.resampling import Bucket, Buckets, make_bars
from iftb_store.models import OHLCVBar, Series, SeriesSpan
from iftb_store.protocols import Stores
from iftb_store.repositories.exchanges import check_one_exchange, find_exchanges, select_exchange, warn_of_bars
from iftb_store.repositories.many_series import ManySeriesReads, find_edges
from iftb_store.repositories.streams import Stream
from iftb_store.schema.scope import check_window, make_filter
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import ReadDecimals
from iftb_store.values.timeframes import Timeframe, check_timeframe

if TYPE_CHECKING:
    import pyarrow as pa

_MICROSECOND = timedelta(microseconds=1)


class BarReader(ManySeriesReads):
    """Base class of the repository of bars, with the methods that read."""

    @overload
    async def list_series(self, *, counts: Literal[True] = True) -> list[Series]: ...
    @overload
    async def list_series(self, *, counts: bool) -> list[Series] | list[SeriesSpan]: ...
    async def list_series(self, *, counts: bool = True) -> list[Series] | list[SeriesSpan]:
        """Return all stored series, ordered by exchange, symbol and timeframe; text is compared by its bytes.

        Args:
            counts: whether to count the bars, for which the engine reads the key of each of them. Without it the time depends
                on the number of series; on a lake, and with a backend without this ability, it stays the same.

        Returns:
            A `Series` for each, with its first and last timestamp, its number of bars, and in ``missing`` the number of bars
            that are missing in the gaps that get_gaps returns (for 1M one bar per calendar month). ``missing`` is 0 for an
            unknown timeframe, which only raw SQL can have stored. With ``counts=False`` a `SeriesSpan` for each, which has only
            the names and the two times. Empty if there are no bars.

        Raises:
            InvalidValueError: ``counts`` is no bool.

        Example:
            [series] = await ohlcv.list_series()
            (series.exchange, series.symbol, series.count, series.missing)  # -> ('binance', 'BTCUSDT', 23, 1)
        """
        if checks.boolean(counts, "counts"):
            return await self._read(lambda stores: stores.bars.list_series(), snapshot=True)
        return await self._read(_find_spans, snapshot=True)

    async def get_range(
        self, symbol: str, timeframe: Timeframe, start: datetime, end: datetime, exchange: str | None = "binance"
    ) -> list[OHLCVBar]:
        """Return the bars of a series with start <= timestamp <= end, oldest first.

        There is no limit: all bars of the window are read into memory, about 1 KB each. stream_range reads a long
        window in constant memory, read_arrow returns a table.

        Args:
            symbol: the symbol of the series, as it was stored.
            timeframe: the timeframe of the series, e.g. "1h"; see `iftb_store.TIMEFRAMES`.
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive; naive times are UTC.
            exchange: the exchange of the series; None reads the series of all exchanges, ordered by exchange, then time.

        Returns:
            The bars, with timestamps in aware UTC; get_gaps finds missing bars. Empty if no bar matches: this is not an
            error, but if another exchange has bars that match, a warning is logged, once for each manager.

        Raises:
            InvalidValueError: start is after end, or the timeframe is unknown.
            SchemaError: the database has no tables of iftb-store.
            NotConnectedError: before connect().
            OperationalError: the database failed.

        Example:
            bars = await ohlcv.get_range("BTCUSDT", "1h", start, start + timedelta(hours=2))
            [bar.timestamp.hour for bar in bars]  # -> [0, 1, 2]
            bars[-1].close  # -> Decimal('42602')
        """
        window = select_window(symbol, timeframe, start, end, exchange)

        async def read(stores: Stores) -> list[OHLCVBar]:
            found = await _read(stores, window)
            if not found:
                await warn_of_bars(self._backend, stores, window)
            return found

        return await self._read(read, snapshot=exchange is None)

    async def get_latest(
        self, symbol: str, timeframe: Timeframe, limit: int = 100, exchange: str | None = "binance"
    ) -> list[OHLCVBar]:
        """Return the newest ``limit`` bars of a series, newest first.

        Args:
            symbol: the symbol of the series.
            timeframe: the timeframe of the series, e.g. "1h".
            limit: the maximum number of bars, at least 1.
            exchange: the exchange of the series; None reads the newest bars of all exchanges together; bars with the same
                time are ordered by exchange.

        Returns:
            The bars; fewer if the series has fewer, empty if it has none.

        Raises:
            InvalidValueError: limit is below 1, or the timeframe is unknown.

        Example:
            newest, before = await ohlcv.get_latest("BTCUSDT", "1h", limit=2)
            (newest.timestamp.hour, before.timestamp.hour)  # -> (23, 22)
        """
        series = _series(symbol, timeframe, exchange)
        newest = replace(series, limit=checks.integer(limit, "limit", least=1))

        async def read(stores: Stores) -> list[OHLCVBar]:
            bars = await _read(stores, newest, descending=True)
            if not bars:
                await warn_of_bars(self._backend, stores, newest)
            return bars

        found = await self._read(read, snapshot=exchange is None)
        return found if exchange is not None else sorted(found, key=attrgetter("timestamp"), reverse=True)[:limit]

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

        If ``start`` or ``end`` is given, bars missing at the edges of the window are reported as gaps too, as if there were a
        bar one step before start and one step after end; a window without bars is one such gap.

        Args:
            symbol: the symbol of the series.
            timeframe: the timeframe of the series, e.g. "1h".
            exchange: the exchange of the series; None is refused.
            start: start of the time window, inclusive; it should be a time at which a bar begins, and a naive time is UTC.
                None: from the first stored bar.
            end: end of the time window, inclusive, as ``start``. None: to the last stored bar.

        Returns:
            The pairs; the missing bars lie strictly between the two times. Empty if no bar is missing.

        Raises:
            InvalidValueError: start is after end, the timeframe is unknown, a gap would reach outside the years 1 to 9999, or
                the exchange is None.

        Example:
            for before, after in await ohlcv.get_gaps("BTCUSDT", "1h"):
                (before.hour, after.hour)  # -> (6, 8)
        """
        series = _series(symbol, timeframe, check_one_exchange(exchange, "get_gaps"))
        first, last = checks.optional(checks.utc, start, "start"), checks.optional(checks.utc, end, "end")
        if first is not None and last is not None:
            check_window(first, last)
        edges = find_edges(first, last, series.equal["timeframe"])

        async def read(stores: Stores) -> list[tuple[datetime, datetime]]:
            gaps = await stores.bars.get_gaps(replace(series, start=first, end=last), *edges)
            # a window that has a start and an end, and no bars, is one gap
            if gaps == ([] if None in edges else [edges]):
                await warn_of_bars(self._backend, stores, series)
            return gaps

        return await self._read(read)

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

        The bars with start <= timestamp <= end are grouped into buckets: a bucket is the time of one target bar. Buckets begin
        at multiples of the target timeframe since 1970-01-01 UTC; weeks begin on Monday, months on day 1. Each bucket becomes
        one bar, with its start as timestamp, the open of the bucket's first bar, the highest high, the lowest low, the close
        of the last bar, and the exact sums of volume, quote_volume and trades_count. A sum is None if the value of any bar in
        the bucket is None.

        Args:
            symbol: the symbol of the series.
            source: the timeframe of the stored bars.
            target: the timeframe of the returned bars, a multiple of ``source``; for 1M, ``source`` must divide the day.
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive.
            exchange: the exchange of the series; None is refused.
            partial: whether to return also the bars of incomplete buckets, in which a bar is missing or outside the window.

        Returns:
            The bars, which are not stored, so that their id and created_at are None; empty if no bucket is complete.

        Raises:
            InvalidValueError: start is after end, a timeframe is unknown, the target is not a multiple of the source, a sum
                exceeds the range of its column, or the exchange is None.

        Example:
            # the bar of 7:00 is missing, so that of 4:00 to 8:00 is incomplete
            bars = await ohlcv.resample("BTCUSDT", "1h", "4h", start, start + timedelta(hours=11))
            [(bar.timestamp.hour, bar.close) for bar in bars]  # -> [(0, Decimal('42603')), (8, Decimal('42611'))]
        """
        step, wanted = check_timeframe(source, "source"), check_timeframe(target, "target")
        window = select_window(symbol, step, start, end, check_one_exchange(exchange, "resample"))
        buckets = Buckets(step, wanted)
        checks.boolean(partial, "partial")

        async def read(stores: Stores) -> list[Bucket]:
            found = await stores.bars.resample(window, buckets)
            if not found:
                await warn_of_bars(self._backend, stores, window)
            return found

        found = await self._read(read)
        names = window.equal["symbol"], window.equal["exchange"], wanted
        return make_bars(buckets, found, names, partial=partial)

    def stream_range(
        self,
        symbol: str,
        timeframe: Timeframe,
        start: datetime,
        end: datetime,
        exchange: str | None = "binance",
        *,
        batch_size: int = 10_000,
    ) -> Stream[list[OHLCVBar]]:
        """Return a stream of the bars of get_range, in constant memory: ``async for bars in ohlcv.stream_range(…)``.

        Given the manager, the stream opens one session and reads a snapshot, so it does not show later writes. Given a
        session, each batch is a separate read, like a call of get_range: it shows what this and other sessions have written
        since the previous batch, and the session can be used for other work between batches. A bar that nobody writes or
        deletes during the stream is returned exactly once.

        The stream returns its connection when it ends, fails, is cancelled or is closed. If you stop reading before the
        end, close it with ``async with ohlcv.stream_range(…) as stream`` or ``await stream.aclose()``; after a plain
        ``break`` Python closes it soon afterwards.

        Args:
            symbol: the symbol of the series.
            timeframe: the timeframe of the series, e.g. "1h".
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive.
            exchange: the exchange of the series; None: one exchange after the other; each list has bars of one exchange.
            batch_size: number of bars in a list, at least 1; the last list, of each exchange, has fewer.

        Returns:
            The stream of lists, oldest bars first; no list is empty, and if no bar matches, the stream has no list.

        Raises:
            InvalidValueError: start is after end, the timeframe is unknown, or batch_size is below 1.

        Example:
            count = 0
            async for bars in ohlcv.stream_range("BTCUSDT", "1h", start, start + timedelta(days=30), batch_size=10):
                count += len(bars)
            count  # -> 23
        """
        window = select_window(symbol, timeframe, start, end, exchange)
        return Stream(self._lists(replace(window, limit=checks.integer(batch_size, "batch_size", least=1))))

    async def read_arrow(
        self,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        decimals: ReadDecimals | None = None,
    ) -> pa.Table:
        """Return the bars of all series, or only the selected bars, as a pyarrow.Table, read from a snapshot.

        Columns are the fields of OHLCVBar in their order: decimals as decimal128(38, 18), times as timestamp[us, UTC]. Rows
        are ordered by (exchange, symbol, timeframe, timestamp), text compared by its bytes.

        Args:
            symbol: only bars of this symbol; None: of all.
            timeframe: only bars of this timeframe; None: of all.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only bars of this exchange; None (the default of this method): of all.
            decimals: "float": read decimals as the nearest floats, for plots and models. None: exactly.

        Returns:
            The table, in memory as a whole; without rows, but with all columns, if no bar matches.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, or the timeframe is unknown.

        Example:
            table = await ohlcv.read_arrow("BTCUSDT", "1h", decimals="float")
            table["close"].to_pylist()[:2]  # -> [42600.0, 42601.0]
        """
        selection = make_filter(BARS, start, end, exchange=exchange, symbol=symbol, timeframe=timeframe)
        return await self._table(selection, decimals)

    def stream_arrow(
        self,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
        *,
        batch_size: int = 65_536,
        decimals: ReadDecimals | None = None,
    ) -> Stream[pa.RecordBatch]:
        """Return a stream of the rows of read_arrow, in constant memory: ``async for batch in ohlcv.stream_arrow(…)``.

        stream_range explains which concurrent writes a stream shows, and how to close the stream.

        Args:
            symbol: only bars of this symbol; None: of all.
            timeframe: only bars of this timeframe; None: of all.
            start: start of the time window, inclusive; naive times are UTC. None: no limit.
            end: end of the time window, inclusive. None: no limit.
            exchange: only bars of this exchange; None (the default of this method): of all.
            batch_size: the maximum number of rows of a batch, at least 1.
            decimals: "float": read decimals as the nearest floats. None: exactly.

        Returns:
            The stream of pyarrow.RecordBatch, in the order and with the columns of read_arrow; no batch is empty, and if no
            bar matches, the stream has no batch.

        Raises:
            MissingDriverError: pyarrow is not installed; the message contains the install command.
            InvalidValueError: start is after end, the timeframe is unknown, or batch_size is below 1.

        Example:
            sizes = [batch.num_rows async for batch in ohlcv.stream_arrow("BTCUSDT", batch_size=10)]
            sizes  # -> [10, 10, 3]
        """
        selection = make_filter(BARS, start, end, exchange=exchange, symbol=symbol, timeframe=timeframe)
        return self._stream(selection, batch_size, decimals)

    async def _lists(self, window: RowFilter) -> AsyncGenerator[list[OHLCVBar]]:
        async with self._stores(snapshot=True) as stores:
            last = None
            for series in await _split(stores, window):
                while bars := await stores.bars.read(series):
                    last = bars[-1].timestamp
                    yield bars
                    if len(bars) < (series.limit or 0) or (series.end is not None and last >= series.end):
                        break
                    # timestamps are whole microseconds, so no bar lies between ``last`` and the next microsecond
                    series = replace(series, start=last + _MICROSECOND)
            if last is None:
                await warn_of_bars(self._backend, stores, window)


def _series(symbol: object, timeframe: object, exchange: object) -> RowFilter:
    names = checks.name_text(symbol, "symbol"), check_timeframe(timeframe), select_exchange(exchange)
    return RowFilter(BARS, {**names[2], "symbol": names[0], "timeframe": names[1]})


async def _read(stores: Stores, window: RowFilter, *, descending: bool = False) -> list[OHLCVBar]:
    found: list[OHLCVBar] = []
    for series in await _split(stores, window):
        bars = await stores.bars.read(series, descending=descending)
        # no list is copied that is the only one
        found = found + bars if found else bars
    return found


async def _split(stores: Stores, window: RowFilter) -> list[RowFilter]:
    """Split a window of all exchanges: return one for each exchange that has bars in it; return a window of one unchanged."""
    if "exchange" in window.equal:
        return [window]
    return [replace(window, equal={"exchange": name, **window.equal}) for name in await find_exchanges(stores, window)]


def select_window(symbol: object, timeframe: object, start: object, end: object, exchange: object) -> RowFilter:
    """Return the checked selection of the bars of a series, or of all exchanges (None), in a time window."""
    series = _series(symbol, timeframe, exchange)
    first, last = checks.utc(start, "start"), checks.utc(end, "end")
    check_window(first, last)
    return replace(series, start=first, end=last)


async def _find_spans(stores: Stores) -> list[SeriesSpan]:
    """Return the names and ends of all series, without counting the bars if the engine can."""
    for finder in (stores.bars, stores.lookups if isinstance(stores, SupportsLookups) else None):
        if isinstance(finder, SupportsSeries):
            return await finder.find_spans(RowFilter(BARS))
    counted = await stores.bars.list_series()
    return [SeriesSpan(one.exchange, one.symbol, one.timeframe, one.first, one.last) for one in counted]
