"""A task that is cancelled at a chosen await, and one call of every repository method to cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, SystemEventRepository, TradeRepository
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, bar, hourly, position, trade
from tests.faults.cancelling_money import MONEY, drain

# more than one chunk of any engine, so that a call has awaits between two chunks
_BARS = 2_500
# so long a range is read by another method than a short one
_LONG = 12_500


class Cancelled(Coroutine[Any, Any, Any]):
    """A coroutine whose task is cancelled while it waits for the ``at``-th time, some turns of the event loop later."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int = 0, turns: int = 0) -> None:
        self._work = work
        self._at = at
        self._turns = turns
        self.awaits = 0

    def send(self, value: Any) -> Any:
        """Run to the next await, and cancel the task if it is the chosen one."""
        waited_for = self._work.send(value)
        self._count()
        return waited_for

    def throw(self, *error: Any) -> Any:
        """Raise inside, and run to the next await."""
        waited_for = self._work.throw(*error)
        self._count()
        return waited_for

    def close(self) -> None:
        """End the work."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError("it is a task's")

    def _count(self) -> None:
        self.awaits += 1
        task = asyncio.current_task()
        if self.awaits == self._at and task is not None:
            _cancel_later(task, self._turns)


def _cancel_later(task: asyncio.Task[Any], turns: int) -> None:
    if turns:
        asyncio.get_running_loop().call_soon(_cancel_later, task, turns - 1)
    else:
        task.cancel()


@dataclass(frozen=True)
class Case:
    """A call of one method.

    Attributes:
        call: given a session or manager, a symbol and the id that ``prepare`` returned.
        prepare: creates what the call needs, and returns its id.
    """

    call: Callable[[Any, str, int], Awaitable[Any]]
    prepare: Callable[[DatabaseManager, str], Awaitable[int]] | None = None


async def state(db: DatabaseManager, name: str) -> tuple[Any, ...]:
    """Return all of a symbol's rows that a call could change, read with raw SQL."""
    return (
        await raw.fetch(db, "SELECT volume, count(*) FROM ohlcv WHERE symbol = :name GROUP BY volume ORDER BY volume", name=name),
        await raw.fetch(db, "SELECT fee, quantity, count(*) FROM trades WHERE symbol = :name GROUP BY fee, quantity", name=name),
        await raw.fetch(db, "SELECT status, margin FROM positions WHERE symbol = :name", name=name),
        *[
            await raw.fetch(db, f"SELECT count(*) FROM {table} WHERE {column} = :name", name=name)
            for table, column in (("fills", "symbol"), ("ledger_entries", "symbol"), ("balance_snapshots", "currency"))
        ],
        await raw.fetch(db, "SELECT first, last, source FROM coverage WHERE symbol = :name ORDER BY first", name=name),
    )


async def _store_bars(db: DatabaseManager, name: str) -> int:
    await OHLCVRepository(db).insert_many(hourly(_BARS, symbol=name))
    return 0


async def _store_bar(db: DatabaseManager, name: str) -> int:
    await OHLCVRepository(db).insert_many([bar(symbol=name)])
    return 0


async def _store_trade(db: DatabaseManager, name: str) -> int:
    return await TradeRepository(db).insert(trade(name, symbol=name))


async def _store_position(db: DatabaseManager, name: str) -> int:
    await PositionRepository(db).update_position(replace(position(), symbol=name))
    found = await PositionRepository(db).get_position(name)
    assert found is not None
    assert found.id is not None
    return found.id


async def _cover(db: DatabaseManager, name: str) -> int:
    await OHLCVRepository(db).insert_many(hourly(5, symbol=name))
    await OHLCVRepository(db).mark_covered(name, "1h", T0, T0 + 5 * HOUR, source="test")
    return 0


def _table(name: str) -> pa.Table:
    bars = [asdict(bar) for bar in hourly(_BARS, symbol=name)]
    return pa.Table.from_pylist(bars).drop_columns(["id", "created_at", "quote_volume", "trades_count"])


def _changed(name: str, number: int | None) -> Any:
    return replace(position(margin=Decimal(7)), symbol=name, id=number)


CASES = {
    **{name: Case(call, prepare) for name, (call, prepare) in MONEY.items()},
    "OHLCVRepository.get_coverage": Case(lambda on, name, _: OHLCVRepository(on).get_coverage(name, "1h"), _cover),
    "OHLCVRepository.coverage_by_day": Case(
        lambda on, name, _: OHLCVRepository(on).coverage_by_day(name, "1h", start=T0, end=T0 + 30 * HOUR), _cover
    ),
    "OHLCVRepository.mark_covered": Case(
        lambda on, name, _: OHLCVRepository(on).mark_covered(name, "1h", T0 + HOUR, T0 + 9 * HOUR, source="again"), _cover
    ),
    "OHLCVRepository.insert_many": Case(lambda on, name, _: OHLCVRepository(on).insert_many(hourly(_BARS, symbol=name))),
    "OHLCVRepository.upsert_many": Case(
        lambda on, name, _: OHLCVRepository(on).upsert_many(hourly(_BARS, symbol=name, volume=Decimal(7))), _store_bars
    ),
    "OHLCVRepository.get_range": Case(
        lambda on, name, _: OHLCVRepository(on).get_range(name, "1h", T0, T0 + _LONG * HOUR), _store_bars
    ),
    "OHLCVRepository.get_latest": Case(lambda on, name, _: OHLCVRepository(on).get_latest(name, "1h"), _store_bar),
    "OHLCVRepository.get_gaps": Case(
        lambda on, name, _: OHLCVRepository(on).get_gaps(name, "1h", start=T0, end=T0 + timedelta(days=1)), _store_bar
    ),
    "OHLCVRepository.get_gaps_all": Case(
        lambda on, _, __: drain(OHLCVRepository(on).get_gaps_all(start=T0, end=T0 + timedelta(days=1))), _store_bar
    ),
    "OHLCVRepository.resample_all": Case(
        lambda on, _, __: drain(OHLCVRepository(on).resample_all("1d", source="1h", end=T0 + _BARS * HOUR)), _store_bars
    ),
    "OHLCVRepository.read_arrow": Case(lambda on, name, _: OHLCVRepository(on).read_arrow(name, "1h"), _store_bar),
    "OHLCVRepository.stream_range": Case(
        lambda on, name, _: drain(OHLCVRepository(on).stream_range(name, "1h", T0, T0 + _BARS * HOUR, batch_size=1_000)),
        _store_bars,
    ),
    "OHLCVRepository.stream_arrow": Case(
        lambda on, name, _: drain(OHLCVRepository(on).stream_arrow(name, "1h", batch_size=1_000)), _store_bars
    ),
    "OHLCVRepository.write_arrow": Case(lambda on, name, _: OHLCVRepository(on).write_arrow(_table(name), mode="insert")),
    "OHLCVRepository.delete_range": Case(
        lambda on, name, _: OHLCVRepository(on).delete_range(name, "1h", T0, T0 + _BARS * HOUR), _store_bars
    ),
    "OHLCVRepository.resample": Case(
        lambda on, name, _: OHLCVRepository(on).resample(name, "1h", "1d", T0, T0 + _BARS * HOUR), _store_bars
    ),
    "OHLCVRepository.list_series": Case(lambda on, _, __: OHLCVRepository(on).list_series(), _store_bar),
    "TradeRepository.insert": Case(lambda on, name, _: TradeRepository(on).insert(trade(name, symbol=name))),
    "TradeRepository.record": Case(lambda on, name, _: TradeRepository(on).record(trade(name, symbol=name))),
    "TradeRepository.update": Case(lambda on, _, number: TradeRepository(on).update(number, fee=Decimal(7)), _store_trade),
    "TradeRepository.read_arrow": Case(lambda on, _, __: TradeRepository(on).read_arrow(), _store_trade),
    "TradeRepository.stream_arrow": Case(lambda on, _, __: drain(TradeRepository(on).stream_arrow()), _store_trade),
    "TradeRepository.get_by_id": Case(lambda on, _, number: TradeRepository(on).get_by_id(number), _store_trade),
    "TradeRepository.get_recent": Case(lambda on, _, __: TradeRepository(on).get_recent(5), _store_trade),
    "TradeRepository.get_by_trade_id": Case(lambda on, name, _: TradeRepository(on).get_by_trade_id(name), _store_trade),
    "TradeRepository.get_open": Case(lambda on, name, _: TradeRepository(on).get_open(symbol=name), _store_trade),
    "TradeRepository.get_range": Case(
        lambda on, name, _: TradeRepository(on).get_range(T0, T0 + HOUR, symbol=name), _store_trade
    ),
    "TradeRepository.get_by_symbol": Case(lambda on, name, _: TradeRepository(on).get_by_symbol(name), _store_trade),
    "TradeRepository.get_statistics": Case(lambda on, _, __: TradeRepository(on).get_statistics(), _store_trade),
    "TradeRepository.get_performance": Case(lambda on, _, __: TradeRepository(on).get_performance(), _store_trade),
    "PositionRepository.get_open_positions": Case(
        lambda on, _, __: PositionRepository(on).get_open_positions("nowhere"), _store_position
    ),
    "PositionRepository.read_arrow": Case(lambda on, _, __: PositionRepository(on).read_arrow(), _store_position),
    "PositionRepository.stream_arrow": Case(lambda on, _, __: drain(PositionRepository(on).stream_arrow()), _store_position),
    "PositionRepository.get_position": Case(lambda on, name, _: PositionRepository(on).get_position(name), _store_position),
    "PositionRepository.update_position": Case(
        lambda on, name, number: PositionRepository(on).update_position(_changed(name, number)), _store_position
    ),
    "PositionRepository.close_position": Case(
        lambda on, _, number: PositionRepository(on).close_position(number), _store_position
    ),
    "SystemEventRepository.log_event": Case(
        lambda on, name, _: SystemEventRepository(on).log_event("tick", "info", "", symbol=name)
    ),
    "SystemEventRepository.read_arrow": Case(lambda on, _, __: SystemEventRepository(on).read_arrow()),
    "SystemEventRepository.stream_arrow": Case(lambda on, _, __: drain(SystemEventRepository(on).stream_arrow())),
    "SystemEventRepository.get_events": Case(lambda on, name, _: SystemEventRepository(on).get_events(symbol=name)),
    "SystemEventRepository.get_recent_events": Case(lambda on, _, __: SystemEventRepository(on).get_recent_events(limit=5)),
}
