"""Formats performance figures for people: their names, in groups; their values as text; and why a figure is undefined."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from iftb_store.analytics.figures import DayResult, GroupFigures, PerformanceReport
from iftb_store.values.readable import format_count, format_duration, format_moment, format_number

#: What kind of value a figure is, which decides how it is rounded for display.
Kind = Literal["count", "money", "percent", "ratio", "time", "duration", "day"]

#: The figures of a report in groups, each as (field, name for people, kind).
SHOWN: dict[str, tuple[tuple[str, str, Kind], ...]] = {
    "Result": (
        ("net_pnl", "net pnl", "money"),
        ("pnl_before_fees", "pnl before fees", "money"),
        ("total_fees", "fees", "money"),
        ("starting_balance", "starting balance", "money"),
        ("final_balance", "final balance", "money"),
        ("total_return_pct", "total return", "percent"),
        ("cagr_pct", "return a year (CAGR)", "percent"),
    ),
    "Trades": (
        ("total_trades", "closed trades", "count"),
        ("winning_trades", "wins", "count"),
        ("losing_trades", "losses", "count"),
        ("breakeven_trades", "breakevens", "count"),
        ("win_rate", "win rate", "percent"),
        ("profit_factor", "profit factor", "ratio"),
        ("payoff_ratio", "payoff ratio", "ratio"),
        ("expectancy", "expectancy", "money"),
        ("expectancy_ratio", "expectancy ratio", "ratio"),
        ("sqn", "SQN", "ratio"),
        ("avg_win", "average win", "money"),
        ("avg_loss", "average loss", "money"),
        ("largest_win", "largest win", "money"),
        ("largest_loss", "largest loss", "money"),
        ("median_pnl", "median pnl", "money"),
        ("pnl_std", "standard deviation", "money"),
        ("avg_pnl_pct", "average pnl", "percent"),
        ("best_pnl_pct", "best pnl", "percent"),
        ("worst_pnl_pct", "worst pnl", "percent"),
        ("long_trades", "long trades", "count"),
        ("short_trades", "short trades", "count"),
        ("open_trades", "open trades", "count"),
        ("unaccounted_trades", "closed without pnl", "count"),
    ),
    "Risk": (
        ("max_drawdown", "max drawdown", "money"),
        ("max_drawdown_pct", "max drawdown, %", "percent"),
        ("max_drawdown_start", "drawdown from", "time"),
        ("max_drawdown_valley", "drawdown valley", "time"),
        ("max_drawdown_recovery", "drawdown recovered", "time"),
        ("longest_underwater", "longest underwater", "duration"),
        ("current_drawdown", "current drawdown", "money"),
        ("current_drawdown_pct", "current drawdown, %", "percent"),
        ("marked_drawdown", "max drawdown, marked", "money"),
        ("recovery_factor", "recovery factor", "ratio"),
        ("sharpe", "Sharpe", "ratio"),
        ("sortino", "Sortino", "ratio"),
        ("calmar", "Calmar", "ratio"),
        ("volatility_pct", "volatility a year", "percent"),
        ("var_95_pct", "value at risk, a day", "percent"),
        ("cvar_95_pct", "expected shortfall", "percent"),
        ("pnl_sharpe", "Sharpe of daily pnl", "ratio"),
        ("pnl_sortino", "Sortino of daily pnl", "ratio"),
    ),
    "Time": (
        ("days", "days", "count"),
        ("trades_per_day", "trades a day", "ratio"),
        ("exposure", "exposure", "percent"),
        ("max_concurrent_trades", "most at once", "count"),
        ("avg_holding", "average holding", "duration"),
        ("shortest_holding", "shortest holding", "duration"),
        ("longest_holding", "longest holding", "duration"),
        ("avg_winning_holding", "holding of wins", "duration"),
        ("avg_losing_holding", "holding of losses", "duration"),
        ("max_consecutive_wins", "wins in a row", "count"),
        ("max_consecutive_losses", "losses in a row", "count"),
        ("current_streak", "current streak", "count"),
        ("best_day", "best day", "day"),
        ("worst_day", "worst day", "day"),
        ("winning_days", "winning days", "count"),
        ("losing_days", "losing days", "count"),
        ("flat_days", "flat days", "count"),
        ("idle_days", "idle days", "count"),
    ),
}
#: The lists of groups, each with its name for people.
GROUPS = {
    "by_symbol": "symbol",
    "by_side": "side",
    "by_action": "action",
    "by_account": "account",
    "by_strategy": "strategy",
    "by_exit_reason": "exit reason",
    "by_tag": "tag",
    "by_weekday": "weekday",
    "by_hour": "hour",
}
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
#: What is shown for an undefined figure.
UNDEFINED = "n/a"

_PLACES: dict[Kind, int] = {"percent": 2, "ratio": 4}
#: Amounts of money of at least the first number are shown with the second number of places.
_MONEY_PLACES = ((Decimal(1_000), 2), (Decimal(1), 4), (Decimal(0), 8))
_OF_BALANCE = {
    "starting_balance", "final_balance", "total_return_pct", "cagr_pct", "max_drawdown_pct", "current_drawdown_pct", "calmar",
    "volatility_pct", "sharpe", "sortino", "var_95_pct", "cvar_95_pct",
}  # fmt: skip
_OF_LOSSES = {"profit_factor", "avg_loss", "largest_loss", "expectancy_ratio", "avg_losing_holding"}
_OF_WINS = {"avg_win", "largest_win", "payoff_ratio", "avg_winning_holding"}
_OF_RETURNS = {"volatility_pct", "sharpe", "sortino", "var_95_pct", "cvar_95_pct"}
_OF_DRAWDOWN = {"max_drawdown_start", "max_drawdown_valley", "recovery_factor", "calmar"}
_TAIL_DAYS = 20


def format_figure(value: Any, kind: Kind) -> str:
    """Return the text of a figure, rounded for display: ratios to 4 places, percentages to 2, money as `format_money`."""
    if value is None:
        return UNDEFINED
    if isinstance(value, DayResult):
        return f"{value.day.isoformat()} ({format_money(value.net_pnl)})"
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, datetime):
        return format_moment(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal) and kind == "money":
        return format_money(value)
    if isinstance(value, Decimal):
        return format_number(value, _PLACES.get(kind)) + (" %" if kind == "percent" else "")
    return f"{value:,}"


def format_money(value: Decimal) -> str:
    """Return an amount of money, rounded to 8 decimal places, or to 4 if it is at least 1, or to 2 if it is at least 1,000."""
    return format_number(value, next(places for least, places in _MONEY_PLACES if abs(value) >= least))


def explain_undefined(report: PerformanceReport, name: str) -> str:
    """Return why a figure of a report is None, for people."""
    if name in _OF_BALANCE and report.starting_balance is None:
        return "no starting balance is given or stored"
    if name == "marked_drawdown":
        return "no balances with unrealized_pnl are stored"
    if not report.total_trades:
        return "no trade was closed"
    if name in _OF_LOSSES and not report.losing_trades:
        return "no trade lost"
    if (name in _OF_WINS or name == "payoff_ratio") and not report.winning_trades:
        return "no trade won"
    if name == "payoff_ratio":
        return "no trade lost"
    if name in ("pnl_std", "sqn"):
        return "fewer than two trades" if report.total_trades < 2 else "all results are equal"
    if name.endswith("holding"):
        return "no exit_time is known"
    if name.endswith("pnl_pct"):
        return "no realized_pnl_pct is set"
    if name == "exposure":
        return "the window has no length"
    return _explain_days(report, name)


def _explain_days(report: PerformanceReport, name: str) -> str:
    if name == "max_drawdown_recovery" and report.max_drawdown:
        return "not yet"
    if (name in _OF_DRAWDOWN or name == "max_drawdown_recovery") and not report.max_drawdown:
        return "no drawdown"
    if report.days < 2:
        return "fewer than two days"
    if name in ("cagr_pct", "calmar"):
        return "the final balance is below 0"
    if name in ("var_95_pct", "cvar_95_pct") and report.days < _TAIL_DAYS:
        return f"fewer than {_TAIL_DAYS} days"
    if name in _OF_RETURNS and any(day.return_pct is None for day in report.daily):
        return "a day began with a balance of 0 or less"
    return "no day lost" if name.endswith("sortino") else "all days are equal"


def format_group_key(name: str, key: str | int) -> str:
    """Return the key of a group for people: the name of a weekday, an hour as 07:00, or the text; (none) for the empty one."""
    if name == "by_weekday":
        return WEEKDAYS[int(key)]
    return f"{key:02}:00" if name == "by_hour" else str(key) or "(none)"


def list_groups(report: PerformanceReport) -> list[str]:
    """Return the names of the groups that say something: not those in which no trade has an account, a strategy, …."""
    return [name for name in GROUPS if {*getattr(report, name)} - {""}]


def describe_scope(report: PerformanceReport) -> list[str]:
    """Return what a report covers: the trades, the window, and the meaning of its figures."""
    exchange = "all exchanges" if report.exchange is None else report.exchange
    chosen = " ".join(part for part in (exchange, report.symbol, report.side) if part is not None)
    for name in ("account", "strategy", "exit_reason", "tag"):
        if (value := getattr(report, name)) is not None:
            chosen += f", {name.replace('_', ' ')} {value or '(none)'}"
    closed = format_count(report.total_trades, "closed trade")
    window = "" if report.start is None or report.end is None else (
        f", {format_moment(report.start)} to {format_moment(report.end)} UTC"
    )  # fmt: skip
    result = "realized_pnl - fee" if report.fees == "apart" else "realized_pnl, which has the fees subtracted"
    balance = "none" if report.starting_balance is None else format_number(report.starting_balance)
    if report.balance_source == "snapshots":
        balance += f" {report.currency} (stored)"
    lines = [
        f"{chosen}: {closed}{window}",
        f"net pnl = {result}; starting balance: {balance}; days of {report.tz}",
    ]
    if report.funding:
        sums = ", ".join(f"{format_money(amount)} {currency}" for currency, amount in report.funding.items())
        lines.append(f"funding, apart from all figures: {sums}")
    if points := report.marked_equity:
        first, last = format_money(points[0].equity), format_money(points[-1].equity)
        lines.append(
            f"equity marked to market: {first} to {last} {report.currency} in {format_count(len(points), 'stored snapshot')}"
        )
    return lines


def list_group_cells(group: GroupFigures) -> list[str]:
    """Return the figures of a group as texts, in the order of `GROUP_TITLES`."""
    return [
        f"{group.total_trades:,}",
        f"{group.winning_trades:,}",
        f"{group.losing_trades:,}",
        format_figure(group.win_rate, "percent"),
        format_figure(group.net_pnl, "money"),
        format_figure(group.total_fees, "money"),
        format_figure(group.profit_factor, "ratio"),
        format_figure(group.expectancy, "money"),
        format_figure(group.avg_holding, "duration"),
    ]


#: The columns of a table of groups, after the key; and these from the least important one.
GROUP_TITLES = ("trades", "wins", "losses", "win rate", "net pnl", "fees", "profit factor", "expectancy", "avg holding")
LEAST_IMPORTANT = ("avg holding", "losses", "wins", "expectancy", "fees", "profit factor", "win rate")
