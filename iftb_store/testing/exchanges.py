"""Tests of reads of one exchange, of all exchanges, and of the warning that only other exchanges have rows."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import (
    AmbiguousPositionError,
    DatabaseManager,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    Trade,
    TradeRepository,
)
from iftb_store.protocols import Capability
from iftb_store.testing.fixtures import SuiteFixtures, assert_refused, requires
from iftb_store.testing.samples import HOUR, NOW, T0, Clock, bar, hourly, position, trade

_LOGGER = "iftb_store.repositories.exchanges"
# ordered by their bytes, not by a language
_EXCHANGES = ("Zebra", "binance", "bybit", "Ünique")
Read = Callable[[Any], Awaitable[object]]

_READS_OF_BARS: dict[str, Read] = {
    "get_latest": lambda db: OHLCVRepository(db).get_latest("BTCUSDT", "1h"),
    "get_range": lambda db: OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + HOUR),
    "stream_range": lambda db: _read_stream(OHLCVRepository(db).stream_range("BTCUSDT", "1h", T0, T0 + HOUR)),
    "get_gaps": lambda db: OHLCVRepository(db).get_gaps("BTCUSDT", "1h"),
    "get_gaps of a window": lambda db: OHLCVRepository(db).get_gaps("BTCUSDT", "1h", start=T0, end=T0),
    "resample": lambda db: OHLCVRepository(db).resample("BTCUSDT", "1h", "1d", T0, T0 + HOUR),
    "delete_range": lambda db: OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, T0 + HOUR),
}
_READS_OF_RECORDS: dict[str, Read] = {
    "get_by_symbol": lambda db: TradeRepository(db).get_by_symbol("BTCUSDT"),
    "get_open": lambda db: TradeRepository(db).get_open(symbol="BTCUSDT", side="long"),
    "get_range": lambda db: TradeRepository(db).get_range(T0, T0),
    "get_statistics": lambda db: TradeRepository(db, clock=Clock()).get_statistics(),
    "get_performance": lambda db: TradeRepository(db).get_performance(),
    "get_position": lambda db: PositionRepository(db).get_position("BTCUSDT"),
    "get_position of a side": lambda db: PositionRepository(db).get_position("BTCUSDT", side="long"),
    "get_open_positions": lambda db: PositionRepository(db).get_open_positions(),
}


async def _read_stream(stream: Any) -> list[Any]:
    return [batch async for batch in stream]


def _places(rows: list[OHLCVBar] | list[Trade] | list[Position]) -> list[tuple[str, str]]:
    return [(row.exchange, row.symbol) for row in rows]


async def _fill_records(db: DatabaseManager, exchange: str) -> None:
    """Store an open and a closed trade and an open position on an exchange."""
    await TradeRepository(db).insert(trade(f"{exchange} open", exchange=exchange))
    closed = trade(f"{exchange} closed", exchange=exchange, action="close", exit_price=Decimal(1), realized_pnl=Decimal(5))
    await TradeRepository(db).insert(replace(closed, exit_time=NOW - HOUR))
    await PositionRepository(db).update_position(position(exchange=exchange))


class AllExchangesTests(SuiteFixtures):
    """With exchange=None, reads of bars return the bars of all exchanges."""

    async def test_a_range_of_all_exchanges_is_ordered_by_exchange_then_time(self, db: DatabaseManager) -> None:
        for exchange in reversed(_EXCHANGES):
            await OHLCVRepository(db).insert_many(hourly(2, exchange=exchange))
        await OHLCVRepository(db).insert_many([bar(symbol="ETHUSDT"), bar(timeframe="1m"), bar(T0 + 5 * HOUR, exchange="kraken")])
        found = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + HOUR, exchange=None)
        expected = [(exchange, T0 + index * HOUR) for exchange in _EXCHANGES for index in range(2)]
        assert [(item.exchange, item.timestamp) for item in found] == expected

    async def test_the_latest_bars_of_all_exchanges_are_newest_first(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3, exchange="bybit"))
        await OHLCVRepository(db).insert_many(hourly(4))
        found = await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 3, exchange=None)
        expected = [("binance", T0 + 3 * HOUR), ("binance", T0 + 2 * HOUR), ("bybit", T0 + 2 * HOUR)]
        assert [(item.exchange, item.timestamp) for item in found] == expected

    async def test_a_stream_of_all_exchanges_returns_the_bars_of_get_range(self, db: DatabaseManager) -> None:
        for exchange in _EXCHANGES:
            await OHLCVRepository(db).insert_many(hourly(5, exchange=exchange))
        window: Any = ("BTCUSDT", "1h", T0 + HOUR, T0 + 3 * HOUR, None)
        lists = await _read_stream(OHLCVRepository(db).stream_range(*window, batch_size=2))
        assert [len(bars) for bars in lists] == [2, 1] * len(_EXCHANGES)
        assert [item for bars in lists for item in bars] == await OHLCVRepository(db).get_range(*window)

    async def test_a_session_reads_all_exchanges_too(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await OHLCVRepository(session).insert_many([bar(exchange="kraken"), bar()])
            found = await OHLCVRepository(session).get_range("BTCUSDT", "1h", T0, T0, None)
        assert _places(found) == [("binance", "BTCUSDT"), ("kraken", "BTCUSDT")]

    async def test_all_exchanges_without_bars_are_an_empty_list(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(exchange="kraken")])
        repository = OHLCVRepository(db)
        assert await repository.get_range("ETHUSDT", "1h", T0, T0, None) == []
        assert await repository.get_latest("BTCUSDT", "1m", exchange=None) == []

    async def test_a_call_that_works_on_one_exchange_refuses_none(self, db: DatabaseManager) -> None:
        repository: Any = OHLCVRepository(db)
        await OHLCVRepository(db).insert_many([bar()])
        cases = [("exchange", None)]
        await assert_refused(lambda _, exchange: repository.delete_range("BTCUSDT", "1h", T0, T0, exchange), cases)
        await assert_refused(lambda _, exchange: repository.get_gaps("BTCUSDT", "1h", exchange), cases)
        await assert_refused(lambda _, exchange: repository.resample("BTCUSDT", "1h", "1d", T0, T0, exchange), cases)
        assert len(await repository.get_latest("BTCUSDT", "1h")) == 1


class OtherExchangeTests(SuiteFixtures):
    """A read that finds nothing on the default exchange logs one warning if another exchange has bars that match."""

    @pytest.mark.parametrize("read", _READS_OF_BARS)
    async def test_bars_of_another_exchange_only_are_a_warning(
        self, db: DatabaseManager, caplog: pytest.LogCaptureFixture, read: str
    ) -> None:
        await OHLCVRepository(db).insert_many(hourly(2, exchange="kraken"))
        await _READS_OF_BARS[read](db)
        _assert_one_warning(caplog)

    @pytest.mark.parametrize("read", _READS_OF_BARS)
    async def test_bars_of_the_default_exchange_are_no_warning(
        self, db: DatabaseManager, caplog: pytest.LogCaptureFixture, read: str
    ) -> None:
        await OHLCVRepository(db).insert_many(hourly(2, exchange="kraken") + hourly(2))
        await _READS_OF_BARS[read](db)
        assert _warnings(caplog) == []

    async def test_the_warning_is_logged_once_for_a_manager(self, db: DatabaseManager, caplog: pytest.LogCaptureFixture) -> None:
        await OHLCVRepository(db).insert_many([bar(exchange="kraken")])
        for _ in range(2):
            await OHLCVRepository(db).get_latest("BTCUSDT", "1h")
            async with db.get_session() as session:
                await OHLCVRepository(session).get_gaps("BTCUSDT", "1h")
        _assert_one_warning(caplog)

    async def test_bars_that_do_not_match_are_no_warning(self, db: DatabaseManager, caplog: pytest.LogCaptureFixture) -> None:
        await OHLCVRepository(db).insert_many([bar(exchange="kraken")])
        repository = OHLCVRepository(db)
        await repository.get_latest("ETHUSDT", "1h")
        await repository.get_latest("BTCUSDT", "1m")
        await repository.get_range("BTCUSDT", "1h", T0 + HOUR, T0 + 2 * HOUR)
        await repository.get_latest("BTCUSDT", "1h", exchange="bybit")
        await repository.get_latest("BTCUSDT", "1h", exchange=None)
        assert _warnings(caplog) == []


@requires(Capability.RECORDS)
class RecordExchangeTests(SuiteFixtures):
    """Reads of trades and positions treat exchange=None and other exchanges as reads of bars do."""

    async def test_trades_of_all_exchanges_are_ordered_by_exchange_symbol_and_time(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        for index, exchange in enumerate(reversed(_EXCHANGES)):
            await repository.insert(trade(f"late {index}", exchange=exchange, symbol="ETHUSDT", entry_time=T0 - HOUR))
            await repository.insert(trade(f"early {index}", exchange=exchange))
        expected = [(exchange, symbol) for exchange in _EXCHANGES for symbol in ("BTCUSDT", "ETHUSDT")]
        assert _places(await repository.get_open(exchange=None)) == expected
        assert _places(await repository.get_range(T0 - HOUR, T0, exchange=None)) == expected
        assert _places(await repository.get_open(exchange=None, symbol="ETHUSDT")) == [(name, "ETHUSDT") for name in _EXCHANGES]

    async def test_trades_of_a_symbol_on_all_exchanges_are_newest_first(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        await repository.insert(trade("a", exchange="kraken"))
        await repository.insert(trade("b", entry_time=T0 + HOUR))
        await repository.insert(trade("c", exchange="bybit", entry_time=T0 + 2 * HOUR))
        found = await repository.get_by_symbol("BTCUSDT", 2, exchange=None)
        assert [item.trade_id for item in found] == ["c", "b"]

    async def test_statistics_of_all_exchanges_add_them_up(self, db: DatabaseManager) -> None:
        for exchange in _EXCHANGES:
            await _fill_records(db, exchange)
        repository = TradeRepository(db, clock=Clock())
        one, every = await repository.get_statistics(), await repository.get_statistics(exchange=None)
        assert (one.total_trades, one.net_pnl) == (1, Decimal(5))
        assert (every.total_trades, every.net_pnl) == (len(_EXCHANGES), 5 * Decimal(len(_EXCHANGES)))

    async def test_trades_of_other_exchanges_that_statistics_would_count_are_a_warning(
        self, db: DatabaseManager, caplog: pytest.LogCaptureFixture
    ) -> None:
        past = NOW - 1_200 * HOUR
        figures: dict[str, Any] = {"action": "close", "exit_price": Decimal(1), "realized_pnl": Decimal(5), "entry_time": past}
        repository = TradeRepository(db, clock=Clock())
        await repository.insert(trade("old", exit_time=past, **figures))
        await repository.insert(trade("new", exchange="kraken", exit_time=NOW - HOUR, **figures))
        for number in range(3):
            await repository.insert(trade(f"open {number}", exchange="bybit", entry_time=NOW))
        assert (await repository.get_statistics()).total_trades == 0
        _assert_one_warning(caplog, "other exchanges")

    async def test_open_positions_of_all_exchanges_are_ordered_by_exchange_symbol_and_time(self, db: DatabaseManager) -> None:
        repository = PositionRepository(db)
        for exchange in reversed(_EXCHANGES):
            await repository.update_position(position(exchange=exchange, symbol="ETHUSDT", entry_time=T0 - HOUR))
            await repository.update_position(position(exchange=exchange, side="short", entry_time=T0 + HOUR))
            await repository.update_position(position(exchange=exchange))
        found = await repository.get_open_positions(exchange=None)
        places = [("BTCUSDT", "long"), ("BTCUSDT", "short"), ("ETHUSDT", "long")]
        assert [(item.exchange, item.symbol, item.side) for item in found] == [
            (exchange, *place) for exchange in _EXCHANGES for place in places
        ]

    async def test_get_position_of_any_exchange_finds_the_only_one(self, db: DatabaseManager) -> None:
        await PositionRepository(db).update_position(position(exchange="kraken"))
        found = await PositionRepository(db).get_position("BTCUSDT", exchange=None)
        assert found is not None
        assert found.exchange == "kraken"

    async def test_get_position_with_two_exchanges_open_wants_one_of_them(self, db: DatabaseManager) -> None:
        await PositionRepository(db).update_position(position(exchange="kraken"))
        await PositionRepository(db).update_position(position(exchange="bybit", side="short"))
        with pytest.raises(AmbiguousPositionError, match=r"short.*bybit.*long.*kraken.*exchange="):
            await PositionRepository(db).get_position("BTCUSDT", exchange=None)
        found = await PositionRepository(db).get_position("BTCUSDT", exchange=None, side="short")
        assert found is not None
        assert found.exchange == "bybit"

    @pytest.mark.parametrize("read", _READS_OF_RECORDS)
    async def test_records_of_another_exchange_only_are_a_warning(
        self, db: DatabaseManager, caplog: pytest.LogCaptureFixture, read: str
    ) -> None:
        await _fill_records(db, "kraken")
        await _READS_OF_RECORDS[read](db)
        _assert_one_warning(caplog, "other exchanges" if read == "get_statistics" else "kraken")

    @pytest.mark.parametrize("read", _READS_OF_RECORDS)
    async def test_records_of_the_default_exchange_are_no_warning(
        self, db: DatabaseManager, caplog: pytest.LogCaptureFixture, read: str
    ) -> None:
        await _fill_records(db, "kraken")
        await _fill_records(db, "binance")
        await _READS_OF_RECORDS[read](db)
        assert _warnings(caplog) == []

    async def test_records_that_do_not_match_are_no_warning(self, db: DatabaseManager, caplog: pytest.LogCaptureFixture) -> None:
        await _fill_records(db, "kraken")
        await TradeRepository(db).get_by_symbol("ETHUSDT")
        await TradeRepository(db).get_open(side="short")
        await TradeRepository(db).get_range(T0 + HOUR, T0 + HOUR)
        await TradeRepository(db).get_statistics()
        await PositionRepository(db).get_position("ETHUSDT")
        await PositionRepository(db).get_position("BTCUSDT", side="short")
        await PositionRepository(db).get_open_positions("bybit")
        assert _warnings(caplog) == []


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if (record.name, record.levelno) == (_LOGGER, logging.WARNING)]


def _assert_one_warning(caplog: pytest.LogCaptureFixture, others: str = "kraken") -> None:
    found = _warnings(caplog)
    assert len(found) == 1, f"a manager must log exactly one warning: {found}"
    assert "'binance'" in found[0]
    assert others in found[0]


class ExchangeTests(AllExchangesTests, OtherExchangeTests):
    """All tests of the argument ``exchange`` in reads of bars."""
