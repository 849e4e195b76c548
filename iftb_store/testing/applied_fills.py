"""Tests of TradeRepository.apply_fills: figures that were worked out by hand, and fills that many tasks apply at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import (
    DatabaseManager,
    Fill,
    FillConflictError,
    FillRepository,
    FillSummary,
    InvalidValueError,
    NotFoundError,
    Trade,
    TradeRepository,
)
from iftb_store.protocols import Capability
from iftb_store.testing.fixtures import SuiteFixtures, interrupted, requires
from iftb_store.testing.samples import HOUR, LARGEST, NOW, T0, Clock, as_given, fill, trade

Given = tuple[str, str, str]


def _list(orders: Sequence[Given], **changes: Any) -> list[Fill]:
    """Return fills of the trade TRD-001, one minute apart, from (side, price, quantity)."""
    return [
        fill(
            f"F-{number}",
            side=side,
            price=Decimal(price),
            quantity=Decimal(quantity),
            timestamp=_minute(number),
            trade_id="TRD-001",
            **changes,
        )
        for number, (side, price, quantity) in enumerate(orders)
    ]


def _minute(number: int) -> datetime:
    return T0 + timedelta(minutes=number)


async def _apply(db: DatabaseManager, fills: Sequence[Fill], **changes: Any) -> tuple[Trade, FillSummary]:
    """Insert the trade TRD-001, record its fills and apply them; return the trade as it is read."""
    await TradeRepository(db).insert(trade(**changes))
    await FillRepository(db).record_many(fills)
    summary = await TradeRepository(db).apply_fills("TRD-001")
    return await _read(db), summary


async def _read(db: DatabaseManager) -> Trade:
    found = await TradeRepository(db).get_by_trade_id("TRD-001")
    assert found is not None
    return found


async def _check_booked(db: DatabaseManager, count: int) -> None:
    """Check that ``count`` fills of 1 with a fee of 0.1 are applied, each once."""
    found = await _read(db)
    assert (found.fee, found.quantity) == (count * Decimal("0.1"), Decimal(count)), (
        "no fill may be lost, and none may count twice"
    )


def _figures(found: Trade) -> tuple[Any, ...]:
    return found.action, found.entry_price, found.quantity, found.exit_price, found.realized_pnl


class FillFigureTests(SuiteFixtures):
    """The figures of a trade are those that its fills add up to by hand."""

    async def test_several_entries_have_an_average_price(self, db: DatabaseManager) -> None:
        # 1 * 100 + 3 * 80 = 340, and 340 / 4 = 85
        found, summary = await _apply(db, _list([("buy", "100", "1"), ("buy", "80", "3")]))
        assert _figures(found) == ("open", Decimal(85), Decimal(4), None, None)
        assert (found.entry_time, found.exit_time) == (T0, None)
        assert (summary.open_quantity, summary.realized_pnl, summary.exit_price) == (Decimal(4), Decimal(0), None)
        assert [item.trade_id for item in await TradeRepository(db).get_open()] == ["TRD-001"]

    async def test_the_exits_of_several_entries_realize_their_profit(self, db: DatabaseManager) -> None:
        # 4 * (90 - 85) = 20
        found, summary = await _apply(db, _list([("buy", "100", "1"), ("buy", "80", "3"), ("sell", "90", "4")]))
        assert _figures(found) == ("close", Decimal(85), Decimal(4), Decimal(90), Decimal(20))
        assert (found.entry_time, found.exit_time, summary.open_quantity) == (T0, _minute(2), Decimal(0))
        assert await TradeRepository(db).get_open() == []

    async def test_a_partial_exit_leaves_the_trade_open(self, db: DatabaseManager) -> None:
        # 1 * (110 - 100) = 10 are realized, and 1 is open
        found, summary = await _apply(db, _list([("buy", "100", "2"), ("sell", "110", "1")]))
        assert _figures(found) == ("open", Decimal(100), Decimal(2), Decimal(110), None)
        assert found.exit_time is None
        assert (summary.open_quantity, summary.realized_pnl, summary.exit_time) == (Decimal(1), Decimal(10), _minute(1))
        assert [item.trade_id for item in await TradeRepository(db).get_open()] == ["TRD-001"]

    async def test_an_entry_after_a_partial_exit_does_not_change_its_profit(self, db: DatabaseManager) -> None:
        # the exit realized 10; what is open cost 100 + 130
        orders = [("buy", "100", "2"), ("sell", "110", "1"), ("buy", "130", "1")]
        found, summary = await _apply(db, _list(orders))
        assert _figures(found) == ("open", Decimal(110), Decimal(3), Decimal(110), None)
        assert (summary.open_quantity, summary.realized_pnl) == (Decimal(2), Decimal(10))
        # and now 2 * (120 - 115) = 10 more; the exits' average is (110 + 240) / 3
        await FillRepository(db).record_many(_list([*orders, ("sell", "120", "2")]))
        await TradeRepository(db).apply_fills("TRD-001")
        exit_price = Decimal("116.666666666666666667")
        assert _figures(await _read(db)) == ("close", Decimal(110), Decimal(3), exit_price, Decimal(20))

    async def test_a_short_trade_wins_when_the_price_falls(self, db: DatabaseManager) -> None:
        # sold 2 for 100 + 90, bought for 2 * 80
        orders = [("sell", "100", "1"), ("sell", "90", "1"), ("buy", "80", "2")]
        found, _ = await _apply(db, _list(orders), side="short")
        assert _figures(found) == ("close", Decimal(95), Decimal(2), Decimal(80), Decimal(30))

    async def test_a_flip_closes_the_trade_and_reports_the_rest(self, db: DatabaseManager) -> None:
        # of the 3 that were sold, 1 closes the long trade: 110 - 100 = 10; 2 open a short one. The fees stay whole
        orders = _list([("buy", "100", "1"), ("sell", "110", "3")], fee=Decimal("0.3"))
        found, summary = await _apply(db, orders)
        assert _figures(found) == ("close", Decimal(100), Decimal(1), Decimal(110), Decimal(10))
        assert (summary.excess, summary.open_quantity, found.fee) == (Decimal(2), Decimal(0), Decimal("0.6"))

    async def test_a_later_entry_reduces_the_rest_of_a_flip_first(self, db: DatabaseManager) -> None:
        # the position is 1, then -2, then 1: of the 3 that were bought at last, 2 close the short one
        found, summary = await _apply(db, _list([("buy", "100", "1"), ("sell", "110", "3"), ("buy", "90", "3")]))
        assert (summary.excess, summary.open_quantity) == (Decimal(0), Decimal(1))
        assert _figures(found) == ("open", Decimal(95), Decimal(2), Decimal(110), None)
        assert summary.realized_pnl == Decimal(10)

    async def test_fees_in_another_currency_are_kept_by_currency(self, db: DatabaseManager) -> None:
        orders = [("buy", "100", "1"), ("buy", "110", "1"), ("buy", "120", "1"), ("sell", "120", "2"), ("sell", "120", "1")]
        fees = [("0.1", "USDT"), ("0.0005", "BNB"), ("0.001", "BTC"), ("0.0007", "BNB"), ("0.25", None)]
        fills = _list(orders)
        for item, (fee, currency) in zip(fills, fees, strict=True):
            item.fee, item.fee_currency = Decimal(fee), currency
        found, summary = await _apply(db, fills, fee=Decimal(77))
        # 0.1 USDT + 0.25 of no currency; 0.0005 + 0.0007 BNB
        assert found.fee == summary.fee == Decimal("0.35")
        assert summary.other_fees == {"BNB": Decimal("0.0012"), "BTC": Decimal("0.001")}
        # fees are no part of the profit: 3 * (120 - 110)
        assert found.realized_pnl == Decimal(30)

    async def test_the_quote_currency_can_be_given(self, db: DatabaseManager) -> None:
        fills = _list([("buy", "100", "1")], fee=Decimal("0.1"), fee_currency="USDT")
        await _apply(db, fills)
        summary = await TradeRepository(db).apply_fills("TRD-001", quote_currency="USD")
        assert (summary.fee, summary.other_fees, (await _read(db)).fee) == (Decimal(0), {"USDT": Decimal("0.1")}, Decimal(0))

    @pytest.mark.parametrize("symbol", ["BTC/USDT:USDT", "BTC-USDT", "BTC-USDT-SWAP", "BTC_USDT", "BTCUSDT"])
    async def test_the_quote_currency_is_that_of_the_symbol(self, db: DatabaseManager, symbol: str) -> None:
        fees = [("0.1", "USDT"), ("0.001", "BTC")]
        fills = _list([("buy", "100", "1")] * 2, symbol=symbol)
        for item, (fee, currency) in zip(fills, fees, strict=True):
            item.fee, item.fee_currency = Decimal(fee), currency
        found, summary = await _apply(db, fills, symbol=symbol)
        assert (found.fee, summary.other_fees) == (Decimal("0.1"), {"BTC": Decimal("0.001")})

    async def test_a_rebate_reduces_the_fee(self, db: DatabaseManager) -> None:
        fills = _list([("buy", "100", "1"), ("buy", "100", "1")])
        fills[0].fee, fills[1].fee = Decimal("0.1"), Decimal("-0.15")
        assert (await _apply(db, fills))[0].fee == Decimal("-0.05")

    async def test_averages_are_rounded_half_even_once(self, db: DatabaseManager) -> None:
        # (2 + 3) / 2 and (1 + 2) / 2 units of the last place
        unit = Decimal("0.000000000000000001")
        orders = [("buy", f"{2 * unit:f}", "1"), ("buy", f"{3 * unit:f}", "1"), ("sell", f"{unit:f}", "1")]
        found, _ = await _apply(db, _list([*orders, ("sell", f"{2 * unit:f}", "1")]))
        assert (found.entry_price, found.exit_price) == (2 * unit, 2 * unit)
        # unrounded: 3 - 5
        assert found.realized_pnl == -2 * unit

    async def test_an_average_has_no_rounded_steps(self, db: DatabaseManager) -> None:
        # 426 + 639.0825 + 213.055 = 1278.1375, and divided by 0.03
        found, _ = await _apply(db, _list([("buy", "42600", "0.01"), ("buy", "42605.5", "0.015"), ("buy", "42611", "0.005")]))
        assert (found.entry_price, found.quantity) == (Decimal("42604.583333333333333333"), Decimal("0.03"))

    async def test_a_sum_that_cannot_be_stored_is_refused(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade())
        await FillRepository(db).record_many([fill(name, quantity=LARGEST, trade_id="TRD-001") for name in "ab"])
        with pytest.raises(InvalidValueError, match="quantity"):
            await TradeRepository(db).apply_fills("TRD-001")
        assert as_given(await _read(db)) == trade()


class ApplyFillsTests(SuiteFixtures):
    """apply_fills may be repeated, and changes only the figures of one trade."""

    async def test_fills_of_another_order_of_arrival_give_the_same(self, db: DatabaseManager) -> None:
        fills = _list([("buy", "100", "2"), ("sell", "110", "1"), ("buy", "130", "1"), ("sell", "120", "2")])
        await TradeRepository(db).insert(trade())
        for item in reversed(fills):
            await FillRepository(db).record(item)
            await TradeRepository(db).apply_fills("TRD-001")
        summary = await TradeRepository(db).apply_fills("TRD-001")
        assert (summary.realized_pnl, summary.entry_price, summary.excess) == (Decimal(20), Decimal(110), Decimal(0))
        assert await TradeRepository(db).apply_fills("TRD-001") == summary

    async def test_entries_come_before_exits_of_the_same_time(self, db: DatabaseManager) -> None:
        fills = _list([("sell", "110", "1"), ("buy", "100", "1")])
        for item in fills:
            item.timestamp = T0
        found, summary = await _apply(db, fills)
        assert (found.action, found.realized_pnl, summary.excess) == ("close", Decimal(10), Decimal(0))

    async def test_a_fill_recorded_twice_counts_once(self, db: DatabaseManager) -> None:
        fills = _list([("buy", "100", "1")], fee=Decimal("0.1"))
        found, _ = await _apply(db, fills * 2)
        assert await FillRepository(db).record(fills[0]) is False
        await TradeRepository(db).apply_fills("TRD-001")
        assert (found.quantity, found.fee) == (Decimal(1), Decimal("0.1"))
        assert _figures(await _read(db)) == _figures(found)

    async def test_only_the_figures_of_the_trade_change(self, db: DatabaseManager, clock: Clock) -> None:
        given = trade(leverage=Decimal(3), strategy="grid", tags=["a"], stop_loss=Decimal(9), realized_pnl_pct=Decimal(2))
        await TradeRepository(db, clock=clock).insert(given)
        await TradeRepository(db).insert(trade("other"))
        await FillRepository(db).record_many([*_list([("buy", "100", "1")]), fill("X"), fill("Y", trade_id="another")])
        clock.advance(HOUR)
        await TradeRepository(db, clock=clock).apply_fills("TRD-001")
        found = await _read(db)
        assert (found.created_at, found.updated_at) == (NOW, NOW + HOUR)
        expected = {"entry_price": Decimal(100), "quantity": Decimal(1), "entry_time": T0}
        kept = [name for name in Trade.__slots__ if name not in (*expected, "id", "created_at", "updated_at")]
        assert {name: getattr(found, name) for name in expected} == expected
        assert [getattr(found, name) for name in kept] == [getattr(given, name) for name in kept]
        other = await TradeRepository(db).get_by_trade_id("other")
        assert other is not None
        assert as_given(other) == trade("other")

    async def test_a_trade_without_fills_is_left_as_it_is(self, db: DatabaseManager) -> None:
        found, summary = await _apply(db, [], fee=Decimal(5))
        assert (as_given(found), summary) == (trade(fee=Decimal(5)), FillSummary())

    async def test_exits_without_an_entry_set_only_the_fee(self, db: DatabaseManager) -> None:
        found, summary = await _apply(db, _list([("sell", "100", "1")], fee=Decimal("0.1")))
        assert (as_given(found), summary.excess) == (trade(fee=Decimal("0.1")), Decimal(1))

    async def test_a_liquidated_trade_stays_liquidated(self, db: DatabaseManager) -> None:
        found, _ = await _apply(db, _list([("buy", "100", "2"), ("sell", "90", "1")]), action="liquidated")
        assert _figures(found) == ("liquidated", Decimal(100), Decimal(2), Decimal(90), Decimal(-10))
        assert found.exit_time == _minute(1)

    async def test_an_unknown_trade_is_not_found(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade())
        with pytest.raises(NotFoundError, match="no trade has the trade_id 'TRD-002'"):
            await TradeRepository(db).apply_fills("TRD-002")
        with pytest.raises(NotFoundError, match="no trade of the account 'bot-a' has the trade_id"):
            await TradeRepository(db, account="bot-a").apply_fills("TRD-001")
        with pytest.raises(InvalidValueError, match="trade_id"):
            await TradeRepository(db).apply_fills(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(("field", "value"), [("account", "bot-a"), ("symbol", "ETHUSDT"), ("exchange", "kraken")])
    async def test_a_fill_of_another_market_or_account_is_never_applied(
        self, db: DatabaseManager, field: str, value: str
    ) -> None:
        await TradeRepository(db).insert(trade())
        await FillRepository(db).record_many([*_list([("buy", "100", "1")]), fill("X", trade_id="TRD-001", **{field: value})])
        with pytest.raises(
            FillConflictError, match=f"the fill 'X' of the trade 'TRD-001' has the {field} '{value}', not"
        ) as caught:
            await TradeRepository(db).apply_fills("TRD-001")
        assert caught.value.fields == (field,)
        assert as_given(await _read(db)) == trade()


class AppliedAtOnceTests(SuiteFixtures):
    """Tasks and managers that record and apply fills of one trade at once lose none of them."""

    @pytest.mark.parametrize("reads", [False, True], ids=["at once", "after a read"])
    async def test_sixteen_tasks_that_apply_at_once_lose_no_fee(self, db: DatabaseManager, reads: bool) -> None:
        await TradeRepository(db).insert(trade())
        fills = _list([("buy", "100", "1")] * 16, fee=Decimal("0.1"))

        async def book(item: Fill) -> None:
            async with db.get_session() as session:
                if reads:
                    # what a session has read before must not decide what apply_fills reads
                    assert await TradeRepository(session).get_by_trade_id("TRD-001") is not None
                    await FillRepository(session).get_by_trade("TRD-001")
                await FillRepository(session).record(item)
                await TradeRepository(session).apply_fills("TRD-001")

        await asyncio.gather(*map(book, fills))
        await _check_booked(db, 16)
        assert len(await FillRepository(db).get_by_trade("TRD-001")) == 16

    async def test_fills_recorded_and_applied_in_calls_of_their_own_are_not_lost(self, db: DatabaseManager, url: str) -> None:
        await TradeRepository(db).insert(trade())
        fills = _list([("buy", "100", "1")] * 10, fee=Decimal("0.1"))
        async with DatabaseManager(url) as other:

            async def book(item: Fill, manager: DatabaseManager) -> None:
                await FillRepository(manager).record(item)
                await TradeRepository(manager).apply_fills("TRD-001")

            # each fill arrives by two managers
            await asyncio.gather(*(book(item, manager) for item in fills for manager in (db, other)))
        await _check_booked(db, 10)

    async def test_a_rolled_back_fill_is_not_applied(self, db: DatabaseManager) -> None:
        first, second = _list([("buy", "100", "1")] * 2, fee=Decimal("0.1"))
        await _apply(db, [first])
        async with interrupted(db) as session:
            await FillRepository(session).record(second)
            summary = await TradeRepository(session).apply_fills("TRD-001")
            assert summary.quantity == Decimal(2)
        await _check_booked(db, 1)


@requires(Capability.RECORDS)
class AppliedFillTests(FillFigureTests, ApplyFillsTests, AppliedAtOnceTests):
    """All tests of `TradeRepository.apply_fills`."""
