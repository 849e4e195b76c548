"""Divides the rows of two stores into partitions (series of bars, other tables), and finds the ranges that differ."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar

import pyarrow as pa

from iftb_store.abilities import ConnectedStore, SupportsDigests
from iftb_store.batches.arrow import arrow_schema
from iftb_store.errors import StoreError
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter, TableSpec
from iftb_store.schema.types import from_epoch_us
from iftb_store.transfer.access import open_complete_session
from iftb_store.transfer.digests import Chunk, Digester, get_part_size, read_positions
from iftb_store.transfer.lookups import get_lookups
from iftb_store.values.display import join_names, show

T = TypeVar("T")
U = TypeVar("U")

#: Maximum number of rows and of bytes in a batch; if rows are long, the next batches have fewer rows.
ROWS = 16_384
BYTES = 2 << 20
# The store measures the rows of a batch before it reads them; measuring many more rows than fit would be wasted work.
_FIRST, _GROWTH = 512, 8


class RowReader(Protocol):
    """An object that reads the rows of a selection: the stores of a session, or `LastCommitted`."""

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the next rows that ``selection`` selects; see `iftb_store.protocols.Stores.read_rows`."""
        ...


class LastCommitted:
    """Reads each batch completely in a separate session, so that no connection is held between batches."""

    def __init__(self, db: ConnectedStore) -> None:
        self._db = db

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the next rows that ``selection`` selects; see `iftb_store.protocols.Stores.read_rows`."""
        async with open_complete_session(self._db, [selection.table]) as session:
            return await get_stores(session).read_rows(selection)


@dataclass(frozen=True)
class Partition:
    """One series of bars, or the selected rows of another table, in the order of their timestamp or their id."""

    selection: RowFilter

    @property
    def table(self) -> TableSpec:
        """The table of the rows."""
        return self.selection.table

    @property
    def series(self) -> str:
        """The series, e.g. ``binance BTCUSDT 1m``; empty if the partition is not limited to one series."""
        return join_names(self.selection.equal.values())

    @property
    def name(self) -> str:
        """The table and the series, as text for people."""
        return f"{self.table.name} {self.series}" if self.selection.equal else self.table.name

    @property
    def key(self) -> tuple[str, ...]:
        """The key that identifies the partition within a scope; `name` is only for people."""
        return self.table.name, *self.selection.equal.values()

    @property
    def unbounded(self) -> Partition:
        """A larger partition with every row of the destination that may have the same key as a row of this partition.

        For bars this is the same partition, because it contains all bars with its keys. For other tables it is the whole
        table, because their key is only the id, and a row with the same id may have another symbol, exchange or time.
        """
        return self if self.table is BARS else Partition(RowFilter(self.table))


class DirtyRange(NamedTuple):
    """A range of consecutive chunks that all differ between two stores; a chunk is one day of bars, or a block of 10,000 ids.

    Attributes:
        first: the number of the first chunk.
        last: the number of the last chunk.
        fresh: whether the destination has no row in any of these chunks.
        rows: number of rows that the source has in these chunks.
    """

    first: int
    last: int
    fresh: bool
    rows: int


def open_snapshot(db: ConnectedStore, tables: Iterable[TableSpec]) -> AbstractAsyncContextManager[Any]:
    """Open a session that can read every row of the tables, from a snapshot if the backend supports it.

    Raises:
        OperationalError: rows are hidden from this role, see `iftb_store.transfer.access.require_complete_reads`.
    """
    return open_complete_session(db, tables, isolation="snapshot" if Capability.ISOLATION in db.capabilities else None)


async def require_schema(db: ConnectedStore, tables: Sequence[TableSpec], *, insert: bool = False) -> None:
    """Raise an error unless all rows of the tables of a database can be read.

    Args:
        db: a connected manager.
        tables: the tables to be used.
        insert: whether rows are going to be inserted into the tables.

    Raises:
        SchemaError: the database has no tables, or they have another revision; the message names the command.
        OperationalError: rows are hidden from this role, see `iftb_store.transfer.access.require_complete_reads`.
    """
    async with open_complete_session(db, tables, insert=insert) as session:
        await get_stores(session).read_rows(RowFilter(tables[0], limit=1))


async def find_partitions(session: Any, scope: TableScope) -> list[tuple[Partition, int]]:
    """Divide the selected rows of a store into partitions; return each with its number of rows, in order of tables and keys.

    Raises:
        StoreError: a key column holds a value that is not text.
    """
    stores = get_stores(session)
    # read_rows checks the schema, which lookups do not: a table that iftb-store did not create must not be read
    await stores.read_rows(RowFilter(scope.tables[0], limit=1))
    found = []
    for table in scope.tables:
        for selection in scope.list_selections(table):
            keys = selection.order[:-1]
            for series, count in await get_lookups(stores).count_rows(selection):
                for name, value in zip(keys, series, strict=True):
                    if not isinstance(value, str):
                        what = f"{table.name}: a row's {name} cannot be read: it is {show(value)}"
                        raise StoreError(f"{what}; `iftb-store doctor` finds such rows")
                equal = selection.equal | dict(zip(keys, series, strict=True))
                ordered = {name: equal[name] for name in (*SERIES, "account") if name in equal}
                found.append((Partition(replace(selection, equal=ordered)), count))
    return found


def sort_partitions(found: list[Partition]) -> list[Partition]:
    """Return the partitions in the order in which they are copied, without duplicates."""
    tables = list(dict.fromkeys(partition.table for partition in found))
    chosen = {partition.key: partition for partition in found}
    return sorted(chosen.values(), key=lambda part: (tables.index(part.table), [value.encode() for value in part.key]))


async def read_batches(store: RowReader, partition: Partition, run: DirtyRange | None = None) -> AsyncGenerator[pa.Table]:
    """Yield the rows of a partition, or only of the chunks in ``run``, in key order, as tables of bounded size."""
    selection, limit = partition.selection, ROWS
    if partition.table is not BARS:
        selection, limit = replace(selection, size=BYTES), min(ROWS, _FIRST)
    until = None if run is None else (run.last + 1) * get_part_size(partition.table) - 1
    if run is not None:
        selection = _narrow(selection, run)
    while (rows := await store.read_rows(replace(selection, limit=limit))).num_rows:
        last = rows.slice(rows.num_rows - 1).select(selection.order).to_pylist()[0]
        selection = replace(selection, after=tuple(last[name] for name in selection.order))
        over = partition.table is not BARS and until is not None and last["id"] > until
        if over and until is not None:
            rows, _ = cut_at(rows, partition.table, until)
        if rows.num_rows:
            yield rows
            limit = max(1, min(ROWS, _GROWTH * limit, BYTES * rows.num_rows // rows.nbytes))
        if over:
            return


async def prefetch(source: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Yield the items of a generator, and fetch the next item while the caller works on the current one.

    If the caller does not consume all items, it must close this generator.
    """
    coming = asyncio.ensure_future(anext(source, None))
    try:
        while (item := await coming) is not None:
            coming = asyncio.ensure_future(anext(source, None))
            yield item
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await source.aclose()


async def gather_both(first: Awaitable[T], second: Awaitable[U]) -> tuple[T, U]:
    """Wait for two awaitables and return both results; if one fails, cancel the other; on a cancellation, cancel both."""
    tasks = asyncio.ensure_future(first), asyncio.ensure_future(second)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def digest_partition(
    store: RowReader, partition: Partition, run: DirtyRange | None = None, report_progress: Callable[[int], None] | None = None
) -> list[Chunk]:
    """Compute the digest of each chunk (a day of bars, or 10,000 ids) of a partition, or only of the chunks in ``run``.

    Args:
        store: the store whose rows are read.
        partition: the partition.
        run: the range of chunks; None for all.
        report_progress: called with the number of rows of each batch that was read.
    """
    if partition.table is BARS and isinstance(store, SupportsDigests):
        selection = partition.selection if run is None else _narrow(partition.selection, run)
        days = await store.digest_days(selection)
        if days is not None:
            if report_progress is not None:
                report_progress(sum(bars for _, bars, _ in days))
            return [Chunk(*day) for day in days]
    digester = Digester(partition.table, partition.selection.equal)
    partition = Partition(replace(partition.selection, only=partition.table.compared))
    async with aclosing(prefetch(read_batches(store, partition, run))) as coming:
        async for rows in coming:
            await asyncio.to_thread(digester.take, rows)
            if report_progress is not None:
                report_progress(rows.num_rows)
    return digester.parts()


def find_dirty_ranges(source: list[Chunk], destination: list[Chunk]) -> list[DirtyRange]:
    """Return the chunks that differ between two stores, as ranges of consecutive chunks."""
    source_parts, destination_parts = ({part.number: part for part in parts} for parts in (source, destination))
    found: list[DirtyRange] = []
    before: int | None = None
    for number in sorted(source_parts.keys() | destination_parts.keys()):
        if source_parts.get(number) != destination_parts.get(number):
            rows = source_parts[number].rows if number in source_parts else 0
            run = DirtyRange(number, number, number not in destination_parts, rows)
            if found and (found[-1].last, found[-1].fresh) == (before, run.fresh):
                found[-1] = found[-1]._replace(last=number, rows=found[-1].rows + rows)
            else:
                found.append(run)
        before = number
    return found


def join_numbers(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Join consecutive numbers into ranges; return each as (first, last)."""
    found = list[tuple[int, int]]()
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


def cut_at(rows: pa.Table | None, table: TableSpec, until: int) -> tuple[pa.Table, pa.Table | None]:
    """Split rows after the time or id ``until``; return (rows up to it, rows after it), or (empty table, None) for None."""
    if rows is None:
        return arrow_schema(table).empty_table(), None
    where = read_positions(rows, table)
    count = bisect_right(range(len(where)), until, key=lambda index: where[index].as_py())
    return rows.slice(0, count), rows.slice(count)


def _narrow(selection: RowFilter, run: DirtyRange) -> RowFilter:
    size = get_part_size(selection.table)
    if selection.table is not BARS:
        return replace(selection, after=(run.first * size - 1,))
    first, last = from_epoch_us(run.first * size), from_epoch_us((run.last + 1) * size - 1)
    start, end = selection.start, selection.end
    return replace(selection, start=first if start is None else max(start, first), end=last if end is None else min(end, last))
