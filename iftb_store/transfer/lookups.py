"""Lookups by count, id and other unique values: through the engine if it can, otherwise by reading the rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.abilities import Lookups, SupportsLookups
from iftb_store.protocols import Stores
from iftb_store.repositories.streams import record_batches
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter, TableSpec

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

    async def find_greatest_id(self, selection: RowFilter) -> int | None:
        """Return the greatest id of the selected rows, or None if no row is selected."""
        return max([pc.max(rows["id"]).as_py() async for rows in self._read(selection)], default=None)

    async def find_ids(self, table: TableSpec, column: str, values: Sequence[str]) -> dict[str, int]:
        """Return, for each of the values of a unique column of text that is stored, the id of its row."""
        wanted, found = pa.array(values, pa.string()), dict[str, int]()
        async for rows in self._read(RowFilter(table)):
            known = rows.filter(pc.is_in(rows[column], value_set=wanted))
            names: list[Any] = known[column].to_pylist()
            ids: list[Any] = known["id"].to_pylist()
            found.update(zip(names, ids, strict=True))
        return found

    async def _count(self, selection: RowFilter) -> int:
        return sum([rows.num_rows async for rows in self._read(selection)])

    async def _read(self, selection: RowFilter) -> AsyncIterator[pa.RecordBatch]:
        size = None if selection.table is BARS else _BYTES
        async with aclosing(record_batches(self._stores, replace(selection, limit=_ROWS, size=size))) as batches:
            async for rows in batches:
                yield rows
