"""The grid of times at which bars begin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from iftb_store import TIMEFRAMES, InvalidValueError, Timeframe
from iftb_store.values.timeframes import align, is_off_grid, shift

# a Thursday
_MOMENT = datetime(2024, 2, 29, 13, 7, 30, 5, UTC)


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_the_bars_on_both_sides_of_a_moment_are_neighbours(timeframe: Timeframe) -> None:
    before, after = (align(_MOMENT, timeframe, up=up) for up in (False, True))
    assert before < _MOMENT < after
    assert not is_off_grid(before, timeframe)
    # the bars of 3d begin on any day
    assert after == shift(before, "1d" if timeframe == "3d" else timeframe, 1)
    assert align(before, timeframe, up=True) == align(before, timeframe, up=False) == before


@pytest.mark.parametrize("timeframe", ["1m", "1d", "3d", "1w", "1M"])
def test_no_bar_begins_behind_the_end_of_the_calendar(timeframe: Timeframe) -> None:
    with pytest.raises(InvalidValueError, match="9999"):
        align(datetime.max.replace(tzinfo=UTC), timeframe, up=True)


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_a_bar_of_every_timeframe_begins_with_the_calendar(timeframe: Timeframe) -> None:
    first = datetime(1, 1, 1, tzinfo=UTC)
    assert align(first, timeframe, up=False) == align(first, timeframe, up=True) == first
    assert align(first + timedelta(microseconds=1), timeframe, up=False) == first
