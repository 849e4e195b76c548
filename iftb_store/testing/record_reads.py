"""Tests of the reads with which a restarted bot finds its trades and events: by trade_id, state, window and other filters."""

from __future__ import annotations

from decimal import Decimal

from iftb_store import DatabaseManager, SystemEventRepository, Trade, TradeRepository
from iftb_store.protocols import Capability
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.samples import HOUR, INDIA, NOW, T0, as_given, full_trade, trade


def _names(trades: list[Trade]) -> list[str]:
    return [item.trade_id for item in trades]


class FindTradesTests(SuiteFixtures):
    """get_by_trade_id, get_open and get_range find trades by the bot's own trade_id, by their state and by entry_time."""

    async def test_a_trade_is_found_by_its_trade_id(self, db: DatabaseManager) -> None:
        number = await TradeRepository(db).insert(full_trade())
        await TradeRepository(db).insert(trade("trd-001"))
        found = await TradeRepository(db).get_by_trade_id("TRD-001")
        assert found is not None
        assert (as_given(found), found.id) == (full_trade(), number)

    async def test_an_unknown_trade_id_gives_none(self, db: DatabaseManager) -> None:
        await TradeRepository(db).insert(trade())
        assert await TradeRepository(db).get_by_trade_id("TRD-00") is None

    async def test_a_trade_id_that_no_trade_can_have_is_refused(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        await assert_refused(lambda _, name: repository.get_by_trade_id(name), [("trade_id", 1), ("trade_id", "")])

    async def test_open_trades_are_those_without_realized_pnl(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        await repository.insert(trade("late", entry_time=T0 + HOUR))
        await repository.insert(trade("tie 1"))
        await repository.insert(trade("tie 2", exit_price=Decimal(1)))
        await repository.insert(trade("closed", action="close", exit_price=Decimal(1)))
        await repository.insert(trade("liquidated", action="liquidated", exit_price=Decimal(1)))
        await repository.insert(trade("realized", realized_pnl=Decimal(0)))
        assert _names(await repository.get_open()) == ["tie 1", "tie 2", "late"]

    async def test_open_trades_are_filtered_by_symbol_side_and_exchange(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        await repository.insert(trade("a"))
        await repository.insert(trade("b", side="short"))
        await repository.insert(trade("c", symbol="ETHUSDT", side="short"))
        await repository.insert(trade("d", exchange="kraken"))
        assert _names(await repository.get_open(symbol="BTCUSDT")) == ["a", "b"]
        assert _names(await repository.get_open(side="short")) == ["b", "c"]
        assert _names(await repository.get_open(symbol="BTCUSDT", side="short")) == ["b"]
        assert _names(await repository.get_open(exchange="kraken")) == ["d"]

    async def test_both_ends_of_a_window_of_trades_are_inclusive(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        for index in range(4):
            await repository.insert(trade(f"T{index}", entry_time=T0 + index * HOUR))
        await repository.insert(trade("closed", entry_time=T0 + HOUR, action="close", realized_pnl=Decimal(1)))
        assert _names(await repository.get_range(T0 + HOUR, T0 + 2 * HOUR)) == ["T1", "closed", "T2"]
        naive = (T0 + 2 * HOUR).replace(tzinfo=None)
        assert _names(await repository.get_range(naive, (T0 + 2 * HOUR).astimezone(INDIA))) == ["T2"]

    async def test_a_window_of_trades_is_filtered_by_symbol_side_and_exchange(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        await repository.insert(trade("a"))
        await repository.insert(trade("b", side="short"))
        await repository.insert(trade("c", symbol="ETHUSDT"))
        await repository.insert(trade("d", exchange="kraken"))
        assert _names(await repository.get_range(T0, T0, symbol="BTCUSDT", side="long")) == ["a"]
        assert _names(await repository.get_range(T0, T0, symbol="ETHUSDT")) == ["c"]
        assert _names(await repository.get_range(T0, T0, exchange="kraken")) == ["d"]

    async def test_reading_trades_refuses_filters_that_no_trade_can_have(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        cases = [("symbol", ""), ("symbol", 5), ("side", "up"), ("exchange", "")]
        await assert_refused(lambda field, value: repository.get_open(**{field: value}), cases)
        await assert_refused(lambda field, value: repository.get_range(T0, T0, **{field: value}), cases)
        await assert_refused(lambda _, end: repository.get_range(T0, end), [("start", T0 - HOUR), ("end", None)])


class FindEventsTests(SuiteFixtures):
    """get_events finds events by type, symbol, trade_id and window; log_event accepts the time of an event."""

    async def test_an_event_has_the_time_at_which_it_happened(self, db: DatabaseManager) -> None:
        await SystemEventRepository(db).log_event("fill", "info", "aware", at=NOW.astimezone(INDIA))
        await SystemEventRepository(db).log_event("fill", "info", "naive", at=NOW.replace(tzinfo=None))
        found = await SystemEventRepository(db).get_events()
        assert [(item.message, item.created_at) for item in found] == [("aware", NOW), ("naive", NOW)]

    async def test_an_event_with_no_time_is_refused(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        await assert_refused(lambda _, at: repository.log_event("fill", "info", "m", at=at), [("at", "now"), ("at", 1.5)])
        assert await repository.get_events() == []

    async def test_events_are_found_by_type_symbol_and_trade_id(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        await repository.log_event("signal", "info", "1", symbol="BTCUSDT")
        await repository.log_event("fill", "info", "2", symbol="BTCUSDT", trade_id="TRD-001")
        await repository.log_event("fill", "error", "3", symbol="ETHUSDT", exchange="kraken", trade_id="TRD-002")
        await repository.log_event("stop", "info", "4")
        found = [
            await repository.get_events(event_type="fill"),
            await repository.get_events(symbol="BTCUSDT"),
            await repository.get_events(trade_id="TRD-001"),
            await repository.get_events(event_type="signal", trade_id="TRD-001"),
            await repository.get_events(),
        ]
        assert [[item.message for item in events] for events in found] == [["2", "3"], ["1", "2"], ["2"], [], [*"1234"]]

    async def test_events_of_a_window_are_oldest_first_with_ties_by_id(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        for message, hours in (("late", 3), ("end", 2), ("start", 1), ("start again", 1), ("early", 0)):
            await repository.log_event("x", "info", message, at=T0 + hours * HOUR)
        found = [
            await repository.get_events(start=T0 + HOUR, end=T0 + 2 * HOUR),
            await repository.get_events(start=T0 + 3 * HOUR),
            await repository.get_events(end=T0),
        ]
        expected = [["start", "start again", "end"], ["late"], ["early"]]
        assert [[item.message for item in events] for events in found] == expected

    async def test_reading_events_refuses_filters_that_no_event_can_have(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        cases = [("event_type", ""), ("symbol", 5), ("trade_id", ""), ("start", "today"), ("end", 5)]
        await assert_refused(lambda field, value: repository.get_events(**{field: value}), cases)
        await assert_refused(lambda _, start: repository.get_events(start=start, end=T0), [("start", T0 + HOUR)])


@requires(Capability.RECORDS)
class RecordReadTests(FindTradesTests, FindEventsTests):
    """All tests of the reads of a restarted bot."""
