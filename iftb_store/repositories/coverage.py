"""The states of a series' bars (traded, quiet, none, unknown), and mark_covered, which records what was asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime

from iftb_store.analytics.states import (
    CoverageDay,
    CoverageRange,
    add_up_days,
    find_anchor,
    find_last_due,
    find_slot,
    list_states,
    move,
)
from iftb_store.errors import InvalidValueError
from iftb_store.protocols import Capability, Stores
from iftb_store.repositories.bar_reads import BarReader, select_series, select_window
from iftb_store.repositories.covered import add_range, no_coverage_error, require_coverage, select_asked
from iftb_store.repositories.exchanges import check_one_exchange
from iftb_store.schema.scope import check_window
from iftb_store.schema.table_spec import AskedRange, RowFilter
from iftb_store.values import checks
from iftb_store.values.timeframes import Timeframe, align, origin


class CoverageReads(BarReader):
    """Base class of the repository of bars, with the methods about what was asked for."""

    async def get_coverage(
        self,
        symbol: str,
        timeframe: Timeframe,
        exchange: str = "binance",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[CoverageRange]:
        """Return what is known of each bar of a series, stored or missing, as ranges, oldest first, from a snapshot.

        A missing bar is "none" if it was asked for and the exchange gave none, and "unknown" if it was never asked for; `fill`
        and imports of files record what they asked for, and `mark_covered` does for a feed of your own. Bars whose period has not
        ended are left out.

        Args:
            symbol: the symbol of the series.
            timeframe: the timeframe of the series, e.g. "1h".
            exchange: the exchange of the series; None is refused.
            start: start of the time window, inclusive; naive times are UTC. None: from the first bar that is stored or was
                asked for.
            end: end of the time window, inclusive. None: to the last bar that is stored or was asked for.

        Returns:
            The ranges, without overlaps or holes; empty if nothing is stored, nothing was asked for, and the window has no start
            or no end.

        Raises:
            Unsupported: the backend keeps only bars, as a lake does.
            InvalidValueError: start is after end, the timeframe is unknown, or the exchange is None.

        Example:
            await ohlcv.mark_covered("BTCUSDT", "1h", start + timedelta(hours=7), start + timedelta(hours=7), source="stream")
            states = await ohlcv.get_coverage("BTCUSDT", "1h")
            [(one.state, one.bars) for one in states]  # -> [('traded', 7), ('none', 1), ('traded', 16)]
        """
        return await self._read_states(symbol, timeframe, exchange, start, end, "get_coverage")

    async def coverage_by_day(
        self, symbol: str, timeframe: Timeframe, exchange: str = "binance", *, start: datetime, end: datetime
    ) -> list[CoverageDay]:
        """Return how many bars of a series are traded, quiet, none and unknown on each day (UTC), from a snapshot.

        Args:
            symbol: the symbol of the series.
            timeframe: the timeframe of the series, e.g. "1h".
            exchange: the exchange of the series; None is refused.
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive; bars whose period has not ended are left out.

        Returns:
            One `CoverageDay` for each day on which a bar of the window begins, in order; empty if no bar of it has ended.

        Raises:
            Unsupported: the backend keeps only bars, as a lake does.
            InvalidValueError: start is after end, the timeframe is unknown, or the exchange is None.

        Example:
            [day] = await ohlcv.coverage_by_day("BTCUSDT", "1h", start=start, end=start + timedelta(hours=23))
            (day.due, day.traded, day.none, day.unknown)  # -> (24, 23, 0, 1)
        """
        ranges = await self._read_states(symbol, timeframe, exchange, start, end, "coverage_by_day")
        return await asyncio.to_thread(add_up_days, ranges, timeframe)

    async def mark_covered(
        self, symbol: str, timeframe: Timeframe, start: datetime, end: datetime, exchange: str = "binance", *, source: str
    ) -> None:
        """Record that all bars of a series from ``start`` to ``end`` were asked for: those that are not stored do not exist.

        Call it in the transaction that stores the bars. Ranges of one source that touch or overlap become one, with the older
        time; a range of another source is replaced where it overlaps.

        Args:
            symbol: the symbol of the series.
            timeframe: the timeframe of the series, e.g. "1h".
            start: the opening time of the first bar; naive times are UTC.
            end: the opening time of the last bar, inclusive.
            exchange: the exchange of the series; None is refused.
            source: what gave the bars, e.g. "stream".

        Raises:
            Unsupported: the backend keeps only bars, as a lake does.
            InvalidValueError: start is after end, no bar begins in the window, the last bar has not ended, the timeframe is
                unknown, or the exchange is None.

        Example:
            await ohlcv.mark_covered("BTCUSDT", "1h", start, start + timedelta(hours=23), source="stream")
            [day] = await ohlcv.coverage_by_day("BTCUSDT", "1h", start=start, end=start + timedelta(hours=23))
            (day.due, day.traded, day.none, day.unknown)  # -> (24, 23, 1, 0)
        """
        window = select_window(symbol, timeframe, start, end, check_one_exchange(exchange, "mark_covered"))
        self._require_coverage()
        named, now = checks.name_text(source, "source"), self._now()
        step, begin, finish = window.equal["timeframe"], window.start or now, window.end or now

        # the bars of 3d begin on other days on other exchanges
        anchor = align(begin, step, up=True) if step == "3d" else origin(step)
        first, last = find_slot(anchor, begin, step, up=True), find_slot(anchor, finish, step)
        if first > last:
            raise InvalidValueError(f"no bar of {step} begins from {begin.isoformat()} to {finish.isoformat()}")
        if last > find_last_due(anchor, now, step):
            raise InvalidValueError(
                f"the bar of {last.isoformat()} has not ended, so it cannot be covered; give an end before it"
            )

        async def work(stores: Stores) -> None:
            coverage = require_coverage(stores)
            await add_range(coverage, AskedRange(**window.equal, first=first, last=last, asked_at=now, source=named))

        await self._count(work)

    async def _read_states(
        self, symbol: str, timeframe: str, exchange: object, start: object, end: object, method: str
    ) -> list[CoverageRange]:
        series = select_series(symbol, timeframe, check_one_exchange(exchange, method))
        begin, finish = checks.optional(checks.utc, start, "start"), checks.optional(checks.utc, end, "end")
        if begin is not None and finish is not None:
            check_window(begin, finish)
        self._require_coverage()
        now = self._now()
        return await self._read(lambda stores: read_states(stores, series, begin, finish, now), snapshot=True)

    def _require_coverage(self) -> None:
        backend = self._manager or self._backend
        if Capability.RECORDS not in backend.capabilities:
            raise no_coverage_error()


async def read_states(
    stores: Stores, series: RowFilter, start: datetime | None, end: datetime | None, now: datetime
) -> list[CoverageRange]:
    """Return the ranges of `CoverageReads.get_coverage` in one session.

    Args:
        stores: the stores of the session.
        series: the selection of the bars of one series, without a window.
        start: start of the window; None for the first bar that is stored or was asked for.
        end: end of the window; None for the last one.
        now: bars that have not ended at this time are left out.
    """
    timeframe = series.equal["timeframe"]
    coverage = require_coverage(stores)
    asked = await coverage.read(select_asked(series, start, end))
    due = move(now, timeframe, -1)
    runs = await coverage.read_runs(replace(series, start=start, end=min(due, end or due)))
    anchor = find_anchor(timeframe, runs, asked)
    firsts = [run[0] for run in runs[:1]] + [one.first for one in asked[:1]]
    lasts = [run[1] for run in runs[-1:]] + [one.last for one in asked[-1:]]
    if (start is None or end is None) and not firsts:
        return []
    first = min(firsts) if start is None else find_slot(anchor, start, timeframe, up=True)
    last = max(lasts) if end is None else find_slot(anchor, end, timeframe)
    last = min(last, find_last_due(anchor, now, timeframe))
    return await asyncio.to_thread(lambda: list(list_states(runs, asked, timeframe, first, last)))
