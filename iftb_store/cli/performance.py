"""The command that shows the performance of trades: figures, sparklines and groups."""

from __future__ import annotations

from dataclasses import asdict
from datetime import tzinfo
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

import typer

from iftb_store.analytics.figures import EquityPoint, PerformanceReport
from iftb_store.analytics.shown import (
    GROUP_TITLES,
    GROUPS,
    LEAST_IMPORTANT,
    SHOWN,
    UNDEFINED,
    describe_scope,
    explain_undefined,
    format_figure,
    format_group_key,
    format_money,
    list_group_cells,
    list_groups,
)
from iftb_store.cli.completion import one_of
from iftb_store.cli.data import Account, Exchange, Json, Option, Url, parse_time_window, read
from iftb_store.cli.output import console, is_utf8, print_fitting, print_json, print_title, say, say_fitting
from iftb_store.cli.sparklines import draw_depths, draw_levels, sample_equity
from iftb_store.errors import InvalidValueError
from iftb_store.manager import DatabaseManager
from iftb_store.models import TradeFilters
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.table_spec import TRADES
from iftb_store.values import checks
from iftb_store.values.choices import FEES, SIDES
from iftb_store.values.decimals import NUMBER
from iftb_store.values.display import show
from iftb_store.values.suggestions import suggest

Start = Annotated[
    str | None, typer.Option(metavar="TIME", help="Start of the time window, inclusive (default: the first entry into a trade).")
]
End = Annotated[str | None, typer.Option(metavar="TIME", help="End of the time window, inclusive (default: last closing).")]
Balance = Annotated[
    str | None,
    Option(
        metavar="NUMBER",
        help="Balance at the start (default: the stored one); without one there are no returns and related figures.",
    ),
]
FeeMode = Annotated[
    str,
    typer.Option(
        "--fees",
        metavar="MODE",
        help="apart: realized_pnl is before fees, and this command subtracts them; included: realized_pnl is after fees.",
        autocompletion=one_of(FEES),
    ),
]
Zone = Annotated[str, typer.Option("--tz", metavar="NAME", help="Time zone of days, weekdays and hours, e.g. Europe/Berlin.")]

OneSide = Annotated[str | None, Option(help=f"Only trades of this side: {', '.join(SIDES)}.", autocompletion=one_of(SIDES))]

Strategy = Annotated[str | None, Option(help="Only trades of this strategy.", metavar="NAME")]
ExitReason = Annotated[str | None, Option(help="Only trades closed for this reason.", metavar="NAME")]
Tag = Annotated[str | None, Option(help="Only trades with this tag.", metavar="NAME")]
Currency = Annotated[
    str | None, Option(help="Currency of the stored balances to use (default: any, if all are of one).", metavar="NAME")
]

_MAX_WIDTH = 60
# groups that only --json and the HTML report have
_NOT_SHOWN = ("by_action", "by_weekday", "by_hour")


def performance(
    url: Url = None,
    exchange: Exchange = None,
    symbol: Annotated[str | None, Option(help="Only trades of this symbol.")] = None,
    side: OneSide = None,
    account: Account = None,
    strategy: Strategy = None,
    exit_reason: ExitReason = None,
    tag: Tag = None,
    balance: Balance = None,
    currency: Currency = None,
    fees: FeeMode = "apart",
    tz: Zone = "UTC",
    start: Start = None,
    end: End = None,
    as_json: Json = False,
) -> None:
    """Show the performance of closed trades: figures, equity and drawdown, and groups by symbol, side and month.

    The trades are also grouped by account, strategy, exit reason and tag, if they have any. Funding of the ledger is shown apart.
    A figure that is undefined is n/a, with the reason. TIME is as in gaps, e.g. 2024-02-29 or -30d.
    """
    first, last = parse_time_window(start, end)
    given = parse_performance_options(side, balance, fees, tz)
    filters = TradeFilters(account=account, strategy=strategy, exit_reason=exit_reason, tag=tag)

    async def work(db: DatabaseManager) -> PerformanceReport:
        repository = TradeRepository(db)
        return await repository.get_performance(first, last, exchange, symbol=symbol, currency=currency, **given, **filters)

    report = read(url, TRADES, work)
    if as_json:
        curves = {name: [point._asdict() for point in getattr(report, name)] for name in ("equity", "marked_equity")}
        print_json(asdict(report) | curves)
        return
    for line in describe_scope(report):
        say_fitting(line)
    if report.unaccounted_trades:
        say(f"left out, because realized_pnl is not set: {report.unaccounted_trades:,}")
    for title, figures in SHOWN.items():
        rows = []
        for name, label, kind in figures:
            value = getattr(report, name)
            reason = "" if value is not None else f" ({explain_undefined(report, name)})"
            rows.append((label, (UNDEFINED if value is None else format_figure(value, kind)) + reason))
        say()
        print_fitting([title.lower(), "value"], rows, right=False)
    if report.total_trades:
        _draw(report)
        _show_groups(report)


def parse_performance_options(side: str | None, balance: str | None, fees: str, tz: str) -> dict[str, Any]:
    """Return the arguments that some options mean."""
    return {
        "side": checks.optional_choice(side, "--side", SIDES),
        "starting_balance": checks.optional(_parse_balance, balance, "--balance"),
        "fees": checks.choice(fees, "--fees", FEES),
        "tz": parse_zone(tz),
    }


def parse_zone(name: str) -> tzinfo:
    """Return the time zone of a name; raise InvalidValueError if there is none."""
    try:
        return ZoneInfo(name)
    except Exception as error:
        # a name with .. or NUL, or of a folder, raises ValueError or OSError
        known = available_timezones()
        hint = suggest(name, known) if known else "Python finds no time zones here: pip install tzdata; "
        raise InvalidValueError(f"--tz {show(name)} is not a time zone; {hint}write it as Europe/Berlin or UTC") from error


def _parse_balance(text: object, option: str) -> Decimal:
    if not NUMBER.fullmatch(str(text)):
        raise InvalidValueError(f"{option} {show(text)} is not a number")
    return Decimal(str(text))


def _draw(report: PerformanceReport) -> None:
    sampled = sample_equity(report.equity, min(_MAX_WIDTH, console().width))
    _draw_equity("equity", report.equity)
    say()
    print_title("drawdown")
    say(draw_depths([fall for _, fall in sampled], utf8=is_utf8()))
    deepest = format_figure(report.max_drawdown, "money")
    say(f"deepest {deepest}, now {format_figure(report.current_drawdown, 'money')}")
    if report.marked_equity:
        _draw_equity("equity, marked to market", report.marked_equity)


def _draw_equity(title: str, points: list[EquityPoint]) -> None:
    sampled = sample_equity(points, min(_MAX_WIDTH, console().width))
    say()
    print_title(title)
    say(draw_levels([value for value, _ in sampled], utf8=is_utf8()))
    say(f"{format_money(points[0].equity)} to {format_money(points[-1].equity)}")


def _show_groups(report: PerformanceReport) -> None:
    for name in (name for name in list_groups(report) if name not in _NOT_SHOWN):
        title, groups = GROUPS[name], getattr(report, name)
        rows = [(format_group_key(name, key), *list_group_cells(group)) for key, group in groups.items()]
        say()
        print_fitting([title, *GROUP_TITLES], rows, LEAST_IMPORTANT)
    rows = [
        (
            f"{month.period:%Y-%m}",
            f"{month.total_trades:,}",
            f"{month.winning_trades:,}",
            f"{month.losing_trades:,}",
            format_figure(month.net_pnl, "money"),
            format_figure(month.total_fees, "money"),
            format_figure(month.return_pct, "percent"),
            format_figure(month.balance, "money"),
        )
        for month in report.monthly
    ]
    titles = ["month", "trades", "wins", "losses", "net pnl", "fees", "return", "balance"]
    say()
    print_fitting(titles, rows, ("losses", "wins", "fees", "balance"))
