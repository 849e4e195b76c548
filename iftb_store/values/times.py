"""The start of a time window, given as a time or as a duration before now; and time zones by their names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from iftb_store.errors import InvalidValueError
from iftb_store.values import checks
from iftb_store.values.display import show, type_name

#: The start of a time window: a duration before now, as a timedelta or as text such as "7d", or a time.
Since: TypeAlias = timedelta | datetime | str

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"([0-9]{1,9})([mhdw])")


def find_start(start: datetime | None, since: Since | None, name: str = "since") -> datetime | None:
    """Return the start of a time window in UTC, from ``start`` or ``since``; None if neither is given.

    Args:
        start: the start; naive times are UTC.
        since: the duration of the window, which ends now: a timedelta or text of a number and a unit, e.g. "30m", "12h", "7d"
            or "2w"; or the start.
        name: the name of ``since`` in messages.

    Raises:
        InvalidValueError: both are given, or one of them is not a time or a duration.
    """
    if since is None:
        return checks.optional(checks.utc, start, "start")
    if start is not None:
        raise InvalidValueError("start and since are both given, and both are the start of the time window; give one of them")
    return resolve_since(since, name)


def resolve_since(since: Since, name: str) -> datetime:
    """Return the start, in UTC, of a time window that ends now; arguments and errors as in `find_start`."""
    if isinstance(since, datetime):
        return checks.utc(since, name)
    try:
        duration = _parse_duration(since, name)
        if duration > timedelta(0):
            return datetime.now(UTC) - duration
    except OverflowError as error:
        raise InvalidValueError(f"{name} {show(str(since))} is before the year 1; give a shorter duration") from error
    raise InvalidValueError(f"{name} {show(str(since))} is not in the past; give a duration greater than 0")


def _parse_duration(since: object, name: str) -> timedelta:
    if isinstance(since, timedelta):
        return since
    if not isinstance(since, str):
        raise InvalidValueError(f"{name} must be a timedelta, a datetime or text such as '7d', not {type_name(since)}")
    match = _DURATION.fullmatch(since)
    if match is None:
        raise InvalidValueError(f"{name} {show(since)} is not a duration; write it as 30m, 12h, 7d or 2w, or give the start")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def find_zone(name: str | ZoneInfo | None) -> ZoneInfo | None:
    """Return the time zone with the given name.

    Raises:
        InvalidValueError: the time zone is not known.
    """
    if name is None or isinstance(name, ZoneInfo):
        return name
    try:
        return ZoneInfo(checks.text(name, "tz"))
    except (ZoneInfoNotFoundError, ValueError, OSError, UnicodeError) as error:
        raise InvalidValueError(f"tz {show(name)} is not a known time zone; write it as e.g. Europe/Berlin") from error
