"""The command delete: delete bars of one series, after a question."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated

import typer

from iftb_store.abilities import SupportsLookups
from iftb_store.cli.data import Json, Symbol, Timeframe, Url, list_exchanges, parse_time_window, report_missing
from iftb_store.cli.output import print_json, say, say_fitting
from iftb_store.cli.target import explain_stop, format_target, run, split_url_and_series
from iftb_store.config import resolve_url
from iftb_store.errors import InvalidValueError
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.scope import make_filter
from iftb_store.schema.table_spec import BARS
from iftb_store.values.readable import format_count, format_moment

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_STOPPED = "stopped; the bars were deleted completely or not at all: `iftb-store series` shows which"
_BATCH = 50_000


@dataclass(slots=True)
class Doomed:
    """The bars that a deletion would delete; first and last are None if there are none."""

    exchange: str
    count: int
    first: datetime | None
    last: datetime | None


def delete(
    url: Url = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    exchange: Annotated[
        str | None, typer.Option(help="Exchange of the series; required if several have it.", show_default=False)
    ] = None,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Delete bars from this time on, inclusive.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Delete bars up to this time, inclusive.")] = None,
    whole: Annotated[
        bool, typer.Option("--all", help="Delete the whole series; otherwise --start or --end is required.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; print what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; required without a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Delete bars of one series, all or none; print first which bars, and ask.

    TIME is as in gaps, e.g. 2024-02-29 or -7d. There is no way back except a backup.
    """
    url, series = split_url_and_series(url, symbol, timeframe)
    address = resolve_url(url)
    window = make_filter(BARS, *parse_time_window(start, end))
    if whole == (window.start is not None or window.end is not None):
        raise InvalidValueError(
            "--all deletes the whole series, so it allows neither --start nor --end"
            if whole
            else "--start or --end is required, or --all to delete the whole series"
        )
    first, last = window.start or _FIRST, window.end or _LAST
    doomed = run(address, lambda db: find_doomed(db, series, exchange, first, last, as_json=as_json))
    name = " ".join((doomed.exchange, *series))
    if not as_json:
        say_fitting(_describe(name, doomed))
    asked = bool(doomed.count) and not dry_run
    if asked and not yes and not _confirm():
        say("nothing was deleted", stderr=as_json)
        raise typer.Exit(1)
    deleted = 0
    if asked:
        with explain_stop(lambda: _STOPPED):
            deleted = run(
                address, lambda db: OHLCVRepository(db).delete_range(series[0], series[1], first, last, doomed.exchange)
            )
    if as_json:
        selected = {"bars": doomed.count, "first": doomed.first, "last": doomed.last}
        found = {"database": format_target(address), "exchange": doomed.exchange, "symbol": series[0], "timeframe": series[1]}
        print_json({**found, **selected, "dry_run": dry_run, "deleted": deleted})
    elif asked:
        say(f"{format_count(deleted, 'bar')} deleted")
    elif doomed.count:
        say("nothing was deleted (--dry-run)")


async def find_doomed(
    db: DatabaseManager, series: tuple[str, str], exchange: str | None, start: datetime, end: datetime, *, as_json: bool
) -> Doomed:
    """Return which bars of a series lie in a time window.

    Raises:
        NotFoundError: the series is not stored.
        InvalidValueError: several exchanges have the series, and none is given.
    """
    exchanges = await list_exchanges(db, series)
    if not exchanges or exchange not in (None, *exchanges):
        await report_missing(db, series, exchange, as_json=as_json)
    if exchange is None and len(exchanges) > 1:
        raise InvalidValueError(f"{' '.join(series)} is stored on {', '.join(exchanges)}; name one with --exchange")
    name = exchange or exchanges[0]
    window = make_filter(BARS, start, end, exchange=name, symbol=series[0], timeframe=series[1])
    isolation = "snapshot" if Capability.ISOLATION in db.capabilities else None
    async with db.get_session(isolation=isolation) as session:  # type: ignore[arg-type]
        stores, bars = get_stores(session), OHLCVRepository(session)
        lookups = stores.lookups if isinstance(stores, SupportsLookups) else None
        if lookups is not None:
            count = sum(rows for _, rows in await lookups.count_rows(window))
        else:
            stream = bars.stream_range(series[0], window.equal["timeframe"], start, end, name, batch_size=_BATCH)
            count = sum([len(batch) async for batch in stream])
        edges = (
            [await stores.bars.read(replace(window, limit=1), descending=newest) for newest in (False, True)]
            if count
            else [[], []]
        )
    first, last = (found[0].timestamp if found else None for found in edges)
    return Doomed(name, count, first, last)


def _describe(name: str, doomed: Doomed) -> str:
    if doomed.first is None or doomed.last is None:
        return f"{name}: no bar is in the time window"
    times = " to ".join(dict.fromkeys(map(format_moment, (doomed.first, doomed.last))))
    return f"{name}: {format_count(doomed.count, 'bar')}, {times} (UTC)"


def _confirm() -> bool:
    """Ask whether to delete; return whether the answer is yes.

    Raises:
        InvalidValueError: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise InvalidValueError("there is no terminal to ask on; --yes deletes without a question, --dry-run only shows")
    return typer.confirm("delete them?", err=True)
