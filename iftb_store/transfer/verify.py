"""Checks that two stores hold the same rows, and reports the first rows that differ."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.abilities import ConnectedStore
from iftb_store.registry import get_stores, require_arrow
from iftb_store.repositories.covered import find_coverage, join_ranges
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import COVERAGE, EVENTS, SERIES, ColumnKind, TableSpec
from iftb_store.transfer import plan
from iftb_store.transfer.access import require_distinct
from iftb_store.transfer.coverage import find_differing_ranges, read_ranges
from iftb_store.transfer.diff import RowDiff, compare_partition, select_rows
from iftb_store.transfer.digests import Chunk, compute_checksum, normalise_json
from iftb_store.transfer.kept import Report, limit_scope
from iftb_store.transfer.matching import (
    MappedEvents,
    Matcher,
    compute_checksum_without_ids,
    match_positions,
    select_id,
)
from iftb_store.transfer.progress import ProgressFactory, make_row_counter, report_nothing
from iftb_store.values.display import join_names

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

#: Maximum number of different rows that are reported for a series or table.
NAMED = 5


@dataclass(frozen=True)
class Contents:
    """The number of rows of a series or table in one store, and their checksum; see `iftb_store.transfer.digests`."""

    rows: int
    checksum: str


@dataclass(frozen=True)
class Difference:
    """A value that differs, or a row that one of two stores lacks or has more than once.

    Attributes:
        row: the values of the row's key, by column.
        column: the column; None unless both stores have exactly one row with this key.
        source: the value in the source; if ``column`` is None, the number of source rows with this key.
        destination: the value in the destination; if ``column`` is None, the number of destination rows with this key.
    """

    row: dict[str, Any]
    column: str | None
    source: Any
    destination: Any


@dataclass(frozen=True)
class Verified:
    """The result of comparing one series of bars, or one of the other tables.

    Attributes:
        table: the table's name.
        series: the series, e.g. ``binance BTCUSDT 1m``; empty for a whole table.
        source: the number of rows in the source and their checksum.
        destination: the number of rows in the destination and their checksum.
        differences: the values that differ in the first `NAMED` rows that differ.

    Rows with ids are matched by their ids. Rows that the stores have under different ids are paired as a copy pairs them (see
    `iftb_store.transfer.matching`); the checksum then covers the values without the ids. The position ids of the source's
    events are translated to those of the destination.
    """

    table: str
    series: str
    source: Contents
    destination: Contents
    differences: list[Difference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Return whether both stores have the same rows with the same values."""
        return self.source == self.destination and not self.differences


async def compare_stores(
    source: ConnectedStore,
    destination: ConnectedStore,
    scope: TableScope | None = None,
    *,
    step: ProgressFactory = report_nothing,
) -> Report[Verified]:
    """Compare two stores, or the same selection of both. Each is read from a snapshot, in bounded memory, and not changed.

    Args:
        source: a connected manager.
        destination: another connected manager.
        scope: the selection of rows; None for all tables that both stores keep.
        step: reports the progress of each step, see `iftb_store.transfer.progress`.

    Returns:
        One result for each series of bars, and one for each other table or selected part of it, even if it has no rows;
        ``left_out`` names the tables that one of the stores does not keep.

    Raises:
        InvalidValueError: the source and the destination are the same database.
        Unsupported: the scope names a table that one of the stores does not keep.
        SchemaError: the source or the destination has no usable schema.
        OperationalError: rows of the source or the destination are hidden from its role.
        MissingDriverError: pyarrow is not installed; the message contains the install command.
    """
    require_arrow()
    await require_distinct(source, destination)
    scope, left_out = limit_scope(scope, source=source, destination=destination)
    for db in (source, destination):
        await plan.require_schema(db, scope.tables)
    async with (
        plan.open_snapshot(source, scope.tables) as source_session,
        plan.open_snapshot(destination, scope.tables) as destination_session,
    ):
        stores = MappedEvents(get_stores(source_session)), get_stores(destination_session)
        if EVENTS in scope.tables:
            stores[0].position_ids = await match_positions(*stores)
        found = await plan.gather_both(
            plan.find_partitions(source_session, scope), plan.find_partitions(destination_session, scope)
        )
        with step("verify") as report_progress:
            count = make_row_counter(report_progress, sum(rows for part in found for _, rows in part))
            partitions = plan.sort_partitions([partition for part in found for partition, _ in part])
            verified = [await _verify_partition(*stores, partition, count) for partition in partitions]
        return Report(verified + await _verify_coverage(source_session, destination_session, scope), left_out)


async def _verify_coverage(source: Any, destination: Any, scope: TableScope) -> list[Verified]:
    """Compare what was asked for, neighbours joined; return one result for each series of which something was."""
    sides = [find_coverage(get_stores(session)) for session in (source, destination)]
    if None in sides:
        return []
    here, there = [await read_ranges(coverage, scope) for coverage in sides]
    results = []
    for series in sorted({*here, *there}):
        one, two = here.get(series, []), there.get(series, [])
        found = [
            Difference(dict(zip(SERIES, series, strict=True)) | {"first": first, "last": last}, None, *counts)
            for first, last, *counts in find_differing_ranges(one, two)
        ]
        contents = [Contents(len(joined), _sum_up(joined)) for joined in (join_ranges(one), join_ranges(two))]
        results.append(Verified(COVERAGE.name, join_names(series), contents[0], contents[1], found[:NAMED]))
    return results


def _sum_up(ranges: list[tuple[datetime, datetime]]) -> str:
    return sha256(repr(ranges).encode()).hexdigest() if ranges else ""


async def _verify_partition(
    source_reader: MappedEvents, destination_reader: plan.RowReader, partition: plan.Partition, count: Callable[[int], None]
) -> Verified:
    table = partition.table
    digest = partial(plan.digest_partition, partition=partition, report_progress=count)
    one, two = await plan.gather_both(digest(source_reader), digest(destination_reader))
    differing = plan.find_dirty_ranges(one, two)
    source_contents, destination_contents = summarise(one), summarise(two)
    found: list[Difference] = []
    matcher = await _match(source_reader, destination_reader, partition, differing) if differing and table.has_own_ids else None
    if matcher is not None and (matcher.pairs.num_rows or (table is EVENTS and source_reader.position_ids is not None)):
        found = await _find_unmatched(source_reader, destination_reader, partition, differing, matcher)
        source_contents = replace(source_contents, checksum=await compute_checksum_without_ids(source_reader, partition))
        destination_contents = replace(
            destination_contents, checksum=await compute_checksum_without_ids(destination_reader, partition)
        )
    elif differing:
        found = await find_differences(source_reader, destination_reader, partition, differing)
    return Verified(table.name, partition.series, source_contents, destination_contents, found)


async def _match(
    source_reader: MappedEvents, destination_reader: plan.RowReader, partition: plan.Partition, differing: list[plan.DirtyRange]
) -> Matcher:
    """Find the rows that the two stores have under different ids, and pair them."""
    matcher = Matcher(partition.table, translated=source_reader.position_ids is not None)
    for run in differing:
        async with aclosing(compare_partition(source_reader, destination_reader, partition, run)) as chunks:
            async for chunk in chunks:
                matcher.take(0, partition, chunk)
    await matcher.pair()
    return matcher


async def _find_unmatched(
    source_reader: plan.RowReader,
    destination_reader: plan.RowReader,
    partition: plan.Partition,
    differing: list[plan.DirtyRange],
    matcher: Matcher,
) -> list[Difference]:
    """Return the differing values of the first `NAMED` rows that differ, if some rows have different ids in the two stores."""
    table, rows = partition.table, list[list[Difference]]()
    for run in differing:
        async with aclosing(compare_partition(source_reader, destination_reader, partition, run)) as chunks:
            async for chunk in chunks:
                other = matcher.is_other(chunk)
                for one, two in zip(
                    *(part.filter(pc.invert(other)).to_pylist() for part in (chunk.changed, chunk.stored)), strict=True
                ):
                    rows.append(compare_values(table, one, two))
                lone = pa.concat_tables([chunk.new, chunk.changed.filter(other)]).combine_chunks()
                partners, changed = matcher.find_partners(lone)
                for mine, partner, differs in zip(lone.to_pylist(), partners.to_pylist(), changed.to_pylist(), strict=True):
                    if partner is None:
                        rows.append([Difference({"id": mine["id"]}, None, 1, 0)])
                    elif differs:
                        its = (await destination_reader.read_rows(select_id(table, partner))).to_pylist()[0]
                        rows.append(compare_values(table, mine, its | {"id": mine["id"]}))
                    if len(rows) >= NAMED:
                        return [difference for row in rows[:NAMED] for difference in row]
    rows += [[Difference({"id": number}, None, 0, 1)] for number in matcher.extra.slice(0, NAMED)["id"].to_pylist()]
    return [difference for row in rows[:NAMED] for difference in row]


def summarise(parts: list[Chunk]) -> Contents:
    """Return the total number of rows of the chunks, and their common checksum."""
    return Contents(sum(part.rows for part in parts), compute_checksum(parts))


async def find_differences(
    source_reader: plan.RowReader, destination_reader: plan.RowReader, partition: plan.Partition, differing: list[plan.DirtyRange]
) -> list[Difference]:
    """Find the first `NAMED` rows that differ, and return the values in which they differ."""
    rows: list[list[Difference]] = []
    for run in differing:
        async with aclosing(compare_partition(source_reader, destination_reader, partition, run)) as chunks:
            async for chunk in chunks:
                rows += _find_differing_rows(chunk, partition)
                if len(rows) >= NAMED:
                    return [difference for row in rows[:NAMED] for difference in row]
    return [difference for row in rows for difference in row]


def _find_differing_rows(chunk: RowDiff, partition: plan.Partition) -> list[list[Difference]]:
    """Return the first rows of a chunk that differ, in key order, each as a list of differences."""
    table = partition.table
    extra = chunk.extra.filter(select_rows(chunk.extra, partition.selection))
    found = [[Difference(key, None, source, destination)] for key, source, destination in chunk.twice[:NAMED]]
    for rows, counts in ((chunk.new, (1, 0)), (extra, (0, 1))):
        found += [[Difference(key, None, *counts)] for key in rows.slice(0, NAMED).select(table.key).to_pylist()]
    for one, two in zip(chunk.changed.slice(0, NAMED).to_pylist(), chunk.stored.slice(0, NAMED).to_pylist(), strict=True):
        found.append(compare_values(table, one, two))
    return sorted(found, key=lambda row: row[0].row[table.key[-1]])


def compare_values(table: TableSpec, source_row: dict[str, Any], stored_row: dict[str, Any]) -> list[Difference]:
    """Compare the source's and the destination's version of a row, and return the values that differ."""
    key = {name: source_row[name] for name in table.key}
    return [
        Difference(key, name, source_row[name], stored_row[name])
        for name in table.compared
        if _comparable(table, name, source_row[name]) != _comparable(table, name, stored_row[name])
    ]


def _comparable(table: TableSpec, column: str, value: Any) -> Any:
    return normalise_json(value) if table.kinds[column] == ColumnKind.JSON and value is not None else value


def format_key(row: dict[str, Any]) -> str:
    """Return the values of a key as text for people."""
    return " ".join(join_names([value]) if isinstance(value, str) else format_value(value) for value in row.values())


def format_value(value: Any) -> str:
    """Return a value as text for people: plain digits, a time in ISO 8601, NULL for None, or the text."""
    if isinstance(value, Decimal):
        digits = format(value, "f")
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return "NULL" if value is None else str(value)
