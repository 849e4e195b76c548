"""Adds up the trades of groups, e.g. of a symbol, an hour or a day; the totals of two groups can be added."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import itemgetter
from typing import NamedTuple, TypeVar

from iftb_store.analytics.figures import GroupFigures
from iftb_store.analytics.numbers import compute_average_duration, divide, round_figure, round_optional

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_ZERO = Decimal(0)


class Ledger(NamedTuple):
    """The trades that count, in the order of closing, as columns.

    Attributes:
        closed_at: the times of closing, in microseconds since 1970.
        net: the net results.
        sign: 1 for a win, -1 for a loss, 0 for a breakeven.
        fees: the fees.
        held: exit_time - entry_time in microseconds; None without an exit_time.
    """

    closed_at: Sequence[int]
    net: Sequence[Decimal]
    sign: Sequence[int]
    fees: Sequence[Decimal]
    held: Sequence[int | None]


@dataclass(slots=True)
class Totals:
    """Exact totals of trades. The caller adds in `iftb_store.analytics.numbers.EXACT`."""

    trades: int = 0
    wins: int = 0
    losses: int = 0
    net: Decimal = _ZERO
    loss: Decimal = _ZERO
    fees: Decimal = _ZERO
    held: int = 0
    timed: int = 0

    def add(self, other: Totals) -> None:
        """Add the totals of other trades."""
        self.trades += other.trades
        self.wins += other.wins
        self.losses += other.losses
        self.net += other.net
        self.loss += other.loss
        self.fees += other.fees
        self.held += other.held
        self.timed += other.timed

    @property
    def profit(self) -> Decimal:
        """The sum of the wins."""
        return self.net + self.loss

    @property
    def breakevens(self) -> int:
        """The number of trades with a net result of 0."""
        return self.trades - self.wins - self.losses

    def figures(self) -> GroupFigures:
        """Return the figures of the group."""
        return GroupFigures(
            total_trades=self.trades,
            winning_trades=self.wins,
            losing_trades=self.losses,
            breakeven_trades=self.breakevens,
            win_rate=round_optional(divide(Decimal(100 * self.wins), self.trades)),
            pnl_before_fees=round_figure(self.net + self.fees),
            total_fees=round_figure(self.fees),
            net_pnl=round_figure(self.net),
            profit_factor=round_optional(divide(self.profit, self.loss)),
            expectancy=round_optional(divide(self.net, self.trades)),
            avg_holding=compute_average_duration(self.held, self.timed),
        )


def pick(values: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    """Return the values at the given indices, in their order."""
    return itemgetter(*places)(values) if len(places) > 1 else [values[place] for place in places]


def add_up(ledger: Ledger, places: Sequence[int]) -> Totals:
    """Return the totals of the trades at the given indices of the ledger."""
    signs, net = pick(ledger.sign, places), pick(ledger.net, places)
    losses = [value for value, sign in zip(net, signs, strict=True) if sign < 0]
    held = [duration for duration in pick(ledger.held, places) if duration is not None]
    return Totals(
        trades=len(places),
        wins=signs.count(1),
        losses=len(losses),
        net=sum(net, _ZERO),
        loss=-sum(losses, _ZERO),
        fees=sum(pick(ledger.fees, places), _ZERO),
        held=sum(held),
        timed=len(held),
    )


def group(ledger: Ledger, keys: Iterable[K]) -> dict[K, Totals]:
    """Return the totals of the trades with each key; ``keys`` has the key of each trade of the ledger."""
    return {key: add_up(ledger, chosen) for key, chosen in find_places(keys).items()}


def find_places(keys: Iterable[K]) -> dict[K, list[int]]:
    """Return the indices of each key."""
    places: defaultdict[K, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return places


def merge(parts: Iterable[tuple[K, Totals]]) -> dict[K, Totals]:
    """Add up the totals that have the same key; return {key: sum of its totals}."""
    merged: dict[K, Totals] = {}
    for key, totals in parts:
        merged.setdefault(key, Totals()).add(totals)
    return merged


def to_figures(groups: Mapping[K, Totals]) -> dict[K, GroupFigures]:
    """Return the figures of each group, in the order of the keys."""
    return {key: groups[key].figures() for key in sorted(groups)}  # type: ignore[type-var]
