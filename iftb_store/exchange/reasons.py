"""Says what is known of missing bars: never asked for, or asked for and not given, with the likely reason, for show alone."""

from __future__ import annotations

from collections.abc import Sequence

from iftb_store.analytics.states import CoverageRange
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.values.readable import format_moment
from iftb_store.values.timeframes import check_timeframe

# how many other series are looked at, and how many of them must lack the bars for an outage
_OTHERS, _OUTAGE = 20, 2


async def explain_gaps(
    repository: OHLCVRepository, series: tuple[str, str, str], states: Sequence[CoverageRange], gaps: Sequence[CoverageRange]
) -> list[str]:
    """Return what is known of each gap, in words; the reasons are inferred, and nothing is stored.

    Args:
        repository: the repository of bars.
        series: the exchange, symbol and timeframe.
        states: the ranges of the series, oldest first, see `OHLCVRepository.get_coverage`.
        gaps: those of them that are missing and to be explained.
    """
    exchange, symbol, timeframe = series[0], series[1], check_timeframe(series[2])
    given = next((one.first for one in states if one.state in ("traded", "quiet")), None)
    others = [
        one.symbol
        for one in await repository.list_series()
        if (one.exchange, one.timeframe) == (exchange, timeframe) and one.symbol != symbol
    ][:_OTHERS]
    found = []
    for gap in gaps:
        if gap.state == "unknown" or gap.asked_at is None:
            found.append("never asked for")
            continue
        words = f"none given, asked {format_moment(gap.asked_at.replace(second=0, microsecond=0))}"
        if given is None or gap.last < given:
            found.append(f"{words}, before the first candle")
            continue
        lacking = []
        for other in others:
            (first, *more) = await repository.get_coverage(other, timeframe, exchange, start=gap.first, end=gap.last)
            if not more and first.state == "none":
                lacking.append(other)
        found.append(f"{words}, outage: {' and '.join(lacking[:_OUTAGE])} too" if len(lacking) >= _OUTAGE else words)
    return found
