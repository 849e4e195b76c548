"""What the ledger and the snapshots of balances add to a performance report: funding, starting balance, marked equity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from operator import attrgetter

from iftb_store.analytics.figures import EquityPoint
from iftb_store.models import BalanceSnapshot, LedgerEntry

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Money:
    """The stored money of a report's window; see the fields of `iftb_store.PerformanceReport`.

    Attributes:
        funding: the sums of the funding by currency; None if it cannot be told for the trades of the report.
        currency: the currency of the snapshots that are used; None: none are.
        starting_balance: the balance at the start; None if the snapshots do not say it, or it is not above 0.
        marked: the equity that the snapshots say, without what was deposited and withdrawn.
    """

    funding: dict[str, Decimal] | None = None
    currency: str | None = None
    starting_balance: Decimal | None = None
    marked: list[EquityPoint] = field(default_factory=list)


def add_up_amounts(entries: Iterable[LedgerEntry]) -> dict[str, Decimal]:
    """Return the sums of the amounts by currency, in alphabetical order. The caller adds in `analytics.numbers.EXACT`."""
    sums: dict[str, Decimal] = {}
    for entry in entries:
        sums[entry.currency] = sums.get(entry.currency, _ZERO) + entry.amount
    return dict(sorted(sums.items()))


def find_starting_balance(before: Sequence[BalanceSnapshot], accounts: int) -> Decimal | None:
    """Return the balance of all accounts at the start, in `EXACT`; None if that of one is unknown, or the sum is not above 0.

    Args:
        before: the newest snapshot of each account, on each exchange, at the start.
        accounts: the number of accounts, on each exchange, that have snapshots.
    """
    total = sum((snapshot.total for snapshot in before), _ZERO)
    return total if len(before) == accounts and total > 0 else None


def list_marked_equity(
    before: Sequence[BalanceSnapshot],
    snapshots: Sequence[BalanceSnapshot],
    flows: Sequence[LedgerEntry],
    start: datetime,
    accounts: int,
) -> list[EquityPoint]:
    """Return the sum of total and unrealized_pnl of all accounts at the start, and at each time of a snapshot, in `EXACT`.

    The first point is at the first time at which the value of every account is known. What was deposited after it is subtracted,
    and what was withdrawn is added, so that only profit and loss move the equity.

    Args:
        before: the newest snapshot of each account, on each exchange, at the start.
        snapshots: those after the start until the end, in the order of time; those without unrealized_pnl are ignored.
        flows: the deposits, withdrawals and transfers in the currency until the end, in any order.
        start: the start of the window.
        accounts: the number of accounts, on each exchange, that have snapshots.
    """
    values = {_name(one): _find_value(one) for one in before if one.unrealized_pnl is not None}
    moments = [(start, [*values.items()])] if values else []
    known = (one for one in snapshots if one.unrealized_pnl is not None)
    moments += [(at, [(_name(one), _find_value(one)) for one in group]) for at, group in groupby(known, attrgetter("timestamp"))]
    coming = sorted(flows, key=attrgetter("timestamp"), reverse=True)
    points: list[EquityPoint] = []
    moved, peak = _ZERO, _ZERO
    for at, changes in moments:
        values.update(changes)
        if len(values) < accounts:
            continue
        while coming and coming[-1].timestamp <= at:
            amount = coming.pop().amount
            # what came before the first point is in its balance
            moved += amount if points else _ZERO
        equity = sum(values.values(), -moved)
        peak = max(peak, equity) if points else equity
        points.append(EquityPoint(at, equity, peak - equity))
    return points


def _name(snapshot: BalanceSnapshot) -> tuple[str, str]:
    return snapshot.exchange, snapshot.account


def _find_value(snapshot: BalanceSnapshot) -> Decimal:
    return snapshot.total + (snapshot.unrealized_pnl or _ZERO)
