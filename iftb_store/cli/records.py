"""The commands that show records: trades, stats, positions, events."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from iftb_store.analytics.figures import TradeStatistics
from iftb_store.cli.completion import one_of
from iftb_store.cli.data import Account, Exchange, Json, Limit, Option, Url, parse_time_window, read
from iftb_store.cli.output import format_clock_time, print_fitting, print_json, print_table, say
from iftb_store.cli.symbols import report_unknown
from iftb_store.manager import DatabaseManager
from iftb_store.models import Trade, TradeFilters
from iftb_store.repositories.events import SystemEventRepository
from iftb_store.repositories.positions import PositionRepository
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.table_spec import EVENTS, POSITIONS, TRADES
from iftb_store.values import checks
from iftb_store.values.choices import SEVERITIES, SIDES
from iftb_store.values.display import show
from iftb_store.values.readable import format_count, format_moment, format_number

Strategy = Annotated[str | None, Option(help="Only trades of this strategy.", metavar="NAME")]
ExitReason = Annotated[str | None, Option(help="Only trades closed for this reason.", metavar="NAME")]
Tag = Annotated[str | None, Option(help="Only trades with this tag.", metavar="NAME")]

# quotients have 18 decimal places, which are too many to read
_PLACES = 8
# the columns of trades that go first on a narrow terminal
_LEAST_OF_TRADES = ("tags", "strategy", "fee", "exit reason", "exit (UTC)", "exit price", "exchange", "trade", "state")


def trades(
    url: Url = None,
    symbol: Annotated[str | None, Option(help="Only trades of this symbol.")] = None,
    side: Annotated[
        str | None, Option(help=f"Only trades of this side: {', '.join(SIDES)}.", autocompletion=one_of(SIDES))
    ] = None,
    exchange: Exchange = None,
    account: Account = None,
    strategy: Strategy = None,
    exit_reason: ExitReason = None,
    tag: Tag = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only open trades.")] = False,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Only trades entered at this time or later.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Only trades entered at this time or before.")] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show the newest trades, newest first; with --open only those that are open.

    pnl is the stored realized_pnl, before fees. A column that is empty in all of these trades is left out. TIME is as in gaps,
    e.g. 2024-02-29 or -7d.
    """
    first, last = parse_time_window(start, end)
    filters = TradeFilters(account=account, strategy=strategy, exit_reason=exit_reason, tag=tag)
    chosen: dict[str, Any] = {"symbol": symbol, "side": checks.optional_choice(side, "--side", SIDES), "exchange": exchange}

    async def find(db: DatabaseManager) -> list[Trade]:
        repository = TradeRepository(db)
        return await repository.get_recent(limit, start=first, end=last, only_open=only_open, **chosen, **filters)

    found = read(url, TRADES, find)
    if not found:
        if as_json:
            print_json([])
        nothing = f"no {'open ' if only_open else ''}trades that match the options are stored"
        if symbol is not None:
            report_unknown(url, [symbol], nothing)
        if not as_json:
            say(
                nothing
                if any((symbol, side, exchange, first, last, *filters.values()))
                else nothing.replace(" that match the options", "")
            )
    elif as_json:
        print_json(found)
    else:
        _show_trades(found, limit)


def _show_trades(found: list[Trade], limit: int) -> None:
    cells = [
        {
            "trade": trade.trade_id,
            "exchange": trade.exchange,
            "account": trade.account,
            "symbol": trade.symbol,
            "side": trade.side,
            "state": {"close": "closed"}.get(trade.action, trade.action),
            "entry (UTC)": format_moment(trade.entry_time.replace(microsecond=0)),
            "entry price": format_number(trade.entry_price),
            "quantity": format_number(trade.quantity),
            "exit (UTC)": "" if trade.exit_time is None else format_moment(trade.exit_time.replace(microsecond=0)),
            "exit price": format_number(trade.exit_price),
            "pnl": format_number(trade.realized_pnl),
            "fee": format_number(trade.fee),
            "strategy": trade.strategy or "",
            "exit reason": trade.exit_reason or "",
            "tags": ", ".join(trade.tags),
        }
        for trade in found
    ]
    titles = [title for title in cells[0] if any(row[title] for row in cells)]
    numbers = [title for title in ("entry price", "quantity", "exit price", "pnl", "fee") if title in titles]
    key = titles.index("side") + 1
    rows = [[row[title] for title in titles] for row in cells]
    # one exchange need not be repeated
    kept = ["exchange"] if len({trade.exchange for trade in found}) > 1 else []
    least = [title for title in _LEAST_OF_TRADES if title in titles and title not in kept]
    print_fitting(titles, rows, least, right=numbers, key=key)
    newest = f"the newest {len(found):,}; --limit shows more" if len(found) == limit else format_count(len(found), "trade")
    say(f"{newest} (times in UTC)")


def stats(
    url: Url = None,
    days: Annotated[int, typer.Option(min=1, help="Include trades realized in the last DAYS days.", metavar="DAYS")] = 30,
    exchange: Exchange = None,
    account: Account = None,
    strategy: Strategy = None,
    exit_reason: ExitReason = None,
    tag: Tag = None,
    as_json: Json = False,
) -> None:
    """Show statistics of recently realized trades, e.g. win rate and PnL, before and after fees.

    The PnL before fees is the sum of the stored realized_pnl.
    """
    filters = TradeFilters(account=account, strategy=strategy, exit_reason=exit_reason, tag=tag)
    figures = read(url, TRADES, lambda db: TradeRepository(db).get_statistics(days, exchange, **filters))
    if as_json:
        print_json({"exchange": exchange, "days": days, **asdict(figures), "net_pnl_after_fees": figures.net_pnl_after_fees})
    else:
        say(f"trades of {'all exchanges' if exchange is None else exchange}, realized in the last {format_count(days, 'day')}")
        make_statistics_table(figures)


def positions(url: Url = None, exchange: Exchange = None, account: Account = None, as_json: Json = False) -> None:
    """Show the open positions by exchange, symbol and time; with their accounts if one of them has an account."""
    found = read(url, POSITIONS, lambda db: PositionRepository(db).get_open_positions(exchange, account=account))
    if as_json:
        print_json(found)
    elif found:
        figures = ["quantity", "entry_price", "margin", "leverage", "unrealized_pnl"]
        titles = [name.replace("_", " ") for name in figures]
        owners = ["account"] if any(item.account for item in found) else []
        rows = [
            (
                str(item.id),
                item.exchange,
                *(item.account for _ in owners),
                item.symbol,
                item.side,
                format_moment(item.entry_time.replace(microsecond=0)),
                *(format_number(getattr(item, name)) for name in figures),
            )
            for item in found
        ]
        names = ["id", "exchange", *owners, "symbol", "side"]
        columns = [*names, "since (UTC)", *titles]
        least = ["leverage", "margin", *(["exchange"] if len({item.exchange for item in found}) == 1 else []), "id"]
        print_fitting(columns, rows, least, right=["id", *titles], key=len(names))
    else:
        of = "" if account is None else f" of the account {show(account)}"
        say("no open positions" + ("" if exchange is None else f" on {exchange}") + of)


def events(
    url: Url = None,
    severity: Annotated[
        str | None, Option(help=f"Only events of this severity: {', '.join(SEVERITIES)}.", autocompletion=one_of(SEVERITIES))
    ] = None,
    limit: Limit = 20,
    account: Account = None,
    as_json: Json = False,
) -> None:
    """Show the newest system events, newest first."""
    chosen = checks.optional_choice(severity, "--severity", SEVERITIES)
    found = read(url, EVENTS, lambda db: SystemEventRepository(db).get_recent_events(chosen, limit, account=account))
    if as_json:
        print_json(found)
    elif found:
        owners = ["account"] if any(item.account for item in found) else []
        names = "severity", "event_type", *owners, "symbol", "message"
        rows = [(format_clock_time(item.created_at), *(getattr(item, name) or "" for name in names)) for item in found]
        columns = ["time (UTC)", "severity", "event", *owners, "symbol", "message"]
        print_fitting(columns, rows, right=False, wrapped=["message"], key=3)
    else:
        of = ("" if severity is None else f" of severity {severity}") + (
            "" if account is None else f" of the account {show(account)}"
        )
        say(f"no events{of} are stored")


def make_statistics_table(figures: TradeStatistics) -> None:
    """Print trade statistics, one figure a row, rounded to 8 places (percentages to 2)."""
    counts = [(name, f"{getattr(figures, name):,}") for name in ("total_trades", "winning_trades", "losing_trades")]
    money = {
        "pnl before fees": "net_pnl",
        "fees": "total_fees",
        "pnl after fees": "net_pnl_after_fees",
        **{name: name for name in ("gross_profit", "gross_loss", "avg_win", "avg_loss", "largest_win", "largest_loss")},
    }
    rows = [
        *counts,
        ("win_rate", f"{format_number(figures.win_rate, 2)} %"),
        *((title, format_number(getattr(figures, name), _PLACES)) for title, name in money.items()),
        ("profit_factor", format_number(figures.profit_factor, _PLACES) or "none (no losses)"),
    ]
    print_table(["figure", "value"], [(name.replace("_", " "), value) for name, value in rows], right=["value"])
