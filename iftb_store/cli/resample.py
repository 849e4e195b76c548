"""The command resample: bars of a longer timeframe, computed in the engine from stored bars; nothing is stored."""

from __future__ import annotations

from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated

import typer

from iftb_store.batches.resampling import Buckets
from iftb_store.cli.completion import timeframes
from iftb_store.cli.data import (
    Argument,
    Json,
    Limit,
    Symbol,
    Url,
    find_window,
    list_exchanges,
    read,
    report_missing,
    show_bars,
)
from iftb_store.cli.output import print_json, say
from iftb_store.cli.target import split_url_and_rest
from iftb_store.errors import InvalidValueError
from iftb_store.manager import DatabaseManager
from iftb_store.models import OHLCVBar
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.table_spec import BARS
from iftb_store.values.display import to_one_line
from iftb_store.values.timeframes import TIMEFRAMES, Timeframe, align, check_timeframe, shift

FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

Source = Annotated[
    str | None,
    Argument(metavar="SOURCE", help=f"Stored timeframe (required): {' '.join(TIMEFRAMES)}.", autocompletion=timeframes),
]
Target = Annotated[
    str | None, Argument(metavar="TARGET", help="Longer timeframe (required), a multiple of SOURCE.", autocompletion=timeframes)
]


def resample(
    url: Url = None,
    symbol: Symbol = None,
    source: Source = None,
    target: Target = None,
    exchange: Annotated[str | None, typer.Option(help="Only this exchange (default: all exchanges).", show_default=False)] = None,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="Start of the time window, inclusive.")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME", help="End of the time window, inclusive.")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Show also bars in which a bar of SOURCE is missing.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show bars of a longer timeframe, computed from the stored bars of SOURCE, newest first; nothing is stored.

    A bar is shown only if all of its bars of SOURCE are stored, unless --partial is given. Without --start the last --limit
    bars of TARGET are computed. TIME is as in gaps, e.g. 2024-02-29 or -7d.
    """
    url, words = split_url_and_rest(url, symbol, source, target)
    if len(words) != 3:
        raise InvalidValueError(
            f"SYMBOL, SOURCE and TARGET are required, e.g. BTCUSDT 1m 1h; given: {to_one_line(' '.join(words)) or 'none'}"
        )
    name, step, wanted = words[0], check_timeframe(words[1], "SOURCE"), check_timeframe(words[2], "TARGET")
    Buckets(step, wanted)
    first, last = find_window(step, start, end)

    async def find(db: DatabaseManager) -> list[OHLCVBar]:
        exchanges = await list_exchanges(db, (name, step))
        if not exchanges or exchange not in (None, *exchanges):
            await report_missing(db, (name, step), exchange, as_json=as_json)
        found = list[OHLCVBar]()
        for one in exchanges if exchange is None else [exchange]:
            found += await _read_newest(OHLCVRepository(db), (name, step, wanted), one, first, last, limit, partial=partial)
        return sorted(found, key=attrgetter("timestamp"), reverse=True)[:limit]

    bars = read(url, BARS, find)
    if as_json:
        print_json(bars)
    elif bars:
        show_bars(bars)
        say(f"computed from {step}; nothing was stored")
    else:
        say(f"no complete bar of {wanted}; --partial shows incomplete ones, and `iftb-store gaps` what is missing")


async def _read_newest(
    repository: OHLCVRepository,
    names: tuple[str, Timeframe, Timeframe],
    exchange: str,
    start: datetime | None,
    end: datetime | None,
    limit: int,
    *,
    partial: bool,
) -> list[OHLCVBar]:
    """Return at most ``limit`` longer bars of an exchange; without ``start``, those of the last ``limit`` steps."""
    symbol, source, target = names
    if end is None:
        newest = await repository.get_latest(symbol, source, 1, exchange)
        end = newest[0].timestamp if newest else LAST
    if start is None:
        try:
            start = align(shift(align(end, target, up=False), target, 1 - limit), target, up=False)
        except InvalidValueError:
            start = FIRST
    if start > end:
        return []
    return (await repository.resample(symbol, source, target, start, end, exchange, partial=partial))[-limit:]
