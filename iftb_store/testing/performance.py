"""Tests of get_performance: 22 cases whose figures were computed by another program, with exact fractions."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from iftb_store import DatabaseManager, EquityPoint, GroupFigures, PerformanceReport, Trade, TradeRepository
from iftb_store.protocols import Capability
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.samples import HOUR, LARGEST, NOW, SMALLEST, T0, Clock, trade
from iftb_store.values.decimals import trim_zeros

#: Trades and cases; `about` explains their form. A file of its own, made by a program that shares no code with iftb-store.
_FIXTURE: dict[str, Any] = json.loads(Path(__file__).with_name("performance_cases.json").read_text(encoding="utf-8"))
#: The trades of all cases.
TRADES: list[dict[str, Any]] = _FIXTURE["trades"]
_CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in _FIXTURE["cases"]}
_LISTS = ("equity", "drawdowns", "daily", "weekly", "monthly", "yearly")
#: The fields of a report that say what it covers; a case has them in its arguments.
_COVERED = {"exchange", "symbol", "side", "fees", "tz", "account", "strategy", "exit_reason", "tag"}
#: What the cases do not have; `iftb_store.testing.performance_groups` tests it.
_OTHERS = {
    "balance_source", "currency", "funding", "marked_drawdown", "marked_equity",
    "by_account", "by_strategy", "by_exit_reason", "by_tag",
}  # fmt: skip


def show(value: Any) -> Any:
    """Return a value of a report in the form of the cases: decimals and durations as text, times in ISO 8601."""
    if isinstance(value, EquityPoint):
        return show(value._asdict())
    if isinstance(value, dict):
        return {str(key): show(item) for key, item in value.items()}
    if isinstance(value, list):
        return [show(item) for item in value]
    if isinstance(value, Decimal):
        return format(trim_zeros(value), "f")
    if isinstance(value, timedelta):
        seconds = format(Decimal(value // timedelta(microseconds=1)).scaleb(-6), "f")
        return seconds.rstrip("0").rstrip(".")
    return value.isoformat() if isinstance(value, date) else value


def show_report(report: PerformanceReport) -> dict[str, Any]:
    """Return a report in the form of a case's expected values."""
    shown = {name: show(value) for name, value in asdict(report).items() if name not in _COVERED | _OTHERS}
    lists = {name: shown.pop(name) for name in (*_LISTS, *filter(re.compile("by_").match, [*shown]))}
    return {"figures": shown, **lists}


def make_trade(row: dict[str, Any]) -> tuple[Trade, datetime]:
    """Return a trade of the cases, and the time at which it is written."""
    decimals = ("entry_price", "quantity", "leverage", "exit_price", "realized_pnl", "realized_pnl_pct", "fee")
    times = ("entry_time", "exit_time")
    values = {name: value for name, value in row.items() if name not in ("id", "updated_at")}
    values |= {name: Decimal(row[name]) for name in decimals if row[name] is not None}
    values |= {name: datetime.fromisoformat(row[name]) for name in times if row[name] is not None}
    return Trade(**values), datetime.fromisoformat(row["updated_at"]) if row["updated_at"] else NOW


async def store(db: DatabaseManager, *trades: Trade, clock: Clock | None = None) -> TradeRepository:
    """Store trades, and return a repository of them."""
    async with db.get_session() as session:
        for item in trades:
            await TradeRepository(session, clock=clock or Clock()).insert(item)
    return TradeRepository(db)


def closed(name: str, pnl: str | Decimal, hours: int = 1, **changes: Any) -> Trade:
    """Return a trade that was opened at T0 and closed some hours later."""
    done = {"action": "close", "exit_time": T0 + hours * HOUR, "realized_pnl": Decimal(pnl)}
    return trade(name, **{**done, **changes})


class CaseTests(SuiteFixtures):
    """Every figure and every list of each case is equal to the last of 18 places."""

    @pytest.mark.parametrize("name", _CASES)
    async def test_the_figures_of_a_case_are_those_of_exact_fractions(self, db: DatabaseManager, name: str) -> None:
        case = _CASES[name]
        async with db.get_session() as session:
            for row in (row for row in TRADES if row["trade_id"] in case["trades"]):
                given, written = make_trade(row)
                await TradeRepository(session, clock=Clock(written)).insert(given)
        arguments = dict(case["arguments"])
        if "tz" in arguments:
            arguments["tz"] = ZoneInfo(arguments["tz"])
        arguments["starting_balance"] = Decimal(balance) if (balance := arguments.get("starting_balance")) else None
        for moment in {"start", "end"} & arguments.keys():
            arguments[moment] = datetime.fromisoformat(arguments[moment])
        expected = case["expected"]
        found = show_report(await TradeRepository(db).get_performance(**arguments))
        for part, values in expected.items():
            if part == "figures":
                wrong = {name: (found[part].get(name), value) for name, value in values.items() if found[part].get(name) != value}
                assert wrong == {}, f"figures that differ, as (found, expected): {wrong}"
            assert found[part] == values, f"{part} differs"
        assert found.keys() == expected.keys()


class ReportTests(SuiteFixtures):
    """get_performance counts the right trades, and says what it covers."""

    async def test_without_a_trade_all_but_counts_and_sums_is_none(self, db: DatabaseManager) -> None:
        report = await TradeRepository(db).get_performance()
        numbers = {name for name, value in asdict(report).items() if isinstance(value, int | Decimal)}
        assert {name for name in numbers if getattr(report, name)} == set()
        assert (report.win_rate, report.max_drawdown, report.equity, report.by_symbol, report.start) == (None, None, [], {}, None)

    async def test_a_report_says_what_it_covers(self, db: DatabaseManager) -> None:
        repository = await store(db, closed("a", "5"))
        zone = timezone(timedelta(hours=5, minutes=30))
        report = await repository.get_performance(symbol="BTCUSDT", side="long", fees="included", tz=zone)
        covered = [getattr(report, name) for name in ("exchange", "symbol", "side", "fees", "tz", "start", "end")]
        assert covered == ["binance", "BTCUSDT", "long", "included", "UTC+05:30", T0, T0 + HOUR]

    async def test_with_fees_included_its_figures_are_those_of_get_statistics(self, db: DatabaseManager) -> None:
        repository = await store(db, closed("a", "5", fee=Decimal(1)), closed("b", "-2", 2), closed("c", "0", 3))
        report = await repository.get_performance(fees="included")
        statistics = await TradeRepository(db, clock=Clock()).get_statistics(days=365)
        names = [item.name for item in fields(statistics)]
        assert [getattr(report, name) for name in names] == [getattr(statistics, name) for name in names]

    async def test_sums_may_pass_the_range_of_a_column(self, db: DatabaseManager) -> None:
        repository = await store(db, *(closed(str(index), LARGEST, index + 1) for index in range(3)), closed("s", -SMALLEST, 9))
        report = await repository.get_performance(starting_balance=SMALLEST)
        assert report.net_pnl == Decimal("299999999999999999999.999999999999999996")
        assert report.avg_win == LARGEST
        assert report.pnl_std == Decimal("50000000000000000000")
        assert report.final_balance == Decimal("299999999999999999999.999999999999999997")

    async def test_the_callers_decimal_context_does_not_matter(self, db: DatabaseManager) -> None:
        repository = await store(db, closed("a", "100000.000001"), closed("b", "-3.000000000000000001", 30))
        with localcontext(prec=3):
            report = await repository.get_performance(starting_balance=Decimal(1000))
        assert report == await repository.get_performance(starting_balance=Decimal(1000))
        assert report.net_pnl == Decimal("99997.000000999999999999")

    async def test_trades_that_close_together_are_one_step_of_the_equity(self, db: DatabaseManager) -> None:
        repository = await store(db, closed("a", "-5"), closed("b", "7"), closed("c", "-1", 2))
        report = await repository.get_performance()
        assert [point.equity for point in report.equity] == [Decimal(0), Decimal(2), Decimal(1)]
        assert report.max_drawdown == Decimal(1)

    async def test_a_trade_that_was_entered_after_its_closing_counts_in_every_list(self, db: DatabaseManager) -> None:
        repository = await store(db, closed("a", "5", entry_time=T0 + 48 * HOUR))
        report = await repository.get_performance(starting_balance=Decimal(100))
        assert (report.start, report.end, report.days, report.exposure) == (T0 + HOUR, T0 + HOUR, 1, None)
        assert [(day.net_pnl, day.balance) for day in report.daily] == [(Decimal(5), Decimal(105))]
        assert [group.net_pnl for group in report.by_weekday.values()] == [Decimal(5)]
        assert report.total_return_pct == Decimal(5)

    async def test_every_trade_is_in_a_day_where_clocks_go_back_past_midnight(self, db: DatabaseManager) -> None:
        # in Newfoundland, one minute after the midnight of 2010-11-07 it was 23:01 of the day before
        back = datetime(2010, 11, 7, 2, 31, tzinfo=UTC)
        entered: dict[str, Any] = {"entry_time": back - HOUR / 120}
        repository = await store(db, closed("a", "5", exit_time=back + HOUR / 60, **entered))
        report = await repository.get_performance(tz=ZoneInfo("America/St_Johns"))
        assert [(day.period.day, day.net_pnl) for day in report.daily] == [(6, Decimal(5)), (7, Decimal(0))]
        assert report.best_day is not None

    async def test_the_open_trades_of_a_session_that_has_not_committed_count(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await TradeRepository(session).insert(trade("open"))
            assert (await TradeRepository(session).get_performance()).open_trades == 1

    async def test_groups_have_only_what_occurs_in_the_order_of_their_keys(self, db: DatabaseManager) -> None:
        repository = await store(db, closed("a", "5", symbol="ETH"), closed("b", "-7", 26), closed("c", "1", 2))
        report = await repository.get_performance()
        assert [*report.by_symbol] == ["BTCUSDT", "ETH"]
        assert ([*report.by_hour], [*report.by_weekday], [*report.by_side]) == ([1, 2], [0, 1], ["long"])
        found = report.by_symbol["BTCUSDT"]
        assert isinstance(found, GroupFigures)
        assert (found.total_trades, found.net_pnl, found.avg_holding) == (2, Decimal(-6), 14 * HOUR)

    async def test_another_exchange_is_logged_if_the_default_has_no_trades(
        self, db: DatabaseManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        repository = await store(db, closed("a", "5", exchange="kraken"))
        with caplog.at_level(logging.WARNING, logger="iftb_store"):
            assert (await repository.get_performance()).total_trades == 0
        assert "kraken" in caplog.text
        assert (await repository.get_performance(exchange=None)).total_trades == 1

    async def test_what_is_no_window_no_balance_or_no_zone_is_refused(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        cases: list[tuple[str, Any]] = [
            ("start", "2024-01-01"),
            ("end", 1_704_067_200),
            ("exchange", ""),
            ("symbol", 5),
            ("side", "buy"),
            ("starting_balance", Decimal(0)),
            ("starting_balance", 1000.0),
            ("fees", "none"),
            ("tz", "Europe/Berlin"),
        ]
        await assert_refused(lambda name, value: repository.get_performance(**{name: value}), cases)
        backwards: dict[str, Any] = {"start": T0 + HOUR, "end": T0}
        await assert_refused(lambda *_: repository.get_performance(**backwards), [("start", None)])

    async def test_a_day_of_the_zone_past_the_calendar_is_refused(self, db: DatabaseManager) -> None:
        last = datetime.max.replace(tzinfo=UTC)
        repository = await store(db, closed("a", "5", exit_time=last))
        await assert_refused(lambda *_: repository.get_performance(start=last, tz=timezone(timedelta(hours=1))), [("tz", None)])


@requires(Capability.RECORDS)
class PerformanceTests(CaseTests, ReportTests):
    """All tests of performance."""
