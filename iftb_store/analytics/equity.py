"""The equity of trades in the order of their closing, its drawdowns, and the times in which a trade was open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import accumulate, compress
from operator import sub

from iftb_store.analytics.figures import Drawdown, EquityPoint
from iftb_store.analytics.numbers import divide, round_figure, round_optional
from iftb_store.analytics.totals import Ledger
from iftb_store.schema.types import from_epoch_us

_ZERO, _HUNDRED = Decimal(0), Decimal(100)


def list_equity(ledger: Ledger, start: int, balance: Decimal) -> list[EquityPoint]:
    """Return the equity: the balance at the start, then one point for each time at which one or more trades were closed."""
    # of trades that close together only the last makes a point
    following = [*ledger.closed_at[1:], None]
    last = [closed != later for closed, later in zip(ledger.closed_at, following, strict=True)]
    times = [start, *compress(ledger.closed_at, last)]
    values = [balance, *compress(accumulate(ledger.net, initial=balance), [False, *last])]
    falls = map(sub, accumulate(values, max), values)
    # _make does the same, but more slowly
    make = partial(tuple.__new__, EquityPoint)
    points: list[EquityPoint] = list(map(make, zip(map(from_epoch_us, times), values, falls, strict=True)))
    return points


def list_drawdowns(points: Sequence[EquityPoint], end: int, *, has_balance: bool) -> list[tuple[Drawdown, Decimal]]:
    """Return every period in which the equity was below an earlier peak, with that peak; the deepest first."""
    found: list[tuple[Drawdown, Decimal]] = []
    begin, *following = points
    peak, current = begin, None
    for point in following:
        if point.equity >= peak.equity:
            if current is not None:
                current.recovery = point.time
                current = None
            peak = point
            continue
        if current is None:
            current = Drawdown(peak.time, point.time, None, point.drawdown, None, timedelta(0))
            found.append((current, peak.equity))
        elif point.drawdown > current.depth:
            current.valley, current.depth = point.time, point.drawdown
    closing = from_epoch_us(end)
    for drawdown, top in found:
        drawdown.depth = round_figure(drawdown.depth)
        drawdown.length = (drawdown.recovery or closing) - drawdown.start
        if has_balance:
            drawdown.depth_pct = round_optional(find_percent(drawdown.depth, top))
    return sorted(found, key=lambda one: (-one[0].depth, one[0].start))


def find_percent(drawdown: Decimal, peak: Decimal) -> Decimal | None:
    """Return a drawdown in percent of its peak, not rounded; None unless the peak is above 0."""
    return divide(_HUNDRED * drawdown, peak) if peak > 0 else None


def measure_exposure(spans: Iterable[tuple[int, int]], start: int) -> tuple[int, int]:
    """Return the microseconds in which at least one trade was open, and the most trades that were open at once.

    At one instant, exits come before entries.

    Args:
        spans: when each trade was open, cut to the window, without empty spans.
        start: the start of the window.
    """
    ordered = sorted(spans)
    covered, reached = 0, start
    for first, last in ordered:
        if last > reached:
            covered += last - max(first, reached)
            reached = last
    exits, most, gone = sorted(last for _, last in ordered), 0, 0
    for entered, (first, _) in enumerate(ordered, 1):
        while exits[gone] <= first:
            gone += 1
        most = max(most, entered - gone)
    return covered, most
