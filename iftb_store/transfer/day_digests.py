"""Digests of bars, by series and day, that the destination of a copy keeps, so that a later copy need not read every bar."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from sqlalchemy.exc import OperationalError

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.arrow import arrow_schema
from iftb_store.errors import SchemaError
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import DIGESTS, SERIES, RowFilter
from iftb_store.schema.types import from_epoch_us
from iftb_store.transfer.access import open_complete_session, require_complete_reads
from iftb_store.transfer.digests import DAY, Chunk
from iftb_store.transfer.kept import keeps_digests
from iftb_store.transfer.plan import DirtyRange, Partition
from iftb_store.transfer.writing import drop, put


class DayDigests:
    """The digests that a destination keeps; without them, each copy reads all selected rows of the destination.

    A digest is that of `iftb_store.transfer.digests`, and describes the bars that the destination had when a copy last read the
    day. Later writes by others do not change it.
    """

    def __init__(self, db: ConnectedStore) -> None:
        self._db = db
        self._usable = keeps_digests(db)

    async def check(self) -> None:
        """Find out whether the destination has the table of digests and this role may use it; otherwise do without it."""
        if not self._usable:
            return
        try:
            async with self._db.get_session() as session:
                await require_complete_reads(session, [DIGESTS], insert=True)
                await get_stores(session).read_rows(RowFilter(DIGESTS, limit=1))
        except (OperationalError, SchemaError):
            self._usable = False

    async def read(self, partition: Partition) -> dict[int, Chunk]:
        """Return the digests of the days that the partition contains from the first to the last moment, by their numbers."""
        if not self._usable:
            return {}
        rows = await self._read(partition)
        days: list[Any] = rows["day"].cast(pa.int64()).to_pylist()
        counts: list[Any] = rows["bar_count"].to_pylist()
        digests: list[Any] = rows["digest"].to_pylist()
        found = [
            Chunk(day // DAY, count, bytes.fromhex(digest)) for day, count, digest in zip(days, counts, digests, strict=True)
        ]
        return {chunk.number: chunk for chunk in found if _is_whole(partition, chunk.number)}

    async def write(self, partition: Partition, chunks: Iterable[Chunk]) -> None:
        """Keep the digests of days of a series; days that the partition contains only in part are left out."""
        chosen = sorted(chunk for chunk in chunks if _is_whole(partition, chunk.number))
        if not self._usable or not chosen:
            return
        now = datetime.now(UTC)
        names = [partition.selection.equal[name] for name in SERIES]
        rows = [(*names, from_epoch_us(chunk.number * DAY), chunk.rows, chunk.digest.hex(), now) for chunk in chosen]
        await put(self._db, DIGESTS, _to_table(rows))

    async def forget(self, partition: Partition, runs: Collection[DirtyRange] | None) -> None:
        """Delete the digests of the days of a series in some ranges; None for all days, whatever the partition's window.

        A copy calls it before it writes: if it is interrupted then, no digest describes bars that it changed.
        """
        if not self._usable or (runs is not None and not runs):
            return
        rows = await self._read(partition)
        if runs is not None:
            days: list[Any] = rows["day"].cast(pa.int64()).to_pylist()
            numbers = [day // DAY for day in days]
            chosen = [any(run.first <= number <= run.last for run in runs) for number in numbers]
            rows = rows.filter(pa.array(chosen, pa.bool_()))
        await drop(self._db, DIGESTS, rows)

    async def _read(self, partition: Partition) -> pa.Table:
        async with open_complete_session(self._db, [DIGESTS]) as session:
            return await get_stores(session).read_rows(RowFilter(DIGESTS, dict(partition.selection.equal)))


def _to_table(rows: list[tuple[object, ...]]) -> pa.Table:
    schema = arrow_schema(DIGESTS)
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.table(columns, schema=schema)


def _is_whole(partition: Partition, number: int) -> bool:
    """Return whether a partition contains every moment of a day."""
    start, end = partition.selection.start, partition.selection.end
    return (start is None or from_epoch_us(number * DAY) >= start) and (
        end is None or from_epoch_us((number + 1) * DAY - 1) <= end
    )
