"""The store of bars on a lake."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeVar

import pyarrow as pa

from iftb_store.abilities import Edges
from iftb_store.batches.bars import KEY, VALUES, BarBatch, WriteMode
from iftb_store.batches.resampling import Bucket, Buckets
from iftb_store.columnar import ColumnarBars, Cursor, Query, to_table
from iftb_store.models import OHLCVBar, Series, WriteCounts
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store_lake.pending import Fresh, count, delete, insert, upsert
from iftb_store_lake.session import LakeSession
from iftb_store_lake.snapshot import find_bounds

T = TypeVar("T")


class LakeBars(ColumnarBars):
    """The store of bars of one session."""

    def __init__(self, session: LakeSession) -> None:
        self._session = session

    async def run(self, selection: RowFilter, work: Callable[[Cursor], T], columns: Sequence[str] = BARS.columns) -> T:
        """Run ``work`` in a thread with a cursor whose table ``ohlcv`` has at least the selected rows."""
        return await self._session.read(selection, work, columns)

    async def read(self, series: RowFilter, *, descending: bool = False) -> list[OHLCVBar]:
        """Return the bars of a series, oldest first, or newest first if ``descending``; at most ``series.limit``."""
        if descending and series.limit is not None:
            return await self._session.read_newest(series)
        return await super().read(series, descending=descending)

    async def write(self, batch: BarBatch, mode: WriteMode) -> WriteCounts | None:
        """Write all bars of a batch or none; see `iftb_store.protocols.BarStore.write`."""
        table = await to_table(batch)

        def work(cursor: Cursor, fresh: Fresh, written: bool) -> WriteCounts | None:
            if mode == "insert":
                insert(cursor, fresh, written=written)
                return None
            counts = count(cursor, fresh) if mode == "count" else None
            upsert(cursor, fresh, written=written)
            return counts

        columns = {"insert": KEY, "count": (*KEY, *VALUES), "upsert": ()}[mode]
        return await self._session.write(table, batch.created_at, work, careful=mode == "count", columns=columns)

    async def delete(self, series: RowFilter) -> int:
        """Delete the bars of a series in a time window and return their number."""
        query = Query(series)
        condition = f"WHERE {' AND '.join(query.conditions)}"
        return await self._session.delete(find_bounds(series), lambda cursor: delete(cursor, condition, query.values))

    async def list_series(self) -> list[Series]:
        """Return every stored series, computed on the cluster if the lake has one."""
        reads = await self._session.on_cluster()
        return await super().list_series() if reads is None else await reads.list_series()

    async def stream_gaps(self, window: RowFilter, edges: Mapping[str, Edges]) -> AsyncGenerator[pa.Table]:
        """Yield the gaps of many series, computed on the cluster if the lake has one."""
        reads = await self._session.on_cluster()
        found = super().stream_gaps(window, edges) if reads is None else reads.stream_gaps(window, edges)
        async with aclosing(found) as parts:
            async for part in parts:
                yield part

    async def stream_buckets(self, window: RowFilter, buckets: Buckets) -> AsyncGenerator[list[tuple[str, str, Bucket]]]:
        """Yield the buckets of many series, computed on the cluster if the lake has one."""
        reads = await self._session.on_cluster()
        found = super().stream_buckets(window, buckets) if reads is None else reads.stream_buckets(window, buckets)
        async with aclosing(found) as parts:
            async for part in parts:
                yield part
