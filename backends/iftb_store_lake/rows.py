"""The stores of a session on a lake, which also read and write complete rows of bars."""

from __future__ import annotations

import pyarrow as pa

from iftb_store.columnar import Cursor, key_bounds, read_rows
from iftb_store.errors import Unsupported
from iftb_store.protocols import RecordStore
from iftb_store.schema.table_spec import BARS, RowFilter, TableSpec
from iftb_store_lake.bars import LakeBars
from iftb_store_lake.layout import KEY_SQL
from iftb_store_lake.pending import Fresh, delete, upsert
from iftb_store_lake.session import LakeSession

_ONLY_BARS = "a lake keeps only bars; keep trades, positions and events on PostgreSQL"


class LakeStores:
    """The stores of one session."""

    def __init__(self, session: LakeSession) -> None:
        self.bars = LakeBars(session)
        self._session = session

    @property
    def records(self) -> RecordStore:
        """Not supported, because a lake keeps only bars.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(_ONLY_BARS)

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the rows of a selection; see Stores.read_rows."""
        _require_bars(selection.table)
        needed = tuple(name for name in BARS.columns if name in BARS.key or name in selection.columns)
        return await self._session.read(selection, lambda cursor: read_rows(cursor, selection), needed)

    async def digest_days(self, series: RowFilter) -> list[tuple[int, int, bytes]] | None:
        """Return the digests of a series' days from the cluster, or None if the lake has no cluster; see SupportsDigests."""
        reads = await self._session.on_cluster()
        return None if reads is None else await reads.digest_days(series)

    async def write_rows(self, table: TableSpec, rows: pa.Table) -> None:
        """Store complete rows unchanged; see Stores.write_rows."""
        _require_bars(table)

        def work(cursor: Cursor, fresh: Fresh, written: bool) -> None:
            upsert(cursor, fresh, written=written)

        if rows.num_rows:
            await self._session.write(rows, None, work)

    async def delete_rows(self, table: TableSpec, rows: pa.Table) -> int:
        """Delete the stored rows that have the keys of ``rows``; return the number of deleted rows."""
        _require_bars(table)
        if not rows.num_rows:
            return 0
        bounds = key_bounds(BARS, rows)
        window = [bounds.least["timestamp"], bounds.greatest["timestamp"]]

        def work(cursor: Cursor) -> int:
            with cursor.register(rows) as batch:
                condition = f"WHERE timestamp BETWEEN $1 AND $2 AND ({KEY_SQL}) IN (SELECT ({KEY_SQL}) FROM {batch})"
                return delete(cursor, condition, window)

        return await self._session.delete(bounds, work)


def _require_bars(table: TableSpec) -> None:
    if table is not BARS:
        raise Unsupported(_ONLY_BARS)
