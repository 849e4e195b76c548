"""Bars that a file holds more than once: the same again is harmless, other values are refused, wherever in the file they are."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.arrow_input import WRITTEN, RowError, repeated, rises
from iftb_store.bars import KEY
from iftb_store.files.formats import SERIES
from iftb_store.messages import shown
from iftb_store.ohlcv import OHLCVRepository
from iftb_store.timeframes import SECONDS
from iftb_store.types import from_epoch_us

# its stubs know nothing of plain values among the arguments
pc: Any = pyarrow.compute

_VALUES = [name for name in WRITTEN.names if name not in KEY]
_US, _DAY = 1_000_000, 86_400
_WHY = (
    "holds another bar of {} than a row before; is there a column that tells two symbols apart (--map symbol=NAME), "
    "or an hour that clocks showed twice?"
)

Series = tuple[str, str, str]
Run = tuple[int, int]


class Repeats:
    """Knows the bars of one file that were written, as runs of times without a hole: of a real file there are few."""

    def __init__(self) -> None:
        self._runs: dict[Series, list[Run]] = {}

    async def refuse(self, rows: pa.Table, session: Any) -> None:
        """Refuse bars that contradict others of the batch, or of the batches before, which ``session`` has written.

        Raises:
            RowError: one that does.
        """
        order: Any = pa.array(range(rows.num_rows), pa.int64())
        if not rises(rows):
            order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in KEY])
            rows = rows.take(order)
            count = rows.num_rows - 1
            again = repeated(rows)
            if again.true_count:
                wrong = pc.and_(again, _differs(rows.slice(0, count), rows.slice(1)))
                _refuse_first(rows.slice(1), order.slice(1), wrong)
        for first, series in _parts(rows):
            await self._refuse_part(series, order.slice(first, series.num_rows), session)

    async def _refuse_part(self, rows: pa.Table, order: Any, session: Any) -> None:
        key: Any = tuple(rows[name][0].as_py() for name in SERIES)
        seconds = SECONDS[key[2]]
        step = (seconds or _DAY) * _US
        runs = _runs(pc.unique(rows["timestamp"].combine_chunks().cast(pa.int64())), step)
        before = self._runs.get(key, [])
        if shared := _shared(before, runs, step):
            bounds = from_epoch_us(shared[0]), from_epoch_us(shared[-1])
            stored = await OHLCVRepository(session).read_arrow(key[1], key[2], *bounds, key[0])
            times = rows["timestamp"].combine_chunks()
            places = pc.index_in(times, stored["timestamp"].combine_chunks())
            again = pc.and_(pc.is_in(times.cast(pa.int64()), pa.array(shared)), pc.is_valid(places))
            wrong = _differs(rows, stored.take(pc.fill_null(places, 0)))
            _refuse_first(rows, order, pc.and_(again, wrong))
        self._runs[key] = _merged([*before, *runs], step)


def _parts(rows: pa.Table) -> list[tuple[int, pa.Table]]:
    """Return the rows of each series, and where they begin in rows in key order."""
    counted = rows.group_by(list(SERIES), use_threads=False).aggregate([([], "count_all")])
    counts: list[Any] = counted["count_all"].to_pylist()
    parts, first = [], 0
    for count in counts:
        parts.append((first, rows.slice(first, count)))
        first += count
    return parts


def _runs(times: Any, step: int) -> list[Run]:
    """Return the first and last of times that follow each other by a step."""
    count = len(times) - 1
    ends = pc.not_equal(pc.subtract(times.slice(1), times.slice(0, count)), step)
    lasts = [*times.slice(0, count).filter(ends).to_pylist(), times[count].as_py()]
    return list(zip([times[0].as_py(), *times.slice(1).filter(ends).to_pylist()], lasts, strict=True))


def _shared(before: list[Run], runs: list[Run], step: int) -> list[int]:
    """Return the times that two lists of runs have in common, each in order and apart from each other."""
    lasts = [last for _, last in before]
    found: list[int] = []
    for first, last in runs:
        at = bisect_left(lasts, first)
        while at < len(before) and before[at][0] <= last:
            found += range(max(first, before[at][0]), min(last, before[at][1]) + 1, step)
            at += 1
    return found


def _merged(runs: list[Run], step: int) -> list[Run]:
    merged: list[Run] = []
    for first, last in sorted(runs):
        if merged and first <= merged[-1][1] + step:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _differs(one: pa.Table, other: pa.Table) -> Any:
    found: Any = None
    for name in _VALUES:
        left, right = one[name].combine_chunks(), other[name].combine_chunks()
        same = pc.or_(pc.fill_null(pc.equal(left, right), False), pc.and_(pc.is_null(left), pc.is_null(right)))
        found = pc.invert(same) if found is None else pc.or_(found, pc.invert(same))
    return found


def _refuse_first(rows: pa.Table, order: Any, wrong: Any) -> None:
    """Refuse the first row of the file that is wrong; ``order`` tells where in the batch each row stood."""
    places = order.filter(wrong)
    if len(places):
        index: int = pc.min(places).as_py()
        row: dict[str, Any] = rows.slice(pc.index(order, index).as_py(), 1).select(KEY).to_pylist()[0]
        exchange, symbol, timeframe, moment = row.values()
        bar = f"{exchange} {symbol} {timeframe} {moment.replace(tzinfo=None).isoformat(' ')}"
        raise RowError(index, rows.num_rows, "", _WHY.format(shown(bar, 200)[1:-1]))
