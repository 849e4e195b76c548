"""Finds, for rows with ids, which row of the destination is the source's row: by the id, otherwise by other columns.

A destination row is the source's row if it has the same id and the same `TableSpec.identity`. The rows that have no such partner
are paired by `TableSpec.natural_key`: trades by their trade_id; positions by exchange, symbol, side, entry_time and trade_id;
events by all columns but the id. If several rows have the same natural key, the rows with the smallest ids are paired first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.arrow import arrow_schema
from iftb_store.errors import CollisionError, StoreError
from iftb_store.protocols import Stores
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import EVENTS, GREATEST_ID, POSITIONS, TRADES, RowFilter, TableSpec
from iftb_store.transfer.access import open_complete_session
from iftb_store.transfer.diff import RowDiff, compare_rows, select_rows
from iftb_store.transfer.digests import encode_rows
from iftb_store.transfer.lookups import get_lookups
from iftb_store.transfer.plan import Partition, RowReader, read_batches
from iftb_store.values.display import show

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

REMEDY = "copy into another database, or leave these rows out (--table, --exchange, --symbol, --start, --end)"

# maximum number of values in one lookup
_MOST = 500
_ID: pa.DataType = pa.int64()
_BYTES: pa.DataType = pa.binary()
# a row without a partner: its id, its natural key and its values as bytes, and the index of its partition
_LONE = pa.schema([pa.field("id", _ID), pa.field("key", _BYTES), pa.field("row", _BYTES), pa.field("part", _ID)])
_PAIRS = pa.schema(
    [pa.field("source", _ID), pa.field("destination", _ID), pa.field("changed", pa.bool_()), pa.field("part", _ID)]
)


class Matcher:
    """Pairs the rows of one table, with ids, of a source and a destination, from the differences between both.

    Args:
        table: a table whose rows are identified by their ids.
        keep_ids: refuse the source's rows whose id or trade_id a different destination row has, instead of pairing them.
        delete: whether the destination's selected rows without a partner are going to be deleted.

    Attributes:
        table: the table.
        new: for each partition, the number of the source's rows without a partner.
        changed: for each partition, the number of the source's rows whose partner has other values.
        pairs: the rows that have different ids in the two stores, ordered by the source's id.
        assigns: whether the rows without a partner get new ids, because the destination's ids are not the source's.
        extra: the destination's selected rows without a partner.
    """

    def __init__(self, table: TableSpec, *, keep_ids: bool = False, delete: bool = False) -> None:
        self.table, self._keep_ids, self._delete = table, keep_ids, delete
        self._source, self._destination = [_LONE.empty_table()], [_LONE.empty_table()]
        # the ids of destination rows that are also the ids of different source rows
        self._taken = list[Any]()
        self.new, self.changed = Counter[int](), Counter[int]()
        self.pairs, self.extra, self.assigns = _PAIRS.empty_table(), _LONE.empty_table(), False

    def take(self, part: int, partition: Partition, compared: RowDiff) -> None:
        """Add the differences in one range of ids of a partition, whose index is ``part``.

        Raises:
            CollisionError: with ``keep_ids``, the id of a row belongs to a different row that is not going to be deleted.
        """
        other = is_other_row(self.table, compared)
        selected = select_rows(compared.stored, partition.selection)
        stays = pc.and_(other, pc.invert(selected)) if self._delete else other
        if self._keep_ids and pc.any(stays).as_py():
            mine, its = (rows.filter(stays).slice(0, 1).to_pylist()[0] for rows in (compared.changed, compared.stored))
            raise CollisionError(
                f"{self.table.name}: the source's {_name_row(self.table, mine)} has the same id {mine['id']} as the "
                f"destination's {_name_row(self.table, its)}; {REMEDY}"
            )
        self.changed[part] += compared.changed.num_rows - (pc.sum(other).as_py() or 0)
        for rows in (compared.new, compared.changed.filter(other)):
            self._source.append(self._describe(rows, part))
        extra = compared.extra.filter(select_rows(compared.extra, partition.selection))
        for rows in (extra, compared.stored.filter(pc.and_(other, selected))):
            self._destination.append(self._describe(rows, part))
        self._taken += compared.stored["id"].filter(other).chunks

    async def pair(self, destination: ConnectedStore | None = None) -> None:
        """Pair the rows that have no partner of the same id; called once, after all differences were added.

        Args:
            destination: the store in which trades are looked up that the scope does not select there; None for no lookup.

        Raises:
            CollisionError: with ``keep_ids``, a trade_id is stored under another id, in a row that is not going to be deleted.
        """
        source, lone = (pa.concat_tables(rows).combine_chunks() for rows in (self._source, self._destination))
        found = _PAIRS.empty_table() if self._keep_ids else _pair(source, lone)
        if self.table is TRADES and destination is not None:
            removed = set[Any](lone["id"].to_pylist() if self._delete and self._keep_ids else [])
            rest = _without(source, found["source"])
            found = pa.concat_tables([found, await self._look_up(destination, rest, removed)])
        self.pairs = found.sort_by("source").combine_chunks()
        self.extra = _without(lone, self.pairs["destination"]).sort_by("id")
        self.new.update(_list(_without(source, self.pairs["source"])["part"]))
        self.changed.update(_list(self.pairs.filter(self.pairs["changed"])["part"]))
        free = self.extra["id"].combine_chunks() if self._delete else pa.array([], pa.int64())
        taken = pc.is_in(pa.chunked_array(self._taken, pa.int64()), value_set=free)
        self.assigns = bool(self.pairs.num_rows) or not pc.all(taken, min_count=0).as_py()

    def place(self, compared: RowDiff) -> tuple[pa.Table, pa.Table]:
        """Return two tables of source rows to write: those with the ids that they have in the destination, and those without.

        The ids of the second table are NULL, for the destination to assign. The rows are those that the destination lacks, and
        those that have other values there.
        """
        versions, lone = self.split(compared)
        partners, changed = self.find_partners(lone)
        paired, at = pc.is_valid(partners), lone.schema.get_field_index("id")
        known = lone.set_column(at, lone.field("id"), partners).filter(pc.and_(paired, changed))
        rest = lone.filter(pc.invert(paired))
        if not self.assigns:
            return pa.concat_tables([versions, known, rest]).sort_by("id"), rest.slice(0, 0)
        unknown = rest.set_column(at, rest.field("id"), pa.nulls(len(rest), pa.int64()))
        return pa.concat_tables([versions, known]).sort_by("id"), unknown

    def split(self, compared: RowDiff) -> tuple[pa.Table, pa.Table]:
        """Return (source rows whose partner of the same id has other values, source rows without a partner of the same id)."""
        other = is_other_row(self.table, compared)
        lone = pa.concat_tables([compared.new, compared.changed.filter(other)])
        return compared.changed.filter(pc.invert(other)), lone.combine_chunks()

    def find_partners(self, rows: pa.Table) -> tuple[Any, Any]:
        """Return, for each row, the id of its partner in `pairs`, NULL if it has none, and whether the partner differs."""
        place = pc.index_in(rows["id"], value_set=self.pairs["source"].combine_chunks())
        return self.pairs["destination"].take(place), self.pairs["changed"].take(place)

    def _describe(self, rows: pa.Table, part: int) -> pa.Table:
        if self.table is TRADES:
            keys = [text.encode() for text in _list(rows["trade_id"])]
        else:
            keys = _hash(encode_rows(rows, self.table, self.table.natural_key))
        values = _hash_values(rows, self.table)
        columns = [rows["id"].combine_chunks(), pa.array(keys, pa.binary()), pa.array(values, pa.binary())]
        return pa.table([*columns, pa.repeat(pa.scalar(part, pa.int64()), len(rows))], schema=_LONE)

    async def _look_up(self, destination: ConnectedStore, lone: pa.Table, removed: set[Any]) -> pa.Table:
        """Return pairs for the trades in ``lone`` that the destination has under other ids; ``removed`` rows do not count."""
        found = list[tuple[Any, ...]]()
        for first in range(0, lone.num_rows, _MOST):
            wanted = {row["key"].decode(): row for row in lone.slice(first, _MOST).to_pylist()}
            async with open_complete_session(destination, [TRADES]) as session:
                ids = await get_lookups(get_stores(session)).find_ids(TRADES, "trade_id", list(wanted))
            for trade_id, number in ids.items():
                mine = wanted[trade_id]
                if number in removed:
                    continue
                if self._keep_ids:
                    raise CollisionError(
                        f"trades: the source's trade {show(trade_id)} with the id {mine['id']} is stored in the destination "
                        f"with the id {number}; {REMEDY}"
                    )
                # the scope does not select the destination's version, so it differs
                found.append((mine["id"], number, True, mine["part"]))
        return pa.Table.from_pylist([dict(zip(_PAIRS.names, pair, strict=True)) for pair in found], _PAIRS)


def is_other_row(table: TableSpec, compared: RowDiff) -> Any:
    """Return, for each changed row, whether the destination's row with the same id is a different row.

    It is a different row if it has another value in a column of `TableSpec.identity`; otherwise it is a version of the same row.
    """
    differs = pc.is_null(compared.changed["id"])
    for name in table.identity:
        differs = pc.or_(differs, pc.not_equal(compared.changed[name], compared.stored[name]))
    return differs


class MappedEvents:
    """The rows of a source as they are in a destination where positions have other ids: events name those ids."""

    def __init__(self, stores: Stores, position_ids: Mapping[int, int] | None = None) -> None:
        self._stores = stores
        self.position_ids = position_ids or {}

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the next rows that ``selection`` selects; see `iftb_store.protocols.Stores.read_rows`."""
        rows = await self._stores.read_rows(selection)
        if selection.table is not EVENTS or not self.position_ids or rows["position_id"].null_count == rows.num_rows:
            return rows
        ids = [self.position_ids.get(number, number) for number in _list(rows["position_id"])]
        field = rows.schema.field("position_id")
        return rows.set_column(rows.schema.get_field_index("position_id"), field, pa.array(ids, field.type))


async def compute_checksum_without_ids(store: RowReader, partition: Partition) -> str:
    """Return a checksum over the values of the rows without their ids, in hexadecimal; the order of the rows has no effect.

    It is the sum of the BLAKE2b digests with 16 bytes of all rows, modulo 2**128.
    """
    table, total = partition.table, 0
    async with aclosing(read_batches(store, partition)) as batches:
        async for rows in batches:
            total += await asyncio.to_thread(lambda rows: sum(map(_to_integer, _hash_values(rows, table))), rows)
    return f"{total % 2**128:032x}"


async def match_positions(source: RowReader, destination: RowReader) -> dict[int, int]:
    """Return the ids of the source's positions that have another id in the destination, with the destination's ids."""
    whole, matcher = Partition(RowFilter(POSITIONS)), Matcher(POSITIONS)
    ours, theirs = [await _read_all(store, whole) for store in (source, destination)]
    matcher.take(0, whole, compare_rows(POSITIONS, ours, theirs))
    await matcher.pair()
    return dict(zip(*(matcher.pairs[name].to_pylist() for name in ("source", "destination")), strict=True))


async def _read_all(store: RowReader, partition: Partition) -> pa.Table:
    rows = list[pa.Table]()
    async with aclosing(read_batches(store, partition)) as batches:
        rows = [batch async for batch in batches]
    return pa.concat_tables([arrow_schema(partition.table).empty_table(), *rows])


def _pair(source: pa.Table, destination: pa.Table) -> pa.Table:
    """Pair rows by their natural key; among rows with the same key, those with the smallest ids first."""
    if not source.num_rows or not destination.num_rows:
        return _PAIRS.empty_table()
    found = _rank(source).join(_rank(destination), ["key", "rank"], join_type="inner", right_suffix="_there")
    changed = pc.not_equal(found["row"], found["row_there"])
    return pa.table([found["id"], found["id_there"], changed, found["part"]], schema=_PAIRS)


def _rank(rows: pa.Table) -> pa.Table:
    """Return the rows with a column ``rank``, which numbers the rows with the same key in the order of their ids."""
    rows = rows.sort_by([("key", "ascending"), ("id", "ascending")])
    keys, places = rows["key"].combine_chunks(), pa.array(range(rows.num_rows), pa.int64())
    again = pa.concat_arrays([pa.array([False]), pc.equal(keys[1:], keys[:-1])])
    first = pc.fill_null_forward(pc.if_else(again, pa.scalar(None, pa.int64()), places))
    return rows.append_column("rank", pc.subtract(places, first))


def _without(rows: pa.Table, ids: Any) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["id"], value_set=ids.combine_chunks())))


def _list(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _hash(encoded: Any) -> list[bytes]:
    return [blake2b(row, digest_size=16).digest() for row in encoded.to_pylist()]


def _hash_values(rows: pa.Table, table: TableSpec) -> list[bytes]:
    return _hash(encode_rows(rows, table, [name for name in table.columns if name != "id"]))


def _to_integer(digest: bytes) -> int:
    return int.from_bytes(digest, "little")


def _name_row(table: TableSpec, row: Mapping[str, Any]) -> str:
    values = " ".join(str(row[name]) for name in table.identity)
    return f"{table.model.__name__.lower()} {show(values)}"


async def read_greatest_id(session: Any, scope: TableScope, table: TableSpec) -> pa.Table:
    """Return the row with the greatest id among the selected rows; an empty table if no row is selected.

    Raises:
        StoreError: the id is so great that the destination would have too few ids for new rows.
    """
    stores = get_stores(session)
    lookups = get_lookups(stores)
    found = [await lookups.find_greatest_id(selection) for selection in scope.selections(table)]
    number = max((number for number in found if number is not None), default=None)
    if number is None:
        return arrow_schema(table).empty_table()
    if number > GREATEST_ID:
        raise StoreError(
            f"{table.name}: a row of the source has the id {number}; ids above {GREATEST_ID} would leave too few ids for "
            f"new rows in the destination; give the row a smaller id in the source, or {REMEDY}"
        )
    return await stores.read_rows(select_id(table, number))


def select_id(table: TableSpec, number: int) -> RowFilter:
    """Return a filter that selects the row with an id, if there is one, otherwise a later row."""
    return RowFilter(table, after=(number - 1,), limit=1)
