"""Finds the status of a backend without migrations, which the manager reports, and checks that the backend accepts bars."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iftb_store.abilities import SupportsLookups, SupportsStatus
from iftb_store.health import NO_REVISIONS, SchemaStatus, StoreSize
from iftb_store.protocols import Backend, Capability, Stores
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BARS, EVENTS, POSITIONS, SERIES, TRADES, RowFilter, TableSpec
from iftb_store.schema.types import EPOCH

# the number of rows in one read, if rows are read only to count them
_COUNTED = 65_536


async def measure_backend(backend: Backend, engine: str) -> SchemaStatus:
    """Return the status of a connected backend without migrations; count the rows if the backend does not know their number."""
    size = await backend.measure() if isinstance(backend, SupportsStatus) else StoreSize("")
    series, rows, records = size.series, size.rows, dict[str, int]()
    keeps_records = Capability.RECORDS in backend.capabilities
    if series is None or rows is None or keeps_records:
        async with backend.session() as session:
            stores = get_stores(session)
            if series is None or rows is None:
                found = await stores.bars.list_series()
                series, rows = len(found), sum(one.count for one in found)
            if keeps_records:
                records = {table.name: await _count_rows(stores, table) for table in (TRADES, POSITIONS, EVENTS)}
    tables = {BARS.name: rows, **records}
    return SchemaStatus(
        engine, size.version, None, "", tables, NO_REVISIONS, None, series=series, files=size.files, bytes=size.bytes
    )


async def prove_bars_writable(session: Any) -> None:
    """Check that bars can be written: delete the bars of a series that does not exist, which takes write locks, and roll back."""
    series = dict.fromkeys(SERIES, "iftb-store") | {"timeframe": "1m"}
    await get_stores(session).bars.delete(RowFilter(BARS, series, start=EPOCH, end=EPOCH))
    await session.rollback()


async def _count_rows(stores: Stores, table: TableSpec) -> int:
    if isinstance(stores, SupportsLookups) and stores.lookups is not None:
        return sum(count for _, count in await stores.lookups.count_rows(RowFilter(table)))
    count, selection = 0, RowFilter(table, limit=_COUNTED)
    while (part := await stores.read_rows(selection)).num_rows:
        count += part.num_rows
        selection = replace(selection, after=(part["id"][-1].as_py(),))
    return count
