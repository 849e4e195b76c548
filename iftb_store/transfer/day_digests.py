"""Digests of bars, by series and day, that the destination of a copy keeps, so that a later copy need not read every bar."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.arrow import arrow_schema
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import DIGESTS, SERIES, RowFilter
from iftb_store.schema.types import from_epoch_us
from iftb_store.transfer.access import open_complete_session, require_complete_reads
from iftb_store.transfer.digests import DAY, Chunk
from iftb_store.transfer.kept import keeps_digests
from iftb_store.transfer.plan import DirtyRange, Partition
from iftb_store.transfer.writing import drop

#: The least number of bars a day, on the average, for which digests are kept.
LEAST = 200


class DayDigests:
    """The digests that a destination keeps; without them, each copy reads all selected rows of the destination.

    A digest is that of `iftb_store.transfer.digests`, and describes the bars that the destination had when a copy last read the
    day. Later writes by others do not change it.
    """

    def __init__(self, db: ConnectedStore) -> None:
        self._db = db
        self._usable = keeps_digests(db)
        # the digests that the destination had when they were read, but for those that were forgotten
        self._seen = dict[tuple[str, ...], dict[int, Chunk]]()

    async def check(self) -> None:
        """Find out whether the destination has the table of digests; a store that is not at the newest revision lacks it.

        Raises:
            OperationalError: this role may not read or write the digests: they would describe bars that it changed.
        """
        if self._usable and (await self._db.status()).state == "current":
            async with self._db.get_session() as session:
                await require_complete_reads(session, [DIGESTS], insert=True)
        else:
            self._usable = False

    async def read(self, partition: Partition) -> dict[int, Chunk]:
        """Return the digests of the days that the partition contains from the first to the last moment, by their numbers."""
        if not self._usable:
            return {}
        found = self._seen[partition.key] = _to_chunks(await self._read(partition))
        return {number: chunk for number, chunk in found.items() if _is_whole(partition, number)}

    async def write(self, partition: Partition, chunks: Sequence[Chunk]) -> None:
        """Keep the digests of days of a series.

        Left out are the days that the partition contains only in part, those whose digest another copy has written since, and
        all days if they have so few bars that reading single days would take longer than reading all.
        """
        chosen = sorted(chunk for chunk in chunks if _is_whole(partition, chunk.number))
        if not self._usable or sum(chunk.rows for chunk in chosen) < max(1, LEAST * len(chosen)):
            return
        seen = self._seen.get(partition.key, {})
        names = [partition.selection.equal[name] for name in SERIES]

        async def write_digests(session: Any) -> None:
            await require_complete_reads(session, [DIGESTS], insert=True)
            stores = get_stores(session)
            stored = _to_chunks(await stores.read_rows(RowFilter(DIGESTS, dict(partition.selection.equal))))
            now = datetime.now(UTC)
            rows = [
                (*names, from_epoch_us(chunk.number * DAY), chunk.rows, chunk.digest.hex(), now)
                for chunk in chosen
                if stored.get(chunk.number) == seen.get(chunk.number)
            ]
            if rows:
                await stores.write_rows(DIGESTS, _to_table(rows))

        await self._db.run(write_digests, idempotent=True)

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
        seen = self._seen.get(partition.key, {})
        for number in _to_chunks(rows):
            seen.pop(number, None)

    async def _read(self, partition: Partition) -> pa.Table:
        async with open_complete_session(self._db, [DIGESTS]) as session:
            return await get_stores(session).read_rows(RowFilter(DIGESTS, dict(partition.selection.equal)))


def _to_chunks(rows: pa.Table) -> dict[int, Chunk]:
    days: list[Any] = rows["day"].cast(pa.int64()).to_pylist()
    counts: list[Any] = rows["bar_count"].to_pylist()
    digests: list[Any] = rows["digest"].to_pylist()
    return {
        day // DAY: Chunk(day // DAY, count, bytes.fromhex(digest))
        for day, count, digest in zip(days, counts, digests, strict=True)
    }


def _to_table(rows: Sequence[tuple[object, ...]]) -> pa.Table:
    schema = arrow_schema(DIGESTS)
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.table(columns, schema=schema)


def _is_whole(partition: Partition, number: int) -> bool:
    """Return whether a partition contains every moment of a day."""
    start, end = partition.selection.start, partition.selection.end
    return (start is None or from_epoch_us(number * DAY) >= start) and (
        end is None or from_epoch_us((number + 1) * DAY - 1) <= end
    )
