"""Compares two stores by digests, and plans what a copy reads and writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from iftb_store.schema.table_spec import RowFilter
from iftb_store.transfer import plan
from iftb_store.transfer.day_digests import DayDigests
from iftb_store.transfer.digests import Chunk, compute_checksum
from iftb_store.transfer.plan import DirtyRange, Partition, RowReader
from iftb_store.transfer.progress import StepCallback, count_rows
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
        equal: whether a check confirmed that the destination has every row of the source; with ``kept`` 0 it has no others.
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
    """The work to do for one partition.

    Attributes:
        whole: whether the destination has no such rows, so that all rows are written during the first read of the source.
        runs: if ``whole`` is False, the ranges of chunks (see `digests`) that differ.
        proofs: for each range in ``runs``, the checksum of its chunks in the source.
        read: the chunks of bars that were read in the destination.
        stale: ranges of days of which the destination keeps a digest but has no bars.
    """

    partition: Partition
    copied: Copied
    whole: bool
    runs: list[DirtyRange] = field(default_factory=list)
    proofs: list[str] = field(default_factory=list)
    read: list[Chunk] = field(default_factory=list)
    stale: list[DirtyRange] = field(default_factory=list)


class Planner:
    """Plans a copy from the digests of both stores.

    Args:
        ours: reads the source.
        theirs: reads the destination.
        digests: the digests of bars that the destination keeps.
        delete: whether rows that only the destination has are going to be deleted.
        full: read every row of the destination, whatever digests it keeps.
    """

    def __init__(self, ours: RowReader, theirs: RowReader, digests: DayDigests, *, delete: bool, full: bool) -> None:
        self._ours, self._theirs, self._digests, self._delete, self._full = ours, theirs, digests, delete, full

    async def make_plans(
        self, here: list[tuple[Partition, int]], there: list[tuple[Partition, int]], tell: StepCallback
    ) -> list[Plan]:
        """Return a plan for each partition of the source or the destination, in the order in which they are copied.

        Args:
            here: the partitions of the source, each with its number of rows.
            there: those of the destination.
            tell: the progress callback, for rows.
        """
        ours_count, theirs_count = ({partition.key: rows for partition, rows in found} for found in (here, there))
        tables = dict.fromkeys(partition.table for partition, _ in here + there)
        empty = [table for table in tables if not (await self._theirs.read_rows(RowFilter(table, limit=1))).num_rows]
        plans = list[Plan]()
        count = count_rows(tell, sum(ours_count.values()) + sum(theirs_count.values()))
        for partition in plan.sort_partitions([partition for partition, _ in here + there]):
            table, rows = partition.table, ours_count.get(partition.key, 0)
            copied = Copied(table.name, partition.series, Contents(rows, ""))
            is_new = table in empty or (not table.has_own_ids and not theirs_count.get(partition.key))
            if is_new:
                copied.inserted = rows
                plans.append(Plan(partition, copied, whole=True))
            elif not table.has_own_ids and not rows and not self._delete:
                # a series that only the destination has
                copied.kept = theirs_count[partition.key]
                copied.source = summarise([])
                plans.append(Plan(partition, copied, whole=False))
            else:
                plans.append(await self._compare(partition, theirs_count.get(partition.key, 0), count))
        return plans

    async def _compare(self, partition: Partition, stored: int, count: Callable[[int], None]) -> Plan:
        known = {} if partition.table.has_own_ids else await self._digests.read(partition)
        unread = set[Chunk]()
        if known and not self._full:
            mine = await plan.digest_partition(self._ours, partition, tell=count)
            its, unread = await self._digest_stored(partition, mine, known, stored, count)
        else:
            mine, its = await plan.gather_both(
                plan.digest_partition(self._ours, partition, tell=count),
                plan.digest_partition(self._theirs, partition, tell=count),
            )
        runs = plan.find_dirty_ranges(mine, its)
        copied = Copied(
            partition.table.name, partition.series, summarise(mine), unread=sum(chunk.rows for chunk in unread), equal=not runs
        )
        proofs = [compute_checksum(part for part in mine if run.first <= part.number <= run.last) for run in runs]
        numbers = {chunk.number for chunk in its}
        stale = [DirtyRange(number, number, False, 0) for number in known if number not in numbers]
        return Plan(partition, copied, False, runs, proofs, [chunk for chunk in its if chunk not in unread], stale)

    async def _digest_stored(
        self,
        partition: Partition,
        mine: list[Chunk],
        known: Mapping[int, Chunk],
        stored: int,
        count: Callable[[int], None],
    ) -> tuple[list[Chunk], set[Chunk]]:
        """Return the chunks of bars in the destination, and those of them whose rows were not read.

        A day is read if the destination keeps no digest of it, or one that differs from the source's, or, at random, one day
        of `SAMPLED`. Every row is read if the destination has another number of rows than these chunks.
        """
        wanted = {chunk.number: chunk for chunk in mine}
        unread = {
            number: chunk
            for number, chunk in known.items()
            if wanted.get(number) == chunk and random.randrange(SAMPLED)  # noqa: S311 - a sample, no secret
        }
        its = list(unread.values())
        if not its:
            return await plan.digest_partition(self._theirs, partition, tell=count), set()
        for first, last in plan.join_numbers({*wanted, *known} - unread.keys()):
            its += await plan.digest_partition(self._theirs, partition, DirtyRange(first, last, False, 0), count)
        if sum(chunk.rows for chunk in its) != stored:
            return await plan.digest_partition(self._theirs, partition, tell=count), set()
        return sorted(its), set(unread.values())
