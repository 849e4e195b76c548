"""The commands that show bars: gaps, latest; and what the commands that read share."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from iftb_store.analytics.coverage import count_missing
from iftb_store.analytics.states import CoverageRange
from iftb_store.cli.completion import timeframes, timeframes_without_url
from iftb_store.cli.output import console, is_utf8, print_fitting, print_json, print_title, say, say_fitting
from iftb_store.cli.sparklines import draw_levels
from iftb_store.cli.symbols import describe_near
from iftb_store.cli.target import URL_HELP, run, split_url_and_series
from iftb_store.errors import InvalidValueError, NotFoundError
from iftb_store.manager import DatabaseManager
from iftb_store.models import OHLCVBar
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.repositories.exchanges import find_exchanges
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.scope import make_filter
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter, TableSpec
from iftb_store.transfer.access import describe_hidden_rows
from iftb_store.values import checks
from iftb_store.values.display import show
from iftb_store.values.readable import format_count, format_moment, format_number
from iftb_store.values.suggestions import find_near
from iftb_store.values.timeframes import TIMEFRAMES, align, check_timeframe
from iftb_store.values.times import resolve_since

T = TypeVar("T")

# the greatest number of bars in a line of closes
_MOST_DRAWN = 60
_AGO = re.compile(r"-[0-9]{1,9}[mhdw]")
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

    "asked" counts the candles of a gap that were asked for and that the exchange did not give; the others were never asked for.

    TIME is ISO 8601, e.g. 2024-02-29 (midnight) or 2024-02-29T23:59, in UTC unless it has an offset; or now, or -7d for 7 days
    ago (m minutes, h hours, d days, w weeks).
    """
    url, series = split_url_and_series(url, symbol, timeframe)
    first, last = find_window(series[1], start, end)

    async def find(db: DatabaseManager) -> dict[str, list[tuple[datetime, datetime]]]:
        exchanges = await list_exchanges(db, series)
        if exchange is not None:
            exchanges = [exchange] if exchange in exchanges else []
        if not exchanges:
            await report_missing(db, series, exchange, as_json=as_json)
        repository = OHLCVRepository(db)
        found = {name: await repository.get_gaps(*series, name, start=first, end=last) for name in exchanges}
        if Capability.RECORDS in db.capabilities:
            for name, holes in found.items():
                if holes:
                    states = await repository.get_coverage(*series, name, start=holes[0][0], end=holes[-1][1])
                    asked[name] = [one for one in states if one.state == "none"]
        return found

    # by exchange, the bars that were asked for and not given
    asked: dict[str, list[CoverageRange]] = {}
    found = read(url, BARS, find)
    holes = [
        (name, before, after, count_missing(before, after, series[1]), _count_asked(asked.get(name), before, after))
        for name, gaps in found.items()
        for before, after in gaps
    ]
    if as_json:
        names = "exchange", "last_before", "first_after", "missing", "asked"
        print_json([dict(zip(names, hole, strict=True)) for hole in holes])
    elif holes:
        rows = [
            (name, format_moment(before), format_moment(after), f"{count:,}", "" if known is None else f"{known:,}")
            for name, before, after, count, known in holes
        ]
        titles = ["exchange", "last bar before", "first bar after", "bars missing", "asked"]
        print_fitting(titles, rows, ["asked"], right=["bars missing", "asked"])
        missing = sum(count for *_, count, _ in holes)
        say(f"{format_count(len(holes), 'gap')}, {format_count(missing, 'bar')} missing (times in UTC)")
    else:
        say(f"no gaps in {', '.join(found)} {' '.join(series)}")


def _count_asked(asked: list[CoverageRange] | None, before: datetime, after: datetime) -> int | None:
    """Return how many bars of a gap were asked for; None if the database does not know."""
    return None if asked is None else sum(one.bars for one in asked if before < one.first < after)


def latest(
    url: Url = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    limit: Limit = 20,
    exchange: Exchange = None,
    as_json: Json = False,
) -> None:
    """Show the newest candles of a symbol and timeframe, newest first, and a line of their closes for each exchange."""
    url, series = split_url_and_series(url, symbol, timeframe)

    async def find(db: DatabaseManager) -> list[OHLCVBar]:
        known = exchange is None or exchange in await list_exchanges(db, series)
        bars = await OHLCVRepository(db).get_latest(*series, limit, exchange) if known else []
        if not bars:
            await report_missing(db, series, exchange, as_json=as_json)
        return bars

    bars = read(url, BARS, find)
    if as_json:
        print_json(bars)
    else:
        show_bars(bars)


def show_bars(bars: list[OHLCVBar]) -> None:
    """Print bars, newest first, and below them the closes of each exchange as a line."""
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
    exchanges = dict.fromkeys(bar.exchange for bar in bars)
    least = ["trades"] if len(exchanges) > 1 else ["trades", "exchange"]
    print_fitting(["exchange", "time (UTC)", *columns, "trades"], rows, least, right=[*columns, "trades"], key=2)
    for name in exchanges:
        _draw_closes(name, [bar.close for bar in reversed(bars) if bar.exchange == name])


def _draw_closes(exchange: str, closes: list[Decimal]) -> None:
    """Print a line of closes, oldest first; a longer line than the terminal shows the newest."""
    closes = closes[-min(_MOST_DRAWN, console().width) :]
    if len(closes) > 1:
        say()
        print_title(f"close on {exchange}, the newest {len(closes):,} bars")
        say(draw_levels(closes, utf8=is_utf8()))
        say_fitting(f"{format_number(closes[0])} to {format_number(closes[-1])}")


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


async def list_exchanges(db: DatabaseManager, series: tuple[str, str]) -> list[str]:
    """Return the exchanges that have bars of a symbol and timeframe."""
    async with db.get_session() as session:
        return await find_exchanges(get_stores(session), RowFilter(BARS, dict(zip(SERIES[1:], series, strict=True))))


async def report_missing(db: DatabaseManager, series: tuple[str, str], exchange: str | None, *, as_json: bool) -> NoReturn:
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


def parse_time_window(start: str | None, end: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the times given in the options --start and --end, naive if the text has no offset.

    Raises:
        InvalidValueError: a text is neither ISO 8601 nor now nor a duration before now, e.g. -7d.
    """
    return checks.optional(_parse_time, start, "--start"), checks.optional(_parse_time, end, "--end")


def find_window(timeframe: str, start: str | None, end: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the first and the last time in a window at which a bar can begin, so that no bar outside it counts as missing.

    Raises:
        InvalidValueError: the window is empty, or no bar begins in it.
    """
    window = make_filter(BARS, *parse_time_window(start, end))
    timeframe = check_timeframe(timeframe)
    first = window.start and align(window.start, timeframe, up=True)
    last = window.end and align(window.end, timeframe, up=False)
    if first and last and first > last:
        raise InvalidValueError(f"no bar of {timeframe} begins between --start and --end; give a longer window")
    return first, last


def _parse_time(text: Any, option: str) -> datetime:
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
