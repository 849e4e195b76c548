"""Counts bars that look wrong but are stored; a wrong timeframe, time zone or order of columns may be the cause."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow_input import RowError
from iftb_store.schema.types import to_epoch_us
from iftb_store.values.timeframes import MONTH, grid

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

_ORDER = "are the columns time, open, high, low, close, volume, in this order?"


class Oddities:
    """Counts bars that begin at a time impossible for the timeframe, and bars whose open or close is not between low and high."""

    def __init__(self) -> None:
        self._off_grid = self._beyond = 0

    @property
    def notes(self) -> list[str]:
        """Remarks for the user with the number of bars that look wrong; the command doctor reports the same bars."""
        return [
            *([f"{self._off_grid:,} off the timeframe's grid"] if self._off_grid else []),
            *([f"{self._beyond:,} whose open or close is not between low and high"] if self._beyond else []),
        ]

    def take(self, rows: pa.Table, *, unnamed: bool) -> None:
        """Count the bars that look wrong; the rows are already checked.

        Args:
            rows: the bars.
            unnamed: whether the file has no column names, so that a wrong order of its columns is possible.

        Raises:
            RowError: with ``unnamed``, if open or close is not between low and high in most rows.
        """
        low, high = rows["low"], rows["high"]
        outside = [
            condition for name in ("open", "close") for condition in (pc.less(rows[name], low), pc.greater(rows[name], high))
        ]
        beyond = pc.or_(pc.or_(outside[0], outside[1]), pc.or_(outside[2], outside[3]))
        count = pc.sum(beyond).as_py() or 0
        if unnamed and count * 2 > rows.num_rows:
            why = f"open or close is not between low and high, as in {count:,} of {rows.num_rows:,} rows; {_ORDER}"
            raise RowError(pc.index(beyond, True).as_py(), rows.num_rows, "", why)
        self._beyond += count
        times = rows["timestamp"]
        for timeframe in pc.unique(rows["timeframe"]).to_pylist():
            here = times.filter(pc.equal(rows["timeframe"], timeframe))
            self._off_grid += pc.sum(_off_grid(here, timeframe)).as_py() or 0


def _off_grid(times: Any, timeframe: str) -> Any:
    origin, step = grid(timeframe)
    length = step // timedelta(microseconds=1)
    numbers = pc.subtract(times.cast(pa.int64()), to_epoch_us(origin))
    off = pc.not_equal(pc.multiply(pc.divide(numbers, length), length), numbers)
    return pc.or_(off, pc.not_equal(pc.day(times), 1)) if timeframe == MONTH else off
