"""The command series: which series of bars are stored, how complete they are, and how late their newest bar is."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Annotated

from iftb_store.cli.completion import one_of
from iftb_store.cli.data import Exchange, Json, Option, Url, read
from iftb_store.cli.output import print_fitting, print_json, say
from iftb_store.cli.symbols import describe_near
from iftb_store.errors import InvalidValueError, NotFoundError
from iftb_store.models import Series
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.scope import make_filter
from iftb_store.schema.table_spec import BARS
from iftb_store.values.display import join_names
from iftb_store.values.readable import format_count, format_duration, format_moment, format_number
from iftb_store.values.suggestions import find_near
from iftb_store.values.timeframes import TIMEFRAMES, shift

_LEAST_IMPORTANT = ("first (UTC)", "missing")


def series(
    url: Url = None,
    exchange: Exchange = None,
    symbol: Annotated[str | None, Option(help="Only series of this symbol.")] = None,
    timeframe: Annotated[
        str | None, Option(help=f"Only series of this timeframe: {' '.join(TIMEFRAMES)}.", autocompletion=one_of(TIMEFRAMES))
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the stored series of bars: first and last bar, bars, missing bars, percent complete, and the lag.

    Bars are missing where there are gaps between the first and the last bar. The lag is the time since the end of the newest
    bar: at most one timeframe if a feed is running.
    """
    given = {"exchange": exchange, "symbol": symbol, "timeframe": timeframe}
    chosen = make_filter(BARS, None, None, **given).equal
    stored = read(url, BARS, lambda db: OHLCVRepository(db).list_series())
    found = [one for one in stored if all(getattr(one, name) == value for name, value in chosen.items())]
    if as_json:
        now = read_clock()
        extra = [{"percent": measure_percent(one), "lag": measure_lag(one, now)} for one in found]
        print_json([asdict(one) | more for one, more in zip(found, extra, strict=True)])
    if chosen and not found:
        raise NotFoundError(f"no series of {join_names(chosen.values())} is stored; {_find_hint(stored, chosen)}")
    if not as_json:
        _show(found)


def read_clock() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def measure_percent(one: Series) -> Decimal:
    """Return how many of the bars between the first and the last are stored, in percent, rounded down to two places.

    Rounding down shows 100 only for a series without a gap.
    """
    percent = Decimal(100 * one.count) / Decimal(one.count + one.missing)
    return percent.quantize(Decimal("0.01"), rounding=ROUND_DOWN)


def measure_lag(one: Series, now: datetime) -> timedelta | None:
    """Return the time since the end of the newest bar, 0 while it lasts; None if it has no end in the calendar."""
    try:
        return max(now - shift(one.last, one.timeframe, 1), timedelta(0))
    except InvalidValueError:
        return None


def _show(found: list[Series]) -> None:
    if not found:
        say("no bars are stored")
        return
    now = read_clock()
    rows = []
    for one in found:
        lag = measure_lag(one, now)
        rows.append(
            (
                one.exchange,
                one.symbol,
                one.timeframe,
                format_moment(one.first),
                format_moment(one.last),
                f"{one.count:,}",
                f"{one.missing:,}",
                f"{format_number(measure_percent(one))} %",
                "" if lag is None else format_duration(timedelta(seconds=lag // timedelta(seconds=1))),
            )
        )
    titles = ["exchange", "symbol", "timeframe", "first (UTC)", "last (UTC)", "bars", "missing", "complete", "lag"]
    print_fitting(titles, rows, _LEAST_IMPORTANT, right=["bars", "missing", "complete", "lag"], key=3)
    bars, missing = sum(one.count for one in found), sum(one.missing for one in found)
    say(f"{len(found):,} series, {format_count(bars, 'bar')}, {missing:,} missing (times in UTC)")


def _find_hint(stored: list[Series], chosen: dict[str, str]) -> str:
    """Return the end of the message that no stored series matches: what is stored instead."""
    if not stored:
        return "no bars are stored at all"
    for name, value in chosen.items():
        known = sorted({getattr(one, name) for one in stored})
        if value not in known and name == "symbol":
            return describe_near(find_near(value, known), "bar")
        if value not in known:
            return f"bars are stored of {join_names(known)}"
    return "run the command without options to see what is stored"
