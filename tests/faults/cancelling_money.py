"""One call of every method of the repositories of fills, ledger entries and balances to cancel; see `cancelling`."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import fields
from typing import Any

import pyarrow as pa

from iftb_store import BalanceRepository, DatabaseManager, FillRepository, LedgerRepository, TradeRepository
from iftb_store.batches.arrow import arrow_schema
from iftb_store.schema.table_spec import BALANCES, FILLS, LEDGER, TableSpec
from iftb_store.testing.samples import HOUR, T0, balance, fill, ledger_entry, trade

#: A call with a session or manager, a symbol and the id that the preparation returned; and the preparation.
Given = tuple[Callable[[Any, str, int], Awaitable[Any]], Callable[[DatabaseManager, str], Awaitable[int]] | None]

# more than are looked up one by one
_MANY = 30
_BY_STORE = ("id", "created_at")


async def drain(stream: AsyncIterable[Any]) -> None:
    """Read a stream to its end."""
    async for _ in stream:
        pass


def _fills(name: str) -> list[Any]:
    return [fill(f"{name}-{number}", symbol=name, trade_id=name) for number in range(_MANY)]


def _entries(name: str) -> list[Any]:
    return [ledger_entry(f"{name}-{number}", symbol=name) for number in range(_MANY)]


def _balances(name: str) -> list[Any]:
    return [balance(currency=name, timestamp=T0 + number * HOUR) for number in range(_MANY)]


def _table(table: TableSpec, rows: list[Any]) -> pa.Table:
    names = [item.name for item in fields(table.model) if item.name not in _BY_STORE and item.name != "details"]
    values = {name: [getattr(row, name) for row in rows] for name in names}
    return pa.table(values, pa.schema([arrow_schema(table).field(name) for name in names]))


async def _store_fills(db: DatabaseManager, name: str) -> int:
    number = await TradeRepository(db).insert(trade(name, symbol=name))
    await FillRepository(db).record_many(_fills(name))
    return number


async def _store_entries(db: DatabaseManager, name: str) -> int:
    await LedgerRepository(db).record_many(_entries(name))
    return 0


async def _store_balances(db: DatabaseManager, name: str) -> int:
    await BalanceRepository(db).record_many(_balances(name))
    return 0


async def apply(on: Any, name: str, _: int) -> None:
    """Apply the fills of a trade."""
    await TradeRepository(on).apply_fills(name)


MONEY: dict[str, Given] = {
    "TradeRepository.apply_fills": (apply, _store_fills),
    "FillRepository.record": (lambda on, name, _: FillRepository(on).record(_fills(name)[0]), None),
    "FillRepository.record_many": (lambda on, name, _: FillRepository(on).record_many(_fills(name)), None),
    "FillRepository.write_arrow": (lambda on, name, _: FillRepository(on).write_arrow(_table(FILLS, _fills(name))), None),
    "FillRepository.get_by_trade": (lambda on, name, _: FillRepository(on).get_by_trade(name), _store_fills),
    "FillRepository.get_range": (lambda on, name, _: FillRepository(on).get_range(T0, T0, symbol=name), _store_fills),
    "FillRepository.stream": (lambda on, name, _: drain(FillRepository(on).stream(name, batch_size=10)), _store_fills),
    "FillRepository.read_arrow": (lambda on, name, _: FillRepository(on).read_arrow(name), _store_fills),
    "FillRepository.stream_arrow": (lambda on, name, _: drain(FillRepository(on).stream_arrow(name)), _store_fills),
    "LedgerRepository.record": (lambda on, name, _: LedgerRepository(on).record(_entries(name)[0]), None),
    "LedgerRepository.record_many": (lambda on, name, _: LedgerRepository(on).record_many(_entries(name)), None),
    "LedgerRepository.write_arrow": (lambda on, name, _: LedgerRepository(on).write_arrow(_table(LEDGER, _entries(name))), None),
    "LedgerRepository.get_range": (lambda on, name, _: LedgerRepository(on).get_range(T0, T0, symbol=name), _store_entries),
    "LedgerRepository.get_sums": (lambda on, name, _: LedgerRepository(on).get_sums(symbol=name), _store_entries),
    "LedgerRepository.stream": (lambda on, name, _: drain(LedgerRepository(on).stream(name, batch_size=10)), _store_entries),
    "LedgerRepository.read_arrow": (lambda on, name, _: LedgerRepository(on).read_arrow(name), _store_entries),
    "LedgerRepository.stream_arrow": (lambda on, name, _: drain(LedgerRepository(on).stream_arrow(name)), _store_entries),
    "BalanceRepository.record": (lambda on, name, _: BalanceRepository(on).record(_balances(name)[0]), None),
    "BalanceRepository.record_many": (lambda on, name, _: BalanceRepository(on).record_many(_balances(name)), None),
    "BalanceRepository.write_arrow": (
        lambda on, name, _: BalanceRepository(on).write_arrow(_table(BALANCES, _balances(name))),
        None,
    ),
    "BalanceRepository.get_latest": (lambda on, name, _: BalanceRepository(on).get_latest(currency=name), _store_balances),
    "BalanceRepository.get_range": (
        lambda on, name, _: BalanceRepository(on).get_range(T0, T0 + HOUR, currency=name),
        _store_balances,
    ),
    "BalanceRepository.stream": (lambda on, name, _: drain(BalanceRepository(on).stream(name, batch_size=10)), _store_balances),
    "BalanceRepository.read_arrow": (lambda on, name, _: BalanceRepository(on).read_arrow(name), _store_balances),
    "BalanceRepository.stream_arrow": (lambda on, name, _: drain(BalanceRepository(on).stream_arrow(name)), _store_balances),
}
