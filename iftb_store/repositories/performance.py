"""Reads the trades of a performance report, and computes the report in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from iftb_store._io.gc_pause import pause_gc
from iftb_store.analytics.days import check_zone
from iftb_store.analytics.figures import PerformanceReport
from iftb_store.analytics.performance import PerformanceScope, TradeColumns, compute_performance
from iftb_store.errors import InvalidValueError
from iftb_store.models import Trade
from iftb_store.protocols import Stores
from iftb_store.repositories.exchanges import select_exchange
from iftb_store.schema.scope import check_window
from iftb_store.schema.table_spec import TRADES, ColumnKind, RowFilter
from iftb_store.schema.types import to_epoch_us
from iftb_store.values import checks
from iftb_store.values.choices import FEES, SIDES

if TYPE_CHECKING:
    import pyarrow as pa


def make_scope(
    start: object,
    end: object,
    exchange: object,
    *,
    symbol: object,
    side: object,
    starting_balance: object,
    fees: object,
    tz: object,
) -> PerformanceScope:
    """Return the checked parameters of `iftb_store.TradeRepository.get_performance`."""
    first, last = checks.optional(checks.utc, start, "start"), checks.optional(checks.utc, end, "end")
    if first is not None and last is not None:
        check_window(first, last)
    balance = checks.optional(checks.round_to_places, starting_balance, "starting_balance")
    if balance is not None and balance <= 0:
        raise InvalidValueError(f"starting_balance {balance} is not above 0; leave it out if it is unknown")
    return PerformanceScope(
        exchange=select_exchange(exchange).get("exchange"),
        symbol=checks.optional(checks.name_text, symbol, "symbol"),
        side=checks.optional_choice(side, "side", SIDES),
        start=first,
        end=last,
        starting_balance=balance,
        fees=checks.choice(fees, "fees", FEES),
        zone=check_zone(tz),
    )


async def read_performance(stores: Stores, scope: PerformanceScope) -> PerformanceReport:
    """Read all trades of the scope in one statement, hence from one snapshot, and return their performance."""
    named = {"exchange": scope.exchange, "symbol": scope.symbol, "side": scope.side}
    selection = RowFilter(TRADES, {name: value for name, value in named.items() if value is not None})
    if find_spec("pyarrow") is None:
        trades: list[Trade] = await stores.records.select(selection)
        return await asyncio.to_thread(_compute, _from_objects, trades, scope)
    rows = await stores.read_rows(replace(selection, only=TradeColumns._fields))
    return await asyncio.to_thread(_compute, _from_arrow, rows, scope)


def _compute(convert: Callable[[Any], TradeColumns], rows: Any, scope: PerformanceScope) -> PerformanceReport:
    with pause_gc():
        return compute_performance(convert(rows), scope)


def _from_objects(trades: Sequence[Trade]) -> TradeColumns:
    return TradeColumns._make([_to_plain(getattr(trade, name)) for trade in trades] for name in TradeColumns._fields)


def _to_plain(value: Any) -> Any:
    return to_epoch_us(value) if hasattr(value, "astimezone") else value


def _from_arrow(rows: pa.Table) -> TradeColumns:
    import pyarrow

    from iftb_store.batches.arrow import to_decimals

    def convert(name: str) -> list[Any]:
        column: Any = rows[name]
        kind = TRADES.kinds[name]
        if kind == ColumnKind.DECIMAL:
            return to_decimals(column)
        values: list[Any] = (column.cast(pyarrow.int64()) if kind == ColumnKind.TIME else column).to_pylist()
        return values

    return TradeColumns._make(map(convert, TradeColumns._fields))
