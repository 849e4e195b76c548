"""The model's resampled bars and list of series, computed from a list of bars in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from iftb_store import InvalidValueError, OHLCVBar, Series, Timeframe
from iftb_store.testing import model_values as values

_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)
# a Thursday; weeks begin on Mondays
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_target(source: str, target: str) -> None:
    """Raise InvalidValueError unless a bar of the target consists of two or more whole bars of the source."""
    fitting = [frame for frame in values.TIMEFRAMES if _fits(source, frame)]
    if target not in fitting:
        choices = f"those that can are {' '.join(fitting)}" if fitting else "no timeframe can"
        raise InvalidValueError(f"the target {target} cannot be computed from bars of the source {source}; {choices}")


def _fits(source: str, target: str) -> bool:
    if source == "1M":
        return False
    step = values.step(source)
    return not _DAY % step if target == "1M" else not values.step(target) % step and target != source


def resample(bars: Sequence[OHLCVBar], source: str, target: Timeframe, *, partial: bool) -> list[OHLCVBar]:
    """Return the bars of the target timeframe, computed from bars of one series in order of time.

    Raises:
        InvalidValueError: a bar would begin before the year 1, or a sum exceeds the range of its column.
    """
    buckets: dict[int, list[OHLCVBar]] = {}
    for bar in bars:
        buckets.setdefault(_bucket(bar.timestamp, target), []).append(bar)
    return [_merge(number, given, target) for number, given in buckets.items() if partial or _is_whole(given, source, target)]


def _bucket(moment: datetime, target: str) -> int:
    """Return the number of the bucket that contains a time: months since the year 0 for 1M, otherwise steps since 1970."""
    if target == "1M":
        return moment.year * 12 + moment.month - 1
    first = _EPOCH - 3 * _DAY if target == "1w" else _EPOCH
    return (moment - first) // values.step(target)


def _begin(number: int, target: str) -> datetime:
    if target == "1M":
        return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
    first = _EPOCH - 3 * _DAY if target == "1w" else _EPOCH
    try:
        return first + number * values.step(target)
    except OverflowError:
        raise InvalidValueError(f"a bar of {target} would begin before the year 1; resample from a later start") from None


def _is_whole(bars: list[OHLCVBar], source: str, target: str) -> bool:
    step = values.step(source)
    due = sum(not (bar.timestamp - _EPOCH) % step for bar in bars)
    if target != "1M":
        return due == values.step(target) // step
    first = bars[0].timestamp
    days = 31 if first.month == 12 else (datetime(first.year, first.month + 1, 1) - datetime(first.year, first.month, 1)).days
    return due == days * _DAY // step


def _merge(number: int, bars: list[OHLCVBar], target: Timeframe) -> OHLCVBar:
    begin = _begin(number, target)
    where = f"in the bar of {begin:%Y-%m-%d %H:%M:%S}"
    volume = _sum([bar.volume for bar in bars], f"the sum of volume {where}")
    assert volume is not None
    counts = [bar.trades_count for bar in bars]
    quote_volume = _sum([bar.quote_volume for bar in bars], f"the sum of quote_volume {where}")
    whole = None if None in counts else values.whole(sum(count or 0 for count in counts), f"the sum of trades_count {where}")
    return OHLCVBar(
        bars[0].symbol,
        bars[0].exchange,
        target,
        begin,
        bars[0].open,
        max(bar.high for bar in bars),
        min(bar.low for bar in bars),
        bars[-1].close,
        volume,
        quote_volume,
        whole,
    )


def _sum(given: Sequence[Decimal | None], name: str) -> Decimal | None:
    if None in given:
        return None
    units = sum(Fraction(value or 0) for value in given) * values.UNITS
    return values.decimal(values.from_units(int(units)), name)


def list_series(bars: Sequence[OHLCVBar]) -> list[Series]:
    """Return the series of the bars, ordered by the bytes of their names."""
    series: dict[tuple[str, str, Timeframe], list[datetime]] = {}
    for bar in sorted(bars, key=lambda bar: bar.timestamp):
        series.setdefault((bar.exchange, bar.symbol, bar.timeframe), []).append(bar.timestamp)
    return [
        Series(*name, times[0], times[-1], len(times), sum(_count_missing(*pair, name[2]) for pair in pairwise(times)))
        for name, times in sorted(series.items(), key=lambda item: [part.encode() for part in item[0]])
    ]


def _count_missing(earlier: datetime, later: datetime, timeframe: str) -> int:
    """Return how many bars fit strictly between two times."""
    if timeframe == "1M":
        return max(0, (later.year - earlier.year) * 12 + later.month - earlier.month - 1)
    return (later - earlier - _MICROSECOND) // values.step(timeframe)
