"""Tests of get_performance by account, strategy, exit_reason and tag, and with the ledger and the snapshots of balances."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from iftb_store import (
    BalanceRepository,
    BalanceSnapshot,
    DatabaseManager,
    EquityPoint,
    GroupFigures,
    LedgerEntry,
    LedgerRepository,
    TradeRepository,
)
from iftb_store.protocols import Capability
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.performance import closed, store
from iftb_store.testing.samples import HOUR, T0

#: Trades with a net pnl of 5 - 1, -2, 3 and -7, closed one, two, three and four hours after T0.
_TRADES = (
    closed("a", "5", 1, fee=Decimal(1), account="alice", strategy="breakout", exit_reason="roi", tags=["night", "btc"]),
    closed("b", "-2", 2, account="bob", strategy="breakout", exit_reason="stop", tags=["night"]),
    closed("c", "3", 3, account="alice", strategy="mean", exit_reason="roi", tags=["btc", "btc"]),
    closed("d", "-7", 4),
)


async def _record(db: DatabaseManager, *rows: LedgerEntry | BalanceSnapshot) -> None:
    async with db.get_session() as session:
        for row in rows:
            if isinstance(row, LedgerEntry):
                await LedgerRepository(session).record(row)
            else:
                await BalanceRepository(session).record(row)


def _balance(hours: int, total: str, unrealized: str | None = None, **changes: Any) -> BalanceSnapshot:
    pnl = None if unrealized is None else Decimal(unrealized)
    return replace(BalanceSnapshot("binance", "USDT", T0 + hours * HOUR, Decimal(total), unrealized_pnl=pnl), **changes)


def _entry(kind: Any, hours: int, amount: str, **changes: Any) -> LedgerEntry:
    return replace(LedgerEntry(kind, "USDT", Decimal(amount), T0 + hours * HOUR, "binance"), **changes)


def _count(groups: dict[str, GroupFigures]) -> dict[str, tuple[int, Decimal]]:
    return {key: (found.total_trades, found.net_pnl) for key, found in groups.items()}


def _points(*values: tuple[int, str, str]) -> list[EquityPoint]:
    return [EquityPoint(T0 + hours * HOUR, Decimal(equity), Decimal(fall)) for hours, equity, fall in values]


class GroupTests(SuiteFixtures):
    """The groups of what a bot says of its trades, and reports of one of them."""

    async def test_trades_are_grouped_by_account_strategy_reason_and_tag(self, db: DatabaseManager) -> None:
        report = await (await store(db, *_TRADES)).get_performance()
        assert _count(report.by_account) == {"": (1, Decimal(-7)), "alice": (2, Decimal(7)), "bob": (1, Decimal(-2))}
        assert _count(report.by_strategy) == {"": (1, Decimal(-7)), "breakout": (2, Decimal(2)), "mean": (1, Decimal(3))}
        assert _count(report.by_exit_reason) == {"": (1, Decimal(-7)), "roi": (2, Decimal(7)), "stop": (1, Decimal(-2))}
        assert _count(report.by_tag) == {"": (1, Decimal(-7)), "btc": (2, Decimal(7)), "night": (2, Decimal(2))}
        assert [*report.by_tag] == ["", "btc", "night"]
        assert (report.by_strategy["breakout"].profit_factor, report.by_strategy["breakout"].total_fees) == (
            Decimal(2),
            Decimal(1),
        )

    async def test_groups_are_the_same_with_many_trades_of_few_kinds(self, db: DatabaseManager) -> None:
        trades = [replace(trade, trade_id=f"{trade.trade_id}{number}") for trade in _TRADES[:2] for number in range(10)]
        report = await (await store(db, *trades)).get_performance()
        assert _count(report.by_account) == {"alice": (10, Decimal(40)), "bob": (10, Decimal(-20))}
        assert _count(report.by_tag) == {"btc": (10, Decimal(40)), "night": (20, Decimal(20))}
        assert _count(report.by_symbol) == {"BTCUSDT": (20, Decimal(20))}
        assert report.net_pnl == Decimal(20)

    async def test_a_report_of_one_kind_has_only_its_trades_and_says_so(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        cases: list[tuple[dict[str, Any], Decimal]] = [
            ({"account": "alice"}, Decimal(7)),
            ({"account": ""}, Decimal(-7)),
            ({"strategy": "breakout"}, Decimal(2)),
            ({"exit_reason": "stop"}, Decimal(-2)),
            ({"tag": "night"}, Decimal(2)),
            ({"tag": "btc", "strategy": "breakout"}, Decimal(4)),
        ]
        for filters, net in cases:
            report = await repository.get_performance(**filters)
            assert (filters, report.net_pnl) == (filters, net)
            assert {name: getattr(report, name) for name in filters} == filters

    async def test_the_repository_of_an_account_reports_only_that_account(self, db: DatabaseManager) -> None:
        await store(db, *_TRADES)
        report = await TradeRepository(db, account="alice").get_performance()
        assert (report.account, report.net_pnl) == ("alice", Decimal(7))

    async def test_an_unknown_filter_or_another_account_is_refused(self, db: DatabaseManager) -> None:
        alice: Any = TradeRepository(db, account="alice")
        cases: list[tuple[str, Any]] = [
            ("account", "bob"),
            ("strategy", ""),
            ("exit_reason", 5),
            ("tag", " "),
            ("currency", 7),
            ("strategies", "a"),
        ]
        await assert_refused(lambda name, value: alice.get_performance(**{name: value}), cases)


class MoneyTests(SuiteFixtures):
    """Funding is apart; the balance at the start and the marked equity are those of the snapshots."""

    async def test_funding_of_the_window_is_summed_by_currency_and_added_to_nothing(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        await _record(
            db,
            _entry("funding", 0, "-1.5", symbol="BTCUSDT", account="alice"),
            _entry("funding", 4, "0.25", symbol="ETHUSDT", account="bob"),
            _entry("funding", 3, "-0.001", currency="BNB"),
            _entry("funding", 5, "100"),
            _entry("fee", 1, "-9"),
            _entry("funding", 1, "50", exchange="kraken"),
        )
        report = await repository.get_performance()
        assert (report.funding, report.net_pnl) == ({"BNB": Decimal("-0.001"), "USDT": Decimal("-1.25")}, Decimal(-2))
        assert (await repository.get_performance(symbol="BTCUSDT")).funding == {"USDT": Decimal("-1.5")}
        assert (await repository.get_performance(account="bob", end=T0 + 4 * HOUR)).funding == {"USDT": Decimal("0.25")}
        assert (await repository.get_performance(tag="night")).funding is None

    async def test_the_starting_balance_is_that_of_the_newest_snapshots_at_the_start(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        await _record(
            db,
            _balance(-5, "900", account="alice"),
            _balance(0, "1000", account="alice"),
            _balance(1, "1004", account="alice"),
            _balance(-1, "500", account="bob"),
        )
        report = await repository.get_performance()
        found = (report.starting_balance, report.balance_source, report.currency, report.final_balance)
        assert found == (Decimal(1500), "snapshots", "USDT", Decimal(1498))
        alice = await repository.get_performance(account="alice")
        assert (alice.starting_balance, alice.total_return_pct) == (Decimal(1000), Decimal("0.7"))
        given = await repository.get_performance(starting_balance=Decimal(50))
        assert (given.starting_balance, given.balance_source, given.final_balance) == (Decimal(50), "given", Decimal(48))

    async def test_without_a_balance_of_every_account_at_the_start_there_is_none(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        await _record(db, _balance(0, "1000", account="alice"), _balance(1, "500", account="bob"))
        report = await repository.get_performance()
        assert (report.starting_balance, report.balance_source, report.sharpe) == (None, None, None)
        assert (await repository.get_performance(start=T0 + HOUR)).starting_balance == Decimal(1500)

    async def test_balances_of_several_currencies_need_a_name(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        await _record(db, _balance(0, "1000"), _balance(0, "2", currency="BNB"))
        report = await repository.get_performance()
        assert (report.starting_balance, report.currency) == (None, None)
        report = await repository.get_performance(currency="BNB")
        assert (report.starting_balance, report.currency) == (Decimal(2), "BNB")
        assert (await repository.get_performance(currency="EUR")).starting_balance is None

    async def test_balances_are_those_of_whole_accounts(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        await _record(db, _balance(0, "1000", "0"))
        for filters in ({"symbol": "BTCUSDT"}, {"side": "long"}, {"strategy": "mean"}, {"exit_reason": "roi"}, {"tag": "btc"}):
            report = await repository.get_performance(**filters)  # type: ignore[arg-type]
            assert (report.starting_balance, report.currency, report.marked_equity) == (None, None, [])

    async def test_the_marked_equity_adds_up_the_accounts_without_deposits(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        await _record(
            db,
            _balance(-1, "1000", "-10", account="alice"),
            _balance(1, "500", "0", account="bob"),
            _balance(2, "1200", "5", account="alice"),
            _balance(3, "450", "-50.5", account="bob"),
            _balance(3, "1200", account="alice"),
            _balance(4, "1190", "20", account="alice"),
            _balance(5, "1", "1", account="alice"),
            _entry("deposit", 0, "70", account="alice"),
            _entry("deposit", 2, "200", account="alice"),
            _entry("withdrawal", 3, "-40", account="bob"),
            _entry("transfer", 4, "-10", account="alice"),
            _entry("funding", 2, "-3", account="alice"),
            _entry("deposit", 2, "9", currency="BNB"),
        )
        report = await repository.get_performance()
        # 990 + 500; 1205 + 500 - 200; 1205 + 399.5 - 160; 1210 + 399.5 - 150
        expected = _points((1, "1490", "0"), (2, "1505", "0"), (3, "1444.5", "60.5"), (4, "1459.5", "45.5"))
        assert (report.marked_equity, report.marked_drawdown) == (expected, Decimal("60.5"))
        alice = await repository.get_performance(account="alice")
        assert alice.marked_equity == _points((0, "990", "0"), (2, "1005", "0"))

    async def test_snapshots_without_unrealized_pnl_are_no_marks(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        await _record(db, _balance(0, "1000"), _balance(2, "1100"))
        report = await repository.get_performance()
        assert (report.marked_equity, report.marked_drawdown, report.starting_balance) == ([], None, Decimal(1000))

    async def test_sums_of_balances_may_pass_the_range_of_a_column(self, db: DatabaseManager) -> None:
        repository = await store(db, *_TRADES)
        largest = "99999999999999999999.999999999999999999"
        await _record(db, *(_balance(0, largest, "0.000000000000000001", account=name) for name in ("alice", "bob")))
        report = await repository.get_performance()
        assert report.starting_balance == Decimal("199999999999999999999.999999999999999998")
        assert report.marked_equity[0].equity == Decimal("200000000000000000000")


@requires(Capability.RECORDS)
class PerformanceGroupTests(GroupTests, MoneyTests):
    """All tests of the groups and of stored money."""
