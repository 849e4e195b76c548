"""Timeframes of bars as the exchanges name them, 1s to 1M, and the step from one bar to the next."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta

from iftb_store.errors import InvalidValueError
from iftb_store.values.display import exactly_str, shown

#: The calendar month: the one timeframe whose step has no fixed length.
MONTH = "1M"

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_FIXED = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w")

#: Length of a bar in seconds; None for the calendar month.
SECONDS: dict[str, int | None] = {name: int(name[:-1]) * _UNITS[name[-1]] for name in _FIXED} | {MONTH: None}

TIMEFRAMES: tuple[str, ...] = tuple(SECONDS)


def check_timeframe(timeframe: object, name: str = "timeframe") -> str:
    """Return a known timeframe.

    Raises:
        InvalidValueError: an unknown one; the message lists them all.
    """
    # an enum's member that is text has the hash of its name, not that of the text
    known = exactly_str(timeframe) if isinstance(timeframe, str) else None
    if known not in SECONDS:
        given = "" if name == "timeframe" else f"{name}: "
        raise InvalidValueError(f"{given}unknown timeframe {shown(timeframe, 40)}; the known ones are {' '.join(TIMEFRAMES)}")
    return known


def origin(timeframe: str) -> datetime:
    """Return the time in UTC from which steps of a known timeframe are counted: weeks from a Monday."""
    return datetime(1970, 1, 5 if timeframe == "1w" else 1, tzinfo=UTC)


def grid(timeframe: str) -> tuple[datetime, timedelta]:
    """Return from when on in UTC, and in what steps, bars of a known timeframe can begin; months on the first day alone.

    Exchanges count three days from days of their own.
    """
    seconds = SECONDS[timeframe]
    return origin(timeframe), timedelta(days=1) if timeframe in (MONTH, "3d") or seconds is None else timedelta(seconds=seconds)


def is_off_grid(moment: datetime, timeframe: str) -> bool:
    """Tell whether no bar of a known timeframe begins at a time (UTC)."""
    first, step = grid(timeframe)
    return bool((moment - first) % step) or (timeframe == MONTH and moment.day != 1)


def shift(moment: datetime, timeframe: str, steps: int) -> datetime:
    """Return the opening time of the bar ``steps`` bars later (earlier where negative).

    A month is a calendar month; a day that the target month does not have becomes its last.

    Raises:
        InvalidValueError: an unknown timeframe, or a result outside the years 1 to 9999.
    """
    seconds = SECONDS[check_timeframe(timeframe)]
    try:
        if seconds is not None:
            return moment + timedelta(seconds=seconds * steps)
        year, month = divmod(moment.year * 12 + moment.month - 1 + steps, 12)
        return moment.replace(year=year, month=month + 1, day=min(moment.day, monthrange(year, month + 1)[1]))
    except (OverflowError, ValueError) as error:
        raise InvalidValueError(f"{steps} steps of {timeframe} from {moment.isoformat()} leave the years 1 to 9999") from error
