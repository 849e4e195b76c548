"""Calls of the reads of trades and events with one hostile value; see `iftb_store.testing.hostile`."""

from __future__ import annotations

from typing import Any

from iftb_store import SystemEventRepository, TradeRepository
from iftb_store.testing.hostile_values import Attempt, Try
from iftb_store.testing.samples import T0


async def _get_trade(one: Try) -> int:
    found = await TradeRepository(one.session).get_by_trade_id(**one.changed())
    assert found is None or found.trade_id == one.value
    return 0


async def _get_open_trades(one: Try) -> int:
    arguments = one.changed(symbol="BTCUSDT", side="long", exchange="binance")
    _assert_rows(await TradeRepository(one.session).get_open(**arguments), arguments)
    return 0


async def _get_range_of_trades(one: Try) -> int:
    arguments = one.changed(start=T0, end=T0, symbol="BTCUSDT", side="long", exchange="binance")
    _assert_rows(await TradeRepository(one.session).get_range(**arguments), arguments)
    return 0


async def _get_performance(one: Try) -> int:
    arguments = one.changed(exchange="binance", starting_balance=T0.year)
    report = await TradeRepository(one.session).get_performance(**arguments)
    assert (report.total_trades, report.days, report.equity) == (0, 0, [])
    return 0


async def _get_events(one: Try) -> int:
    arguments = one.changed(event_type="decoy", symbol=None, trade_id=None, start=None, end=None)
    _assert_rows(await SystemEventRepository(one.session).get_events(**arguments), arguments)
    return 0


def _assert_rows(rows: list[Any], arguments: dict[str, Any]) -> None:
    for row in rows:
        for name in arguments.keys() - {"start", "end"}:
            assert arguments[name] is None or getattr(row, name) == arguments[name], (
                f"a read by {name} returned a row with another {name}"
            )


METHODS: dict[str, Attempt] = {
    "TradeRepository.get_by_trade_id": _get_trade,
    "TradeRepository.get_open": _get_open_trades,
    "TradeRepository.get_range": _get_range_of_trades,
    "TradeRepository.get_performance": _get_performance,
    "SystemEventRepository.get_events": _get_events,
}
