"""Computes the performance of trades from their rows, in Python, so that every engine gives the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal, localcontext
from itertools import groupby
from operator import mul, sub
from typing import Any, NamedTuple

from iftb_store.analytics.days import (
    PERIODS,
    find_day_hours,
    find_extreme,
    find_returns,
    list_days,
    list_periods,
    merge_periods,
    name_zone,
)
from iftb_store.analytics.equity import find_percent, list_drawdowns, list_equity, measure_exposure
from iftb_store.analytics.figures import PerformanceReport
from iftb_store.analytics.money import Money
from iftb_store.analytics.numbers import (
    EXACT,
    YEAR_DAYS,
    compute_annual_ratios,
    compute_average_duration,
    compute_sample_deviation,
    divide,
    find_median,
    round_figure,
)
from iftb_store.analytics.totals import Ledger, Totals, add_up, find_places, group, merge, pick, to_figures
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.values.choices import Fees, Side

#: The columns by which trades are grouped: `PerformanceReport` has a ``by_`` list for each.
GROUPED = ("symbol", "side", "action", "account", "strategy", "exit_reason")

_ZERO, _HUNDRED = Decimal(0), Decimal(100)
_COVERED = ("exchange", "symbol", "side", "account", "strategy", "exit_reason", "tag", "fees")
#: How many trades a cell of all columns of groups has on average, at least, if the groups are added up from the cells.
_FEW = 8
#: The part of the days that the value at risk leaves out, and how many days it needs.
_TAIL = 20


class TradeColumns(NamedTuple):
    """Trades as columns of the table, in its order: times in microseconds since 1970, decimals as Decimals."""

    symbol: Sequence[str]
    side: Sequence[str]
    action: Sequence[str]
    entry_time: Sequence[int]
    exit_time: Sequence[int | None]
    realized_pnl: Sequence[Decimal | None]
    realized_pnl_pct: Sequence[Decimal | None]
    fee: Sequence[Decimal]
    id: Sequence[int]
    updated_at: Sequence[int]
    account: Sequence[str]
    strategy: Sequence[str | None]
    exit_reason: Sequence[str | None]
    tags: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class PerformanceScope:
    """What a report covers; see the parameters of `iftb_store.TradeRepository.get_performance`."""

    exchange: str | None
    symbol: str | None
    side: Side | None
    start: datetime | None
    end: datetime | None
    starting_balance: Decimal | None
    fees: Fees
    zone: tzinfo
    account: str | None = None
    strategy: str | None = None
    exit_reason: str | None = None
    tag: str | None = None
    currency: str | None = None


class Performance:
    """The computation of a report of all trades of the scope, given in any order: which count, their results, and the window.

    Attributes:
        start: the start of the window; None without a given one and without trades.
        end: its end, likewise.
    """

    def __init__(self, trades: TradeColumns, scope: PerformanceScope) -> None:
        self.trades, self.scope = trades, scope
        ends = zip(trades.exit_time, trades.updated_at, strict=True)
        self.closed_at = [updated if left is None else left for left, updated in ends]
        first, last = (None if moment is None else to_epoch_us(moment) for moment in (scope.start, scope.end))
        self.unrealized = [place for place, pnl in enumerate(trades.realized_pnl) if pnl is None]
        within = [
            (closed, number, place)
            for place, (closed, number, pnl) in enumerate(zip(self.closed_at, trades.id, trades.realized_pnl, strict=True))
            if pnl is not None and (first is None or closed >= first) and (last is None or closed <= last)
        ]
        within.sort()
        self.places = [place for *_, place in within]
        if self.places:
            if first is None:
                # an entry may be stored that is later than the closing
                first = min(within[0][0], *pick(trades.entry_time, self.places))
            last = within[-1][0] if last is None else last
        self.first, self.last = first, last
        self.start, self.end = (None if moment is None else from_epoch_us(moment) for moment in (first, last))
        self.money = Money()

    def compute(self, money: Money) -> PerformanceReport:
        """Return the report.

        Args:
            money: what the ledger and the snapshots of balances say of the window.

        Raises:
            InvalidValueError: a day of the time zone lies outside the years 1 to 9999.
        """
        self.money = money
        given = self.scope.starting_balance
        self.balance = money.starting_balance if given is None else given
        with localcontext(EXACT):
            self.ledger = self._make_ledger()
            return self._report()

    def _make_ledger(self) -> Ledger:
        trades, included = self.trades, self.scope.fees == "included"
        fees = pick(trades.fee, self.places)
        # every counted trade has one
        pnls: Sequence[Any] = pick(trades.realized_pnl, self.places)
        net = pnls if included else list(map(sub, pnls, fees))
        times = zip(pick(trades.entry_time, self.places), pick(trades.exit_time, self.places), strict=True)
        held = [None if left is None else left - entered for entered, left in times]
        sign = [(value > _ZERO) - (value < _ZERO) for value in net]
        return Ledger(pick(self.closed_at, self.places), net, sign, fees, held)

    def _report(self) -> PerformanceReport:
        days = self._list_days()
        self.totals = Totals()
        for _, totals in days:
            self.totals.add(totals)
        found: dict[str, Any] = {
            **self._describe(),
            "days": len(days),
            **self._count_trades(),
            **self._find_results(),
            **self._find_streaks(),
            **self._find_holdings(),
            **self._find_exposure(),
            **self._find_drawdowns(),
            **self._find_days(days),
            **self._find_returns(days),
            **self._find_groups(days),
        }
        found["calmar"] = divide(found["cagr_pct"], found["max_drawdown_pct"])
        rounded: dict[str, Any] = {
            name: round_figure(value) if isinstance(value, Decimal) else value for name, value in found.items()
        }
        return PerformanceReport(**rounded)

    def _describe(self) -> dict[str, Any]:
        """Return what the report covers, and what the stored money says."""
        scope, money = self.scope, self.money
        source = "snapshots" if scope.starting_balance is None else "given"
        return {
            **{name: getattr(scope, name) for name in _COVERED},
            "tz": name_zone(scope.zone),
            "start": self.start,
            "end": self.end,
            "starting_balance": self.balance,
            "balance_source": None if self.balance is None else source,
            "currency": money.currency,
            "funding": None if money.funding is None else {name: round_figure(value) for name, value in money.funding.items()},
            "marked_equity": money.marked,
            "marked_drawdown": max((point.drawdown for point in money.marked), default=None),
        }

    def _count_trades(self) -> dict[str, int]:
        trades, totals, first, last = self.trades, self.totals, self.first, self.last
        sides = pick(trades.side, self.places)
        is_open = [place for place in self.unrealized if trades.action[place] == "open"]
        others = [self.closed_at[place] for place in self.unrealized if trades.action[place] != "open"]
        return {
            "total_trades": totals.trades,
            "winning_trades": totals.wins,
            "losing_trades": totals.losses,
            "breakeven_trades": totals.breakevens,
            "long_trades": sides.count("long"),
            "short_trades": sides.count("short"),
            "open_trades": sum(last is None or trades.entry_time[place] <= last for place in is_open),
            "unaccounted_trades": sum(
                (first is None or closed >= first) and (last is None or closed <= last) for closed in others
            ),
        }

    def _find_results(self) -> dict[str, Decimal | None]:
        totals, ordered, number = self.totals, sorted(self.ledger.net), self.totals.trades
        wins, losses = totals.wins, totals.losses
        average_loss, expectancy = divide(totals.loss, losses), divide(totals.net, number)
        spread = self._find_deviation(ordered)
        percents = [one for one in pick(self.trades.realized_pnl_pct, self.places) if one is not None]
        return {
            "win_rate": divide(_HUNDRED * wins, number),
            "pnl_before_fees": totals.net + totals.fees,
            "total_fees": totals.fees,
            "net_pnl": totals.net,
            "gross_profit": totals.profit,
            "gross_loss": totals.loss,
            "profit_factor": divide(totals.profit, totals.loss),
            "avg_win": divide(totals.profit, wins),
            "avg_loss": average_loss,
            "largest_win": ordered[-1] if wins else None,
            "largest_loss": -ordered[0] if losses else None,
            "median_pnl": find_median(ordered),
            "payoff_ratio": divide(divide(totals.profit, wins), average_loss),
            "expectancy": expectancy,
            "expectancy_ratio": divide(expectancy, average_loss),
            "pnl_std": spread,
            "sqn": Decimal(number).sqrt() * expectancy / spread if expectancy is not None and spread else None,
            "avg_pnl_pct": divide(sum(percents, _ZERO), len(percents)),
            "best_pnl_pct": max(percents, default=None),
            "worst_pnl_pct": min(percents, default=None),
        }

    def _find_deviation(self, ordered: Sequence[Decimal]) -> Decimal | None:
        """Return the sample standard deviation of the results from exact sums, which `compute_sample_deviation` rounds."""
        number, total = len(ordered), self.totals.net
        if number < 2:
            return None
        squares = sum(map(mul, ordered, ordered), _ZERO)
        return ((number * squares - total * total) / (number * (number - 1))).sqrt()

    def _find_streaks(self) -> dict[str, int]:
        most, current = {1: 0, 0: 0, -1: 0}, 0
        for sign, run in groupby(self.ledger.sign):
            length = len(list(run))
            most[sign], current = max(most[sign], length), sign * length
        return {"max_consecutive_wins": most[1], "max_consecutive_losses": most[-1], "current_streak": current}

    def _find_holdings(self) -> dict[str, timedelta | None]:
        pairs = [(held, sign) for held, sign in zip(self.ledger.held, self.ledger.sign, strict=True) if held is not None]
        every = [held for held, _ in pairs]
        wins, losses = ([held for held, sign in pairs if sign == chosen] for chosen in (1, -1))
        return {
            "avg_holding": compute_average_duration(sum(every), len(every)),
            "shortest_holding": timedelta(microseconds=min(every)) if every else None,
            "longest_holding": timedelta(microseconds=max(every)) if every else None,
            "avg_winning_holding": compute_average_duration(sum(wins), len(wins)),
            "avg_losing_holding": compute_average_duration(sum(losses), len(losses)),
        }

    def _find_exposure(self) -> dict[str, Any]:
        first, last, trades = self.first, self.last, self.trades
        if first is None or last is None or not self.places:
            return {"exposure": None, "max_concurrent_trades": None}
        ends = (
            closed if pnl is not None or left is not None else last
            for closed, left, pnl in zip(self.closed_at, trades.exit_time, trades.realized_pnl, strict=True)
        )
        spans = [
            (begin if begin > first else first, end if end < last else last)
            for begin, end in zip(trades.entry_time, ends, strict=True)
            if begin < last and end > first and begin < end
        ]
        covered, most = measure_exposure(spans, first)
        return {"exposure": divide(_HUNDRED * covered, last - first), "max_concurrent_trades": most}

    def _find_drawdowns(self) -> dict[str, Any]:
        balance = self.balance
        names = ("start", "valley", "recovery")
        found: dict[str, Any] = dict.fromkeys(
            ("max_drawdown", *(f"max_drawdown_{name}" for name in (*names, "pct")), "current_drawdown", "current_drawdown_pct",
             "longest_underwater", "recovery_factor")
        )  # fmt: skip
        if self.first is None or self.last is None or not self.places:
            return {**found, "equity": [], "drawdowns": []}
        equity = list_equity(self.ledger, self.first, balance or _ZERO)
        falls = list_drawdowns(equity, self.last, has_balance=balance is not None)
        worst = falls[0][0] if falls else None
        if worst is not None:
            found |= {f"max_drawdown_{name}": getattr(worst, name) for name in names}
        found["max_drawdown"] = worst.depth if worst else _ZERO
        found["recovery_factor"] = divide(self.totals.net, found["max_drawdown"])
        found["current_drawdown"] = fall = equity[-1].drawdown
        found["longest_underwater"] = max((one.length for one, _ in falls), default=timedelta(0))
        if balance is not None:
            # every peak is at least the starting balance, which is above 0
            found["max_drawdown_pct"] = max((_HUNDRED * one.depth / peak for one, peak in falls), default=_ZERO)
            found["current_drawdown_pct"] = find_percent(fall, equity[-1].equity + fall)
        return {**found, "equity": equity, "drawdowns": [one for one, _ in falls]}

    def _list_days(self) -> list[tuple[date, Totals]]:
        """Return every day of the window with its totals; none without trades that count."""
        if self.first is None or self.last is None or not self.places:
            self.day_hours: list[tuple[int, int]] = []
            return []
        ends, self.day_hours = (
            find_day_hours(times, self.scope.zone) for times in ((self.first, self.last), self.ledger.closed_at)
        )
        # where clocks are set back past midnight, a later time may have the earlier date
        dates = [day for day, _ in (*ends, *self.day_hours)]
        return list_days(min(dates), max(dates), group(self.ledger, (day for day, _ in self.day_hours)))

    def _find_days(self, days: list[tuple[date, Totals]]) -> dict[str, Any]:
        balance = self.balance
        traded = [(day, totals) for day, totals in days if totals.trades]
        sharpe, sortino = compute_annual_ratios([totals.net for _, totals in days])
        return {
            "trades_per_day": divide(Decimal(self.totals.trades), len(days)),
            "best_day": find_extreme(traded, max),
            "worst_day": find_extreme(traded, min),
            "winning_days": sum(totals.net > _ZERO for _, totals in traded),
            "losing_days": sum(totals.net < _ZERO for _, totals in traded),
            "flat_days": sum(not totals.net for _, totals in traded),
            "idle_days": len(days) - len(traded),
            "pnl_sharpe": sharpe,
            "pnl_sortino": sortino,
            "daily": list_periods(days, balance),
            **{name: list_periods(merge_periods(days, name), balance) for name in PERIODS},
        }

    def _find_returns(self, days: list[tuple[date, Totals]]) -> dict[str, Any]:
        """Return the figures that need a starting balance; cagr_pct is not rounded."""
        balance, number = self.balance, len(days)
        found: dict[str, Any] = dict.fromkeys(
            ("final_balance", "total_return_pct", "cagr_pct", "volatility_pct", "sharpe", "sortino", "var_95_pct", "cvar_95_pct")
        )
        if balance is None:
            return found
        final = found["final_balance"] = balance + self.totals.net
        if not days:
            return found
        found["total_return_pct"] = _HUNDRED * self.totals.net / balance
        if number > 1 and final >= 0:
            found["cagr_pct"] = _HUNDRED * ((final / balance) ** (Decimal(YEAR_DAYS) / number) - 1) if final else -_HUNDRED
        returns = find_returns(days, balance)
        if returns is None:
            return found
        found["sharpe"], found["sortino"] = compute_annual_ratios(returns)
        deviation = compute_sample_deviation(returns)
        found["volatility_pct"] = None if deviation is None else _HUNDRED * deviation * Decimal(YEAR_DAYS).sqrt()
        if number >= _TAIL:
            ordered, (low, rest) = sorted(returns), divmod(number - 1, _TAIL)
            found["var_95_pct"] = _HUNDRED * (ordered[low] + (ordered[low + 1] - ordered[low]) * rest / _TAIL)
            found["cvar_95_pct"] = _HUNDRED * sum(ordered[: low + 1], _ZERO) / (low + 1)
        return found

    def _find_groups(self, days: list[tuple[date, Totals]]) -> dict[str, Any]:
        names = (*GROUPED, "tag")
        columns = [pick(getattr(self.trades, name), self.places) for name in (*GROUPED, "tags")]
        cells = find_places(zip(*columns, strict=True))
        if len(cells) * _FEW < len(self.places):
            parts = [(key, add_up(self.ledger, places)) for key, places in cells.items()]
            groups = [merge((key[index], totals) for key, totals in parts) for index in range(len(names))]
        else:
            # so many cells cost more than a pass for each column
            groups = [group(self.ledger, column) for column in columns]
        by_name: dict[str, dict[Any, Totals]] = dict(zip(names, groups, strict=True))
        by_name["tag"] = merge((tag, totals) for tags, totals in by_name["tag"].items() for tag in dict.fromkeys(tags) or [""])
        by_name["hour"] = {**group(self.ledger, (hour for _, hour in self.day_hours))}
        by_name["weekday"] = merge((day.weekday(), totals) for day, totals in days if totals.trades)
        return {
            f"by_{name}": to_figures({"" if key is None else key: totals for key, totals in found.items()})
            for name, found in by_name.items()
        }
