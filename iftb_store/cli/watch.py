"""The command watch: new bars, open positions and the last events, refreshed in place; without a terminal a line for each."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import OperationalError

from iftb_store.cli.data import Account, Exchange, Symbol, Timeframe, Url, list_exchanges, report_missing
from iftb_store.cli.output import console, fill_words, fit_table, format_clock_time, is_utf8, print_json_line, say, split_words
from iftb_store.cli.series import measure_lag, read_clock
from iftb_store.cli.sparklines import draw_levels
from iftb_store.cli.target import format_target, run, split_url_and_rest
from iftb_store.errors import InvalidValueError
from iftb_store.manager import DatabaseManager
from iftb_store.models import OHLCVBar, Position, Series, SystemEvent
from iftb_store.protocols import Capability
from iftb_store.repositories.events import SystemEventRepository
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.positions import PositionRepository
from iftb_store.values.display import replace_unprintable, to_one_line
from iftb_store.values.readable import format_duration, format_moment, format_number
from iftb_store.values.timeframes import check_timeframe

#: Exchange, symbol and timeframe.
SeriesName = tuple[str, str, str]

_SECOND = timedelta(seconds=1)


@dataclass(slots=True)
class View:
    """What one refresh has read.

    Attributes:
        at: the time of the refresh, UTC.
        bars: the newest bars of each series, newest first.
        positions: the open positions.
        events: the last events, newest first.
        keeps_records: whether the store keeps positions and events.
        problem: why the last refresh failed, so that this view is older; empty if it did not.
    """

    at: datetime
    bars: dict[SeriesName, list[OHLCVBar]] = field(default_factory=dict)
    positions: list[Position] = field(default_factory=list)
    events: list[SystemEvent] = field(default_factory=list)
    keeps_records: bool = True
    problem: str = ""


@dataclass(slots=True)
class Wish:
    """What to watch: the series, the number of bars of each, the number of events, and whose positions and events."""

    series: list[SeriesName]
    bars: int
    events: int
    exchange: str | None
    account: str | None


def watch(
    url: Url = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    exchange: Exchange = None,
    account: Account = None,
    interval: Annotated[float, typer.Option(min=0.1, max=3_600, metavar="SECONDS", help="Time between two refreshes.")] = 2.0,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Number of bars, or of series, and of events.")] = 10,
    times: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after N refreshes (default: on Ctrl-C).", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each new row as one line of JSON.")] = False,
) -> None:
    """Show the newest bars, the open positions and the last events, refreshed in place until Ctrl-C.

    With SYMBOL and TIMEFRAME the bars of this series are shown, otherwise the newest bar of the series that were written last;
    a series that is stored later is not among them. Without a terminal, or with --json, each new bar, position and event is
    printed as one line. DuckDB lets only one process open a file that is written.
    """
    url, words = split_url_and_rest(url, symbol, timeframe)
    if len(words) not in (0, 2):
        given = to_one_line(" ".join(words))
        raise InvalidValueError(f"SYMBOL and TIMEFRAME are required together, e.g. BTCUSDT 1m; given: {given}")
    series = (words[0], check_timeframe(words[1])) if words else None

    async def work(db: DatabaseManager) -> None:
        await _watch(
            db, await _choose(db, series, exchange, account, limit, as_json), format_target(url), interval, times, as_json
        )

    run(url, work)


async def _choose(
    db: DatabaseManager, series: tuple[str, str] | None, exchange: str | None, account: str | None, limit: int, as_json: bool
) -> Wish:
    if series is not None:
        exchanges = await list_exchanges(db, series)
        if not exchanges or exchange not in (None, *exchanges):
            await report_missing(db, series, exchange, as_json=as_json)
        names = [(name, *series) for name in exchanges if exchange in (None, name)]
        return Wish(names, limit, limit, exchange, account)
    stored = [one for one in await OHLCVRepository(db).list_series() if exchange in (None, one.exchange)]
    newest = sorted(stored, key=attrgetter("last"), reverse=True)[:limit]
    return Wish([(one.exchange, one.symbol, one.timeframe) for one in newest], 1, limit, exchange, account)


async def _watch(db: DatabaseManager, wish: Wish, target: str, interval: float, times: int | None, as_json: bool) -> None:
    screen = console()
    in_place = screen.is_terminal and not as_json
    seen = View(read_clock())
    with Live(console=screen, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) if in_place else _Lines() as live:
        done = 0
        while True:
            try:
                view = await read_view(db, wish)
            except OperationalError as error:
                if not done:
                    raise
                view = replace(seen, problem=to_one_line(str(error.orig or error)))
            if isinstance(live, Live):
                live.update(draw_view(view, target, interval, width=screen.width, utf8=is_utf8()), refresh=True)
            else:
                live.show(seen, view, as_json=as_json)
            seen, done = view, done + 1
            if done == times:
                return
            await asyncio.sleep(interval)


class _Lines:
    """Prints what is new since the last view, one line for each."""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, before: View, after: View, *, as_json: bool) -> None:
        for kind, line, row in list_news(before, after):
            if as_json:
                print_json_line({"kind": kind}, row)
            else:
                say(f"{format_clock_time(after.at)} {kind} {line}")
                sys.stdout.flush()
        if after.problem and after.problem != before.problem:
            say(f"{format_clock_time(after.at)} trying again: {after.problem}", stderr=True)


async def read_view(db: DatabaseManager, wish: Wish) -> View:
    """Read the newest bars, the open positions and the last events, if possible from one snapshot."""
    view = View(read_clock(), keeps_records=Capability.RECORDS in db.capabilities)
    async with db.get_session(isolation="snapshot" if Capability.ISOLATION in db.capabilities else None) as session:
        bars = OHLCVRepository(session)
        for exchange, symbol, timeframe in wish.series:
            found = await bars.get_latest(symbol, check_timeframe(timeframe), wish.bars, exchange)
            view.bars[exchange, symbol, timeframe] = found
        if view.keeps_records:
            view.positions = await PositionRepository(session).get_open_positions(wish.exchange, account=wish.account)
            view.events = await SystemEventRepository(session).get_recent_events(None, wish.events, account=wish.account)
    return view


def list_news(before: View, after: View) -> Iterator[tuple[str, str, OHLCVBar | Position | SystemEvent]]:
    """Yield what a view has that the one before did not have, as (kind, line, row): bars, positions and events, oldest first."""
    for name, bars in after.bars.items():
        newest = before.bars.get(name, [])[:1]
        for bar in reversed(bars):
            if not newest or bar.timestamp > newest[0].timestamp:
                line = f"{' '.join(name)} {format_moment(bar.timestamp)} close {format_number(bar.close)}"
                yield "bar", f"{line} volume {format_number(bar.volume)}", bar
    known, still = ({one.id for one in view.positions} for view in (before, after))
    for kind, positions, others in (("opened", after.positions, known), ("closed", before.positions, still)):
        for one in positions:
            if one.id not in others:
                amount = f"{format_number(one.quantity)} at {format_number(one.entry_price)}"
                yield kind, " ".join(filter(None, (one.exchange, one.account, one.symbol, one.side, amount))), one
    logged = {one.id for one in before.events}
    for event in reversed(after.events):
        if event.id not in logged:
            yield "event", " ".join(filter(None, (event.severity, event.event_type, event.symbol, event.message))), event


def draw_view(view: View, target: str, interval: float, *, width: int, utf8: bool) -> RenderableType:
    """Return a view for a terminal of this width: bars, positions and events."""
    every = f"every {interval:g} s"
    parts: list[RenderableType] = [_draw_text(f"{target}, {format_clock_time(view.at)} UTC, {every}, Ctrl-C ends", width)]
    if view.problem:
        parts.append(_draw_text(f"trying again: {view.problem}", width))
    parts += [Text(), *(_draw_bars(view, width, utf8) if any(view.bars.values()) else [Text("no bars")])]
    if view.keeps_records and view.positions:
        parts += [Text(), Text("open positions", "bold"), _draw_positions(view.positions, width)]
    elif view.keeps_records:
        parts += [Text(), Text("no open positions")]
    if view.events:
        parts += [Text(), Text("events", "bold"), _draw_events(view.events, width)]
    elif view.keeps_records:
        parts += [Text(), Text("no events")]
    return Group(*parts)


def _draw_text(line: str, width: int) -> Text:
    return Text("\n".join(fill_words(split_words(replace_unprintable(line)), width)), overflow="fold")


def _draw_bars(view: View, width: int, utf8: bool) -> list[RenderableType]:
    rows, lines = list[Sequence[str]](), list[RenderableType]()
    for (exchange, symbol, timeframe), bars in view.bars.items():
        for bar in bars:
            series = Series(exchange, symbol, check_timeframe(timeframe), bar.timestamp, bar.timestamp, 1, 0)
            lag = measure_lag(series, view.at)
            late = "" if lag is None else format_duration(lag // _SECOND * _SECOND)
            figures = format_number(bar.close), format_number(bar.volume)
            rows.append((exchange, symbol, timeframe, format_moment(bar.timestamp), *figures, late))
        if len(bars) > 1:
            closes = [bar.close for bar in reversed(bars)][-width:]
            lines.append(Text(draw_levels(closes, utf8=utf8)))
    titles = ["exchange", "symbol", "timeframe", "time (UTC)", "close", "volume", "lag"]
    return [Text("bars", "bold"), fit_table(titles, rows, ("volume",), width=width, right=titles[4:], key=3), *lines]


def _draw_positions(positions: list[Position], width: int) -> RenderableType:
    owners = ["account"] if any(one.account for one in positions) else []
    rows = [
        (
            one.exchange,
            *(one.account for _ in owners),
            one.symbol,
            one.side,
            format_number(one.quantity),
            format_number(one.entry_price),
            format_number(one.unrealized_pnl),
        )
        for one in positions
    ]
    names, figures = ["exchange", *owners, "symbol", "side"], ["quantity", "entry price", "unrealized pnl"]
    return fit_table([*names, *figures], rows, width=width, right=figures, key=len(names))


def _draw_events(events: list[SystemEvent], width: int) -> RenderableType:
    rows = [
        (format_clock_time(one.created_at), one.severity, one.event_type, " ".join(filter(None, (one.symbol, one.message))))
        for one in events
    ]
    return fit_table(["time (UTC)", "severity", "event", "message"], rows, width=width, right=False, wrapped=["message"], key=3)
