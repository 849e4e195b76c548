"""The arithmetic of the figures: exact sums, and quotients and roots that are rounded once, half-even to 18 places."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal

from iftb_store.values.decimals import SCALE, trim_zeros

#: The context of performance figures: the sums of 10**9 results and of their squares, 85 digits, are exact in it.
EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN, Emin=-999_999, Emax=999_999, capitals=1, clamp=0)
#: The calendar days of a year, by which daily figures are annualised.
YEAR_DAYS = 365

_PLACES = Decimal(1).scaleb(-SCALE)
_ZERO, _ONE = Decimal(0), Decimal(1)


def round_figure(value: Decimal) -> Decimal:
    """Return a figure rounded half-even to 18 places, without zeros at the end; leave one with more than 81 digits unchanged."""
    if value.adjusted() >= EXACT.prec - SCALE - 1:
        return trim_zeros(value)
    short = value.quantize(_PLACES, context=EXACT).normalize(EXACT)
    if not short:
        return _ZERO
    # a whole number such as 1E+2 becomes 100
    return short.quantize(_ONE, context=EXACT) if short == short.to_integral_value() else short


def round_optional(value: Decimal | None) -> Decimal | None:
    """Return `round_figure` of a figure, or None."""
    return None if value is None else round_figure(value)


def divide(numerator: Decimal | None, denominator: Decimal | int | None) -> Decimal | None:
    """Return the quotient, not yet rounded; None if a part is None or the denominator is 0."""
    return None if numerator is None or not denominator else EXACT.divide(numerator, Decimal(denominator))


def find_median(ordered: Sequence[Decimal]) -> Decimal | None:
    """Return the median of ordered values, the mean of the middle two if their number is even; None without values."""
    if not ordered:
        return None
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return EXACT.divide(EXACT.add(low, high), Decimal(2))


def compute_average_duration(total: int, count: int) -> timedelta | None:
    """Return the mean of durations, given their sum in microseconds, half-even to the microsecond; None if there are none."""
    if not count:
        return None
    low, rest = divmod(total, count)
    return timedelta(microseconds=low + (2 * rest > count or (2 * rest == count and low % 2)))


def compute_annual_ratios(values: Sequence[Decimal]) -> tuple[Decimal | None, Decimal | None]:
    """Return the Sharpe and the Sortino ratio of a daily series, annualised, with a risk-free rate of 0.

    Sharpe is mean / sample standard deviation * sqrt(365), None if all values are equal. Sortino is
    mean / sqrt(sum of the squares below 0 / number of values) * sqrt(365), None if no value is below 0. Both are None for fewer
    than two values. To be called in the decimal context `EXACT`.
    """
    if len(values) < 2:
        return None, None
    average, year = sum(values, _ZERO) / len(values), Decimal(YEAR_DAYS).sqrt()
    spread = compute_sample_deviation(values)
    down = sum((value * value for value in values if value < 0), _ZERO)
    return (
        average / spread * year if spread else None,
        average / (down / len(values)).sqrt() * year if down else None,
    )


def compute_sample_deviation(values: Sequence[Decimal]) -> Decimal | None:
    """Return the sample standard deviation (divided by the number of values - 1), in `EXACT`; None for fewer than two values."""
    if len(values) < 2:
        return None
    if min(values) == max(values):
        # of values that no decimal holds, e.g. 1/3, the computed variance would be a little more than 0
        return _ZERO
    average = sum(values, _ZERO) / len(values)
    return (sum(((value - average) ** 2 for value in values), _ZERO) / (len(values) - 1)).sqrt()
