"""The command coverage: what is known of the candles of a series, by day and month, and of its worst gaps."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from typing import Annotated, Any

from iftb_store.analytics.states import CoverageDay, CoverageRange, add_up_days
from iftb_store.cli.data import Argument, Exchange, Json, Option, Symbol, Timeframe, parse_time_window, read
from iftb_store.cli.output import is_utf8, print_fitting, print_json, say
from iftb_store.cli.target import URL_HELP, split_url_and_rest, split_url_and_series
from iftb_store.errors import NotFoundError
from iftb_store.exchange.reasons import explain_gaps
from iftb_store.manager import DatabaseManager
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.table_spec import BARS
from iftb_store.values.readable import format_count, format_moment

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.:-=+*#"
_NOTHING, _NOTHING_ASCII = "·", "0"
# a day without a due candle; a blank would be removed at the end of a cell
_NOT_DUE, _NOT_DUE_ASCII = "\N{BRAILLE PATTERN BLANK}", "'"
# the gaps that are listed
_WORST = 10


@dataclass(frozen=True, slots=True)
class _Gap:
    """A gap, with what is known of it."""

    first: datetime
    last: datetime
    bars: int
    state: str
    known: str


def coverage(
    url: Annotated[str | None, Argument(metavar="URL", help=URL_HELP)] = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    exchange: Exchange = None,
    start: Annotated[str | None, Option(metavar="TIME", help="Start of the time window, inclusive.")] = None,
    end: Annotated[str | None, Option(metavar="TIME", help="End of the time window, inclusive.")] = None,
    as_json: Json = False,
) -> None:
    """Show which candles of a series are stored, were asked for and not given, or were never asked for; without SYMBOL, of all.

    A series is shown by month, with a block for each day (UTC), as high as the share of its candles that is stored; then the
    number that is missing, that was never asked for (unknown), and that was asked for and not given (none); then the longest
    gaps. Candles that have not ended do not count. TIME is ISO 8601, e.g. 2024-02-29, in UTC unless it has an offset; or now, or
    -7d for 7 days ago (m minutes, h hours, d days, w weeks).
    """
    first, last = parse_time_window(start, end)
    if not split_url_and_rest(url, symbol, timeframe)[1]:
        url = split_url_and_rest(url)[0]
        _show_all(url, exchange, first, last, as_json=as_json)
        return
    url, series = split_url_and_series(url, symbol, timeframe)

    async def find(db: DatabaseManager) -> list[tuple[str, list[CoverageRange], list[_Gap]]]:
        repository = OHLCVRepository(db)
        names = [one.exchange for one in await repository.list_series() if (one.symbol, one.timeframe) == series]
        names = [name for name in names if name == exchange] if exchange is not None and exchange in names else names
        if exchange is not None and exchange not in names:
            names = [exchange]
        found = []
        for name in names:
            states = await repository.get_coverage(*series, name, start=first, end=last)
            missing = [one for one in states if one.state in ("none", "unknown")]
            worst = sorted(sorted(missing, key=lambda one: one.bars, reverse=True)[:_WORST], key=lambda one: one.first)
            known = await explain_gaps(repository, (name, *series), states, worst)
            gaps = [_Gap(one.first, one.last, one.bars, one.state, words) for one, words in zip(worst, known, strict=True)]
            if states:
                found.append((name, states, gaps))
        if not found:
            raise NotFoundError(f"no bars of {' '.join(series)} are stored, and none was asked for; see iftb-store series")
        return found

    found = read(url, BARS, find)
    if as_json:
        print_json([_as_json((name, *series), states, gaps) for name, states, gaps in found])
        return
    for number, (name, states, gaps) in enumerate(found):
        if number:
            say()
        _show_series((name, *series), states, gaps)


def _as_json(series: tuple[str, str, str], states: Sequence[CoverageRange], gaps: Sequence[_Gap]) -> dict[str, Any]:
    names = dict(zip(("exchange", "symbol", "timeframe"), series, strict=True))
    return names | {"days": add_up_days(states, series[2]), "ranges": states, "worst_gaps": gaps}


def _show_series(series: tuple[str, str, str], states: Sequence[CoverageRange], gaps: Sequence[_Gap]) -> None:
    days = add_up_days(states, series[2])
    say(f"{' '.join(series)}, {format_moment(states[0].first)} to {format_moment(states[-1].last)} UTC")
    rows = []
    for month, group in groupby(days, key=lambda day: day.day.replace(day=1)):
        listed = list(group)
        numbers = [sum(getattr(day, name) for day in listed) for name in ("unknown", "none")]
        rows.append((f"{month:%Y-%m}", _draw_month(month, listed), *(f"{number:,}" for number in (sum(numbers), *numbers))))
    print_fitting(["month", "days", "missing", "unknown", "none"], rows, ["missing"])
    due, missing = sum(day.due for day in days), sum(day.unknown + day.none for day in days)
    say(f"{due - missing:,} of {format_count(due, 'candle')} stored, {missing:,} missing")
    if gaps:
        say()
        shown = [(format_moment(gap.first), format_moment(gap.last), f"{gap.bars:,}", gap.known) for gap in gaps]
        print_fitting(["first missing", "last missing", "candles", "what is known"], shown, ["last missing"], right=False)


def _draw_month(month: date, days: Sequence[CoverageDay]) -> str:
    """Return a block for each day of a month."""
    blocks, nothing, not_due = (_BLOCKS, _NOTHING, _NOT_DUE) if is_utf8() else (_ASCII, _NOTHING_ASCII, _NOT_DUE_ASCII)
    by_day = {day.day.day: day for day in days}
    drawn = ""
    for number in range(1, monthrange(month.year, month.month)[1] + 1):
        day = by_day.get(number)
        stored = 0 if day is None else day.traded + day.quiet
        if day is None:
            drawn += not_due
        elif not stored:
            drawn += nothing
        else:
            # only a day that lacks nothing is full
            drawn += blocks[-1] if stored == day.due else blocks[min(6, stored * 7 // day.due)]
    return drawn.ljust(31, not_due)


def _show_all(url: str | None, exchange: str | None, first: datetime | None, last: datetime | None, *, as_json: bool) -> None:
    async def find(db: DatabaseManager) -> list[tuple[tuple[str, str, str], dict[str, int]]]:
        repository, found = OHLCVRepository(db), list[tuple[tuple[str, str, str], dict[str, int]]]()
        for one in await repository.list_series():
            if exchange not in (None, one.exchange):
                continue
            states = await repository.get_coverage(one.symbol, one.timeframe, one.exchange, start=first, end=last)
            counts: dict[str, int] = dict.fromkeys(("due", "traded", "quiet", "none", "unknown"), 0)
            for state in states:
                counts["due"] += state.bars
                counts[state.state] += state.bars
            found.append(((one.exchange, one.symbol, one.timeframe), counts))
        return found

    found = read(url, BARS, find)
    if as_json:
        names = ("exchange", "symbol", "timeframe")
        print_json([dict(zip(names, series, strict=True)) | counts for series, counts in found])
    elif found:
        titles = ["series", "candles due", "traded", "quiet", "none", "unknown"]
        rows = [(" ".join(series), *(f"{number:,}" for number in counts.values())) for series, counts in found]
        print_fitting(titles, rows, ["quiet", "candles due"])
    else:
        say("no bars are stored")
