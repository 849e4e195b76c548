"""The command that writes the HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iftb_store.cli.completion import timeframes
from iftb_store.cli.data import Account, Exchange, Json, Option, Url, parse_time_window
from iftb_store.cli.output import print_json, say
from iftb_store.cli.performance import (
    Balance,
    Currency,
    End,
    ExitReason,
    FeeMode,
    OneSide,
    Start,
    Strategy,
    Tag,
    Zone,
    parse_performance_options,
)
from iftb_store.cli.target import run
from iftb_store.html_report.functions import HtmlReport
from iftb_store.html_report.functions import report as write_report
from iftb_store.manager import DatabaseManager
from iftb_store.values import checks
from iftb_store.values.display import show
from iftb_store.values.readable import format_count
from iftb_store.values.timeframes import TIMEFRAMES, check_timeframe


def report(
    url: Url = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = Path("report.html"),
    exchange: Exchange = None,
    symbol: Annotated[str | None, Option(help="Only trades and bars of this symbol.")] = None,
    side: OneSide = None,
    timeframe: Annotated[
        str | None, Option(help=f"Timeframe of the candles: {' '.join(TIMEFRAMES)}.", autocompletion=timeframes)
    ] = None,
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
    title: Annotated[str, typer.Option(help="The title of the page.")] = "Trading report",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a report as one HTML file: figures, equity, candles with the trades, results by month and day, coverage, errors.

    The page makes no request, works offline, and can be sent to others. TIME is as in gaps, e.g. 2024-02-29 or -30d.
    """
    first, last = parse_time_window(start, end)
    given = parse_performance_options(side, balance, fees, tz)
    chosen = checks.optional(check_timeframe, timeframe, "timeframe")

    async def work(db: DatabaseManager) -> HtmlReport:
        return await write_report(
            db,
            output,
            exchange=exchange,
            symbol=symbol,
            timeframe=chosen,
            start=first,
            end=last,
            account=account,
            strategy=strategy,
            exit_reason=exit_reason,
            tag=tag,
            currency=currency,
            title=title,
            overwrite=overwrite,
            **given,
        )

    done = run(url, work)
    size = len(done.html.encode())
    if as_json:
        trades = None if done.performance is None else done.performance.total_trades
        print_json({"path": str(done.path), "bytes": size, "trades": trades})
        return
    trades_shown = "" if done.performance is None else f", {format_count(done.performance.total_trades, 'closed trade')}"
    say(f"{show(str(done.path), 200)}: {size:,} bytes{trades_shown}")
