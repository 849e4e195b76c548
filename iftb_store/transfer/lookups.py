"""Counts rows and finds ids in a store: with queries if the engine has them, otherwise by reading the rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.abilities import Lookups, SupportsFingerprints
from iftb_store.protocols import Stores
from iftb_store.registry import find_lookups
from iftb_store.repositories.streams import record_batches
from iftb_store.schema.table_spec import BARS, SERIES, RowFilter, TableSpec
from iftb_store.schema.types import FIRST_US, LAST_US
from iftb_store.transfer.digests import DAY

_ROWS, _BYTES = 16_384, 2 << 20
_FIRST, _LAST = FIRST_US // DAY, LAST_US // DAY


def get_lookups(stores: Stores) -> Lookups:
    """Return an object that counts rows and finds ids: by queries of the engine if it has them, otherwise by reading rows."""
    found = find_lookups(stores)
    return ScannedLookups(stores) if found is None else found


async def fingerprint_days(stores: Stores, window: RowFilter) -> dict[int, tuple[int, str]]:
    """Return (number of bars, fingerprint) of each day of a series, by the day's number; see `SupportsFingerprints`.

    The result is empty if the engine cannot compute fingerprints, or if the time of a bar cannot be read.
    """
    lookups = find_lookups(stores)
    if not isinstance(lookups, SupportsFingerprints):
        return {}
    found = await lookups.fingerprint_days(window) or []
    days = {day: (count, fingerprint) for day, count, fingerprint in found if day is not None and _FIRST <= day <= _LAST}
    return days if len(days) == len(found) else {}


class ScannedLookups:
    """Counts rows and finds ids by reading every selected row, in bounded memory, for engines without queries for that."""

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
        """Return value -> id of the row that has it in a unique text column; values that are not stored are left out."""
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
