"""Splits Arrow tables of bars, in key order, by series."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.bars import SeriesKey
from iftb_store.schema.table_spec import SERIES

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute


def split_series(rows: pa.Table) -> list[tuple[SeriesKey, int, int]]:
    """Split rows in key order by series: return (series, index of the first row, index after the last row) for each series."""
    columns: list[Any] = [rows[name].combine_chunks() for name in SERIES]
    same = reduce(pc.and_, (pc.equal(column.slice(0, len(column) - 1), column.slice(1)) for column in columns))
    ends: list[int] = pc.add(pc.indices_nonzero(pc.invert(same)), 1).to_pylist()
    firsts = [0, *ends]
    names = zip(*(column.take(pa.array(firsts)).to_pylist() for column in columns), strict=True)
    return list(zip(names, firsts, [*ends, rows.num_rows], strict=True))


def find_spans(rows: pa.Table) -> list[tuple[SeriesKey, int, int]]:
    """Return (series, first time, last time) of each series of rows in key order; times are microseconds since 1970."""
    times: Any = rows["timestamp"].cast(pa.int64())
    return [(series, times[first].as_py(), times[end - 1].as_py()) for series, first, end in split_series(rows)]
