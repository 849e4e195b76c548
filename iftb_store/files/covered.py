"""Records what a file of candles covers: its first to its last bar, or the window that its name promises."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from iftb_store.analytics.states import find_last_due, find_slot
from iftb_store.errors import InvalidValueError
from iftb_store.registry import get_stores
from iftb_store.repositories.base import utc_now
from iftb_store.repositories.covered import add_range, find_coverage
from iftb_store.schema.scope import check_window
from iftb_store.schema.table_spec import SERIES, AskedRange
from iftb_store.values import checks
from iftb_store.values.timeframes import SECONDS, origin

Window = tuple[datetime, datetime]


def check_covers(covers: object) -> Window | None:
    """Return the window that the files cover, checked; None for that of each file's bars.

    Raises:
        InvalidValueError: it is no pair of times, or the first is after the second.
    """
    if covers is None:
        return None
    if not isinstance(covers, tuple | list) or len(covers) != 2:
        raise InvalidValueError("covers must be a pair of times: the start and the end of what the files contain")
    start, end = checks.utc(covers[0], "the start of covers"), checks.utc(covers[1], "the end of covers")
    check_window(start, end)
    return start, end


async def mark_file(
    session: Any, path: Path, series: tuple[str, ...], first: datetime, last: datetime, covers: Window | None
) -> None:
    """Record in the session's transaction that a file has all bars of a series from its first to its last bar.

    Args:
        session: the session that stored the bars.
        path: the file.
        series: the exchange, symbol and timeframe.
        first: the opening time of its first bar.
        last: that of its last bar.
        covers: the window that the file covers; None for that of its bars.
    """
    coverage = find_coverage(get_stores(session))
    timeframe = series[2]
    if coverage is None or timeframe not in SECONDS:
        return
    anchor, now = first if timeframe == "3d" else origin(timeframe), utc_now()
    start, end = covers or (first, last)
    begin, finish = find_slot(anchor, start, timeframe, up=True), find_slot(anchor, end, timeframe)
    finish = min(finish, find_last_due(anchor, now, timeframe))
    if begin <= finish:
        source = f"file:{path.name}"[:255]
        names = dict(zip(SERIES, series, strict=True))
        await add_range(coverage, AskedRange(**names, first=begin, last=finish, asked_at=now, source=source))
