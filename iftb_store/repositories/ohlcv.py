"""The repository of OHLCV bars, which adds the methods that write to those that read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

from sqlalchemy.exc import IntegrityError

from iftb_store._io.tasks import import_modules
from iftb_store.analytics.states import move
from iftb_store.batches.bars import FROM_CCXT, BarBatch, make_batch
from iftb_store.errors import InvalidValueError
from iftb_store.models import OHLCVBar, UpsertReport
from iftb_store.protocols import Stores
from iftb_store.registry import require_arrow
from iftb_store.repositories.bar_reads import select_window
from iftb_store.repositories.coverage import CoverageReads
from iftb_store.repositories.covered import find_coverage, remove_range, select_asked
from iftb_store.repositories.duplicates import explain_duplicate
from iftb_store.repositories.exchanges import check_one_exchange, warn_of_bars
from iftb_store.values import checks
from iftb_store.values.choices import Decimals
from iftb_store.values.display import type_name
from iftb_store.values.timeframes import Timeframe, check_timeframe

if TYPE_CHECKING:
    import pyarrow as pa

    from iftb_store.batches.arrow import ArrowBatch

    ArrowData: TypeAlias = pa.Table | pa.RecordBatch | pa.RecordBatchReader | Iterable[Any] | Any


class OHLCVRepository(CoverageReads):
    """Reads and writes OHLCV bars.

    A series consists of the bars with the same (exchange, symbol, timeframe). These three and the timestamp are the key of
    a bar. Names are compared exactly, including upper and lower case. Naive times are UTC, and returned times are aware UTC.

    With a manager, each call is a separate transaction; with a session, the writes are committed at the session's end. If a read
    finds nothing on the default exchange, binance, but another exchange has bars that match, a warning is logged, once for each
    manager.

    Besides its listed errors, each method raises NotConnectedError before connect(), SchemaError if the database has no
    tables of iftb-store, and OperationalError if the database fails (TransientError if a new attempt may succeed).

    Example:
        # the examples of the methods use these two
        ohlcv = OHLCVRepository(db)
        start = datetime(2024, 2, 1, tzinfo=UTC)
        len(await ohlcv.get_latest("BTCUSDT", "1h"))  # -> 23
    """

    async def insert_many(self, bars: Sequence[OHLCVBar]) -> int:
        """Insert all bars or none, and return the number of bars.

        Args:
            bars: the bars, in any order, of any number of series; their ``id`` and ``created_at`` are ignored.

        Returns:
            The number of bars; 0 for an empty list.

        Raises:
            IntegrityError: a bar is already stored, or occurs twice in the batch; the message names the first such bar by its
                key; nothing was inserted.
            InvalidValueError: a bar cannot be stored; the message names the bar; nothing was inserted.

        Example:
            await ohlcv.insert_many(new_bars)  # -> 2
            len(await ohlcv.get_latest("BTCUSDT", "1h"))  # -> 25
        """
        listed = _bars(bars)
        if listed:
            async with self._stores() as stores:
                await _insert(stores, BarBatch(listed, self._now()))
        return len(listed)

    @overload
    async def upsert_many(
        self, bars: Sequence[OHLCVBar], *, report: Literal[False] = False, only_closed: bool = False
    ) -> int: ...

    @overload
    async def upsert_many(
        self, bars: Sequence[OHLCVBar], *, report: Literal[True], only_closed: bool = False
    ) -> UpsertReport: ...

    async def upsert_many(
        self, bars: Sequence[OHLCVBar], *, report: bool = False, only_closed: bool = False
    ) -> int | UpsertReport:
        """Insert the new bars and overwrite the values of the bars that are already stored; write all bars or none.

        Repeated calls with the same bars are safe. A stored bar keeps its ``id`` and ``created_at``.

        Args:
            bars: the bars, in any order, of any number of series; if a key occurs several times, the last bar wins.
            report: whether to count what was inserted, updated and unchanged, which takes longer.
            only_closed: leave out the bars whose period has not ended by the repository's clock, e.g. the newest candle of an
                exchange.

        Returns:
            The number of distinct keys in the batch, changed or not; 0 for an empty list. With ``report``, an `UpsertReport`.

        Raises:
            InvalidValueError: a bar cannot be stored; the message names the bar; nothing was written.

        Example:
            await ohlcv.upsert_many(new_bars)  # -> 2
            await ohlcv.upsert_many(new_bars, report=True)  # -> UpsertReport(inserted=0, updated=0, unchanged=2)
        """
        checks.boolean(report, "report")
        listed, now = _bars(bars), self._now()
        if checks.boolean(only_closed, "only_closed"):
            listed = await asyncio.to_thread(lambda: [bar for bar in listed if not _is_open(bar, now)])
        return await self._upsert(await make_batch(listed, now), report=report)

    async def _upsert(self, batch: BarBatch, *, report: bool) -> int | UpsertReport:
        counts: tuple[int, int] | None = None
        if report and len(batch):
            counts = await self._count(lambda stores: stores.bars.write(batch, "count"))
        elif len(batch):
            async with self._stores() as stores:
                await stores.bars.write(batch, "upsert")
        if not report:
            return len(batch)
        inserted, updated = counts or (0, 0)
        return UpsertReport(inserted, updated, len(batch) - inserted - updated)

    async def delete_range(
        self, symbol: str, timeframe: Timeframe, start: datetime, end: datetime, exchange: str = "binance"
    ) -> int:
        """Delete the bars of a series with start <= timestamp <= end, all or none; return the number of deleted bars.

        In the same transaction, the window is taken from the series' coverage: its bars are "unknown" again, see `get_coverage`.

        Args:
            symbol: the symbol of the series.
            timeframe: the timeframe of the series, e.g. "1h".
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive.
            exchange: the exchange of the series; None is refused.

        Returns:
            The number of deleted bars; 0 if none is in the window.

        Raises:
            InvalidValueError: start is after end, the timeframe is unknown, or the exchange is None.

        Example:
            await ohlcv.delete_range("BTCUSDT", "1h", start, start + timedelta(hours=2))  # -> 3
        """
        window = select_window(symbol, timeframe, start, end, check_one_exchange(exchange, "delete_range"))
        first, last = checks.utc(start, "start"), checks.utc(end, "end")

        async def work(stores: Stores) -> int:
            coverage = find_coverage(stores)
            if coverage is not None:
                await coverage.lock(select_asked(window, None, None))
            deleted = await stores.bars.delete(window)
            if coverage is not None:
                # or the deleted bars would seem to be bars that the exchange did not give
                await remove_range(coverage, window, first, last)
            if not deleted:
                await warn_of_bars(self._backend, stores, window)
            return deleted

        return await self._count(work)

    @overload
    async def write_arrow(
        self,
        data: ArrowData,
        mode: Literal["upsert", "insert"] = "upsert",
        *,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        exchange: str | None = None,
        decimals: Decimals | None = None,
        report: Literal[False] = False,
        atomic: bool = True,
    ) -> int: ...

    @overload
    async def write_arrow(
        self,
        data: ArrowData,
        mode: Literal["upsert", "insert"] = "upsert",
        *,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        exchange: str | None = None,
        decimals: Decimals | None = None,
        report: Literal[True],
        atomic: bool = True,
    ) -> UpsertReport: ...

    async def write_arrow(
        self,
        data: ArrowData,
        mode: Literal["upsert", "insert"] = "upsert",
        *,
        symbol: str | None = None,
        timeframe: Timeframe | None = None,
        exchange: str | None = None,
        decimals: Decimals | None = None,
        report: bool = False,
        atomic: bool = True,
    ) -> int | UpsertReport:
        """Write the bars of an Arrow table, record batches or a data frame; the rules of upsert_many or insert_many apply.

        All rows are written or none. The data is read into memory and written in key order, but a RecordBatchReader, if the
        repository was given the manager, is read and written batch by batch in one transaction, so that memory stays constant;
        a key that is in two of its batches counts twice.

        Columns are those of read_arrow, in any order; quote_volume and trades_count may be missing; id, created_at and the
        index columns of pandas are ignored. If the column timestamp is missing, the column date (as in frames of freqtrade) or
        pandas' index of times is used instead. Text may be dictionary-encoded. Numbers may be decimals of any precision and
        scale, whole numbers, or decimals as text, if DECIMAL(38,18) holds them exactly. Times may have any unit and time zone,
        if they are whole microseconds; without a zone they are UTC.

        Args:
            data: the rows: a pyarrow Table, RecordBatch or RecordBatchReader, a Polars or pandas frame (any object with
                Arrow's PyCapsule interface), or an iterable of these.
            mode: "upsert": of rows with the same key the last is written, and stored bars are overwritten; "insert": a
                duplicate is an error.
            symbol: the symbol of all rows, if the data has no column symbol.
            timeframe: the timeframe of all rows, if the data has no column timeframe.
            exchange: the exchange of all rows, if the data has no column exchange.
            decimals: "from_float": accept floats, store for each the shortest decimal that converts back to the same float,
                and round decimals half-even to 18 places. None: refuse floats, and decimals with more places.
            report: whether to return the numbers of bars that were inserted, updated and unchanged, which takes longer.
            atomic: False: write and commit each batch of a reader or iterable separately; after an error, the batches before it
                remain stored.

        Returns:
            The number of distinct keys, 0 without rows; or, with ``report``, an `UpsertReport`.

        Raises:
            IntegrityError: with "insert", a bar is already stored or occurs twice in the data; nothing was inserted.
            InvalidValueError: a column is missing, unknown or of another type, or a row cannot be stored; the message names
                the column or row; nothing was written. Or ``atomic`` is False in a session.
            PartialWriteError: with ``atomic=False``, a batch was not written, and those before it are stored; the error names
                their number.
            MissingDriverError: pyarrow is not installed; the message contains the install command.

        Example:
            table = await ohlcv.read_arrow("BTCUSDT", "1h")
            coinbase = table.drop_columns(["exchange"])
            await ohlcv.write_arrow(coinbase, exchange="coinbase")  # -> 23
        """
        checks.choice(mode, "mode", ("upsert", "insert"))
        checks.optional_choice(decimals, "decimals", get_args(Decimals))
        checks.boolean(report, "report")
        series = {
            "exchange": checks.optional(checks.name_text, exchange, "exchange"),
            "symbol": checks.optional(checks.name_text, symbol, "symbol"),
            "timeframe": None if timeframe is None else check_timeframe(timeframe),
        }
        checks.boolean(atomic, "atomic")
        require_arrow()
        await import_modules("pyarrow", "iftb_store.batches.arrow_frames", "iftb_store.repositories.batch_writes")
        from iftb_store.batches.arrow_frames import collect_rows, name_columns
        from iftb_store.batches.arrow_input import prepare_rows
        from iftb_store.repositories import batch_writes

        async def write(repository: OHLCVRepository, table: pa.Table) -> int | UpsertReport:
            given = await asyncio.to_thread(name_columns, table, series)
            rows = await asyncio.to_thread(prepare_rows, given, from_float=decimals is not None, last_wins=mode == "upsert")
            return await repository._write_batch(repository._make_batch(rows), mode, report=report)

        none = UpsertReport(0, 0, 0) if report else 0
        if not atomic:
            if self._manager is None:
                raise batch_writes.session_error()
            return await batch_writes.write_apart(batch_writes.iterate_batches(data), partial(write, self)) or none
        if self._manager is None or not batch_writes.is_reader(data):
            return await write(self, await collect_rows(data))
        reader: Any = data
        async with self._manager.get_session() as session:
            inside = OHLCVRepository(session, clock=self._clock)
            return await batch_writes.write_together(batch_writes.read_joined(reader), partial(write, inside)) or none

    def _make_batch(self, rows: pa.Table) -> ArrowBatch:
        from iftb_store.batches.arrow import ArrowBatch

        return ArrowBatch(rows, self._now())

    @overload
    async def _write_batch(self, batch: BarBatch, mode: str, *, report: Literal[True]) -> UpsertReport: ...

    @overload
    async def _write_batch(self, batch: BarBatch, mode: str, *, report: bool) -> int | UpsertReport: ...

    async def _write_batch(self, batch: BarBatch, mode: str, *, report: bool) -> int | UpsertReport:
        if mode == "upsert":
            return await self._upsert(batch, report=report)
        if len(batch):
            async with self._stores() as stores:
                await _insert(stores, batch)
        return UpsertReport(len(batch), 0, 0) if report else len(batch)


async def write_checked(repository: OHLCVRepository, rows: pa.Table, mode: Literal["upsert", "insert"]) -> UpsertReport:
    """Write bars as `OHLCVRepository.write_arrow` does.

    The rows have the columns of `iftb_store.batches.arrow_input.check_rows`, which has checked them, and possibly others.
    """
    from iftb_store.batches.arrow_input import WRITTEN, sort_rows

    rows = await asyncio.to_thread(sort_rows, rows.select(WRITTEN.names), last_wins=mode == "upsert")
    batch = repository._make_batch(rows)
    return await repository._write_batch(batch, mode, report=True)


def _bars(bars: Sequence[OHLCVBar]) -> Sequence[OHLCVBar]:
    if isinstance(bars, list | tuple):
        return bars
    if isinstance(bars, Mapping):
        raise InvalidValueError(f"bars must be a list of OHLCVBar, not {type_name(bars)}; {FROM_CCXT}")
    if hasattr(bars, "__arrow_c_stream__") or hasattr(bars, "__arrow_c_array__"):
        raise InvalidValueError(
            f"bars must be a list of OHLCVBar, not {type_name(bars)}; write_arrow writes data frames and tables"
        )
    try:
        return list(bars)
    except TypeError as error:
        raise InvalidValueError(f"bars must be a list of OHLCVBar, not {type_name(bars)}") from error


def _is_open(bar: object, now: datetime) -> bool:
    """Return whether the period of a bar ends after ``now``; False for what is no bar, which the write refuses."""
    if not isinstance(bar, OHLCVBar):
        return False
    try:
        return move(checks.utc(bar.timestamp, "timestamp"), check_timeframe(bar.timeframe), 1) > now
    except InvalidValueError:
        return False


async def _insert(stores: Stores, batch: BarBatch) -> None:
    try:
        await stores.bars.write(batch, "insert")
    except IntegrityError as error:
        named = await explain_duplicate(stores, batch, error)
        if named is error:
            raise
        raise named from error
