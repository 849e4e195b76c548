"""Tests of `iftb_store.fill` with a made-up exchange that misbehaves as real ones do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

import iftb_store.exchange.fill as filling
from iftb_store import DatabaseManager, FillReport, InvalidValueError, OHLCVRepository, Unsupported, fill
from iftb_store.protocols import Capability
from iftb_store.schema.types import EPOCH
from iftb_store.testing.coverage import make_repository, mark, read_ranges, read_states
from iftb_store.testing.fixtures import SuiteFixtures, lacks, requires
from iftb_store.testing.samples import HOUR, NOW, T0, Clock, hourly

Row = list[Any]
#: Changes the rows of an answer, given what was asked for: (rows, since, limit) -> rows.
Habit = Callable[[list[Row], int, int], Any]


class FakeExchangeError(Exception):
    """An error of the made-up exchange that may pass."""


def milliseconds(moment: datetime) -> int:
    """Return a time as an exchange writes it."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def row(hour: int, close: Any = "50000.5") -> Row:
    """Return the row of the bar that begins some hours after T0."""
    return [milliseconds(T0 + hour * HOUR), "50000", "50001", "49999", close, "1.5"]


class FakeExchange:
    """An exchange that has the bars of some hours after T0, and answers with those from ``since`` on, at most ``cap``.

    Args:
        hours: the hours that it has.
        cap: the greatest number of rows of an answer, whatever the limit.
        habit: changes each answer.
        failures: how many requests fail before one is answered, each with FakeExchangeError.
    """

    def __init__(self, hours: Iterable[int], *, cap: int = 1000, habit: Habit | None = None, failures: int = 0) -> None:
        self._hours, self._cap, self._habit, self._failures = sorted(hours), cap, habit, failures
        #: The hours after T0 that were asked for.
        self.asked: list[int] = []
        #: What was passed with each request.
        self.limits: list[tuple[str, str, int]] = []
        #: Awaited before an answer, if set.
        self.before: Callable[[], Awaitable[object]] | None = None

    async def fetch_ohlcv(self, symbol: str, timeframe: str, since: int, limit: int) -> Any:
        self.asked.append((since - milliseconds(T0)) // 3_600_000)
        self.limits.append((symbol, timeframe, limit))
        if self.before is not None:
            await self.before()
        if self._failures:
            self._failures -= 1
            raise FakeExchangeError("429 Too Many Requests")
        rows = [row(hour) for hour in self._hours if row(hour)[0] >= since][: min(limit, self._cap)]
        return rows if self._habit is None else self._habit(rows, since, limit)


async def ask(db: DatabaseManager, exchange: FakeExchange, first: int, last: int, **options: Any) -> FillReport:
    """Fill the bars from one hour after T0 to another, at NOW."""
    named: dict[str, Any] = {"clock": Clock(), "retry": (FakeExchangeError,)} | options
    return await fill(db, "BTCUSDT", "1h", T0 + first * HOUR, T0 + last * HOUR, exchange.fetch_ohlcv, **named)


@requires(Capability.RECORDS)
class FillRuleTests(SuiteFixtures):
    """What is asked for, what is stored, and what an answer covers."""

    @pytest.fixture(autouse=True)
    def waits_are_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let no test wait for a second attempt."""
        monkeypatch.setattr(filling, "_FIRST_WAIT", 0.001)

    async def test_missing_bars_are_stored_with_what_was_asked(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(hour for hour in range(10) if hour != 4)
        report = await ask(db, exchange, 0, 9, limit=3, fetch_symbol="BTC/USDT")
        # hour 4 is covered by the answer from 3 on, which has the hours 3, 5 and 6
        assert report == FillReport(requests=3, rows=9, inserted=9, none=1)
        assert await read_states(db) == [("traded", 4), ("none", 1), ("traded", 5)]
        assert await read_ranges(db) == [(0, 9, "fetch")]
        assert exchange.limits[0] == ("BTC/USDT", "1h", 3)
        (bar, *_) = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0)
        assert (bar.open, bar.close, bar.volume) == (Decimal(50000), Decimal("50000.5"), Decimal("1.5"))

    async def test_only_what_was_never_asked_is_asked_oldest_first(self, db: DatabaseManager) -> None:
        stored = hourly(12)
        await OHLCVRepository(db).insert_many([stored[hour] for hour in (2, 3, 8)])
        await mark(db, 5, 6, source="stream")
        exchange = FakeExchange(range(12))
        report = await ask(db, exchange, 0, 11, limit=2)
        assert exchange.asked == sorted(exchange.asked)
        assert exchange.asked[0] == 0
        assert (report.inserted, report.updated, report.none, report.unknown) == (7, 0, 2, 0)
        # a stored bar keeps its values
        (bar,) = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0 + 3 * HOUR, T0 + 3 * HOUR)
        assert bar.close == stored[3].close
        again = await ask(db, exchange, 0, 11)
        assert (again.requests, again.none) == (0, 2)

    async def test_a_recheck_asks_for_what_was_not_given(self, db: DatabaseManager) -> None:
        await ask(db, FakeExchange([0, 1, 4]), 0, 5)
        assert await read_states(db, T0, T0 + 5 * HOUR) == [("traded", 2), ("none", 2), ("traded", 1), ("none", 1)]
        report = await ask(db, FakeExchange(range(5)), 0, 5, recheck=True)
        assert (report.inserted, report.updated, report.none) == (2, 0, 1)

    async def test_an_unfinished_candle_is_neither_stored_nor_covered(self, db: DatabaseManager) -> None:
        clock = Clock(T0 + 3 * HOUR + timedelta(seconds=4))
        report = await ask(db, FakeExchange(range(9)), 0, 9, clock=clock)
        # the bar of hour 2 has ended 4 seconds ago, and is settled after 5
        assert (report.inserted, report.unfinished) == (2, 7)
        assert await read_ranges(db) == [(0, 1, "fetch")]
        clock.advance(timedelta(seconds=1))
        assert (await ask(db, FakeExchange(range(9)), 0, 9, clock=clock)).inserted == 1
        assert (await ask(db, FakeExchange(range(9)), 0, 9, clock=clock)).requests == 0

    async def test_rows_are_sorted_and_equal_repeats_dropped(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(4), habit=lambda rows, since, limit: [*rows[::-1], *rows])
        report = await ask(db, exchange, 0, 3)
        assert (report.rows, report.inserted, report.requests) == (8, 4, 1)

    async def test_a_row_that_contradicts_another_one_is_an_error(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(4), habit=lambda rows, since, limit: [*rows, row(2, "1")])
        with pytest.raises(InvalidValueError, match="two different rows of 2024-01-01T02:00"):
            await ask(db, exchange, 0, 3)
        assert await read_states(db) == []

    async def test_a_row_off_the_grid_is_an_error(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(4), habit=lambda rows, since, limit: [[rows[0][0] + 1, *rows[0][1:]]])
        with pytest.raises(InvalidValueError, match="at which no bar of 1h begins"):
            await ask(db, exchange, 0, 3)
        assert await read_ranges(db) == []

    async def test_a_row_of_nulls_is_no_bar(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(4), habit=lambda rows, since, limit: [[one[0], *[None] * 5] for one in rows])
        report = await ask(db, exchange, 0, 3)
        assert (report.requests, report.inserted, report.none, report.unknown) == (1, 0, 4, 0)

    async def test_rows_that_were_not_asked_for_are_counted_and_ignored(self, db: DatabaseManager) -> None:
        exchange = FakeExchange([], habit=lambda rows, since, limit: [row(hour) for hour in range(100, 120)])
        report = await ask(db, exchange, 0, 9, limit=5)
        assert (report.requests, report.rows, report.outside, report.inserted, report.none) == (2, 40, 40, 0, 10)
        assert await read_ranges(db) == [(0, 9, "fetch")]

    async def test_a_cap_in_silence_leaves_no_hole(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(20), cap=3)
        report = await ask(db, exchange, 0, 19, limit=1000)
        assert (report.inserted, report.none, report.unknown) == (20, 0, 0)
        assert exchange.asked == [0, 3, 6, 9, 12, 15, 18]

    async def test_an_answer_without_rows_covers_no_more_than_the_limit(self, db: DatabaseManager) -> None:
        exchange = FakeExchange([])
        report = await ask(db, exchange, 0, 9, limit=4)
        assert exchange.asked == [0, 4, 8]
        assert (report.requests, report.none) == (3, 10)

    async def test_an_exchange_that_repeats_itself_ends(self, db: DatabaseManager) -> None:
        exchange = FakeExchange([], habit=lambda rows, since, limit: [row(0), row(1)])
        report = await ask(db, exchange, 0, 9, limit=4)
        assert (report.inserted, report.requests) == (2, 3)

    async def test_before_the_first_bar_there_are_none(self, db: DatabaseManager) -> None:
        report = await ask(db, FakeExchange([6, 7]), 0, 7)
        assert (report.requests, report.none, report.inserted) == (1, 6, 2)
        assert (await make_repository(db).get_coverage("BTCUSDT", "1h"))[0].asked_at == NOW

    async def test_floats_are_refused_with_the_remedy(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(2), habit=lambda rows, since, limit: [[one[0], 0.1, 0.3, 0.1, 0.2, 1.0] for one in rows])
        with pytest.raises(InvalidValueError, match=r"open is the float 0.1; set `exchange.number = str`"):
            await ask(db, exchange, 0, 1)
        assert (await ask(db, exchange, 0, 1, decimals="from_float")).inserted == 2
        (bar,) = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0)
        assert bar.open == Decimal("0.1")

    async def test_a_plain_function_is_asked_too(self, db: DatabaseManager) -> None:
        def fetch(symbol: str, timeframe: str, since: int, limit: int) -> list[Row]:
            return [row(hour) for hour in range(4)]

        report = await fill(db, "BTCUSDT", "1h", T0, T0 + 3 * HOUR, fetch, clock=Clock())
        assert (report.requests, report.inserted) == (1, 4)

    async def test_errors_that_pass_are_tried_again(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(4), failures=4)
        report = await ask(db, exchange, 0, 3, attempts=5)
        assert (report.requests, report.inserted, exchange.asked) == (1, 4, [0] * 5)

    async def test_after_the_last_attempt_the_error_is_raised_and_the_rest_stays(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(6))
        await ask(db, exchange, 0, 2)
        exchange._failures = 2
        with pytest.raises(FakeExchangeError):
            await ask(db, exchange, 0, 5, attempts=2)
        assert await read_ranges(db) == [(0, 2, "fetch")]
        assert (await ask(db, exchange, 0, 5)).inserted == 3

    async def test_other_errors_end_it_at_once(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(6), failures=1)
        with pytest.raises(FakeExchangeError):
            await ask(db, exchange, 0, 5, retry=())
        assert exchange.asked == [0]

    async def test_an_answer_of_another_kind_is_an_error(self, db: DatabaseManager) -> None:
        for answer in ({"code": -1121}, "error", [["x"]], [[None, 1, 1, 1, 1, 1]], [row(0, "abc")]):
            exchange = FakeExchange([], habit=lambda rows, since, limit, answer=answer: answer)  # type: ignore[misc]
            with pytest.raises(InvalidValueError):
                await ask(db, exchange, 0, 5)
        assert await read_ranges(db) == []

    async def test_wrong_arguments_are_refused(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(3))
        for options in ({"limit": 0}, {"attempts": 0}, {"pause": -1}, {"settle": 5}, {"decimals": "float"}, {"exchange": None}):
            with pytest.raises(InvalidValueError):
                await ask(db, exchange, 0, 2, **options)
        with pytest.raises(InvalidValueError, match="fetch must be a function"):
            await fill(db, "BTCUSDT", "1h", T0, T0, None)  # type: ignore[arg-type]
        async with db.get_session() as session:
            with pytest.raises(InvalidValueError, match="connected store"):
                await fill(session, "BTCUSDT", "1h", T0, T0, exchange.fetch_ohlcv)  # type: ignore[arg-type]
        assert exchange.asked == []


@requires(Capability.RECORDS)
class FillResumeTests(SuiteFixtures):
    """A fill that is stopped anywhere leaves whole answers."""

    async def test_a_fill_that_hangs_can_be_cancelled_and_resumes(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(9))
        hangs = asyncio.Event()

        async def hang() -> None:
            if len(exchange.asked) == 3:
                hangs.set()
                await asyncio.Event().wait()

        exchange.before = hang
        task = asyncio.create_task(ask(db, exchange, 0, 8, limit=2))
        await hangs.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await read_states(db, T0, T0 + 8 * HOUR) == [("traded", 4), ("unknown", 5)]
        assert (await ask(db, exchange, 0, 8)).inserted == 5

    async def test_cancelled_at_random_each_page_is_whole_or_absent(self, db: DatabaseManager) -> None:
        exchange, chance = FakeExchange(hour for hour in range(60) if hour % 7), random.Random(1)  # noqa: S311 - not used for security
        for _ in range(4):
            task = asyncio.create_task(ask(db, exchange, 0, 59, limit=5))
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            await asyncio.sleep(chance.random() / 50)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            ranges, states = await read_ranges(db), await read_states(db, T0, T0 + 59 * HOUR)
            covered = sum(last - first + 1 for first, last, _ in ranges)
            assert sum(bars for state, bars in states if state != "unknown") == covered
        await ask(db, exchange, 0, 59, limit=5)
        bars = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + 59 * HOUR)
        assert [(bar.timestamp - T0) // HOUR for bar in bars] == [hour for hour in range(60) if hour % 7]
        assert await read_ranges(db) == [(0, 59, "fetch")]

    async def test_two_fills_at_once_do_no_harm(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(hour for hour in range(30) if hour % 5)
        await asyncio.gather(ask(db, exchange, 0, 29, limit=4), ask(db, exchange, 0, 29, limit=6))
        assert await read_ranges(db) == [(0, 29, "fetch")]
        assert sum(bars for state, bars in await read_states(db) if state == "traded") == 24

    async def test_a_fill_whose_bars_cannot_be_stored_covers_nothing(self, db: DatabaseManager) -> None:
        exchange = FakeExchange(range(3), habit=lambda rows, since, limit: [[*one[:5], "1e30"] for one in rows])
        with pytest.raises(InvalidValueError):
            await ask(db, exchange, 0, 2)
        assert await read_ranges(db) == []

    async def test_progress_reaches_the_total(self, db: DatabaseManager) -> None:
        told: list[tuple[str, int, int | None]] = []
        await ask(db, FakeExchange(range(6)), 0, 5, limit=4, progress=lambda *one: told.append(one))
        assert told == [("binance BTCUSDT 1h", 0, None), ("binance BTCUSDT 1h", 4, 6), ("binance BTCUSDT 1h", 6, 6)]


class NoFillTests(SuiteFixtures):
    """A backend that keeps only bars refuses before anything is asked."""

    async def test_a_backend_of_bars_cannot_be_filled(self, db: DatabaseManager) -> None:
        lacks(db, Capability.RECORDS)
        exchange = FakeExchange(range(3))
        with pytest.raises(Unsupported, match="keeps only bars"):
            await ask(db, exchange, 0, 2)
        assert exchange.asked == []
