"""The commands prune and rollup: delete old rows, and keep bars of a longer timeframe of them."""

from __future__ import annotations

from typing import Annotated

import typer

from iftb_store.cli.completion import one_of, timeframes
from iftb_store.cli.data import Json, Url, parse_time, time_window
from iftb_store.cli.output import print_json, say
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import explain_stop, run, url_and_rest
from iftb_store.cli.transfer import End, Quiet, Start, show_parts
from iftb_store.config import resolve_url
from iftb_store.errors import InvalidValueError
from iftb_store.maintenance import prune as pruning
from iftb_store.maintenance import rollup as rolling
from iftb_store.maintenance.reports import PruneReport, RollupReport
from iftb_store.manager import DatabaseManager
from iftb_store.values.display import to_one_line
from iftb_store.values.readable import format_count, format_moment
from iftb_store.values.timeframes import TIMEFRAMES, check_timeframe

Exchange = Annotated[str | None, typer.Option(help="Only rows of this exchange (default: all).")]
Symbol = Annotated[str | None, typer.Option(help="Only rows of this symbol (default: all).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count what would be done; change nothing.")]


def prune(
    url: Url = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Delete rows older than AGE, e.g. 12h, 90d or 26w, or than a time (required)."),
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            help=f"The table: {', '.join(pruning.PRUNED)} (required); repeatable.",
            autocompletion=one_of(pruning.PRUNED),
        ),
    ] = None,
    exchange: Exchange = None,
    symbol: Symbol = None,
    timeframe: Annotated[
        str | None,
        typer.Option(help=f"Only bars of this timeframe: {' '.join(TIMEFRAMES)} (default: all).", autocompletion=timeframes),
    ] = None,
    keep_daily: Annotated[
        bool,
        typer.Option("--keep-daily", help="Keep bars of 1d and longer, and first store the missing bars of 1d."),
    ] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Delete old bars, closed trades with their fills and closed positions, closed positions, and events.

    Open trades, open positions and the trades of open positions are never deleted. Others can read and write meanwhile. On
    PostgreSQL, partitions of bars that are older as a whole are dropped. --dry-run counts first.
    """
    if older_than is None:
        raise InvalidValueError("--older-than is required, e.g. --older-than 90d")
    age = older_than if _is_duration(older_than) else parse_time(older_than, "--older-than")
    address = resolve_url(url)
    with (
        Progress(quiet=quiet or as_json) as progress,
        explain_stop(lambda: "stopped; the rows deleted so far are gone; run the same command again to continue"),
    ):

        async def work(db: DatabaseManager) -> PruneReport:
            return await pruning.prune(
                db,
                age,
                tables or (),
                exchange,
                symbol,
                None if timeframe is None else check_timeframe(timeframe),
                keep_daily=keep_daily,
                dry_run=dry_run,
                progress=progress,
            )

        done = run(address, work)
    if as_json:
        print_json(done)
    elif not quiet:
        _show_pruned(done)


def rollup(
    url: Url = None,
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="Timeframe of the stored bars, e.g. 1m (required).", show_default=False)
    ] = None,
    target: Annotated[
        str | None,
        typer.Argument(metavar="TARGET", help="Timeframe of the bars to store, e.g. 1h (required).", show_default=False),
    ] = None,
    exchange: Exchange = None,
    symbol: Symbol = None,
    start: Start = None,
    end: End = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Store also bars whose time has ended but of which bars of SOURCE are missing.")
    ] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compute the missing bars of a longer timeframe from the bars of a shorter one, and store them.

    Stored bars of TARGET are never changed, so that the command can be repeated, e.g. every night before `iftb-store prune`.

    TIME is ISO 8601, e.g. 2024-02-29 (midnight) or 2024-02-29T23:59, in UTC unless it has an offset; or now, or -7d for 7 days
    ago (m minutes, h hours, d days, w weeks).
    """
    address, words = url_and_rest(url, source, target)
    if len(words) != 2:
        raise InvalidValueError(f"SOURCE and TARGET are required, e.g. 1m 1h; given: {to_one_line(' '.join(words)) or 'neither'}")
    shorter, longer = (check_timeframe(word) for word in words)
    first, last = time_window(start, end)
    with (
        Progress(quiet=quiet or as_json, unit="series") as progress,
        explain_stop(lambda: "stopped; the bars stored so far stay; run the same command again to continue"),
    ):

        async def work(db: DatabaseManager) -> RollupReport:
            return await rolling.rollup(
                db,
                shorter,
                longer,
                exchange=exchange,
                symbol=symbol,
                start=first,
                end=last,
                partial=partial,
                dry_run=dry_run,
                progress=progress,
            )

        done = run(resolve_url(address), work)
    if as_json:
        print_json(done)
    elif not quiet:
        _show_rolled_up(done)


def _is_duration(text: str) -> bool:
    return text[:-1].isascii() and text[:-1].isdigit() and text[-1:] in ("m", "h", "d", "w")


def _show_pruned(done: PruneReport) -> None:
    parts = [part for part in done.parts if part.rows]
    if parts:
        show_parts(parts, {"rows": "rows"})
    for name in done.partitions:
        say(f"partition {name} {'would be' if done.dry_run else 'was'} dropped whole")
    if done.daily_bars:
        say(f"{format_count(done.daily_bars, 'daily bar')} {'would be stored' if done.dry_run else 'stored'} first")
    what = "to be deleted; nothing was changed" if done.dry_run else "deleted"
    say(f"{format_count(done.rows, 'row')} older than {format_moment(done.before)} (UTC) {what}")


def _show_rolled_up(done: RollupReport) -> None:
    if not done.series:
        say(f"no series has bars of {done.source}")
        return
    what = "to be stored; nothing was changed" if done.dry_run else "stored"
    for one in done.series:
        if one.stored:
            say(f"{one.exchange} {one.symbol}: {format_count(one.stored, 'bar')} of {done.target}")
    say(f"{format_count(done.stored, 'bar')} of {done.target} {what}, from the {done.source} bars of {len(done.series)} series")
