"""Reads the money of a performance report: the funding of the ledger and the snapshots of balances."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import localcontext
from typing import Any

from iftb_store.analytics.money import Money, add_up_amounts, find_starting_balance, list_marked_equity
from iftb_store.analytics.numbers import EXACT
from iftb_store.analytics.performance import PerformanceScope
from iftb_store.models import BalanceSnapshot, LedgerEntry
from iftb_store.protocols import Stores
from iftb_store.repositories.balances import find_latest
from iftb_store.schema.table_spec import BALANCES, LEDGER, RowFilter

_FLOWS = ("deposit", "withdrawal", "transfer")


async def read_money(stores: Stores, scope: PerformanceScope, start: datetime | None, end: datetime | None) -> Money:
    """Return the money of a window; nothing where the scope limits the trades by what the ledger and balances do not have."""
    if (scope.side, scope.strategy, scope.exit_reason, scope.tag) != (None,) * 4:
        return Money()
    funding = await _read_entries(stores, scope, start, end, kind="funding", symbol=scope.symbol)
    with localcontext(EXACT):
        sums = add_up_amounts(funding)
    # balances are those of all symbols, and without trades there is no window of theirs
    if scope.symbol is not None or start is None or end is None:
        return Money(sums)
    return await _read_balances(stores, scope, start, end, Money(sums))


async def _read_entries(
    stores: Stores, scope: PerformanceScope, start: datetime | None, end: datetime | None, **equal: str | None
) -> list[LedgerEntry]:
    return await stores.records.select(RowFilter(LEDGER, _limit(scope, **equal), start, end))


async def _read_balances(stores: Stores, scope: PerformanceScope, start: datetime, end: datetime, money: Money) -> Money:
    window = RowFilter(BALANCES, _limit(scope, currency=scope.currency), end=end)
    newest = await find_latest(stores, window)
    currencies = {one.currency for one in newest}
    if len(currencies) != 1:
        return money
    (currency,) = currencies
    before = await find_latest(stores, replace(window, end=start))
    later: list[BalanceSnapshot] = []
    if start < end:
        selection = replace(window, equal={**window.equal, "currency": currency}, start=start + timedelta(microseconds=1))
        later = await stores.records.select(selection)
    flows = [entry for kind in _FLOWS for entry in await _read_entries(stores, scope, start, end, kind=kind, currency=currency)]
    with localcontext(EXACT):
        return Money(
            money.funding,
            currency,
            find_starting_balance(before, len(newest)),
            list_marked_equity(before, later, flows, start, len(newest)),
        )


def _limit(scope: PerformanceScope, **equal: str | None) -> dict[str, Any]:
    """Return the values of the rows of the scope's exchange and account, and the given ones that are not None."""
    named = {"exchange": scope.exchange, "account": scope.account, **equal}
    return {name: value for name, value in named.items() if value is not None}
