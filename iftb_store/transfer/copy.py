"""Copies the rows of one store that are missing or different in another, in bounded memory, and verifies the copy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.arrow import unreadable_value
from iftb_store.errors import CollisionError, SchemaError, StoreError
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores, require_arrow
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, RowFilter, TableSpec
from iftb_store.transfer import plan as reading
from iftb_store.transfer.access import open_complete_session, require_complete_reads, require_distinct
from iftb_store.transfer.conflicts import REMEDY, Collisions, is_other_row, read_greatest_id, rows_to_write_first
from iftb_store.transfer.diff import RowDiff, compare_partition, select_rows
from iftb_store.transfer.digests import Digester, compute_checksum, find_invalid_json, read_positions
from iftb_store.transfer.kept import Report, limit_scope
from iftb_store.transfer.plan import DirtyRange, LastCommitted, Partition
from iftb_store.transfer.progress import ProgressFactory, count_rows, report_nothing
from iftb_store.transfer.verify import Contents, compare_values, format_key, format_value, summarise
from iftb_store.values import checks

Conflict = Literal["source-wins", "refuse"]
CONFLICTS: tuple[Conflict, ...] = get_args(Conflict)


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
        equal: whether a check confirmed that the destination has every row of the source; with ``kept`` 0 it has no others.
    """

    table: str
    series: str
    source: Contents
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    kept: int = 0
    equal: bool = False

    @property
    def unchanged(self) -> int:
        """The number of source rows that the destination already had with the same values."""
        return self.source.rows - self.inserted - self.updated


@dataclass
class _Plan:
    """The work to do for one partition.

    Attributes:
        whole: whether the destination's table is empty, so that all rows are written during the first read of the source.
        runs: if ``whole`` is False, the ranges of chunks (see `digests`) that differ.
        equal: number of rows in the chunks that do not differ.
        proofs: for each range in ``runs``, the checksum of its chunks in the source.
    """

    partition: Partition
    copied: Copied
    whole: bool
    runs: list[DirtyRange] = field(default_factory=list)
    equal: int = 0
    proofs: list[str] = field(default_factory=list)


class Copy:
    """A copy of one store, or of a selection of its rows, into another.

    The source is read from one snapshot, so that bars, trades, positions and events are consistent. Ids and the times set by
    the store are copied too; ids that the destination assigns later are greater. A refused copy fails before it writes
    anything. Rows are committed in batches: an interrupted copy resumes when called again. Chunks with equal checksums are
    skipped, see `iftb_store.transfer.digests`. At the end the destination is read again and compared with the source.

    Two rows are the same if their keys are equal: the series and the timestamp of bars; the id of other rows, together with
    the trade_id of a trade, the created_at of a position, or the created_at, type and message of an event. A source row whose
    id belongs to a different row in the destination is a conflict, not a newer version of that row. A trade_id or an open
    position that the destination stores under another id is a conflict too.

    The destination may be written to during the copy: the row with the greatest id of each table is written first, so that
    ids which the destination assigns afterwards are greater than all copied ids. If another client has just written a row
    with an id or a trade_id that is to be copied, the copy fails and does not overwrite that row.

    With ``delete``, or if bars have exchanged their ids, conflicting rows of the destination are deleted first, in separate
    transactions. After an interrupted copy the destination lacks these rows until the copy is called again.

    Args:
        source: a connected manager.
        destination: another connected manager, for a database with the tables of iftb-store, see `prepare`.
        scope: the selection of rows; None for all tables that both stores keep.
        on_conflict: for rows that have other values in the destination: "source-wins" overwrites them, "refuse" raises
            before anything is written.
        delete: delete the selected rows that only the destination has; otherwise they are kept and counted.
        step: the progress callback.

    Attributes:
        moved: number of rows written so far.

    Raises:
        Unsupported: the scope names a table that one of the stores does not keep.
    """

    def __init__(
        self,
        source: ConnectedStore,
        destination: ConnectedStore,
        scope: TableScope | None = None,
        *,
        on_conflict: Conflict = "source-wins",
        delete: bool = False,
        step: ProgressFactory = report_nothing,
    ) -> None:
        checks.choice(on_conflict, "on_conflict", CONFLICTS)
        require_arrow()
        self._source = source
        self._destination = destination
        self._scope, self._left_out = limit_scope(scope, source=source, destination=destination)
        self._refuse = on_conflict == "refuse"
        self._delete = delete
        self._step = step
        self._theirs = LastCommitted(destination)
        self.moved = 0

    async def run(self, *, dry: bool = False) -> Report[Copied]:
        """Copy the rows; return the results in the order of tables and series.

        Args:
            dry: report what would be copied or refused, and write nothing. Then nothing is verified, and rows for an empty
                table have no checksum.

        Returns:
            One result for each series of bars, and one for each other table or selected part of it, even if it has no rows;
            ``left_out`` names the tables that one of the stores does not keep.

        Raises:
            CollisionError: a row of the source has the id or another unique value of a different row in the destination.
                Nothing was written, unless the destination's row was added during the copy.
            InvalidValueError: the source and the destination are the same database.
            SchemaError: the source or the destination has no usable schema.
            OperationalError: rows of the source or the destination are hidden from its role, or the destination's role may not
                insert; nothing was written.
            StoreError: an id of the source is so great that it would leave too few ids for new rows; nothing was written. Or
                the destination changed during the copy and is not equal to the source at the end.
        """
        await require_distinct(self._source, self._destination)
        await reading.require_schema(self._source, self._scope.tables)
        await reading.require_schema(self._destination, self._scope.tables, insert=not dry)
        async with reading.open_snapshot(self._source, self._scope.tables) as session:
            ours = get_stores(session)
            last = {table: await read_greatest_id(session, self._scope, table) for table in self._scope.tables}
            plans = await self._plans(session, ours)
            checked = {
                table: await self._check(session, ours, table, [plan for plan in plans if plan.partition.table is table])
                for table in self._scope.tables
            }
            if not dry:
                await self._write(ours, plans, checked, last)
                await self._prove(ours, plans)
        return Report((plan.copied for plan in plans), self._left_out)

    async def _plans(self, session: Any, ours: Any) -> list[_Plan]:
        """Return a plan for each partition, with the ranges of chunks that differ."""
        here = await reading.find_partitions(session, self._scope)
        async with open_complete_session(self._destination, self._scope.tables) as other:
            there = await reading.find_partitions(other, self._scope)
        empty = [table for table in self._scope.tables if not (await self._theirs.read_rows(RowFilter(table, limit=1))).num_rows]
        total = sum(rows for partition, rows in here + there if partition.table not in empty)
        expected = {partition.key: rows for partition, rows in here}
        plans = []
        with self._step("compare") as tell:
            count = count_rows(tell, total)
            for partition in reading.sort_partitions([partition for partition, _ in here + there]):
                if partition.table in empty:
                    contents = Contents(expected.get(partition.key, 0), "")
                    plans.append(_Plan(partition, Copied(partition.table.name, partition.series, contents, contents.rows), True))
                else:
                    plans.append(await self._compared(ours, partition, count))
        return plans

    async def _compared(self, ours: Any, partition: Partition, count: Callable[[int], None]) -> _Plan:
        mine, its = await reading.gather_both(
            reading.digest_partition(ours, partition, tell=count), reading.digest_partition(self._theirs, partition, tell=count)
        )
        runs = reading.find_dirty_ranges(mine, its)
        copied = Copied(partition.table.name, partition.series, summarise(mine), equal=not runs)
        equal = copied.source.rows - sum(run.rows for run in runs)
        proofs = [compute_checksum(part for part in mine if run.first <= part.number <= run.last) for run in runs]
        return _Plan(partition, copied, False, runs, equal, proofs)

    async def _check(self, session: Any, ours: Any, table: TableSpec, plans: list[_Plan]) -> Collisions:
        """Count the rows to insert, update and delete, and raise if a row must not be written."""
        collisions = Collisions(table, session, self._destination, delete=self._delete)
        if not any(plan.runs for plan in plans):
            return collisions
        await collisions.begin()
        for plan in plans:
            collisions.known(plan.equal)
        with self._step(f"check {table.name}") as tell:
            count = count_rows(tell, sum(run.rows for plan in plans for run in plan.runs))
            for fresh in (False, True):
                for plan in plans:
                    runs = [run for run in plan.runs if run.fresh == fresh]
                    if fresh and collisions.impossible:
                        plan.copied.inserted += sum(run.rows for run in runs)
                        continue
                    async for diff in self._changes(ours, plan, runs):
                        await self._take(ours, plan, diff, collisions)
                        count(diff.new.num_rows + diff.changed.num_rows + diff.same)
        await collisions.end()
        return collisions

    async def _take(self, ours: Any, plan: _Plan, diff: RowDiff, collisions: Collisions) -> None:
        for twice in diff.twice:
            raise _stands_twice(plan.partition.table, twice.key, "source" if twice.source > 1 else "destination")
        if self._refuse and diff.changed.num_rows:
            self._refuse_change(plan.partition.table, diff)
        await collisions.take(plan.partition, diff)
        extra = pc.sum(select_rows(diff.extra, plan.partition.selection)).as_py() or 0
        plan.copied.inserted += diff.new.num_rows
        plan.copied.updated += diff.changed.num_rows
        plan.copied.deleted += extra if self._delete else 0
        plan.copied.kept += 0 if self._delete else extra

    @staticmethod
    def _refuse_change(table: TableSpec, diff: RowDiff) -> None:
        mine, its = (rows.slice(0, 1).to_pylist()[0] for rows in (diff.changed, diff.stored))
        first = compare_values(table, mine, its)[0]
        raise CollisionError(
            f"{table.name} {format_key(first.row)}: the {first.column} is {format_value(first.source)} in the source and "
            f"{format_value(first.destination)} in the destination; nothing was written; without --on-conflict refuse the source "
            "wins"
        )

    async def _write(
        self, ours: Any, plans: list[_Plan], checked: dict[TableSpec, Collisions], last: dict[TableSpec, pa.Table]
    ) -> None:
        total = sum(plan.copied.inserted + plan.copied.updated + plan.copied.deleted for plan in plans)
        with self._step("copy") as tell:
            count = count_rows(tell, total)

            def wrote(rows: int) -> None:
                self.moved += rows
                count(rows)

            for table in self._scope.tables:
                chosen_plans = [plan for plan in plans if plan.partition.table is table]
                exchanged = checked[table].exchanged
                for plan in chosen_plans:
                    if plan.copied.deleted or exchanged or (self._delete and table is not BARS and plan.copied.updated):
                        await self._make_room(ours, plan, exchanged, count)
                if any(plan.copied.inserted or plan.copied.updated for plan in chosen_plans):
                    first = await rows_to_write_first(self._theirs, table, last[table], checked[table].closing)
                    if first.num_rows:
                        await _put(self._destination, table, first)
                    if table is BARS:
                        # a unique constraint is no protection here: on PostgreSQL two bars may have the same id
                        await checked[table].meanwhile(last[table]["id"][0].as_py())
                writer = _Writer(self._destination, table, wrote)
                for plan in chosen_plans:
                    if plan.whole:
                        await self._move_whole(ours, plan, writer)
                    elif plan.copied.inserted or plan.copied.updated:
                        async for diff in self._changes(ours, plan, plan.runs):
                            await writer.add(pa.concat_tables([diff.new, diff.changed]).sort_by(table.key[-1]))
                    if table is not BARS:
                        await writer.flush()
                await writer.flush()

    async def _make_room(self, ours: Any, plan: _Plan, exchanged: bool, count: Callable[[int], None]) -> None:
        """Delete destination rows: those that ``delete`` removes, and those whose id or trade_id another row is about to get."""
        table = plan.partition.table
        async for diff in self._changes(ours, plan, plan.runs):
            doomed = [diff.extra.filter(select_rows(diff.extra, plan.partition.selection))] if self._delete else []
            if exchanged:
                doomed.append(diff.stored.filter(pc.not_equal(diff.changed["id"], diff.stored["id"])))
            elif table is not BARS:
                doomed.append(diff.stored.filter(is_other_row(table, diff)))
            rows = pa.concat_tables(doomed).sort_by(table.key[-1])
            if rows.num_rows:
                await _drop(self._destination, table, rows)
                count(rows.num_rows)

    async def _move_whole(self, ours: Any, plan: _Plan, writer: _Writer) -> None:
        digester = Digester(plan.partition.table)
        async with aclosing(reading.prefetch(reading.read_batches(ours, plan.partition))) as coming:
            async for rows in coming:
                await reading.gather_both(asyncio.to_thread(digester.take, rows), writer.add(rows))
        parts = digester.parts()
        plan.copied.source = summarise(parts)
        plan.copied.inserted = plan.copied.source.rows
        plan.runs = [DirtyRange(parts[0].number, parts[-1].number, True, plan.copied.inserted)] if parts else []
        plan.proofs = [compute_checksum(parts)] if parts else []
        plan.copied.equal = not parts

    async def _prove(self, ours: Any, plans: list[_Plan]) -> None:
        """Read the written rows again and compare their checksums with the source's; if a checksum differs, compare the rows."""
        with self._step("verify") as tell:
            count = count_rows(tell, None)
            for plan in plans:
                plan.copied.kept = 0
                for run, proof in zip(plan.runs, plan.proofs, strict=True):
                    found = await reading.digest_partition(self._theirs, plan.partition, run, count)
                    if compute_checksum(found) != proof:
                        plan.copied.kept += await self._require_all(ours, plan, run)
                plan.copied.equal = True

    async def _require_all(self, ours: Any, plan: _Plan, run: DirtyRange) -> int:
        """Check that the destination has all source rows of a range of chunks; return the number of rows only in the destination.

        Raises:
            StoreError: the destination lacks a row of the source, has other values in it, or one of the stores has a duplicate.
        """
        kept = 0
        # a range that was empty in the destination before may have been written to by other clients during the copy
        async with aclosing(compare_partition(ours, self._theirs, plan.partition, run._replace(fresh=False))) as found:
            async for diff in found:
                kept += pc.sum(select_rows(diff.extra, plan.partition.selection)).as_py() or 0
                if diff.new.num_rows or diff.changed.num_rows or diff.twice:
                    raise StoreError(
                        f"{plan.partition.name} differs from the source after the copy: the destination was written to, or "
                        "has a duplicate bar; run the same command again, and use `iftb-store verify` to see the differences"
                    )
        return kept

    async def _changes(self, ours: Any, plan: _Plan, runs: list[DirtyRange]) -> AsyncIterator[RowDiff]:
        for run in runs:
            async with aclosing(compare_partition(ours, self._theirs, plan.partition, run)) as found:
                async for diff in found:
                    yield diff


async def prepare(destination: ConnectedStore, scope: TableScope | None = None) -> bool:
    """Create the tables if a database has none; return whether they were created.

    Raises:
        SchemaError: the tables have another revision; the message names the command.
        OperationalError: rows of the selected tables are hidden from this role, or it may not insert rows.
        Unsupported: the scope names a table that the destination does not keep.
    """
    scope, _ = limit_scope(scope, destination=destination)
    try:
        await reading.require_schema(destination, scope.tables, insert=True)
    except SchemaError:
        if Capability.MIGRATIONS not in destination.capabilities or (await destination.status()).state != "empty":
            raise
        await destination.migrate()
        return True
    return False


class _Writer:
    """Writes rows of one table in batches, each in a separate transaction."""

    def __init__(self, destination: ConnectedStore, table: TableSpec, wrote: Callable[[int], None]) -> None:
        self._destination, self._table, self._wrote = destination, table, wrote
        self._clear()

    async def add(self, rows: pa.Table) -> None:
        """Add rows of one series or table, and write them when the batch is full.

        Raises:
            StoreError: two rows have the same key.
        """
        where = read_positions(rows, self._table)
        twice: Any = pc.equal(where[1:], where[:-1])
        if pc.any(twice).as_py():
            first: dict[str, Any] = rows.slice(pc.index(twice, True).as_py(), 1).select(self._table.key).to_pylist()[0]
            raise _stands_twice(self._table, first, "source")
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self._size += rows.nbytes
        if self._rows >= reading.ROWS or self._size >= reading.BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write the rows that were added and not yet written."""
        if not self._rows:
            return
        rows = pa.concat_tables(self._waiting).combine_chunks()
        self._clear()
        if self._table is not BARS:
            rows = rows.sort_by("id")
        await _put(self._destination, self._table, rows)
        self._wrote(rows.num_rows)

    def _clear(self) -> None:
        self._waiting: list[pa.Table] = []
        self._rows = self._size = 0


async def _put(destination: ConnectedStore, table: TableSpec, rows: pa.Table) -> None:
    async def write_rows(session: Any) -> None:
        await require_complete_reads(session, [table], insert=True)
        await get_stores(session).write_rows(table, rows)

    try:
        await destination.run(write_rows, idempotent=True)
    except IntegrityError as error:
        ids: Any = pc.min_max(rows["id"]).as_py()
        raise CollisionError(
            f"{table.name}: the destination refused a row with an id from {ids['min']} to {ids['max']}: {error.orig}; "
            f"another row, written there during the copy, may have the same key or id; {REMEDY}; the rows copied before stay"
        ) from error
    except OperationalError as error:
        found = find_invalid_json(rows, table)
        if found is None:
            raise
        # SQLite stores any text in a JSON column
        raise unreadable_value(table, *found) from error


async def _drop(destination: ConnectedStore, table: TableSpec, rows: pa.Table) -> None:
    async def delete_rows(session: Any) -> None:
        await require_complete_reads(session, [table])
        await get_stores(session).delete_rows(table, rows)

    await destination.run(delete_rows, idempotent=True)


def _stands_twice(table: TableSpec, key: dict[str, Any], where: str) -> StoreError:
    return StoreError(f"{table.name} {format_key(key)} is a duplicate in the {where}; `iftb-store doctor` finds such rows")
