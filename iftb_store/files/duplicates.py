"""Finds bars that a file contains more than once: equal duplicates are harmless, duplicates with other values are refused."""

from __future__ import annotations

from functools import reduce
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow_input import WRITTEN, RowError, find_repeated, is_rising
from iftb_store.batches.bars import KEY
from iftb_store.files.spans import Spans
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.table_spec import SERIES
from iftb_store.schema.types import from_epoch_us
from iftb_store.values.display import show
from iftb_store.values.timeframes import SECONDS

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

_VALUES = [name for name in WRITTEN.names if name not in KEY]
_US, _DAY = 1_000_000, 86_400
_WHY = (
    "has a different bar of {} than an earlier row; does another column name the symbol (--map symbol=NAME), "
    "or were clocks set back in this hour?"
)


class Repeats:
    """Remembers the bars of one file that were written so far, as spans of times, to find duplicates in later batches."""

    def __init__(self) -> None:
        self._spans = Spans()

    async def refuse(self, rows: pa.Table, session: Any) -> int:
        """Check that bars do not contradict other bars of the batch, or bars of earlier batches, which ``session`` has written.

        Returns:
            The number of distinct bars of the batch that earlier batches of the file did not contain.

        Raises:
            RowError: a row has other values than an earlier row with the same key.
            InvalidValueError: the bars have too many series, or their times too many gaps, to be remembered.
        """
        order: Any = pa.array(range(rows.num_rows), pa.int64())
        if not is_rising(rows):
            order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in KEY])
            rows = rows.take(order)
            count = rows.num_rows - 1
            again = find_repeated(rows)
            if again.true_count:
                wrong = pc.and_(again, _differs(rows.slice(0, count), rows.slice(1)))
                _refuse_first(rows.slice(1), order.slice(1), wrong)
        return sum(
            [await self._refuse_part(series, order.slice(first, series.num_rows), session) for first, series in _parts(rows)]
        )

    async def _refuse_part(self, rows: pa.Table, order: Any, session: Any) -> int:
        key: Any = tuple(rows[name][0].as_py() for name in SERIES)
        seconds = SECONDS[key[2]]
        step = (seconds or _DAY) * _US
        moments: list[int] = pc.unique(rows["timestamp"].combine_chunks().cast(pa.int64())).to_pylist()
        shared = self._spans.add(key, moments, step)
        if shared:
            bounds = from_epoch_us(shared[0]), from_epoch_us(shared[-1])
            stored = await OHLCVRepository(session).read_arrow(key[1], key[2], *bounds, key[0])
            times = rows["timestamp"].combine_chunks()
            places = pc.index_in(times, stored["timestamp"].combine_chunks())
            again = pc.and_(pc.is_in(times.cast(pa.int64()), pa.array(shared)), pc.is_valid(places))
            wrong = _differs(rows, stored.take(pc.fill_null(places, 0)))
            _refuse_first(rows, order, pc.and_(again, wrong))
        return len(moments) - len(shared)


def _parts(rows: pa.Table) -> list[tuple[int, pa.Table]]:
    """Split ``rows``, which must be in key order, by series; return (index of the first row in ``rows``, rows of the series)."""
    counted = rows.group_by(list(SERIES), use_threads=False).aggregate([([], "count_all")])
    counts: list[Any] = counted["count_all"].to_pylist()
    return [(end - count, rows.slice(end - count, count)) for end, count in zip(accumulate(counts), counts, strict=True)]


def _differs(one: pa.Table, other: pa.Table) -> Any:
    same = []
    for name in _VALUES:
        left, right = one[name].combine_chunks(), other[name].combine_chunks()
        same.append(pc.or_(pc.fill_null(pc.equal(left, right), False), pc.and_(pc.is_null(left), pc.is_null(right))))
    return pc.invert(reduce(pc.and_, same))


def _refuse_first(rows: pa.Table, order: Any, wrong: Any) -> None:
    """Raise RowError for the row, among those marked in ``wrong``, that comes first in the file; do nothing if none is marked.

    ``order`` holds the index of each row in the batch, because ``rows`` is sorted.
    """
    places = order.filter(wrong)
    if len(places):
        index: int = pc.min(places).as_py()
        row: dict[str, Any] = rows.slice(pc.index(order, index).as_py(), 1).select(KEY).to_pylist()[0]
        exchange, symbol, timeframe, moment = row.values()
        bar = f"{exchange} {symbol} {timeframe} {moment.replace(tzinfo=None).isoformat(' ')}"
        raise RowError(index, _WHY.format(show(bar, 200)[1:-1]))
