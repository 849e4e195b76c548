"""The results of `iftb_store.TradeRepository.get_statistics` and `get_performance`: figures of trades, as slotted dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from iftb_store.values.decimals import CONTEXT


@dataclass(slots=True)
class TradeStatistics:
    """Statistics of realized trades, in quote currency; see `iftb_store.analytics.statistics` for the rounding.

    Attributes:
        total_trades: the number of realized trades.
        winning_trades: the number of trades with a profit above 0.
        losing_trades: the number of trades with a loss.
        win_rate: winning_trades / total_trades in percent; 0 without trades.
        gross_profit: the sum of the profits.
        gross_loss: the sum of the losses, never negative.
        net_pnl: gross_profit - gross_loss; fees are not subtracted, see `net_pnl_after_fees`.
        total_fees: the sum of the fees.
        avg_win: gross_profit / winning_trades; 0 without a winning trade.
        avg_loss: gross_loss / losing_trades; 0 without a losing trade.
        largest_win: the greatest profit of a trade; 0 without a winning trade.
        largest_loss: the greatest loss of a trade, never negative; 0 without a losing trade.
        profit_factor: gross_profit / gross_loss; None if there is no loss.
    """

    total_trades: int
    winning_trades: int
    losing_trades: int
    win_rate: Decimal
    gross_profit: Decimal
    gross_loss: Decimal
    net_pnl: Decimal
    total_fees: Decimal
    avg_win: Decimal
    avg_loss: Decimal
    largest_win: Decimal
    largest_loss: Decimal
    profit_factor: Decimal | None = None

    @property
    def net_pnl_after_fees(self) -> Decimal:
        """net_pnl - total_fees: the result, if the stored realized_pnl is before fees."""
        return CONTEXT.subtract(self.net_pnl, self.total_fees)

    def _repr_html_(self) -> str:
        # only notebooks need it
        from iftb_store.values.readable import describe_in_table

        named = {**{item.name: getattr(self, item.name) for item in fields(self)}, "net_pnl_after_fees": self.net_pnl_after_fees}
        return describe_in_table(named)


class EquityPoint(NamedTuple):
    """The equity after all trades that were closed at one time; exact sums, whose Decimals may end in zeros.

    Attributes:
        time: the time, UTC; that of the first point is the start of the window.
        equity: the starting balance (0 if it is not given) plus the net results so far.
        drawdown: the greatest equity so far, minus this one.
    """

    time: datetime
    equity: Decimal
    drawdown: Decimal


@dataclass(slots=True)
class Drawdown:
    """A period in which the equity was below an earlier peak.

    Attributes:
        start: the last time at the peak before the fall, UTC.
        valley: the first time of the lowest equity.
        recovery: the first time at the peak again; None: not yet.
        depth: peak - lowest equity.
        depth_pct: 100 depth / peak; None without a starting balance.
        length: from start to recovery, or to the end of the window.
    """

    start: datetime
    valley: datetime
    recovery: datetime | None
    depth: Decimal
    depth_pct: Decimal | None
    length: timedelta


@dataclass(slots=True)
class DayResult:
    """A day and its result.

    Attributes:
        day: the calendar day of the report's time zone.
        net_pnl: the sum of the net results of the trades that were closed on this day.
    """

    day: date
    net_pnl: Decimal

    def __str__(self) -> str:
        return f"{self.day.isoformat()} ({self.net_pnl:f})"


@dataclass(slots=True)
class PeriodFigures:
    """The figures of a calendar day, week, month or year of the report's time zone.

    Attributes:
        period: the first day of the period; weeks begin on Monday. The first period may begin before the window.
        total_trades: the number of trades that were closed in the period.
        winning_trades: those with a net result above 0.
        losing_trades: those with a net result below 0.
        breakeven_trades: those with a net result of 0.
        total_fees: the sum of the fees.
        net_pnl: the sum of the net results.
        return_pct: 100 net_pnl / balance at the period's beginning; None if this balance is not known or not above 0.
        balance: the balance at the period's end; None without a starting balance.
    """

    period: date
    total_trades: int
    winning_trades: int
    losing_trades: int
    breakeven_trades: int
    total_fees: Decimal
    net_pnl: Decimal
    return_pct: Decimal | None
    balance: Decimal | None


@dataclass(slots=True)
class GroupFigures:
    """The figures of the trades of a group, e.g. of a symbol.

    Attributes:
        total_trades: the number of trades.
        winning_trades: those with a net result above 0.
        losing_trades: those with a net result below 0.
        breakeven_trades: those with a net result of 0.
        win_rate: 100 winning_trades / total_trades.
        pnl_before_fees: the sum of the results before fees.
        total_fees: the sum of the fees.
        net_pnl: pnl_before_fees - total_fees.
        profit_factor: the sum of the wins / the sum of the losses; None without a loss.
        expectancy: net_pnl / total_trades, money per trade.
        avg_holding: the mean of exit_time - entry_time of the trades with an exit_time, rounded half-even to the microsecond;
            None if no trade has one.
    """

    total_trades: int
    winning_trades: int
    losing_trades: int
    breakeven_trades: int
    win_rate: Decimal | None
    pnl_before_fees: Decimal
    total_fees: Decimal
    net_pnl: Decimal
    profit_factor: Decimal | None
    expectancy: Decimal | None
    avg_holding: timedelta | None


@dataclass(slots=True)
class PerformanceReport:
    """The performance of trades; `iftb_store.TradeRepository.get_performance` returns it.

    In the definitions, x is the net result of a trade, n the number of trades, B the starting balance, and N the number of
    calendar days of the time zone from the start of the window to its end, days without a trade included. Money is in the
    currency of realized_pnl. Sums are exact; quotients and roots are rounded half-even to 18 places. A figure that is undefined
    is None: without trades, all but the counts and sums.

    Attributes:
        exchange: the exchange of the trades; None: all.
        symbol: the symbol of the trades; None: all.
        side: the side of the trades; None: both.
        account: the account of the trades; None: all.
        strategy: the strategy of the trades; None: all.
        exit_reason: the reason for which the trades were closed; None: all.
        tag: a tag that all trades have; None: any.
        fees: "apart": x = realized_pnl - fee; "included": x = realized_pnl.
        tz: the name of the time zone of days, weekdays and hours.
        start: start of the window, UTC: the given one, or the earliest entry_time or closing of the trades; None without
            either.
        end: end of the window, UTC: the given one, or the latest closing; None without either.
        days: N; 0 without trades.
        starting_balance: B; None if it is unknown: then the figures that need it are None.
        balance_source: where B is from: "given", or "snapshots": the sum of the newest total of every account, on every exchange,
            at the start; None without B.
        currency: the currency of the snapshots of balances that B or marked_equity are from; None if none are used: they belong
            to whole accounts, so a report of a symbol, side, strategy, exit_reason or tag uses none, nor does one of several
            currencies, if none was named.
        funding: the sums of the funding payments in the window by currency, as the ledger has them; they are part of no other
            figure. None in a report of a side, strategy, exit_reason or tag, which a payment does not have.
        total_trades: n.
        winning_trades: the number of trades with x > 0.
        losing_trades: the number of trades with x < 0.
        breakeven_trades: the number of trades with x = 0.
        long_trades: the number of long trades.
        short_trades: the number of short trades.
        open_trades: trades with the action open whose realized_pnl is not set, entered at the end of the window or before.
        unaccounted_trades: closed or liquidated trades of the window without realized_pnl, which all figures ignore.
        win_rate: 100 winning_trades / n: breakevens count in n.
        pnl_before_fees: the sum of the results before fees.
        total_fees: the sum of the fees.
        net_pnl: pnl_before_fees - total_fees, the sum of x.
        gross_profit: the sum of x > 0.
        gross_loss: the sum of x < 0, without its sign.
        profit_factor: gross_profit / gross_loss; None without a loss.
        avg_win: gross_profit / winning_trades.
        avg_loss: gross_loss / losing_trades.
        largest_win: the greatest x > 0.
        largest_loss: the least x < 0, without its sign.
        median_pnl: the median of x; the mean of the middle two if n is even.
        payoff_ratio: avg_win / avg_loss.
        expectancy: net_pnl / n, money per trade.
        expectancy_ratio: expectancy / avg_loss: the mean result in units of the mean loss.
        pnl_std: the sample standard deviation of x (divided by n - 1); None if n < 2.
        sqn: the system quality number, sqrt(n) expectancy / pnl_std; None if n < 2 or all x are equal.
        avg_pnl_pct: the mean of realized_pnl_pct where it is set.
        best_pnl_pct: the greatest realized_pnl_pct.
        worst_pnl_pct: the least realized_pnl_pct.
        max_consecutive_wins: the longest run of x > 0 in the order of closing; a breakeven ends a run.
        max_consecutive_losses: the longest run of x < 0.
        current_streak: the run at the end: k wins are +k, k losses -k, a breakeven 0.
        avg_holding: the mean of exit_time - entry_time of the trades with an exit_time, rounded half-even to the microsecond.
        shortest_holding: the least of these times.
        longest_holding: the greatest of these times.
        avg_winning_holding: the mean of these times for the trades with x > 0.
        avg_losing_holding: the mean of these times for the trades with x < 0.
        trades_per_day: n / N.
        exposure: percent of the window in which at least one trade was open, including trades that are still open; None if the
            window's length is 0.
        max_concurrent_trades: the most trades that were open at once; at one instant, exits come before entries.
        max_drawdown: the greatest fall of the equity from its peak so far, in money; 0 if it never fell.
        max_drawdown_start: the last time at the peak before that fall, UTC; if several falls are equal, before the earliest.
        max_drawdown_valley: the first time of the lowest equity in that fall.
        max_drawdown_recovery: the first time at the peak again; None: not yet.
        max_drawdown_pct: the greatest fall in percent of its peak, possibly not the fall of max_drawdown; None without B.
        current_drawdown: the peak of the equity - its last value.
        current_drawdown_pct: the same in percent of the peak; None without B.
        longest_underwater: the longest time from a peak to its recovery, or to the end of the window.
        recovery_factor: net_pnl / max_drawdown; None without a drawdown.
        best_day: the day with the greatest net_pnl among the days on which a trade was closed; the earliest if several are equal.
        worst_day: the day with the least net_pnl among these days; the earliest if several are equal.
        winning_days: the days with closings and a net_pnl above 0.
        losing_days: the days with a net_pnl below 0.
        flat_days: the days with closings and a net_pnl of 0.
        idle_days: the days without a closing.
        pnl_sharpe: the Sharpe ratio of the daily net_pnl, as `sharpe`; it needs no B. None if N < 2 or all days are equal.
        pnl_sortino: the Sortino ratio of the daily net_pnl, as `sortino`; None if N < 2 or no day lost.
        final_balance: B + net_pnl.
        total_return_pct: 100 net_pnl / B.
        cagr_pct: 100 ((final_balance / B) ** (365 / N) - 1), percent per year; None without B, if N < 2 or final_balance < 0.
        volatility_pct: 100 std(r) sqrt(365), where r are the daily returns, net_pnl of the day / balance at its beginning, and
            std divides by N - 1. None without B, if N < 2, or if a day began with a balance of 0 or less; in these cases the
            next four are None, too.
        sharpe: mean(r) / std(r) sqrt(365), with a risk-free rate of 0; None if all r are equal.
        sortino: mean(r) / sqrt(sum(min(r, 0) ** 2) / N) sqrt(365); None if no r is below 0.
        var_95_pct: the 5th percentile of r, linear between ranks, percent per day; negative is a loss. None if N < 20.
        cvar_95_pct: the mean of the floor((N - 1) / 20) + 1 least r. None if N < 20.
        calmar: cagr_pct / max_drawdown_pct; None if one is None or there is no drawdown.
        marked_drawdown: the greatest fall of marked_equity from its peak so far, in money; None without points.
        marked_equity: the equity with open trades at their market value: the sum of total and unrealized_pnl of the newest
            snapshots of all accounts, at the start and at each time of a snapshot, from the first time at which all are known.
            The deposits, withdrawals and transfers that the ledger has since the first point are taken out. Snapshots without
            unrealized_pnl are left out; a spot account records 0. Empty if there are no snapshots.
        equity: the equity: the start, then one point for each closing time, so that trades which close together are one step.
        drawdowns: all periods of drawdown, the deepest first.
        daily: the figures of every day of the window, days without trades included.
        weekly: those of every week.
        monthly: those of every month.
        yearly: those of every year.
        by_symbol: the figures of each symbol that has trades, ordered by symbol.
        by_side: the figures of each side, likewise.
        by_action: the figures of each action, likewise.
        by_account: the figures of each account, likewise; the empty text: of the trades without one.
        by_strategy: the figures of each strategy, likewise.
        by_exit_reason: the figures of each exit_reason, likewise.
        by_tag: the figures of each tag, likewise; a trade with several tags is in each of their groups.
        by_weekday: the figures of each weekday of closing in the time zone, 0 is Monday, likewise.
        by_hour: the figures of each hour of closing, 0 to 23, likewise.
    """

    exchange: str | None
    symbol: str | None
    side: str | None
    account: str | None
    strategy: str | None
    exit_reason: str | None
    tag: str | None
    fees: str
    tz: str
    start: datetime | None
    end: datetime | None
    days: int
    starting_balance: Decimal | None
    balance_source: str | None
    currency: str | None
    funding: dict[str, Decimal] | None
    total_trades: int
    winning_trades: int
    losing_trades: int
    breakeven_trades: int
    long_trades: int
    short_trades: int
    open_trades: int
    unaccounted_trades: int
    win_rate: Decimal | None
    pnl_before_fees: Decimal
    total_fees: Decimal
    net_pnl: Decimal
    gross_profit: Decimal
    gross_loss: Decimal
    profit_factor: Decimal | None
    avg_win: Decimal | None
    avg_loss: Decimal | None
    largest_win: Decimal | None
    largest_loss: Decimal | None
    median_pnl: Decimal | None
    payoff_ratio: Decimal | None
    expectancy: Decimal | None
    expectancy_ratio: Decimal | None
    pnl_std: Decimal | None
    sqn: Decimal | None
    avg_pnl_pct: Decimal | None
    best_pnl_pct: Decimal | None
    worst_pnl_pct: Decimal | None
    max_consecutive_wins: int
    max_consecutive_losses: int
    current_streak: int
    avg_holding: timedelta | None
    shortest_holding: timedelta | None
    longest_holding: timedelta | None
    avg_winning_holding: timedelta | None
    avg_losing_holding: timedelta | None
    trades_per_day: Decimal | None
    exposure: Decimal | None
    max_concurrent_trades: int | None
    max_drawdown: Decimal | None
    max_drawdown_start: datetime | None
    max_drawdown_valley: datetime | None
    max_drawdown_recovery: datetime | None
    max_drawdown_pct: Decimal | None
    current_drawdown: Decimal | None
    current_drawdown_pct: Decimal | None
    longest_underwater: timedelta | None
    recovery_factor: Decimal | None
    best_day: DayResult | None
    worst_day: DayResult | None
    winning_days: int
    losing_days: int
    flat_days: int
    idle_days: int
    pnl_sharpe: Decimal | None
    pnl_sortino: Decimal | None
    final_balance: Decimal | None
    total_return_pct: Decimal | None
    cagr_pct: Decimal | None
    volatility_pct: Decimal | None
    sharpe: Decimal | None
    sortino: Decimal | None
    var_95_pct: Decimal | None
    cvar_95_pct: Decimal | None
    calmar: Decimal | None
    marked_drawdown: Decimal | None
    marked_equity: list[EquityPoint]
    equity: list[EquityPoint]
    drawdowns: list[Drawdown]
    daily: list[PeriodFigures]
    weekly: list[PeriodFigures]
    monthly: list[PeriodFigures]
    yearly: list[PeriodFigures]
    by_symbol: dict[str, GroupFigures]
    by_side: dict[str, GroupFigures]
    by_action: dict[str, GroupFigures]
    by_account: dict[str, GroupFigures]
    by_strategy: dict[str, GroupFigures]
    by_exit_reason: dict[str, GroupFigures]
    by_tag: dict[str, GroupFigures]
    by_weekday: dict[int, GroupFigures]
    by_hour: dict[int, GroupFigures]

    def _repr_html_(self) -> str:
        # only notebooks need it
        from iftb_store.values.readable import describe_in_table

        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return describe_in_table({name: value for name, value in values.items() if not isinstance(value, list | dict)})
