"""Writes Arrow tables of bars to SQLite: decimals become sortable text in Arrow, and a series is bound once for many rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import chain, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow import DECIMAL, TIME
from iftb_store.batches.arrow_series import split_series
from iftb_store.batches.bars import SeriesKey
from iftb_store.relational import pause_gc
from iftb_store.values.decimals import format_plain, to_sortable
from iftb_store_sqlite.bars import SERIES_ROWS, BarWriter, write_rows

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

# rows that one call in the thread writes, a few tens of milliseconds, and the least rows for which a series is bound once
_AT_ONCE, _FEW = 8_000, 50
# the prefixes of sortable text by the number of digits before the point
_PREFIXES = pa.array([None, *map(chr, range(ord("a"), ord("a") + 20))], pa.string())
_ZERO, _LEAST_PLAIN = "0E-18", pa.scalar(Decimal("0.000001"), DECIMAL)


def split_parts(table: pa.Table) -> Iterator[tuple[SeriesKey | None, pa.Table]]:
    """Yield the rows of a table in key order in parts, each written by one call in the thread, with the part's only series.

    Neighbouring series with few rows are one part, without a series.
    """
    several, found = 0, split_series(table)
    for series, first, end in found:
        if end - first >= _FEW:
            yield from _slice(None, table, several, first)
            yield from _slice(series, table, first, end)
            several = end
    yield from _slice(None, table, several, table.num_rows)


def _slice(series: SeriesKey | None, table: pa.Table, first: int, end: int) -> Iterator[tuple[SeriesKey | None, pa.Table]]:
    for start in range(first, end, _AT_ONCE):
        yield series, table.slice(start, min(_AT_ONCE, end - start))


def write_part(
    connection: sqlite3.Connection, writer: BarWriter, parts: Iterator[tuple[SeriesKey | None, pa.Table]], created_at: int
) -> int | None:
    """Write the next part; return the number of written bars, or None if no part is left."""
    with pause_gc():
        found = next(parts, None)
        if found is None:
            return None
        series, rows = found
        if series is None:
            columns = [*map(to_stored, rows.columns), repeat(created_at)]
            return write_rows(connection, writer, list(zip(*columns, strict=False)))
        columns = [to_stored(column) for column in rows.columns[len(series) :]]
        values = list(chain.from_iterable(zip(*columns, strict=True)))
        most, written = len(columns) * SERIES_ROWS, 0
        for first in range(0, len(values), most):
            part = values[first : first + most]
            sql = writer.of_series if len(part) == most else writer.select(len(part) // len(columns))
            # rows that triggers write are not counted
            written += connection.execute(sql, (*series, created_at, *part)).rowcount
    return written


def to_stored(column: Any) -> Sequence[Any]:
    """Return a column of an Arrow table as the values that SQLite stores."""
    if column.type == DECIMAL:
        return to_sortable_texts(column.combine_chunks())
    values: Sequence[Any] = (column.cast(pa.int64()) if column.type == TIME else column).to_pylist()
    return values


def to_sortable_texts(numbers: Any) -> Sequence[str | None]:
    """Apply `iftb_store.values.decimals.to_sortable` to each decimal of an Arrow array; NULL becomes None."""
    text = numbers.cast(pa.string())
    # negative numbers are written in another way, and Arrow writes 0 and values below 0.000001 with an exponent
    odd = pc.less(numbers, _LEAST_PLAIN)
    places = pc.find_substring(text, ".")
    has_odd = pc.any(odd).as_py()
    digits = pc.ascii_rtrim(pc.ascii_rtrim(text, "0"), ".")
    made = pc.binary_join_element_wise(_PREFIXES.take(pc.if_else(odd, None, places) if has_odd else places), digits, "")
    if not has_odd:
        return made.to_pylist()  # type: ignore[no-any-return]
    is_zero = pc.equal(text, _ZERO)
    texts: list[str | None] = pc.if_else(is_zero, "a0", made).to_pylist()
    for place in pc.indices_nonzero(pc.and_not(odd, is_zero)).to_pylist():
        plain = format_plain(Decimal(text[place].as_py()))
        texts[place] = None if plain is None else to_sortable(plain)
    return texts
