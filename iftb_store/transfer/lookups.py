"""Lookups by count, id and other unique values: through the engine if it can, otherwise by reading the rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.abilities import Lookups, SupportsLookups
from iftb_store.protocols import Stores
from iftb_store.repositories.streams import record_batches
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter, TableSpec
from iftb_store.transfer.numbers import Numbers

_ROWS, _BYTES = 16_384, 2 << 20


def get_lookups(stores: Stores) -> Lookups:
    """Return the lookups of the engine, or lookups that read the rows."""
    found = stores.lookups if isinstance(stores, SupportsLookups) else None
    return ScannedLookups(stores) if found is None else found


class ScannedLookups:
    """The lookups of an engine that has none: they read every row of a selection, in bounded memory."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def count_rows(self, selection: RowFilter) -> list[tuple[tuple[Any, ...], int]]:
        """Return the number of the selected rows of each series of bars, or of another table."""
        if selection.table is not BARS:
            return [((), await self._count(selection))]
        found = []
        for one in await self._stores.bars.list_series():
            series = {name: getattr(one, name) for name in SERIES}
            if any(series[name] != value for name, value in selection.equal.items()):
                continue
            begins, ends = (
                (selection.start is None or one.first >= selection.start),
                (selection.end is None or one.last <= selection.end),
            )
            count = one.count if begins and ends else await self._count(replace(selection, equal=series))
            if count:
                found.append((tuple(series[name] for name in selection.order[:-1]), count))
        # with a whole series selected, an engine's query has one row even if it counts none
        return found or ([((), 0)] if not selection.order[:-1] else [])

    async def measure_ids(self, table: TableSpec) -> tuple[int, int]:
        """Return the number of rows of a table and their greatest id."""
        count, greatest = 0, 0
        async for rows in self._read(RowFilter(table)):
            count += rows.num_rows
            greatest = max(greatest, pc.max(rows["id"]).as_py())
        return count, greatest

    async def find_last(self, selection: RowFilter) -> dict[str, Any] | None:
        """Return the id and the key of the selected row with the greatest id."""
        last: dict[str, Any] | None = None
        async for rows in self._read(selection):
            row = rows.slice(pc.index(rows["id"], pc.max(rows["id"])).as_py(), 1).to_pylist()[0]
            if last is None or row["id"] > last["id"]:
                last = {name: row[name] for name in ("id", *selection.table.key)}
        return last

    async def find_rows(self, table: TableSpec, column: str, values: Sequence[Any] | range) -> list[dict[str, Any]]:
        """Return the rows that have one of the values in a column."""
        names = list(dict.fromkeys(("id", "exchange", "symbol", table.time, *table.key, column)))
        wanted: Container[Any] = values if isinstance(values, range) else set(values)
        found: list[dict[str, Any]] = []
        async for rows in self._read(RowFilter(table)):
            held: list[Any] = rows[column].to_pylist()
            places = [index for index, value in enumerate(held) if value in wanted]
            found += rows.select(names).take(pa.array(places, pa.int64())).to_pylist()
        return found

    async def find_shared_id(self, ids: range) -> int | None:
        """Return an id that two bars have."""
        seen = Numbers()
        async for rows in self._read(RowFilter(BARS)):
            numbers: list[Any] = rows["id"].to_pylist()
            for number in numbers:
                if number in seen:
                    return int(number)
                if number in ids:
                    seen.add((number,))
        return None

    async def _count(self, selection: RowFilter) -> int:
        return sum([rows.num_rows async for rows in self._read(selection)])

    async def _read(self, selection: RowFilter) -> AsyncIterator[pa.RecordBatch]:
        size = None if selection.table is BARS else _BYTES
        async with aclosing(record_batches(self._stores, replace(selection, limit=_ROWS, size=size))) as batches:
            async for rows in batches:
                yield rows
