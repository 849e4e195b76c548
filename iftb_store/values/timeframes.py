"""The timeframes of bars, 1s to 1M, named as exchanges name them, and the step from one bar to the next."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias, cast, get_args

from iftb_store.errors import InvalidValueError
from iftb_store.values.display import exactly_str, show

#: The calendar month, the only timeframe whose step has no fixed length.
MONTH: Final = "1M"

Timeframe: TypeAlias = Literal["1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"]
TIMEFRAMES: tuple[Timeframe, ...] = get_args(Timeframe)

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

# the names of timeframes elsewhere: 1H, 60min, 1hour, D, H4
_OTHER_NAMES = re.compile(
    r"(?P<number>[0-9]{1,5})?[ _-]?(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?|mo|mons?|months?)"
    r"(?P<after>(?<![0-9])[0-9]{1,5})?"
)

#: Length of a bar in seconds; None for the calendar month.
SECONDS: dict[str, int | None] = {name: None if name == MONTH else int(name[:-1]) * _UNITS[name[-1]] for name in TIMEFRAMES}


def check_timeframe(timeframe: object, name: str = "timeframe") -> Timeframe:
    """Return the timeframe, typed as `Timeframe`, if it is known; use it for text from a configuration or an exchange.

    Args:
        timeframe: the timeframe, e.g. "1h".
        name: the name of the value in the error message.

    Returns:
        The timeframe, unchanged.

    Raises:
        InvalidValueError: the timeframe is unknown; the message lists the known ones.

    Example:
        check_timeframe("1h")  # -> '1h'
    """
    # a member of a str enum has the hash of its name, not of its text, so it must become a plain str before the look-up
    known = exactly_str(timeframe) if isinstance(timeframe, str) else None
    if known not in SECONDS:
        given = "" if name == "timeframe" else f"{name}: "
        near = _find_meant(known or "")
        raise InvalidValueError(
            f"{given}unknown timeframe {show(timeframe, 40)}; {f'did you mean {near}? ' if near else ''}"
            f"the known ones are {' '.join(TIMEFRAMES)}"
        )
    return cast("Timeframe", known)


def _find_meant(word: str) -> str | None:
    """Return the timeframe that a name in another notation means, e.g. 1H, 60min or D; None if it means none, or several."""
    found = _OTHER_NAMES.fullmatch(word.strip().lower())
    if found is None or (found["unit"] == "m" and "M" in word):
        return None
    number, unit = int(found["number"] or found["after"] or 1), found["unit"]
    if unit.startswith("mo"):
        return MONTH if number == 1 else None
    return next((name for name, seconds in SECONDS.items() if seconds == number * _UNITS[unit[0]]), None)


def origin(timeframe: str) -> datetime:
    """Return a UTC time at which bars of a known timeframe begin: 1970-01-01, for 1w the Monday 1970-01-05."""
    return datetime(1970, 1, 5 if timeframe == "1w" else 1, tzinfo=UTC)


def grid(timeframe: str) -> tuple[datetime, timedelta]:
    """Return the grid of times at which bars of a known timeframe begin, as (one of the times in UTC, interval between them).

    The grid of 1M has a step of one day, but its bars begin only on the first day of a month. The grid of 3d has a step of
    one day too, because the three-day bars of different exchanges begin on different days.
    """
    seconds = SECONDS[timeframe]
    return origin(timeframe), timedelta(days=1) if timeframe in (MONTH, "3d") or seconds is None else timedelta(seconds=seconds)


def is_off_grid(moment: datetime, timeframe: str) -> bool:
    """Return whether no bar of a known timeframe can begin at this UTC time, see `grid`."""
    first, step = grid(timeframe)
    return bool((moment - first) % step) or (timeframe == MONTH and moment.day != 1)


def align(moment: datetime, timeframe: str, *, up: bool) -> datetime:
    """Return the nearest time at which a bar of a known timeframe can begin: at or after ``moment`` if ``up``, else at or before.

    Raises:
        InvalidValueError: that time is outside the years 1 to 9999.
    """
    if timeframe == MONTH:
        begin = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return shift(begin, MONTH, 1) if up and begin < moment else begin
    first, step = grid(timeframe)
    elapsed = (moment - first) % step
    try:
        return moment + (step - elapsed) if up and elapsed else moment - elapsed
    except OverflowError as error:
        # the calendar begins with a Monday, so a bar of every timeframe begins with it
        raise InvalidValueError(f"no bar of {timeframe} begins after {moment.isoformat()} in the years 1 to 9999") from error


def shift(moment: datetime, timeframe: str, steps: int) -> datetime:
    """Return the opening time of the bar that is ``steps`` bars after ``moment``; before it if ``steps`` is negative.

    For 1M the steps are calendar months; a day that the target month does not have becomes its last day.

    Raises:
        InvalidValueError: the timeframe is unknown, or the result is outside the years 1 to 9999.
    """
    seconds = SECONDS[check_timeframe(timeframe)]
    try:
        if seconds is not None:
            return moment + timedelta(seconds=seconds * steps)
        year, month = divmod(moment.year * 12 + moment.month - 1 + steps, 12)
        return moment.replace(year=year, month=month + 1, day=min(moment.day, monthrange(year, month + 1)[1]))
    except (OverflowError, ValueError) as error:
        raise InvalidValueError(
            f"{steps} steps of {timeframe} from {moment.isoformat()} are outside the years 1 to 9999"
        ) from error
