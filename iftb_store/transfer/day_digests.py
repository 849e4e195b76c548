"""Stores a digest of the bars of each series and day in the destination of a copy, so that later copies read fewer bars."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.arrow import arrow_schema
from iftb_store.errors import SchemaError
from iftb_store.protocols import Capability, Isolation
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import DIGESTS, SERIES, RowFilter
from iftb_store.schema.types import from_epoch_us
from iftb_store.transfer.access import open_complete_session, require_complete_reads
from iftb_store.transfer.digests import DAY, Chunk
from iftb_store.transfer.kept import has_digests
from iftb_store.transfer.plan import DirtyRange, Partition
from iftb_store.transfer.writing import drop

#: The least number of bars a day, on the average, for which digests are kept.
LEAST = 200


class Kept(NamedTuple):
    """The digest of the bars of one series and day, as the destination of a copy stores it.

    Attributes:
        chunk: the number of the day, the number of bars and their digest.
        fingerprint: the source's fingerprint of the same bars, see `iftb_store.abilities.SupportsFingerprints`; None if unknown.
    """

    chunk: Chunk
    fingerprint: str | None


class DayDigests:
    """Reads, writes and deletes the digests of days in a destination; without digests, a copy reads all of its selected rows.

    A digest is computed as `iftb_store.transfer.digests` defines. It describes the bars that the destination had when a copy
    last read the day; later writes by other clients do not change it.
    """

    def __init__(self, db: ConnectedStore) -> None:
        self._db = db
        self._usable = has_digests(db)
        # the digests that the destination had when they were read, but for those that were forgotten
        self._seen = dict[tuple[str, ...], dict[int, Kept]]()

    async def check(self) -> None:
        """Find out whether the destination has the table of digests; only a store at the newest schema revision has it.

        Raises:
            OperationalError: this role may not read or write the digests, so a copy could not delete the digests of days that it
                changes.
        """
        if not self._usable:
            return
        try:
            # not by the status, which counts the rows of every table, and so needs the right to read each
            async with self._db.get_session() as session:
                await require_complete_reads(session, [DIGESTS], insert=True)
                await get_stores(session).read_rows(RowFilter(DIGESTS, limit=1))
        except SchemaError:
            self._usable = False

    async def read(self, partition: Partition) -> dict[int, Kept]:
        """Return the stored digests by day number, only for days that lie completely in the time window of the partition."""
        if not self._usable:
            return {}
        found = self._seen[partition.key] = _to_kept(await self._read(partition))
        return {number: kept for number, kept in found.items() if _is_whole(partition, number)}

    async def write(self, partition: Partition, chunks: Sequence[Chunk], fingerprints: Mapping[Chunk, str]) -> None:
        """Store the digests of days of a series, with the source's fingerprints of days that are equal in both stores.

        Days that lie only partly in the time window of the partition are skipped. No digest is stored if the days have so few
        bars that reading single days would take longer than reading all. If another copy has stored a different digest of one
        of the days since this copy read it, that digest is deleted: it is unknown which of the two copies wrote the bars last.

        A day whose digest is unchanged keeps its fingerprint if the source of this copy computes none.
        """
        if not self._usable or not chunks:
            return
        chosen = {chunk for chunk in chunks if _is_whole(partition, chunk.number)}
        if sum(chunk.rows for chunk in chosen) < max(1, LEAST * len(chosen)):
            chosen = set()
        seen = self._seen.get(partition.key, {})
        names = [partition.selection.equal[name] for name in SERIES]

        async def write_digests(session: Any) -> None:
            await require_complete_reads(session, [DIGESTS], insert=True)
            stores = get_stores(session)
            digests = await stores.read_rows(RowFilter(DIGESTS, dict(partition.selection.equal)))
            stored = _to_kept(digests)
            now = datetime.now(UTC)
            rows, others = list[tuple[object, ...]](), list[int]()
            for chunk in sorted(chunks):
                kept, now_kept = seen.get(chunk.number), stored.get(chunk.number)
                if now_kept is not None and now_kept != kept and now_kept.chunk != chunk:
                    others.append(chunk.number)
                if chunk not in chosen or now_kept != kept:
                    continue
                fingerprint = kept.fingerprint if kept is not None and kept.chunk == chunk else None
                text = _join(chunk, fingerprints.get(chunk, fingerprint))
                rows.append((*names, from_epoch_us(chunk.number * DAY), chunk.rows, text, now))
            if rows:
                await stores.write_rows(DIGESTS, _to_table(rows))
            if others:
                await stores.delete_rows(DIGESTS, _select_days(digests, others))

        # so that of two copies which read the same digests at once only one writes, and the other begins again
        isolation: Isolation | None = "repeatable read" if Capability.ISOLATION in self._db.capabilities else None
        await self._db.run(write_digests, isolation=isolation, idempotent=True)

    async def forget(self, partition: Partition, runs: Collection[DirtyRange] | None) -> None:
        """Delete the digests of a series for the days in ``runs``; None for all days, also those outside the time window.

        A copy calls this method before it writes bars, so that no digest describes bars that an interrupted copy changed.
        """
        if not self._usable or (runs is not None and not runs):
            return
        rows = await self._read(partition)
        if runs is not None:
            rows = _select_days(rows, {day for day in _list_days(rows) if any(run.first <= day <= run.last for run in runs)})
        await drop(self._db, DIGESTS, rows)
        seen = self._seen.get(partition.key, {})
        for number in _list_days(rows):
            seen.pop(number, None)

    async def _read(self, partition: Partition) -> pa.Table:
        async with open_complete_session(self._db, [DIGESTS]) as session:
            return await get_stores(session).read_rows(RowFilter(DIGESTS, dict(partition.selection.equal)))


def _list_days(rows: pa.Table) -> list[int]:
    days: list[Any] = rows["day"].cast(pa.int64()).to_pylist()
    return [day // DAY for day in days]


def _select_days(rows: pa.Table, numbers: Collection[int]) -> pa.Table:
    return rows.filter(pa.array([number in numbers for number in _list_days(rows)], pa.bool_()))


def _to_kept(rows: pa.Table) -> dict[int, Kept]:
    counts: list[Any] = rows["bar_count"].to_pylist()
    digests: list[Any] = rows["digest"].to_pylist()
    found = dict[int, Kept]()
    for number, count, text in zip(_list_days(rows), counts, digests, strict=True):
        digest, _, fingerprint = text.partition(" ")
        # raw SQL can have stored another text: then the day counts as one without a digest
        with suppress(ValueError):
            found[number] = Kept(Chunk(number, count, bytes.fromhex(digest)), fingerprint or None)
    return found


def _join(chunk: Chunk, fingerprint: str | None) -> str:
    return chunk.digest.hex() if fingerprint is None else f"{chunk.digest.hex()} {fingerprint}"


def _to_table(rows: Sequence[tuple[object, ...]]) -> pa.Table:
    schema = arrow_schema(DIGESTS)
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.table(columns, schema=schema)


def _is_whole(partition: Partition, number: int) -> bool:
    """Return whether a day lies completely in the time window of a partition."""
    start, end = partition.selection.start, partition.selection.end
    return (start is None or from_epoch_us(number * DAY) >= start) and (
        end is None or from_epoch_us((number + 1) * DAY - 1) <= end
    )
