"""Computes missing bars of a longer timeframe from stored bars, window by window, and stores them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.resampling import Buckets, make_bars
from iftb_store.errors import InvalidValueError, operational_error
from iftb_store.maintenance.pace import Pace
from iftb_store.models import OHLCVBar
from iftb_store.protocols import Stores
from iftb_store.registry import get_stores
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter
from iftb_store.transfer.access import open_complete_session, require_complete_reads
from iftb_store.transfer.lookups import get_lookups
from iftb_store.values.timeframes import Timeframe

# bars of the source in a window
_WINDOW = 20_000
_ATTEMPTS = 5
_LAST = datetime.max.replace(tzinfo=UTC)
_TICK = timedelta(microseconds=1)


async def list_series_in(db: ConnectedStore, window: RowFilter) -> list[tuple[tuple[str, str, str], int]]:
    """Return (series, number of bars in the window) of each series that has bars in it; (exchange, symbol, timeframe) each."""
    async with open_complete_session(db, [BARS]) as session:
        counted = await get_lookups(get_stores(session)).count_rows(window)
    found = []
    for rest, count in counted:
        values = dict(zip(window.order, rest, strict=False)) | window.equal
        if count:
            found.append(((values["exchange"], values["symbol"], values["timeframe"]), count))
    return sorted(found)


def select_series(series: tuple[str, str, str], start: datetime | None = None, end: datetime | None = None) -> RowFilter:
    """Return the filter for the bars of a series in a time window."""
    return RowFilter(BARS, dict(zip(SERIES, series, strict=True)), start, end)


async def find_first(stores: Stores, window: RowFilter) -> datetime | None:
    """Return the time of the first bar in a window; None if it has none."""
    times = await read_times(stores, replace(window, limit=1))
    return times[0] if times else None


async def read_times(stores: Stores, window: RowFilter) -> list[datetime]:
    """Return the times of the bars of a series in a window, oldest first."""
    rows = await stores.read_rows(replace(window, only=("timestamp",)))
    times: list[Any] = rows["timestamp"].to_pylist()
    return times


class Roller:
    """Rolls up series to one target timeframe; a stored bar of the target is never changed.

    Args:
        source: the timeframe of the stored bars.
        target: the timeframe of the bars to compute.
        end: bars of the source after this time are ignored.
        partial: whether to compute also bars whose time has ended at ``end``, although bars of the source are missing.
        dry: whether to store nothing and count only.
    """

    def __init__(self, source: Timeframe, target: Timeframe, end: datetime, *, partial: bool, dry: bool) -> None:
        self._source, self._target, self._end, self._partial, self._dry = source, target, end, partial, dry
        self._buckets = Buckets(source, target)

    def begin(self, moment: datetime) -> datetime:
        """Return the start of the target bar whose time contains a time."""
        return self._start(self._buckets.number(moment))

    def end(self, moment: datetime) -> datetime:
        """Return the last moment of the target bar whose time contains a time."""
        return self._start(self._buckets.number(moment) + 1) - _TICK

    async def roll_up(
        self, db: ConnectedStore, exchange: str, symbol: str, start: datetime | None, known: set[datetime] | None = None
    ) -> int:
        """Compute and store the missing bars of a series, window by window; return their number.

        A dry run takes the bars ``known`` as stored, and adds those that it would store.
        """
        stored, pace = 0, Pace(db)
        known = set() if known is None else known
        last = self._end
        while True:
            async with open_complete_session(db, [BARS]) as session:
                first = await find_first(get_stores(session), select_series((exchange, symbol, self._source), start, last))
            if first is None:
                return stored
            number = self._buckets.number(first)
            window_end = min(self._start(number + max(1, _WINDOW // self._buckets.size(number))) - _TICK, last)
            async with pace.batch():
                new = await self.fill(db, exchange, symbol, self._start(number), window_end, known)
            stored += len(new)
            known.update(new if self._dry else ())
            if window_end >= last:
                return stored
            start = window_end + _TICK

    async def fill(
        self, db: ConnectedStore, exchange: str, symbol: str, start: datetime, end: datetime, known: Iterable[datetime] = ()
    ) -> list[datetime]:
        """Store the missing target bars of one window, in one transaction; return their times."""

        async def work(session: Any) -> list[datetime]:
            await require_complete_reads(session, [BARS], insert=True)
            return await self.fill_in(session, exchange, symbol, start, end, known)

        if self._dry:
            async with open_complete_session(db, [BARS]) as session:
                return await self.fill_in(session, exchange, symbol, start, end, known)
        for attempt in range(_ATTEMPTS):
            try:
                # whatever an earlier attempt stored is not missing in the next one
                return await db.run(work, idempotent=True)
            except IntegrityError as error:
                if attempt == _ATTEMPTS - 1:
                    raise operational_error(
                        f"others are storing the bars of {exchange} {symbol} {self._target} at the same time; run it again",
                        error,
                        transient=True,
                    ) from error
        return []

    async def fill_in(
        self, session: Any, exchange: str, symbol: str, start: datetime, end: datetime, known: Iterable[datetime] = ()
    ) -> list[datetime]:
        """Store the missing target bars of a window in a session; return their times. ``known`` bars count as stored."""
        stores = get_stores(session)
        stored = {*await read_times(stores, select_series((exchange, symbol, self._target), start, end)), *known}
        first, last = self._buckets.number(start), self._buckets.number(end)
        if last - first < _WINDOW and all(self._start(number) in stored for number in range(first, last + 1)):
            return []
        source = select_series((exchange, symbol, self._source), start, end)
        found = await stores.bars.resample(source, self._buckets)
        names = symbol, exchange, self._target
        bars = [one for one in make_bars(self._buckets, found, names, partial=self._partial) if self._is_due(one)]
        missing = [one for one in bars if one.timestamp not in stored]
        if missing and not self._dry:
            await OHLCVRepository(session).insert_many(missing)
        return [one.timestamp for one in missing]

    def _is_due(self, found: OHLCVBar) -> bool:
        """Return whether the time of a bar has ended, so that no more bars of the source are to come."""
        return not self._partial or self.end(found.timestamp) <= self._end

    def _start(self, number: int) -> datetime:
        try:
            return self._buckets.start(number)
        except (InvalidValueError, ValueError):
            # after the year 9999
            return _LAST if number > 0 else datetime.min.replace(tzinfo=UTC)
