"""Bars of a coarser timeframe: the buckets, when a bucket is complete, and its bar."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from iftb_store.errors import InvalidValueError
from iftb_store.models import OHLCVBar
from iftb_store.schema.types import to_epoch_us
from iftb_store.values import checks
from iftb_store.values.timeframes import MONTH, SECONDS, check_timeframe, origin

_DAY = 86_400


class Bucket(NamedTuple):
    """The values that an engine computes from the bars in one bucket.

    Attributes:
        number: the bucket's number, see `Buckets`.
        open: open of the first bar.
        high: the highest high.
        low: the lowest low.
        close: close of the last bar.
        volume: the exact sum, which may pass a column's range.
        quote_volume: the exact sum; None if a bar has none.
        trades_count: the exact sum; None if a bar has none.
        due: how many of the bars lie on the grid of their timeframe, counted from 1970-01-01 UTC.
    """

    number: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal | None
    trades_count: int | None
    due: int


class Buckets:
    """The numbered buckets of a target timeframe.

    Attributes:
        source: seconds of a source bar.
        seconds: seconds of a bucket; None for the calendar month, whose number is year * 12 + month - 1.
        origin: where bucket 0 begins, unless a bucket is a month.
    """

    def __init__(self, source: str, target: str) -> None:
        """Raise InvalidValueError if a target bar does not consist of whole source bars."""
        step, self.seconds = SECONDS[check_timeframe(source)], SECONDS[check_timeframe(target)]
        whole = _DAY if target == MONTH else self.seconds
        if step is None or whole is None or whole % step or step == self.seconds:
            raise InvalidValueError(
                f"the target {target} cannot be computed from bars of the source {source}; {_list_targets(source)}"
            )
        self.source = step
        self.origin = origin(target)

    def start(self, number: int) -> datetime:
        """Return the time at which a bucket begins."""
        if self.seconds is None:
            return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
        return self.origin + timedelta(seconds=number * self.seconds)

    def size(self, number: int) -> int:
        """Return how many bars a complete bucket has."""
        seconds = self.seconds or monthrange(number // 12, number % 12 + 1)[1] * _DAY
        return seconds // self.source

    def sql(self, moment: str, *, month: str, divided: str = "/") -> str:
        """Return the SQL of the number of a bucket.

        Args:
            moment: the SQL of a time as whole microseconds since 1970-01-01 UTC.
            month: the SQL of its year * 12 + month.
            divided: the engine's division of whole numbers.
        """
        if self.seconds is None:
            return f"{month} - 1"
        # an explicit type selects the engine's operator: another user could define a division for two other types
        size = f"CAST({self.seconds * 1_000_000} AS BIGINT)"
        since = f"({moment} - {to_epoch_us(self.origin)})"
        # division truncates toward zero; the remainder moves times before the origin down into their bucket
        return f"({since} - (({since} % {size}) + {size}) % {size}) {divided} {size}"

    def due_sql(self, moment: str) -> str:
        """Return the SQL that counts the bars on the grid of their timeframe."""
        return f"COUNT(*) FILTER (WHERE {moment} % CAST({self.source * 1_000_000} AS BIGINT) = 0)"


def _list_targets(source: str) -> str:
    step = SECONDS[source]
    fitting = [
        name
        for name, seconds in SECONDS.items()
        if step is not None and (seconds or _DAY) % step == 0 and (seconds is None or seconds > step)
    ]
    return f"those that can are {' '.join(fitting)}" if fitting else "no timeframe can"


def make_bars(buckets: Buckets, found: Iterable[Bucket], series: tuple[str, str, str], *, partial: bool) -> list[OHLCVBar]:
    """Return the bars of buckets; ``series`` is their symbol, exchange and timeframe.

    Raises:
        InvalidValueError: a sum passes the range of its column.
    """
    symbol, exchange, timeframe = series
    return [
        OHLCVBar(
            symbol,
            exchange,
            timeframe,
            buckets.start(bucket.number),
            bucket.open,
            bucket.high,
            bucket.low,
            bucket.close,
            checks.exact_decimal(bucket.volume, _sum("volume", buckets, bucket)),
            checks.optional(checks.exact_decimal, bucket.quote_volume, _sum("quote_volume", buckets, bucket)),
            checks.optional(checks.integer, bucket.trades_count, _sum("trades_count", buckets, bucket)),
        )
        for bucket in found
        if partial or bucket.due == buckets.size(bucket.number)
    ]


def _sum(name: str, buckets: Buckets, bucket: Bucket) -> str:
    return f"the sum of {name} in the bar of {buckets.start(bucket.number):%Y-%m-%d %H:%M:%S}"
