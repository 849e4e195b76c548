"""Resamples bars to a longer timeframe: groups them by bucket (the time of one longer bar) and makes one bar of each."""

from __future__ import annotations

import sys
from calendar import monthrange
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from iftb_store.errors import InvalidValueError
from iftb_store.models import OHLCVBar
from iftb_store.schema.types import to_epoch_us
from iftb_store.values import checks
from iftb_store.values.timeframes import MONTH, SECONDS, Timeframe, check_timeframe, origin

_DAY = 86_400
_MODULO = "{0} % {1}"


class Bucket(NamedTuple):
    """The values that an engine computes from the bars in one bucket, i.e. in the time of one bar of the target timeframe.

    Attributes:
        number: the bucket's number, see `Buckets`.
        open: open of the first bar.
        high: the highest high.
        low: the lowest low.
        close: close of the last bar.
        volume: the exact sum, which may exceed the range of a column.
        quote_volume: the exact sum; None if the quote_volume of any bar is None.
        trades_count: the exact sum; None if the trades_count of any bar is None.
        due: the number of bars whose timestamp is a whole number of source steps after 1970-01-01 UTC.
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
    """The buckets of a target timeframe, i.e. the times of its bars; each bucket has a number, which increases with time.

    Attributes:
        source: length of a source bar in seconds.
        target: the target timeframe.
        seconds: length of a bucket in seconds; None for calendar months, which have the number year * 12 + month - 1.
        origin: the time at which bucket 0 begins; not used for calendar months.
    """

    def __init__(self, source: str, target: str) -> None:
        """Create the buckets; raise InvalidValueError unless a target bar consists of two or more whole source bars."""
        step, self.seconds = SECONDS[check_timeframe(source)], SECONDS[check_timeframe(target)]
        whole = _DAY if target == MONTH else self.seconds
        if step is None or whole is None or whole % step or step == self.seconds:
            raise InvalidValueError(
                f"the target {target} cannot be computed from bars of the source {source}; {_list_targets(source)}"
            )
        self.source = step
        self.target = target
        self.origin = origin(target)

    def start(self, number: int) -> datetime:
        """Return the time at which a bucket begins.

        Raises:
            InvalidValueError: the bucket begins before the year 1.
        """
        if self.seconds is None:
            return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
        try:
            return self.origin + timedelta(seconds=number * self.seconds)
        except OverflowError as error:
            raise InvalidValueError(
                f"a bar of {self.target} would begin before the year 1; resample from a later start"
            ) from error

    def number(self, moment: datetime) -> int:
        """Return the number of the bucket that contains a time."""
        if self.seconds is None:
            return moment.year * 12 + moment.month - 1
        return (moment - self.origin) // timedelta(seconds=self.seconds)

    def size(self, number: int) -> int:
        """Return the number of source bars in a complete bucket."""
        seconds = self.seconds or monthrange(number // 12, number % 12 + 1)[1] * _DAY
        return seconds // self.source

    def sql(self, moment: str, *, month: str, divided: str = "/", modulo: str = _MODULO, integer: str = "{}") -> str:
        """Return an SQL expression that computes the number of the bucket that contains a time.

        Args:
            moment: SQL expression of the time, as whole microseconds since 1970-01-01 UTC.
            month: SQL expression of year * 12 + month of the same time.
            divided: the engine's operator for integer division.
            modulo: template of the remainder of ``{0}`` divided by ``{1}``.
            integer: template of a whole number as 64 bits, in SQL.
        """
        if self.seconds is None:
            return f"{month} - 1"
        size = integer.format(self.seconds * 1_000_000)
        since = f"({moment} - {to_epoch_us(self.origin)})"
        # integer division truncates toward zero; subtracting the non-negative remainder first makes it round down, also for
        # times before the origin
        remainder = modulo.format(f"({modulo.format(since, size)} + {size})", size)
        return f"({since} - {remainder}) {divided} {size}"

    def due_sql(self, moment: str, *, modulo: str = _MODULO, integer: str = "{}") -> str:
        """Return an SQL expression that counts the bars whose time is a whole number of source steps after 1970-01-01 UTC.

        ``moment``, ``modulo`` and ``integer`` are those of `sql`.
        """
        remainder = modulo.format(moment, integer.format(self.source * 1_000_000))
        return f"SUM(CASE WHEN {remainder} = 0 THEN 1 ELSE 0 END)"


def _list_targets(source: str) -> str:
    # no other timeframe is a multiple of a month
    step = SECONDS[source] or sys.maxsize
    fitting = [name for name, length in SECONDS.items() if (length or _DAY) % step == 0 and (length is None or length > step)]
    return f"those that can are {' '.join(fitting)}" if fitting else "no timeframe can"


def make_bars(buckets: Buckets, found: Iterable[Bucket], series: tuple[str, str, Timeframe], *, partial: bool) -> list[OHLCVBar]:
    """Return one bar for each bucket; without ``partial`` only for complete buckets.

    Args:
        buckets: the numbering of the buckets.
        found: the values of each bucket, as the engine computed them.
        series: symbol, exchange and timeframe of the bars.
        partial: whether to include incomplete buckets.

    Raises:
        InvalidValueError: a sum exceeds the range of its column.
    """
    bars = []
    for bucket in found:
        if partial or bucket.due == buckets.size(bucket.number):
            start = buckets.start(bucket.number)
            try:
                volume, quote, count = _check_sums(bucket, str)
            except InvalidValueError:
                volume, quote, count = _check_sums(bucket, f"the sum of {{}} in the bar of {start:%Y-%m-%d %H:%M:%S}".format)
            bars.append(OHLCVBar(*series, start, bucket.open, bucket.high, bucket.low, bucket.close, volume, quote, count))
    return bars


def _check_sums(bucket: Bucket, name: Callable[[str], str]) -> tuple[Decimal, Decimal | None, int | None]:
    """Return the sums of a bucket; ``name`` returns the name of a column for the message of an error."""
    return (
        checks.exact_decimal(bucket.volume, name("volume")),
        checks.optional(checks.exact_decimal, bucket.quote_volume, name("quote_volume")),
        checks.optional(checks.integer, bucket.trades_count, name("trades_count")),
    )
