"""Copies the rows of one store that are missing or different in another, in bounded memory, and verifies the copy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.abilities import ConnectedStore
from iftb_store.errors import CollisionError, SchemaError, StoreError
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores, require_arrow
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import EVENTS, POSITIONS, RowFilter, TableSpec
from iftb_store.transfer import plan as reading
from iftb_store.transfer import writing
from iftb_store.transfer.access import open_complete_session, require_distinct
from iftb_store.transfer.coverage import CoverageCopy
from iftb_store.transfer.day_digests import DayDigests
from iftb_store.transfer.diff import RowDiff, compare_partition, select_rows
from iftb_store.transfer.digests import Digester, compute_checksum
from iftb_store.transfer.kept import Report, limit_scope
from iftb_store.transfer.matching import (
    REMEDY,
    MappedEvents,
    Matcher,
    match_positions,
    read_greatest_id,
    select_id,
)
from iftb_store.transfer.plan import DirtyRange, LastCommitted, Partition, RowReader
from iftb_store.transfer.planner import Copied, Plan, Planner
from iftb_store.transfer.progress import ProgressFactory, make_row_counter, report_nothing
from iftb_store.transfer.verify import compare_values, format_key, format_value, summarise
from iftb_store.values import checks
from iftb_store.values.choices import CONFLICTS, Conflict
from iftb_store.values.display import join_names

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

_OPEN_KEY = POSITIONS.unique


class Copy:
    """Copies the rows of one store, or a selection of them, into another store.

    The source is read from one snapshot, so that bars, trades, positions and events are consistent. Rows are committed in
    batches: an interrupted copy resumes when called again. Chunks (the bars of a day, or a block of 10,000 ids) with equal
    checksums are skipped, see `iftb_store.transfer.digests`. At the end the destination is read again and compared with the
    source. Conflicts are found before anything is written.

    A bar is identified by its series and timestamp. The destination assigns its id; its created_at is copied with a new bar and
    not compared. A trade, a position or an event keeps its id if the destination has no rows of its table, or only rows with the
    source's ids; ids that the destination assigns later are greater. In any other destination, rows are matched by other columns,
    see `iftb_store.transfer.matching`, and new rows get new ids; the position_id of an event is translated.

    What was asked for of the bars (the table coverage) is copied after them, if both stores keep it: it is added to that of the
    destination, or, with ``delete``, becomes equal in the time window.

    The destination may be written to during the copy: if ids are kept, the row with the greatest id of each table is written
    first, so that ids which the destination assigns afterwards are greater than all copied ids. If another client has just
    written a row with an id or a trade_id that is to be copied, the copy fails and does not overwrite that row.

    With ``delete``, rows of the destination are deleted first, in separate transactions. After an interrupted copy the
    destination lacks these rows until the copy is called again.

    Args:
        source: a connected manager.
        destination: another connected manager, for a database with the tables of iftb-store, see `prepare`.
        scope: the selection of rows; None for all tables that both stores keep.
        on_conflict: for rows that have other values in the destination: "source-wins" overwrites them, "refuse" raises
            before anything is written.
        delete: delete the selected rows that only the destination has; otherwise they are kept and counted.
        keep_ids: refuse the copy if a trade, position or event cannot keep its id in the destination.
        full: read every selected row of the destination, not only the days whose digests differ; on_conflict "refuse" does so
            too.
        step: reports the progress of each step, see `iftb_store.transfer.progress`.

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
        keep_ids: bool = False,
        full: bool = False,
        step: ProgressFactory = report_nothing,
    ) -> None:
        checks.choice(on_conflict, "on_conflict", CONFLICTS)
        require_arrow()
        self._source = source
        self._destination = destination
        self._scope, self._left_out = limit_scope(scope, source=source, destination=destination)
        self._refuse = on_conflict == "refuse"
        self._delete = delete
        self._keep_ids = keep_ids
        self._full = full or self._refuse
        self._digests = DayDigests(destination)
        self._step = step
        self._destination_reader = LastCommitted(destination)
        self.moved = 0

    async def run(self, *, dry: bool = False) -> Report[Copied]:
        """Copy the rows; return the results in the order of tables and series.

        Args:
            dry: report what would be copied or refused, and write nothing. Nothing is verified, and rows for a table that is
                empty in the destination have no checksum.

        Returns:
            One result for each series of bars, and one for each other table or selected part of it, even if it has no rows;
            ``left_out`` names the tables that one of the stores does not keep.

        Raises:
            CollisionError: the source has an open position for the exchange, symbol and side of another open position in the
                destination; with ``keep_ids``, a row of the source has the id or the trade_id of a different row in the
                destination. Nothing was written, unless the destination's row was added during the copy.
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
            source_reader = MappedEvents(get_stores(session))
            if EVENTS in self._scope.tables:
                source_reader.position_ids = await match_positions(source_reader, self._destination_reader)
            with_ids = [table for table in self._scope.tables if table.has_own_ids]
            last = {table: await read_greatest_id(session, self._scope, table) for table in with_ids}
            plans = await self._compare(session, source_reader, self._scope)
            matchers = {table: await self._check(source_reader, table, _choose(plans, table)) for table in self._scope.tables}
            if not dry:
                coverage = CoverageCopy(session, self._destination, self._scope, equal=self._delete)
                await coverage.prepare()
                await self._write(session, source_reader, plans, matchers, last)
                await self._verify(source_reader, plans, matchers)
                await coverage.write()
        return Report((plan.copied for plan in plans), self._left_out)

    async def _compare(self, session: Any, source_reader: RowReader, scope: TableScope) -> list[Plan]:
        """Compare the stores, and return what to write for each partition (a series of bars, or the rows of another table)."""
        source_partitions = await reading.find_partitions(session, scope)
        async with open_complete_session(self._destination, scope.tables) as other:
            destination_partitions = await reading.find_partitions(other, scope)
        await self._digests.check()
        snapshot = get_stores(session) if Capability.ISOLATION in self._source.capabilities else None
        planner = Planner(snapshot, source_reader, self._destination_reader, self._digests, delete=self._delete, full=self._full)
        with self._step("compare") as report_progress:
            return await planner.make_plans(source_partitions, destination_partitions, report_progress)

    async def _check(self, source_reader: MappedEvents, table: TableSpec, plans: list[Plan]) -> Matcher:
        """Count the rows to insert, update and delete; raise an error if a row must not be written."""
        translated = source_reader.position_ids is not None
        matcher = Matcher(table, keep_ids=self._keep_ids, delete=self._delete, translated=translated)
        if not any(plan.runs for plan in plans):
            return matcher
        with self._step(f"check {table.name}") as report_progress:
            # a bar that only the source has cannot conflict with another one
            runs = [[run for run in plan.runs if table.has_own_ids or not run.fresh] for plan in plans]
            count = make_row_counter(report_progress, sum(run.rows for part in runs for run in part))
            for index, (plan, part) in enumerate(zip(plans, runs, strict=True)):
                if not table.has_own_ids:
                    plan.copied.inserted += sum(run.rows for run in plan.runs if run.fresh)
                async for diff in self._changes(source_reader, plan, part):
                    self._take(plan, diff, matcher)
                    if table.has_own_ids:
                        await asyncio.to_thread(matcher.take, index, plan.partition, diff)
                    count(diff.new.num_rows + diff.changed.num_rows + diff.same)
        if not table.has_own_ids:
            return matcher
        await matcher.pair(self._destination if self._scope.chosen or self._keep_ids else None)
        extra = Counter(matcher.extra["part"].to_pylist())
        for index, plan in enumerate(plans):
            copied = plan.copied
            if not plan.whole:
                copied.inserted, copied.updated = matcher.new[index], matcher.changed[index]
                copied.deleted, copied.kept = (extra[index], 0) if self._delete else (0, extra[index])
        if self._refuse and matcher.pairs.num_rows:
            await self._refuse_pair(source_reader, table, matcher)
        if table is POSITIONS:
            await self._refuse_open(source_reader, plans, matcher)
        return matcher

    def _take(self, plan: Plan, diff: RowDiff, matcher: Matcher) -> None:
        for twice in diff.twice:
            raise writing.duplicate_error(plan.partition.table, twice.key, "source" if twice.source > 1 else "destination")
        table = plan.partition.table
        if self._refuse and diff.changed.num_rows:
            pairs = [(diff.changed, diff.stored)]
            if table.has_own_ids:
                versions = pc.invert(matcher.is_other(diff))
                pairs = [(diff.changed.filter(versions), diff.stored.filter(versions))]
            for source_rows, stored_rows in pairs:
                self._refuse_change(table, source_rows.slice(0, 1).to_pylist(), stored_rows.slice(0, 1).to_pylist())
        extra = pc.sum(select_rows(diff.extra, plan.partition.selection)).as_py() or 0
        plan.copied.inserted += diff.new.num_rows
        plan.copied.updated += diff.changed.num_rows
        plan.copied.deleted += extra if self._delete else 0
        plan.copied.kept += 0 if self._delete else extra

    async def _refuse_pair(self, source_reader: RowReader, table: TableSpec, matcher: Matcher) -> None:
        """Raise CollisionError for the first row that the destination has under another id and with other values."""
        for pair in matcher.pairs.filter(matcher.pairs["changed"]).slice(0, 1).to_pylist():
            source_rows = (await source_reader.read_rows(select_id(table, pair["source"]))).to_pylist()
            stored_rows = (await self._destination_reader.read_rows(select_id(table, pair["destination"]))).to_pylist()
            self._refuse_change(table, source_rows, [stored_rows[0] | {"id": pair["source"]}])

    @staticmethod
    def _refuse_change(table: TableSpec, source_rows: list[dict[str, Any]], stored_rows: list[dict[str, Any]]) -> None:
        for source_row, stored_row in zip(source_rows, stored_rows, strict=True):
            first = compare_values(table, source_row, stored_row)[0]
            raise CollisionError(
                f"{table.name} {format_key(first.row)}: the {first.column} is {format_value(first.source)} in the source and "
                f"{format_value(first.destination)} in the destination; nothing was written; without --on-conflict refuse the "
                "source wins"
            )

    async def _refuse_open(self, source_reader: RowReader, plans: list[Plan], matcher: Matcher) -> None:
        """Raise CollisionError if the copy would leave two open positions with the same exchange, account, symbol and side."""
        stays, opening = await self._read_open(), dict[tuple[str, ...], int]()
        for row in matcher.extra.to_pylist() if self._delete else ():
            stays.pop(row["id"], None)
        for plan in plans:
            async for batch in self._read_source(source_reader, plan):
                for rows in matcher.place(batch):
                    for row in rows.select(["id", "status", *_OPEN_KEY]).to_pylist():
                        stays.pop(row["id"], None)
                        if row["status"] == "open":
                            opening[tuple(row[name] for name in _OPEN_KEY)] = row["id"]
        for number, key in stays.items():
            if key in opening:
                named = join_names(value for value in key if value)
                raise CollisionError(
                    f"positions: an open position of {named} in the source conflicts with the destination's open "
                    f"position {number}; close one of them, or {REMEDY}"
                )

    async def _read_open(self) -> dict[int, tuple[str, ...]]:
        """Return (exchange, account, symbol, side) of each open position in the destination, by its id."""
        async with open_complete_session(self._destination, [POSITIONS]) as session:
            rows = await get_stores(session).records.select(RowFilter(POSITIONS, {"status": "open"}))
        return {row.id: tuple(getattr(row, name) for name in _OPEN_KEY) for row in rows}

    async def _replan_events(
        self, session: Any, source_reader: MappedEvents, plans: list[Plan], matchers: dict[TableSpec, Matcher]
    ) -> None:
        """Compare the events again if positions that were just written have new ids."""
        position_ids = await match_positions(source_reader, self._destination_reader)
        if position_ids != source_reader.position_ids:
            source_reader.position_ids = position_ids
            plans[:] = [plan for plan in plans if plan.partition.table is not EVENTS]
            plans += await self._compare(session, source_reader, self._scope.limit([EVENTS]))
            matchers[EVENTS] = await self._check(source_reader, EVENTS, _choose(plans, EVENTS))

    async def _write(
        self,
        session: Any,
        source_reader: MappedEvents,
        plans: list[Plan],
        matchers: dict[TableSpec, Matcher],
        last: dict[TableSpec, pa.Table],
    ) -> None:
        total = sum(plan.copied.inserted + plan.copied.updated + plan.copied.deleted for plan in plans)
        with self._step("copy") as report_progress:
            count = make_row_counter(report_progress, total)

            def wrote(rows: int) -> None:
                self.moved += rows
                count(rows)

            for table in self._scope.tables:
                if table is EVENTS and any(plan.copied.inserted or plan.copied.deleted for plan in _choose(plans, POSITIONS)):
                    await self._replan_events(session, source_reader, plans, matchers)
                chosen, matcher = _choose(plans, table), matchers[table]
                if not table.has_own_ids:
                    for plan in chosen:
                        await self._digests.forget(plan.partition, None if plan.whole else [*plan.runs, *plan.stale])
                if self._delete:
                    await self._delete_extra(source_reader, chosen, matcher, count)
                if not any(plan.copied.inserted or plan.copied.updated for plan in chosen):
                    continue
                if table.has_own_ids:
                    await self._write_first(source_reader, chosen, matcher, last[table])
                writer = writing.RowWriter(self._destination, table, wrote, replace=matcher.assigns)
                for plan in chosen:
                    if plan.whole:
                        await self._move_whole(source_reader, plan, writer)
                    elif plan.copied.inserted or plan.copied.updated:
                        await self._put_changes(source_reader, plan, matcher, writer)
                    if table.has_own_ids:
                        await writer.flush()
                await writer.flush()

    async def _put_changes(self, source_reader: RowReader, plan: Plan, matcher: Matcher, writer: writing.RowWriter) -> None:
        if not matcher.table.has_own_ids:
            async for diff in self._changes(source_reader, plan, plan.runs):
                await writer.add(pa.concat_tables([diff.new, diff.changed]).sort_by(matcher.table.key[-1]))
            return
        async for batch in self._read_source(source_reader, plan):
            rows, without_ids = matcher.place(batch)
            await writer.add(rows)
            if without_ids.num_rows:
                await writer.flush()
                await writing.put(self._destination, matcher.table, without_ids)
                writer.wrote(without_ids.num_rows)

    @staticmethod
    async def _read_source(source_reader: RowReader, plan: Plan) -> AsyncIterator[pa.Table]:
        for run in plan.runs:
            async with aclosing(reading.read_batches(source_reader, plan.partition, run)) as batches:
                async for rows in batches:
                    yield rows

    async def _write_first(self, source_reader: RowReader, plans: list[Plan], matcher: Matcher, last: pa.Table) -> None:
        """Write the rows that must be written first: the row with the greatest id, and changed positions.

        The row with the greatest id is written first only if ids are kept. The changed positions are those that are open in the
        destination: closing one allows another open position with the same exchange, symbol and side.
        """
        table, first = plans[0].partition.table, [last.slice(0, 0)]
        if table is POSITIONS:
            is_open = pa.array(await self._read_open(), pa.int64())
            for plan in plans:
                async for batch in self._read_source(source_reader, plan):
                    rows = matcher.place(batch)[0]
                    first.append(rows.filter(pc.is_in(rows["id"], value_set=is_open)))
        if not matcher.assigns:
            stored = await self._destination_reader.read_rows(select_id(table, last["id"][0].as_py()))
            known = pa.concat_tables([stored, *first])["id"].combine_chunks()
            first.append(last.filter(pc.invert(pc.is_in(last["id"], value_set=known))))
        if (rows := pa.concat_tables(first)).num_rows:
            await writing.put(self._destination, table, rows.sort_by("id"), replace=matcher.assigns)

    async def _delete_extra(
        self, source_reader: RowReader, plans: list[Plan], matcher: Matcher, count: Callable[[int], None]
    ) -> None:
        """Delete the selected rows that only the destination has."""
        if matcher.extra.num_rows:
            for first in range(0, matcher.extra.num_rows, reading.ROWS):
                await writing.drop(self._destination, matcher.table, matcher.extra.slice(first, reading.ROWS).select(["id"]))
                count(min(reading.ROWS, matcher.extra.num_rows - first))
            return
        for plan in plans:
            if plan.copied.deleted:
                async for diff in self._changes(source_reader, plan, plan.runs):
                    rows = diff.extra.filter(select_rows(diff.extra, plan.partition.selection))
                    await writing.drop(self._destination, matcher.table, rows)
                    count(rows.num_rows)

    async def _move_whole(self, source_reader: RowReader, plan: Plan, writer: writing.RowWriter) -> None:
        digester = Digester(plan.partition.table, plan.partition.selection.equal)
        async with aclosing(reading.prefetch(reading.read_batches(source_reader, plan.partition))) as coming:
            async for rows in coming:
                await reading.gather_both(asyncio.to_thread(digester.take, rows), writer.add(rows))
        parts = digester.parts()
        plan.copied.source = summarise(parts)
        plan.copied.inserted = plan.copied.source.rows
        plan.runs = [DirtyRange(parts[0].number, parts[-1].number, True, plan.copied.inserted)] if parts else []
        plan.proofs = [compute_checksum(parts)] if parts else []
        plan.copied.equal = not parts

    async def _verify(self, source_reader: MappedEvents, plans: list[Plan], matchers: dict[TableSpec, Matcher]) -> None:
        """Read the written rows again and compare their checksums with the source's; if a checksum differs, compare the rows."""
        with self._step("verify") as report_progress:
            count = make_row_counter(report_progress, None)
            for table in self._scope.tables:
                by_pairs = matchers[table].assigns or (table is EVENTS and source_reader.position_ids is not None)
                for plan in _choose(plans, table):
                    if plan.runs and not by_pairs:
                        await self._verify_plan(source_reader, plan, count)
                    plan.copied.equal = True
                    if not table.has_own_ids:
                        await self._digests.write(plan.partition, plan.read, plan.fingerprints)
                if by_pairs:
                    await self._require_pairs(source_reader, _choose(plans, table))

    async def _verify_plan(self, source_reader: RowReader, plan: Plan, count: Callable[[int], None]) -> None:
        plan.copied.kept = 0
        read = [chunk for chunk in plan.read if not any(run.first <= chunk.number <= run.last for run in plan.runs)]
        for run, proof in zip(plan.runs, plan.proofs, strict=True):
            found = await reading.digest_partition(self._destination_reader, plan.partition, run, count)
            read += found
            if compute_checksum(found) != proof:
                plan.copied.kept += await self._require_all(source_reader, plan, run)
        plan.read = read

    async def _require_pairs(self, source_reader: MappedEvents, plans: list[Plan]) -> None:
        """Raise an error unless each row of the source has its values in the destination; the ids may differ.

        Raises:
            StoreError: the destination lacks a row of the source, or has other values in it.
        """
        matcher = Matcher(plans[0].partition.table, translated=source_reader.position_ids is not None)
        for index, plan in enumerate(plans):
            source_chunks, stored_chunks = await reading.gather_both(
                reading.digest_partition(source_reader, plan.partition),
                reading.digest_partition(self._destination_reader, plan.partition),
            )
            async for diff in self._changes(source_reader, plan, reading.find_dirty_ranges(source_chunks, stored_chunks)):
                await asyncio.to_thread(matcher.take, index, plan.partition, diff)
        await matcher.pair()
        extra = Counter(matcher.extra["part"].to_pylist())
        for index, plan in enumerate(plans):
            plan.copied.kept = extra[index]
            if matcher.new[index] or matcher.changed[index]:
                raise _has_changed(plan.partition)

    async def _require_all(self, source_reader: RowReader, plan: Plan, run: DirtyRange) -> int:
        """Raise an error unless the destination has all source rows of some chunks; count the rows that only it has.

        Raises:
            StoreError: the destination lacks a row of the source, has other values in it, or one of the stores has a duplicate.
        """
        kept = 0
        # a range that was empty in the destination before may have been written to by other clients during the copy
        async with aclosing(
            compare_partition(source_reader, self._destination_reader, plan.partition, run._replace(fresh=False))
        ) as found:
            async for diff in found:
                kept += pc.sum(select_rows(diff.extra, plan.partition.selection)).as_py() or 0
                if diff.new.num_rows or diff.changed.num_rows or diff.twice:
                    raise _has_changed(plan.partition)
        return kept

    async def _changes(self, source_reader: RowReader, plan: Plan, runs: list[DirtyRange]) -> AsyncIterator[RowDiff]:
        for run in runs:
            async with aclosing(compare_partition(source_reader, self._destination_reader, plan.partition, run)) as found:
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


def _choose(plans: list[Plan], table: TableSpec) -> list[Plan]:
    return [plan for plan in plans if plan.partition.table is table]


def _has_changed(partition: Partition) -> StoreError:
    return StoreError(
        f"{partition.name} differs from the source after the copy: the destination was written to, or has a duplicate bar; run "
        "the same command again, and use `iftb-store verify` to see the differences"
    )
