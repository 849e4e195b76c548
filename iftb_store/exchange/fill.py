"""Asks an exchange for the bars of a series that are missing, and stores them with the ranges that were asked for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from inspect import isawaitable, iscoroutinefunction
from typing import Any, TypeAlias, get_args

from iftb_store.abilities import ConnectedStore
from iftb_store.analytics.states import CoverageRange, State, count_slots, find_last_due, find_slot, move
from iftb_store.errors import InvalidValueError
from iftb_store.exchange.answers import read_answer
from iftb_store.models import OHLCVBar, UpsertReport
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.repositories.bar_reads import select_window
from iftb_store.repositories.base import Clock, utc_now
from iftb_store.repositories.coverage import read_states
from iftb_store.repositories.covered import add_range, no_coverage_error, require_coverage, select_asked
from iftb_store.repositories.exchanges import check_one_exchange
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.table_spec import AskedRange, RowFilter
from iftb_store.schema.types import EPOCH
from iftb_store.transfer.access import check_store
from iftb_store.transfer.progress import ProgressCallback, report_steps
from iftb_store.values import checks
from iftb_store.values.choices import Decimals
from iftb_store.values.display import show, type_name
from iftb_store.values.timeframes import Timeframe

#: A function that asks an exchange: (symbol, timeframe, milliseconds since 1970, limit) -> rows; ccxt's ``fetch_ohlcv`` is one.
Fetch: TypeAlias = Callable[[str, str, int, int], Awaitable[Any] | Any]

#: The source of the ranges that `fill` asked for.
SOURCE = "fetch"

# the waits before the attempts after an error: random, up to the first at first, doubled each time, up to the longest
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_LONGEST_PAUSE, _LONGEST_SETTLE = 3_600, timedelta(days=31)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(slots=True)
class FillReport:
    """What `fill` asked for, what came, and what is left.

    Attributes:
        requests: the number of requests that were answered.
        rows: the number of rows in the answers.
        inserted: the number of bars that were not stored before.
        updated: the number of bars that were stored with other values.
        unchanged: the number of bars that were stored with the same values.
        outside: the number of rows that were not asked for and were ignored.
        unfinished: the number of rows of bars whose period had not ended; they were ignored.
        none: the number of bars of the window that the exchange did not give, now or earlier.
        unknown: the number of bars of the window that were still never asked for.
    """

    requests: int = 0
    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    outside: int = 0
    unfinished: int = 0
    none: int = 0
    unknown: int = 0


async def fill(
    db: ConnectedStore,
    symbol: str,
    timeframe: Timeframe,
    start: datetime,
    end: datetime | None,
    fetch: Fetch,
    *,
    exchange: str = "binance",
    fetch_symbol: str | None = None,
    limit: int = 1000,
    decimals: Decimals | None = None,
    retry: tuple[type[Exception], ...] = (ConnectionError, TimeoutError),
    attempts: int = 5,
    pause: float = 0.0,
    settle: timedelta = timedelta(seconds=5),
    recheck: bool = False,
    clock: Clock = utc_now,
    progress: ProgressCallback | None = None,
) -> FillReport:
    """Ask an exchange for the bars of a series that are missing and were never asked for, oldest first, and store them.

    Each answer is stored with the range that it covers, in one transaction: a fill that is cancelled or fails anywhere leaves
    whole answers, and the next call resumes. An answer covers the bars from the time that was asked for to its last row; without
    a row that was asked for, it covers ``limit`` bars. Bars that it covers and lacks are "none" from then on, see
    `OHLCVRepository.get_coverage`. A bar whose period has not ended is never stored. Stored bars are not overwritten. Requests
    run one after the other; no transaction is open meanwhile.

    Args:
        db: the connected store, e.g. a DatabaseManager.
        symbol: the symbol of the series, as it is stored.
        timeframe: the timeframe of the series, e.g. "1m".
        start: start of the time window, inclusive; naive times are UTC.
        end: end of the time window, inclusive. None: the last bar that has ended.
        fetch: a function of (symbol, timeframe, milliseconds since 1970, limit) that returns rows
            [milliseconds, open, high, low, close, volume], as ccxt's ``fetch_ohlcv`` does. An async function is awaited, a plain
            one runs in a thread.
        exchange: the exchange of the series.
        fetch_symbol: the symbol for ``fetch``, e.g. "BTC/USDT"; None: that of the series.
        limit: the number of bars to ask for at once, at least 1.
        decimals: "from_float": accept floats, and store the shortest decimal of each, rounded half-even to 18 places. None:
            refuse floats; with ccxt, set ``exchange.number = str``.
        retry: the exceptions of ``fetch`` after which it is called again, e.g. (ccxt.NetworkError,); others end the fill.
        attempts: how often a request is made at most, at least 1. The waits between are random, and double.
        pause: seconds to wait between two requests; ccxt waits by itself.
        settle: a bar is asked for when its period has ended for this long, so that the exchange has finished it.
        recheck: also ask for bars that the exchange did not give earlier.
        clock: function that returns the current time; tests pass their own.
        progress: called with (series, bars that were asked for, bars to ask for).

    Returns:
        The report; all numbers are 0 if every bar of the window is stored or was asked for.

    Raises:
        InvalidValueError: an argument has an invalid value; or an answer cannot be stored: it has two different rows of one time,
            a row off the timeframe's grid, or a number that is no exact decimal. Answers before it are stored.
        Unsupported: the backend keeps only bars, as a lake does.
        OperationalError: the database failed.

    Example:
        async def fetch(symbol, timeframe, since, limit):
            return [[since, "42000", "42010.5", "41990", "42001", "12.5"]]

        day = datetime(2024, 1, 30, tzinfo=UTC)
        report = await fill(db, "BTCUSDT", "1h", day, day + timedelta(hours=1), fetch)
        (report.requests, report.inserted, report.unknown)  # -> (2, 2, 0)
    """
    check_store(db, "db")
    if not callable(fetch):
        raise InvalidValueError(f"fetch must be a function, e.g. exchange.fetch_ohlcv, not {type_name(fetch)}")
    if not isinstance(settle, timedelta) or not timedelta(0) <= settle <= _LONGEST_SETTLE:
        raise InvalidValueError(f"settle must be a timedelta from 0 to 31 days, not {show(settle)}")
    if isinstance(pause, bool) or not isinstance(pause, int | float) or not 0 <= pause <= _LONGEST_PAUSE:
        raise InvalidValueError(f"pause must be a number of seconds from 0 to 3600, not {show(pause)}")
    if not callable(clock):
        raise InvalidValueError(f"clock must be a function that returns the time, not {type_name(clock)}")
    retried = retry if isinstance(retry, tuple | list) else (retry,)
    if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in retried):
        raise InvalidValueError(f"retry must be a tuple of exceptions, e.g. (ccxt.NetworkError,), not {show(retry)}")
    window = select_window(symbol, timeframe, start, clock() if end is None else end, check_one_exchange(exchange, "fill"))
    checks.optional_choice(decimals, "decimals", get_args(Decimals))
    if Capability.RECORDS not in db.capabilities:
        raise no_coverage_error()
    filling = _Fill(
        db,
        window,
        fetch,
        checks.optional(checks.name_text, fetch_symbol, "fetch_symbol") or window.equal["symbol"],
        checks.integer(limit, "limit", least=1),
        decimals is not None,
        tuple(retried),
        checks.integer(attempts, "attempts", least=1),
        float(pause),
        settle,
        ("unknown", "none") if checks.boolean(recheck, "recheck") else ("unknown",),
        clock,
    )
    return await filling.run(progress)


@dataclass(slots=True)
class _Stretch:
    """Bars to ask for from ``first`` to ``last``; between the ``parts`` that are missing lie stored bars only."""

    first: datetime
    last: datetime
    parts: list[CoverageRange] = field(default_factory=list)

    @property
    def bars(self) -> int:
        return sum(part.bars for part in self.parts)

    def find_next(self, moment: datetime, timeframe: str) -> datetime | None:
        """Return the first missing bar after a moment, or None."""
        following = move(moment, timeframe, 1)
        return next((max(part.first, following) for part in self.parts if part.last >= following), None)

    def has(self, moment: datetime) -> bool:
        return any(part.first <= moment <= part.last for part in self.parts)


@dataclass(slots=True)
class _Fill:
    db: ConnectedStore
    window: RowFilter
    fetch: Fetch
    symbol: str
    limit: int
    from_float: bool
    retry: tuple[type[Exception], ...]
    attempts: int
    pause: float
    settle: timedelta
    wanted: tuple[State, ...]
    clock: Clock
    report: FillReport = field(default_factory=FillReport)

    async def run(self, progress: ProgressCallback | None) -> FillReport:
        stretches = _find_stretches(await self._read_states(), self.wanted)
        total, done = sum(stretch.bars for stretch in stretches), 0
        with report_steps(progress)(" ".join(self.window.equal[name] for name in ("exchange", "symbol", "timeframe"))) as tell:
            for stretch in stretches:
                async for moment in self._ask(stretch):
                    begun = [part for part in stretch.parts if part.first <= moment]
                    tell(done + sum(count_slots(part.first, min(part.last, moment), self._timeframe) for part in begun), total)
                done += stretch.bars
        for one in await self._read_states():
            if one.state == "none":
                self.report.none += one.bars
            elif one.state == "unknown":
                self.report.unknown += one.bars
        return self.report

    @property
    def _timeframe(self) -> str:
        timeframe: str = self.window.equal["timeframe"]
        return timeframe

    async def _read_states(self) -> list[CoverageRange]:
        isolation: Any = "snapshot" if Capability.ISOLATION in self.db.capabilities else None
        async with self.db.get_session(isolation=isolation) as session:
            now = checks.utc(self.clock(), "the clock's time") - self.settle
            return await read_states(get_stores(session), self.window, self.window.start, self.window.end, now)

    async def _ask(self, stretch: _Stretch) -> AsyncIterator[datetime]:
        """Ask for the missing bars of a stretch and store the answers; yield the last bar that each covers."""
        timeframe, since = self._timeframe, stretch.parts[0].first
        names = self.window.equal["exchange"], self.window.equal["symbol"], timeframe
        position: datetime | None = since
        while position is not None:
            since = position
            if self.pause and self.report.requests:
                await asyncio.sleep(self.pause)
            answer = await self._request((since - EPOCH) // _MILLISECOND)
            now = checks.utc(self.clock(), "the clock's time")
            rows = await asyncio.to_thread(read_answer, answer, names, from_float=self.from_float)
            self.report.requests += 1
            self.report.rows += len(answer)
            due = find_last_due(since, now - self.settle, timeframe)
            inside = [moment for moment in rows if since <= moment <= stretch.last]
            self.report.unfinished += sum(moment > due for moment in rows)
            # the last row that was asked for; without one, no more than what was asked for, as exchanges cap it in silence
            covered = inside[-1] if inside else move(since, timeframe, self.limit - 1)
            covered = find_slot(since, min(covered, stretch.last, due), timeframe)
            bars = [bar for moment, bar in rows.items() if bar is not None and stretch.has(moment) and since <= moment <= covered]
            self.report.outside += sum(not stretch.has(moment) or moment < since for moment in rows if moment <= due)
            await self._store(bars, since, covered, now)
            yield covered
            position = stretch.find_next(covered, timeframe)

    async def _request(self, since: int) -> Any:
        wait = _FIRST_WAIT
        for attempt in range(1, self.attempts + 1):
            try:
                answer = await self._call(since)
            except self.retry:
                if attempt == self.attempts:
                    raise
                await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - not used for security
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                return [] if answer is None else answer
        raise AssertionError("the last attempt returns or raises")

    async def _call(self, since: int) -> Any:
        words = self.symbol, self._timeframe, since, self.limit
        if iscoroutinefunction(self.fetch):
            return await self.fetch(*words)
        # a plain function, e.g. that of ccxt's blocking classes, would hold the event loop
        answer = await asyncio.to_thread(self.fetch, *words)
        return await answer if isawaitable(answer) else answer

    async def _store(self, bars: list[OHLCVBar], first: datetime, last: datetime, now: datetime) -> None:
        asked = AskedRange(**self.window.equal, first=first, last=last, asked_at=now, source=SOURCE)

        async def work(session: Any) -> UpsertReport:
            coverage = require_coverage(get_stores(session))
            # before the bars, so that two fills of one series lock in the same order
            await coverage.lock(select_asked(self.window, None, None))
            written = await OHLCVRepository(session, clock=self.clock).upsert_many(bars, report=True)
            await add_range(coverage, asked)
            return written

        written = await self.db.run(work, idempotent=True)
        self.report.inserted += written.inserted
        self.report.updated += written.updated
        self.report.unchanged += written.unchanged


def _find_stretches(states: Sequence[CoverageRange], wanted: Sequence[State]) -> list[_Stretch]:
    """Return the stretches to ask for: they begin and end with missing bars, and go on over stored bars."""
    stretches: list[_Stretch] = []
    joins = False
    for one in states:
        if one.state in wanted:
            if not joins:
                stretches.append(_Stretch(one.first, one.last))
            stretches[-1].parts.append(one)
            stretches[-1].last, joins = one.last, True
        elif one.state == "none":
            joins = False
    return stretches
