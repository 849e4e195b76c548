"""The commands that show what is stored: gaps, latest, stats, positions, events."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from iftb_store.analytics.coverage import count_missing
from iftb_store.cli.completion import one_of, timeframes, timeframes_without_url
from iftb_store.cli.output import format_clock_time, print_json, print_table, say
from iftb_store.cli.symbols import describe_near
from iftb_store.cli.target import URL_HELP, run, url_and_series
from iftb_store.errors import InvalidValueError, NotFoundError
from iftb_store.manager import DatabaseManager
from iftb_store.models import OHLCVBar, TradeFilters, TradeStatistics
from iftb_store.registry import get_stores
from iftb_store.repositories.events import SystemEventRepository
from iftb_store.repositories.exchanges import find_exchanges
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.positions import PositionRepository
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.scope import make_filter
from iftb_store.schema.table_spec import BARS, EVENTS, POSITIONS, SERIES, TRADES, RowFilter, TableSpec
from iftb_store.transfer.access import describe_hidden_rows
from iftb_store.values import checks
from iftb_store.values.choices import SEVERITIES
from iftb_store.values.display import show
from iftb_store.values.readable import format_count, format_moment, format_number
from iftb_store.values.suggestions import find_near
from iftb_store.values.timeframes import TIMEFRAMES, align, check_timeframe
from iftb_store.values.times import resolve_since

T = TypeVar("T")

_AGO = re.compile(r"-[0-9]{1,9}[mhdw]")
# quotients have 18 decimal places, which are too many to read
_PLACES = 8

#: An argument or an option whose default is not shown.
Argument, Option = partial(typer.Argument, show_default=False), partial(typer.Option, show_default=False)

Url = Annotated[str | None, Argument(metavar="URL", help=URL_HELP)]
Symbol = Annotated[
    str | None, Argument(metavar="SYMBOL", help="Symbol, e.g. BTCUSDT (required).", autocompletion=timeframes_without_url)
]
Timeframe = Annotated[
    str | None, Argument(metavar="TIMEFRAME", help=f"Timeframe (required): {' '.join(TIMEFRAMES)}.", autocompletion=timeframes)
]
Exchange = Annotated[str | None, Option(help="Only rows of this exchange (default: all exchanges).")]
Account = Annotated[
    str | None, Option(help="Only rows of this account; '' for those without one (default: all accounts).", metavar="NAME")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with decimals as strings and times in ISO 8601, UTC.")]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of rows.")]


def gaps(
    url: Url = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    exchange: Exchange = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start of the time window, inclusive; candles missing at the start are reported too."),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="End of the time window, inclusive; candles missing at the end are reported too."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the gaps in the series of a symbol and timeframe: where candles are missing.

    TIME is ISO 8601, e.g. 2024-02-29 (midnight) or 2024-02-29T23:59, in UTC unless it has an offset; or now, or -7d for 7 days
    ago (m minutes, h hours, d days, w weeks).
    """
    url, series = url_and_series(url, symbol, timeframe)
    first, last = _find_window(series[1], start, end)

    async def find(db: DatabaseManager) -> dict[str, list[tuple[datetime, datetime]]]:
        exchanges = await _find_exchanges(db, series)
        if exchange is not None:
            exchanges = [exchange] if exchange in exchanges else []
        if not exchanges:
            await _report_missing(db, series, exchange, as_json=as_json)
        repository = OHLCVRepository(db)
        return {name: await repository.get_gaps(*series, name, start=first, end=last) for name in exchanges}

    found = read(url, BARS, find)
    holes = [
        (name, before, after, count_missing(before, after, series[1])) for name, gaps in found.items() for before, after in gaps
    ]
    if as_json:
        names = "exchange", "last_before", "first_after", "missing"
        print_json([dict(zip(names, hole, strict=True)) for hole in holes])
    elif holes:
        rows = [(name, format_moment(before), format_moment(after), f"{count:,}") for name, before, after, count in holes]
        print_table(["exchange", "last bar before", "first bar after", "bars missing"], rows, right=["bars missing"])
        missing = sum(count for *_, count in holes)
        say(f"{format_count(len(holes), 'gap')}, {format_count(missing, 'bar')} missing (times in UTC)")
    else:
        say(f"no gaps in {', '.join(found)} {' '.join(series)}")


def latest(
    url: Url = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    limit: Limit = 20,
    exchange: Exchange = None,
    as_json: Json = False,
) -> None:
    """Show the newest candles of a symbol and timeframe, newest first."""
    url, series = url_and_series(url, symbol, timeframe)

    async def find(db: DatabaseManager) -> list[OHLCVBar]:
        known = exchange is None or exchange in await _find_exchanges(db, series)
        bars = await OHLCVRepository(db).get_latest(*series, limit, exchange) if known else []
        if not bars:
            await _report_missing(db, series, exchange, as_json=as_json)
        return bars

    bars = read(url, BARS, find)
    if as_json:
        print_json(bars)
        return
    columns = ["open", "high", "low", "close", "volume"]
    rows = [
        (
            bar.exchange,
            format_moment(bar.timestamp),
            *(format_number(getattr(bar, name)) for name in columns),
            "" if bar.trades_count is None else f"{bar.trades_count:,}",
        )
        for bar in bars
    ]
    print_table(["exchange", "time (UTC)", *columns, "trades"], rows, right=[*columns, "trades"])


def stats(
    url: Url = None,
    days: Annotated[int, typer.Option(min=1, help="Include trades realized in the last DAYS days.", metavar="DAYS")] = 30,
    exchange: Exchange = None,
    account: Account = None,
    strategy: Annotated[str | None, Option(help="Only trades of this strategy.", metavar="NAME")] = None,
    exit_reason: Annotated[str | None, Option(help="Only trades closed for this reason.", metavar="NAME")] = None,
    tag: Annotated[str | None, Option(help="Only trades with this tag.", metavar="NAME")] = None,
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
        statistics_table(figures)


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
        print_table(["id", "exchange", *owners, "symbol", "side", "since (UTC)", *titles], rows, right=["id", *titles])
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
    chosen = checks.optional_choice(severity, "severity", SEVERITIES)
    found = read(url, EVENTS, lambda db: SystemEventRepository(db).get_recent_events(chosen, limit, account=account))
    if as_json:
        print_json(found)
    elif found:
        owners = ["account"] if any(item.account for item in found) else []
        names = "severity", "event_type", *owners, "symbol", "message"
        rows = [(format_clock_time(item.created_at), *(getattr(item, name) or "" for name in names)) for item in found]
        print_table(["time (UTC)", "severity", "event", *owners, "symbol", "message"], rows)
    else:
        of = ("" if severity is None else f" of severity {severity}") + (
            "" if account is None else f" of the account {show(account)}"
        )
        say(f"no events{of} are stored")


def statistics_table(figures: TradeStatistics) -> None:
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


def read(url: str | None, table: TableSpec, work: Callable[[DatabaseManager], Awaitable[T]]) -> T:
    """Return the result of a query on a table; warn if the database hides rows of the table from this role."""

    async def warn(db: DatabaseManager) -> None:
        if hidden := await describe_hidden_rows(db, [table]):
            say(f"warning: {hidden}", stderr=True)

    async def find(db: DatabaseManager) -> T:
        try:
            found = await work(db)
        except NotFoundError:
            await warn(db)
            raise
        await warn(db)
        return found

    return run(url, find)


async def _find_exchanges(db: DatabaseManager, series: tuple[str, str]) -> list[str]:
    async with db.get_session() as session:
        return await find_exchanges(get_stores(session), RowFilter(BARS, dict(zip(SERIES[1:], series, strict=True))))


async def _report_missing(db: DatabaseManager, series: tuple[str, str], exchange: str | None, *, as_json: bool) -> NoReturn:
    """Raise NotFoundError for a series; the message names its stored exchanges or timeframes, or similar symbols."""
    symbol, timeframe = series
    stored = await OHLCVRepository(db).list_series()
    exchanges = [one.exchange for one in stored if (one.symbol, one.timeframe) == series]
    timeframes = [name for name in TIMEFRAMES if any((one.symbol, one.timeframe) == (symbol, name) for one in stored)]
    near = find_near(symbol, (one.symbol for one in stored))
    if exchanges:
        hint = f"they are stored on {', '.join(exchanges)}"
    elif timeframes:
        hint = f"{symbol} is stored in the timeframes {', '.join(timeframes)}"
    else:
        hint = describe_near(near, "bar") if stored else "no bars are stored at all"
    if as_json:
        print_json([])
    place = "" if exchange is None else f"{exchange} "
    raise NotFoundError(f"no bars of {place}{symbol} {timeframe} are stored; {hint}")


def time_window(start: str | None, end: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the times given in the options --start and --end, naive if the text has no offset.

    Raises:
        InvalidValueError: a text is neither ISO 8601 nor now nor a duration before now, e.g. -7d.
    """
    return checks.optional(parse_time, start, "--start"), checks.optional(parse_time, end, "--end")


def _find_window(timeframe: str, start: str | None, end: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the first and the last time in a window at which a bar can begin, so that no bar outside it counts as missing.

    Raises:
        InvalidValueError: the window is empty, or no bar begins in it.
    """
    window = make_filter(BARS, *time_window(start, end))
    timeframe = check_timeframe(timeframe)
    first = window.start and align(window.start, timeframe, up=True)
    last = window.end and align(window.end, timeframe, up=False)
    if first and last and first > last:
        raise InvalidValueError(f"no bar of {timeframe} begins between --start and --end; give a longer window")
    return first, last


def parse_time(text: Any, option: str) -> datetime:
    """Return the time given in an option, naive if the text has no offset.

    Raises:
        InvalidValueError: the text is neither ISO 8601 nor now nor a duration before now, e.g. -7d.
    """
    if text == "now":
        return datetime.now(UTC)
    if _AGO.fullmatch(text):
        return resolve_since(text[1:], option)
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidValueError(
            f"{option} {show(text)} is not a time; write it as 2024-02-29 or 2024-02-29T23:59, now, or -7d for 7 days ago "
            "(m minutes, h hours, d days, w weeks)"
        ) from error
