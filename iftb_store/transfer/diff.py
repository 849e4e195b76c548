"""Compares the rows of two stores, one range of keys at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.batches.arrow import arrow_schema
from iftb_store.schema.table_spec import BARS, RowFilter, TableSpec
from iftb_store.transfer.digests import encode_rows, read_positions
from iftb_store.transfer.plan import DirtyRange, Partition, RowReader, cut_at, prefetch, read_batches


class Repeated(NamedTuple):
    """A key that occurs in more than one row; raw SQL can create such rows if the database has no unique constraint on the key.

    Attributes:
        key: the values of the key, by column.
        source: number of source rows with this key.
        destination: number of destination rows with this key.
    """

    key: dict[str, Any]
    source: int
    destination: int


class RowDiff(NamedTuple):
    """The differences between two stores in one range of keys.

    Attributes:
        new: the source's rows whose key the destination lacks.
        changed: the source's rows that have other values in the destination.
        stored: the destination's versions of the rows in ``changed``, in the same order.
        extra: the destination's rows whose key the source lacks.
        same: number of rows that both stores have with the same values.
        twice: the keys that occur in more than one row of the source or of the destination.
    """

    new: pa.Table
    changed: pa.Table
    stored: pa.Table
    extra: pa.Table
    same: int
    twice: list[Repeated]


async def compare_partition(
    source: RowReader, destination: RowReader, partition: Partition, run: DirtyRange
) -> AsyncGenerator[RowDiff]:
    """Compare a range of chunks (days of bars, or blocks of ids) in two stores; yield the differences in parts, in key order.

    The destination's rows are read from `Partition.unbounded`, so `RowDiff.extra` may contain rows outside the selection.
    """
    if run.fresh and partition.table is BARS:
        none = arrow_schema(partition.table).empty_table()
        async with aclosing(prefetch(read_batches(source, partition, run))) as coming:
            async for rows in coming:
                yield RowDiff(rows, none, none, none, 0, _find_repeated(partition.table, rows, none))
        return
    async for source_rows, destination_rows in _align(
        partition.table, read_batches(source, partition, run), read_batches(destination, partition.unbounded, run)
    ):
        yield await asyncio.to_thread(compare_rows, partition.table, source_rows, destination_rows)


def compare_rows(table: TableSpec, source: pa.Table, destination: pa.Table) -> RowDiff:
    """Match rows of the source and of the destination by their keys, and return the differences."""
    source_places, destination_places = read_positions(source, table), read_positions(destination, table)
    where: Any = pc.index_in(source_places, value_set=destination_places)
    is_new: Any = pc.is_null(where)
    known = source.filter(pc.invert(is_new))
    stored = destination.take(where.drop_null())
    differs: Any = pc.not_equal(encode_rows(known, table), encode_rows(stored, table))
    extra: Any = pc.is_null(pc.index_in(destination_places, value_set=source_places))
    changed = known.filter(differs)
    same = known.num_rows - changed.num_rows
    twice = _find_repeated(table, source, destination)
    return RowDiff(source.filter(is_new), changed, stored.filter(differs), destination.filter(extra), same, twice)


def select_rows(rows: pa.Table, selection: RowFilter) -> Any:
    """Return a Boolean array: whether ``selection`` selects each row; ``after``, ``limit`` and ``size`` are ignored."""
    wanted: Any = pc.is_valid(rows["id"])
    for name, value in selection.equal.items():
        column: Any = rows[name]
        wanted = pc.and_(wanted, pc.fill_null(pc.equal(column, pa.scalar(value)), pa.scalar(False)))
    for moment, compare_to in ((selection.start, pc.greater_equal), (selection.end, pc.less_equal)):
        if moment is not None:
            bound = pa.scalar(moment, rows.schema.field(selection.table.time).type)
            wanted = pc.and_(wanted, compare_to(rows[selection.table.time], bound))
    return wanted


def _find_repeated(table: TableSpec, source: pa.Table, destination: pa.Table) -> list[Repeated]:
    """Return, in key order, each key that occurs more than once in the source or more than once in the destination."""
    found: dict[int, Repeated] = {}
    both = [(rows, read_positions(rows, table)) for rows in (source, destination)]
    for rows, where in both:
        again: Any = pc.equal(where[1:], where[:-1])
        for index in pc.indices_nonzero(again).to_pylist():
            key = rows.slice(index, 1).select(table.key).to_pylist()[0]
            counts = (pc.sum(pc.equal(each, where[index])).as_py() or 0 for _, each in both)
            found.setdefault(where[index].as_py(), Repeated(key, *counts))
    return [found[place] for place in sorted(found)]


async def _align(
    table: TableSpec, left: AsyncGenerator[pa.Table], right: AsyncGenerator[pa.Table]
) -> AsyncGenerator[tuple[pa.Table, pa.Table]]:
    """Yield pairs of tables, one from ``left`` and one from ``right``, whose rows cover the same range of keys."""
    try:
        one, two = await anext(left, None), await anext(right, None)
        while one is not None or two is not None:
            until = min(read_positions(rows, table)[-1].as_py() for rows in (one, two) if rows is not None)
            (now_one, one), (now_two, two) = (cut_at(rows, table, until) for rows in (one, two))
            yield now_one, now_two
            if one is not None and not one.num_rows:
                one = await anext(left, None)
            if two is not None and not two.num_rows:
                two = await anext(right, None)
    finally:
        await left.aclose()
        await right.aclose()
