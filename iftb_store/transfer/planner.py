"""Compares two stores by digests (checksums of parts of the rows), and plans what a copy reads and writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from iftb_store.protocols import Stores
from iftb_store.schema.table_spec import RowFilter
from iftb_store.transfer import plan
from iftb_store.transfer.day_digests import DayDigests
from iftb_store.transfer.digests import Chunk, compute_checksum
from iftb_store.transfer.lookups import fingerprint_days
from iftb_store.transfer.plan import DirtyRange, Partition, RowReader
from iftb_store.transfer.progress import StepCallback, make_row_counter
from iftb_store.transfer.verify import Contents, summarise

#: Of the days whose digests are equal, a copy reads one in this number again, each drawn at random.
SAMPLED = 30


@dataclass
class Copied:
    """The result of copying one series of bars, or one of the other tables.

    Attributes:
        table: the table's name.
        series: the series of the bars, e.g. ``binance BTCUSDT 1m``; empty for a whole table.
        source: the number of rows in the source and their checksum.
        inserted: number of rows that the destination lacked.
        updated: number of rows that had other values in the destination.
        deleted: number of rows that only the destination had and that were deleted, if ``delete`` was given.
        kept: number of rows that only the destination has and that were not deleted.
        unread: number of rows of the destination that were not read, because it keeps digests of their days that equal the
            source's.
        equal: whether a check confirmed that the destination has every row of the source; if ``kept`` is 0, it has no other rows.
    """

    table: str
    series: str
    source: Contents
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    kept: int = 0
    unread: int = 0
    equal: bool = False

    @property
    def unchanged(self) -> int:
        """The number of source rows that the destination already had with the same values."""
        return self.source.rows - self.inserted - self.updated


@dataclass
class Plan:
    """What a copy has to write for one partition: a series of bars, or the selected rows of another table.

    Attributes:
        whole: whether the destination has no row of the partition; all rows are then written while the source is first read.
        runs: if ``whole`` is False, the ranges of chunks (days of bars, or blocks of 10,000 ids) that differ.
        proofs: for each range in ``runs``, the checksum of its chunks in the source.
        read: the chunks of bars that were read in the destination, or whose fingerprint the destination does not keep yet.
        fingerprints: the source's fingerprint of a day, by the day's chunk in the source.
        stale: ranges of days for which the destination keeps a digest although it has no bars on these days.
    """

    partition: Partition
    copied: Copied
    whole: bool
    runs: list[DirtyRange] = field(default_factory=list)
    proofs: list[str] = field(default_factory=list)
    read: list[Chunk] = field(default_factory=list)
    stale: list[DirtyRange] = field(default_factory=list)
    fingerprints: dict[Chunk, str] = field(default_factory=dict)


class Planner:
    """Plans a copy from the digests of both stores.

    Args:
        source: the stores of the source, which compute fingerprints; None if the source is not read from a snapshot, because its
            rows may then change between two reads.
        source_reader: reads the source.
        destination_reader: reads the destination.
        digests: the digests of bars that the destination keeps.
        delete: whether rows that only the destination has are going to be deleted.
        full: read every row of the destination, whatever digests it keeps.
    """

    def __init__(
        self,
        source: Stores | None,
        source_reader: RowReader,
        destination_reader: RowReader,
        digests: DayDigests,
        *,
        delete: bool,
        full: bool,
    ) -> None:
        self._source, self._source_reader, self._destination_reader, self._digests = (
            source,
            source_reader,
            destination_reader,
            digests,
        )
        self._delete, self._full = delete, full

    async def make_plans(
        self,
        source_partitions: list[tuple[Partition, int]],
        destination_partitions: list[tuple[Partition, int]],
        report_progress: StepCallback,
    ) -> list[Plan]:
        """Return what to copy for each partition of the source or the destination, in the order of copying.

        Args:
            source_partitions: the partitions of the source, each with its number of rows.
            destination_partitions: the partitions of the destination, each with its number of rows.
            report_progress: the progress callback, for rows.
        """
        source_counts, destination_counts = (
            {partition.key: rows for partition, rows in found} for found in (source_partitions, destination_partitions)
        )
        tables = dict.fromkeys(partition.table for partition, _ in source_partitions + destination_partitions)
        empty = [table for table in tables if not (await self._destination_reader.read_rows(RowFilter(table, limit=1))).num_rows]
        plans = list[Plan]()
        count = make_row_counter(report_progress, sum(source_counts.values()) + sum(destination_counts.values()))
        compared = list[int]()
        for partition in plan.sort_partitions([partition for partition, _ in source_partitions + destination_partitions]):
            table, rows = partition.table, source_counts.get(partition.key, 0)
            copied = Copied(table.name, partition.series, Contents(rows, ""))
            is_new = table in empty or (not table.has_own_ids and not destination_counts.get(partition.key))
            plans.append(Plan(partition, copied, whole=is_new))
            if is_new:
                copied.inserted = rows
            elif not table.has_own_ids and not rows and not self._delete:
                # a series that only the destination has
                copied.kept = destination_counts[partition.key]
                copied.source = summarise([])
            else:
                compared.append(len(plans) - 1)
        coming = iter(compared)

        async def compare() -> None:
            for place in coming:
                partition = plans[place].partition
                plans[place] = await self._compare(partition, destination_counts.get(partition.key, 0), count)

        # while the rows of one partition are digested, those of another one are read
        await plan.gather_both(compare(), compare())
        return plans

    async def _compare(self, partition: Partition, stored: int, count: Callable[[int], None]) -> Plan:
        """Compare the digests of a partition in both stores; ``stored`` is the number of rows that the destination has.

        A day is read in the destination if no digest of the day is stored, if the digest differs from the source's, or at random
        (one in `SAMPLED` days). Every row is read if the row counts of the digests do not add up to ``stored``. A day is not read
        in the source either if the destination has stored the fingerprint that the source computes now.
        """
        known = {} if partition.table.has_own_ids else await self._digests.read(partition)
        usable = {} if self._full else known
        marks = await fingerprint_days(self._source, partition.selection) if known and self._source is not None else {}
        # these days are read in both stores although their digests may be equal
        drawn = {number for number in usable if not random.randrange(SAMPLED)}  # noqa: S311 - a sample, no secret
        same = [
            kept.chunk
            for number, kept in usable.items()
            if number not in drawn and marks.get(number) == (kept.chunk.rows, kept.fingerprint)
        ]
        mine, its = await plan.gather_both(
            self._digest_source(partition, count, same, marks),
            self._digest_stored(partition, count, drawn if usable else None),
        )
        wanted = {chunk.number: chunk for chunk in mine}
        unread = {kept.chunk for number, kept in usable.items() if wanted.get(number) == kept.chunk and number not in drawn}
        if usable:
            days = {*wanted, *known} - drawn - {chunk.number for chunk in unread}
            its = sorted([*unread, *its, *await self._digest_stored(partition, count, days)])
            if sum(chunk.rows for chunk in its) != stored:
                its, unread = await self._digest_stored(partition, lambda rows: None, None), set()
            count(sum(chunk.rows for chunk in unread))
        runs = plan.find_dirty_ranges(mine, its)
        copied = Copied(
            partition.table.name, partition.series, summarise(mine), unread=sum(chunk.rows for chunk in unread), equal=not runs
        )
        proofs = [compute_checksum(part for part in mine if run.first <= part.number <= run.last) for run in runs]
        numbers = {chunk.number for chunk in its}
        stale = [DirtyRange(number, number, False, 0) for number in known if number not in numbers]
        fingerprints = {chunk: marks[chunk.number][1] for chunk in mine if chunk.number in marks}
        # of a day that was not read, a digest without the fingerprint may be kept
        kept = [
            chunk
            for chunk in its
            if chunk not in unread or fingerprints.get(chunk) not in (None, known[chunk.number].fingerprint)
        ]
        return Plan(partition, copied, False, runs, proofs, kept, stale, fingerprints)

    async def _digest_source(
        self, partition: Partition, count: Callable[[int], None], same: list[Chunk], marks: Mapping[int, tuple[int, str]]
    ) -> list[Chunk]:
        """Return the chunks of the source: those in ``same``, which are not read, and those of the other days in ``marks``."""
        if not same:
            return await plan.digest_partition(self._source_reader, partition, report_progress=count)
        count(sum(chunk.rows for chunk in same))
        days = marks.keys() - {chunk.number for chunk in same}
        return sorted([*same, *await self._digest_days(self._source_reader, partition, count, days)])

    async def _digest_stored(
        self, partition: Partition, count: Callable[[int], None], days: Collection[int] | None
    ) -> list[Chunk]:
        """Read the given days of the destination (None: all days), and return their chunks with digests."""
        if days is None:
            return await plan.digest_partition(self._destination_reader, partition, report_progress=count)
        return await self._digest_days(self._destination_reader, partition, count, days)

    async def _digest_days(
        self, store: RowReader, partition: Partition, count: Callable[[int], None], days: Collection[int]
    ) -> list[Chunk]:
        found = list[Chunk]()
        for first, last in plan.join_numbers(days):
            found += await plan.digest_partition(store, partition, DirtyRange(first, last, False, 0), count)
        return found
