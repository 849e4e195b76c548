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
from iftb_store.analytics.money import Money
from iftb_store.analytics.performance import GROUPED, Performance, PerformanceScope, TradeColumns
from iftb_store.errors import InvalidValueError
from iftb_store.models import Trade
from iftb_store.protocols import Stores
from iftb_store.repositories.exchanges import select_exchange
from iftb_store.repositories.stored_money import read_money
from iftb_store.schema.scope import check_window
from iftb_store.schema.table_spec import TRADES, ColumnKind, RowFilter
from iftb_store.schema.types import to_epoch_us
from iftb_store.values import checks
from iftb_store.values.choices import FEES, SIDES
from iftb_store.values.tags import decode_texts

if TYPE_CHECKING:
    import pyarrow as pa

_REPEATED = (*GROUPED, "tags")


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
    currency: object = None,
    **filters: object,
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
        currency=checks.optional(checks.short_name, currency, "currency"),
        account=checks.optional(checks.account, filters.get("account"), "account"),
        **{name: checks.optional(checks.name_text, filters.get(name), name) for name in ("strategy", "exit_reason", "tag")},
    )


async def read_performance(stores: Stores, scope: PerformanceScope) -> PerformanceReport:
    """Read all trades of the scope in one statement, and the money of their window, and return their performance."""
    named = {name: getattr(scope, name) for name in ("exchange", "symbol", "side", "account", "strategy", "exit_reason")}
    equal = {name: value for name, value in named.items() if value is not None}
    selection = RowFilter(TRADES, equal, tag=scope.tag)
    if find_spec("pyarrow") is None:
        trades: list[Trade] = await stores.records.select(selection)
        performance = await asyncio.to_thread(_prepare, _from_objects, trades, scope)
    else:
        rows = await stores.read_rows(replace(selection, only=TradeColumns._fields))
        performance = await asyncio.to_thread(_prepare, _from_arrow, rows, scope)
    money = await read_money(stores, scope, performance.start, performance.end)
    return await asyncio.to_thread(_compute, performance, money)


def _prepare(convert: Callable[[Any], TradeColumns], rows: Any, scope: PerformanceScope) -> Performance:
    with pause_gc():
        return Performance(convert(rows), scope)


def _compute(performance: Performance, money: Money) -> PerformanceReport:
    with pause_gc():
        return performance.compute(money)


def _from_objects(trades: Sequence[Trade]) -> TradeColumns:
    return TradeColumns._make([_to_plain(getattr(trade, name)) for trade in trades] for name in TradeColumns._fields)


def _to_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return to_epoch_us(value) if hasattr(value, "astimezone") else value


def _from_arrow(rows: pa.Table) -> TradeColumns:
    import pyarrow

    from iftb_store.batches.arrow import to_decimals

    def convert(name: str) -> list[Any]:
        column: Any = rows[name]
        kind = TRADES.kinds[name]
        if kind == ColumnKind.DECIMAL:
            return to_decimals(column)
        if name in _REPEATED:
            # most texts repeat
            encoded = column.combine_chunks().dictionary_encode()
            texts: list[Any] = encoded.dictionary.to_pylist()
            if kind == ColumnKind.TEXTS:
                texts = [tuple(decode_texts(text)) for text in texts]
            # the index of NULL is None
            words = dict(enumerate(texts)) | {None: None}
            return [words[place] for place in encoded.indices.to_pylist()]
        values: list[Any] = (column.cast(pyarrow.int64()) if kind == ColumnKind.TIME else column).to_pylist()
        return values

    return TradeColumns._make(map(convert, TradeColumns._fields))
