"""Tests of get_statistics: hand-computed cases, the time window, and exact sums that exceed the range of a column."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal, localcontext

from iftb_store import DatabaseManager, Trade, TradeRepository, TradeStatistics
from iftb_store.protocols import Capability
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.samples import HOUR, LARGEST, NOW, SMALLEST, Clock, trade

_NOTHING = TradeStatistics(0, 0, 0, *[Decimal(0)] * 9)
_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)


def realized(name: str, pnl: str | Decimal, fee: str | Decimal = "0", **changes: object) -> Trade:
    """Return a trade that was closed with the given realized_pnl and fee, one hour before NOW."""
    closed = {"action": "close", "exit_time": NOW - HOUR, **changes}
    return trade(name, realized_pnl=Decimal(pnl), fee=Decimal(fee), **closed)


async def statistics(db: DatabaseManager, *trades: Trade, days: int = 30, exchange: str = "binance") -> TradeStatistics:
    """Store trades and return the result of get_statistics, with a clock that shows NOW."""
    async with db.get_session() as session:
        repository = TradeRepository(session, clock=Clock())
        for item in trades:
            await repository.insert(item)
    return await TradeRepository(db, clock=Clock()).get_statistics(days=days, exchange=exchange)


class FigureTests(SuiteFixtures):
    """get_statistics returns values that were computed by hand."""

    async def test_wins_losses_breakeven_and_liquidation_give_hand_computed_figures(self, db: DatabaseManager) -> None:
        found = await statistics(
            db,
            realized("win 1", "100.5", fee="1.1"),
            realized("win 2", "49.5", fee="0.9"),
            realized("loss 1", "-30", fee="0.25"),
            realized("loss 2", "-20", fee="0.25"),
            realized("breakeven", "0", fee="0.5"),
            realized("liquidation", "-50", fee="2", action="liquidated"),
        )
        assert found == TradeStatistics(
            total_trades=6,
            winning_trades=2,
            losing_trades=3,
            win_rate=Decimal("33.333333333333333333"),
            gross_profit=Decimal("150"),
            gross_loss=Decimal("100"),
            net_pnl=Decimal("50"),
            total_fees=Decimal("5"),
            avg_win=Decimal("75"),
            avg_loss=Decimal("33.333333333333333333"),
            largest_win=Decimal("100.5"),
            largest_loss=Decimal("50"),
            profit_factor=Decimal("1.5"),
        )

    async def test_without_trades_every_figure_is_0_and_profit_factor_none(self, db: DatabaseManager) -> None:
        assert await statistics(db) == _NOTHING

    async def test_without_losses_profit_factor_is_none(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "10"), realized("b", "20"))
        assert found == TradeStatistics(
            2,
            2,
            0,
            Decimal(100),
            Decimal(30),
            Decimal(0),
            Decimal(30),
            Decimal(0),
            Decimal(15),
            Decimal(0),
            Decimal(20),
            Decimal(0),
            None,
        )

    async def test_without_wins_profit_factor_is_0(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "-10"), realized("b", "-20"))
        assert found == TradeStatistics(
            *(2, 0, 2),
            *map(Decimal, (0, 0, 30, -30, 0, 0, 15, 0, 20, 0)),
        )

    async def test_breakevens_count_only_in_total_trades(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "0"), realized("b", "0.000"))
        assert found == TradeStatistics(2, 0, 0, *[Decimal(0)] * 9)

    async def test_largest_win_is_the_largest_by_number_not_by_text(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "9"), realized("b", "10.5"), realized("c", "-9"), realized("d", "-10.5"))
        assert (found.largest_win, found.largest_loss) == (Decimal("10.5"), Decimal("10.5"))

    async def test_sums_of_decimals_are_exact(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "0.1", fee="0.1"), realized("b", "0.2", fee="0.2"))
        assert (found.gross_profit, found.total_fees) == (Decimal("0.3"), Decimal("0.3"))

    async def test_sums_keep_the_last_place_beside_the_largest_number(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "12345678901234567890"), realized("b", SMALLEST), realized("c", -SMALLEST))
        assert found.gross_profit == Decimal("12345678901234567890.000000000000000001"), (
            f"sums must be exact to the last of 18 places; gross_profit must end in 1: {found.gross_profit}"
        )
        assert found.gross_loss == SMALLEST
        assert found.net_pnl == Decimal("12345678901234567890")

    async def test_sums_may_pass_the_range_of_a_column(self, db: DatabaseManager) -> None:
        wins = [realized(f"win {index}", LARGEST, fee=LARGEST) for index in range(3)]
        losses = [realized(f"loss {index}", LARGEST.copy_negate(), fee=LARGEST) for index in range(2)]
        found = await statistics(db, *wins, *losses)
        assert found.gross_profit == Decimal("299999999999999999999.999999999999999997")
        assert found.gross_loss == Decimal("199999999999999999999.999999999999999998")
        assert found.net_pnl == LARGEST
        assert found.total_fees == Decimal("499999999999999999999.999999999999999995")
        assert found.avg_win == LARGEST

    async def test_quotients_are_rounded_half_even_to_18_places(self, db: DatabaseManager) -> None:
        found = await statistics(
            db, realized("a", "0.000000000000000001"), realized("b", "0.000000000000000002"), realized("c", "-3")
        )
        assert found.win_rate == Decimal("66.666666666666666667")
        assert found.avg_win == Decimal("0.000000000000000002")
        assert found.profit_factor == Decimal("0.000000000000000001")

    async def test_fees_of_breakevens_and_rebates_count(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "0", fee="1.5"), realized("b", "1", fee="-0.25"))
        assert (found.total_fees, found.net_pnl) == (Decimal("1.25"), Decimal(1))
        assert found.net_pnl_after_fees == Decimal("-0.25")

    async def test_the_callers_decimal_context_does_not_matter(self, db: DatabaseManager) -> None:
        with localcontext(prec=3):
            found = await statistics(db, realized("a", "100000.000001"), realized("b", "-3.000000000000000001"))
        assert found.gross_profit == Decimal("100000.000001")
        assert found.net_pnl == Decimal("99997.000000999999999999")

    async def test_many_trades_are_summed_exactly(self, db: DatabaseManager) -> None:
        found = await statistics(db, *(realized(str(index), "0.000000000000000001", fee="0.1") for index in range(200)))
        assert (found.total_trades, found.gross_profit, found.total_fees) == (200, Decimal("0.0000000000000002"), Decimal(20))


class WindowTests(SuiteFixtures):
    """get_statistics includes the realized trades of the exchange in the time window, and no others."""

    async def test_a_trade_without_realized_pnl_does_not_count(self, db: DatabaseManager) -> None:
        assert await statistics(db, trade(exit_time=NOW)) == _NOTHING

    async def test_realized_pnl_set_by_update_counts_whatever_the_action(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db, clock=Clock())
        number = await repository.insert(trade())
        await repository.update(number, exit_price=Decimal(51_000), realized_pnl=Decimal(50))
        found = await repository.get_statistics()
        assert (found.total_trades, found.net_pnl, (await repository.get_recent())[0].action) == (1, Decimal(50), "open")

    async def test_a_trade_of_another_exchange_does_not_count(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "5"), realized("b", "7", exchange="kraken"), exchange="kraken")
        assert (found.total_trades, found.net_pnl) == (1, Decimal(7))

    async def test_all_symbols_of_the_exchange_count(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "5"), realized("b", "7", symbol="ETHUSDT"))
        assert (found.total_trades, found.net_pnl) == (2, Decimal(12))

    async def test_an_exit_exactly_days_ago_counts_and_a_microsecond_earlier_not(self, db: DatabaseManager) -> None:
        edge = NOW - 7 * _DAY
        found = await statistics(
            db, realized("in", "5", exit_time=edge), realized("out", "7", exit_time=edge - _MICROSECOND), days=7
        )
        assert found.net_pnl == Decimal(5)

    async def test_the_window_is_30_days_by_default(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            repository = TradeRepository(session, clock=Clock())
            await repository.insert(realized("in", "5", exit_time=NOW - 30 * _DAY))
            await repository.insert(realized("out", "7", exit_time=NOW - 31 * _DAY))
            found = await repository.get_statistics()
        assert found.net_pnl == Decimal(5)

    async def test_without_exit_time_updated_at_decides(self, db: DatabaseManager, clock: Clock) -> None:
        repository = TradeRepository(db, clock=clock)
        old = await repository.insert(realized("updated long ago", "7", exit_time=None))
        await repository.update(old, fee=Decimal(1))
        clock.advance(8 * _DAY)
        await repository.insert(realized("updated now", "5", exit_time=None))
        found = await repository.get_statistics(days=7)
        assert (found.total_trades, found.net_pnl) == (1, Decimal(5))

    async def test_a_new_updated_at_does_not_replace_an_old_exit_time(self, db: DatabaseManager) -> None:
        assert await statistics(db, realized("a", "5", exit_time=NOW - 8 * _DAY), days=7) == _NOTHING

    async def test_entry_time_and_created_at_do_not_matter(self, db: DatabaseManager) -> None:
        found = await statistics(db, realized("a", "5", entry_time=NOW - 400 * _DAY), days=1)
        assert found.total_trades == 1

    async def test_days_that_are_no_window_are_an_error(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        cases = [("days", days) for days in (0, -1, 1.5, True, None, 10**9)]
        await assert_refused(lambda _, days: repository.get_statistics(days=days), cases)

    async def test_statistics_change_nothing(self, db: DatabaseManager) -> None:
        await statistics(db, realized("a", "5"))
        assert await raw.count(db, "trades") == 1


@requires(Capability.RECORDS)
class StatisticsTests(FigureTests, WindowTests):
    """All tests of statistics."""
