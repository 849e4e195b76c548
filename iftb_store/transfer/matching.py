"""Finds which rows of the source and of the destination are the same trade, position or event, although ids may differ.

A destination row is the source's row if it has the same id, and the same values in columns that do not change. The rows that have
no such partner are paired

- if they have the same values but for the id;
- then, if only one row of each store has these values, positions by created_at and exchange, events by created_at, type and
  message;
- then by `TableSpec.natural_key`: e.g. trades by their trade_id; positions by exchange, account, symbol, side, entry_time and
  trade_id; events by all columns but the id;
- then by the id and `TableSpec.identity`.

If several rows have the same key, the rows with the smallest ids are paired first. The position_id of an event does not count: it
follows from the positions, see `MappedEvents`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.abilities import ConnectedStore, SupportsDigests
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

REMEDY = "copy into another database, or leave these rows out (--table, --exchange, --symbol, --account, --start, --end)"

# maximum number of values in one lookup
_MOST = 500
_ID: pa.DataType = pa.int64()
_BYTES: pa.DataType = pa.binary()
# a row without a partner: its id; its natural key, its values, its columns of _ORIGINS, and its id and identity, as bytes; the
# position of an event; and the index of its partition
_LONE = pa.schema(
    [
        pa.field("id", _ID),
        *(pa.field(name, _BYTES) for name in ("key", "row", "origin", "same")),
        pa.field("position", _ID),
        pa.field("part", _ID),
    ]
)
# columns that a later version of a row keeps as a rule; of other tables those of `TableSpec.identity`
_ORIGINS = {POSITIONS.name: ("created_at", "exchange")}
# columns in which a row of the same id must agree to be the same row, if ids may have been assigned anew; of other tables those
# of `TableSpec.identity`; events do not change
_STRICT = {
    POSITIONS.name: ("created_at", *POSITIONS.natural_key),
    EVENTS.name: tuple(name for name in EVENTS.columns if name not in ("id", "position_id")),
}
_PAIRS = pa.schema(
    [pa.field("source", _ID), pa.field("destination", _ID), pa.field("changed", pa.bool_()), pa.field("part", _ID)]
)


class Matcher:
    """Pairs each row of a source with the row of the destination that is the same trade, position or event (its partner).

    Args:
        table: a table whose rows are identified by their ids.
        keep_ids: refuse the source's rows whose id or trade_id a different destination row has, instead of pairing them.
        delete: whether the destination's selected rows without a partner are going to be deleted.
        translated: whether the position_ids of the source's events are translated to the destination's ids, see `MappedEvents`;
            then an event without a position may be paired with an event that has one.

    Attributes:
        table: the table.
        new: for each partition, the number of the source's rows without a partner.
        changed: for each partition, the number of the source's rows whose partner has other values.
        pairs: the rows that have different ids in the two stores, ordered by the source's id.
        assigns: whether the rows without a partner get new ids, because the destination's ids are not the source's.
        extra: the destination's selected rows without a partner.
    """

    def __init__(self, table: TableSpec, *, keep_ids: bool = False, delete: bool = False, translated: bool = False) -> None:
        self.table, self._keep_ids, self._delete, self._translated = table, keep_ids, delete, translated
        self._source, self._destination = [_LONE.empty_table()], [_LONE.empty_table()]
        # the ids of destination rows that are also the ids of different source rows
        self._taken = list[Any]()
        # the ids of the source's rows that have other values under the same id, and of those without a partner
        self._versions, self._lone = list[Any](), pa.array([], _ID)
        self.new, self.changed = Counter[int](), Counter[int]()
        self.pairs, self.extra, self.assigns = _PAIRS.empty_table(), _LONE.empty_table(), False

    def take(self, part: int, partition: Partition, compared: RowDiff) -> None:
        """Add the differences between the stores in one range of ids; ``part`` is the index of the partition.

        Raises:
            CollisionError: with ``keep_ids``, the destination uses the id of a row for a different row, which is not going to be
                deleted.
        """
        other = self.is_other(compared)
        if self.table is EVENTS and self._translated:
            # an event without a position in the source may have one in the destination that the source has no more
            names = _without_names(EVENTS.columns)
            values = (encode_rows(rows, EVENTS, names) for rows in (compared.changed, compared.stored))
            counts = pc.or_(pc.not_equal(*values), pc.is_valid(compared.changed["position_id"]))
            compared = compared._replace(changed=compared.changed.filter(counts), stored=compared.stored.filter(counts))
            other = self.is_other(compared)
        selected = select_rows(compared.stored, partition.selection)
        stays = pc.and_(other, pc.invert(selected)) if self._delete else other
        if self._keep_ids and pc.any(stays).as_py():
            mine, its = (rows.filter(stays).slice(0, 1).to_pylist()[0] for rows in (compared.changed, compared.stored))
            raise CollisionError(
                f"{self.table.name}: the source's {_name_row(self.table, mine)} has the same id {mine['id']} as the "
                f"destination's {_name_row(self.table, its)}; {REMEDY}"
            )
        self.changed[part] += compared.changed.num_rows - (pc.sum(other).as_py() or 0)
        self._versions += compared.changed["id"].filter(pc.invert(other)).chunks
        for rows in (compared.new, compared.changed.filter(other)):
            self._source.append(self._describe(rows, part))
        extra = compared.extra.filter(select_rows(compared.extra, partition.selection))
        for rows in (extra, compared.stored.filter(pc.and_(other, selected))):
            self._destination.append(self._describe(rows, part))
        self._taken += compared.stored["id"].filter(other).chunks

    def is_other(self, compared: RowDiff) -> Any:
        """Return for each changed row whether the destination uses the same id for a different trade, position or event."""
        names = self.table.identity if self._keep_ids else _STRICT.get(self.table.name, self.table.identity)
        return pc.not_equal(*(encode_rows(rows, self.table, names) for rows in (compared.changed, compared.stored)))

    async def pair(self, destination: ConnectedStore | None = None) -> None:
        """Pair the rows that have no partner with the same id; call this method once, after all differences were added.

        Args:
            destination: the store in which to look up trades that the scope does not select in it; None for no lookup.

        Raises:
            CollisionError: with ``keep_ids``, the destination has a trade_id under another id, in a row that is not going to be
                deleted.
        """
        source, lone = (pa.concat_tables(rows).combine_chunks() for rows in (self._source, self._destination))
        self._source, self._destination = [], []
        chunks: Any = self._versions
        self._versions = [pa.chunked_array(chunks, pa.int64()).sort().combine_chunks()]
        self._lone = source["id"].sort().combine_chunks()
        found, rest, its_rest = _PAIRS.empty_table(), source, lone
        if not self._keep_ids:
            for column in ("row", "origin", "key", "same"):
                unique = column == "origin"
                pairs = _pair(rest, its_rest, column, unique=unique, translated=self._translated)
                found = pa.concat_tables([found, pairs])
                rest, its_rest = _without(rest, pairs["source"]), _without(its_rest, pairs["destination"])
        if self.table is TRADES and destination is not None:
            removed = set[Any](_list(lone["id"]) if self._delete and self._keep_ids else [])
            found = pa.concat_tables([found, await self._look_up(destination, rest, removed)])
        self.pairs = found.sort_by("source").combine_chunks()
        self.extra = _without(lone, self.pairs["destination"]).sort_by("id")
        self.new.update(_list(_without(source, self.pairs["source"])["part"]))
        self.changed.update(_list(self.pairs.filter(self.pairs["changed"])["part"]))
        free = self.extra["id"].combine_chunks() if self._delete else pa.array([], pa.int64())
        same = pc.equal(self.pairs["source"], self.pairs["destination"])
        free = pa.concat_arrays([free, self.pairs["source"].filter(same).combine_chunks()])
        taken = pc.is_in(pa.chunked_array(self._taken, pa.int64()), value_set=free)
        self.assigns = not (pc.all(same, min_count=0).as_py() and pc.all(taken, min_count=0).as_py())

    @property
    def lone(self) -> Any:
        """The ids, in ascending order, of source rows that have no partner with the same id in the destination."""
        return self._lone

    def place(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the source rows to write as two tables: rows with the ids for the destination, and rows that need new ids.

        The ids of the second table are NULL; the destination assigns them. ``rows`` are consecutive rows of the source. The
        result depends only on what `take` and `pair` found, not on rows that were written to the destination since.
        """
        versions = rows.filter(pc.is_in(rows["id"], value_set=_cut(self._versions[0], rows)))
        lone = rows.filter(pc.is_in(rows["id"], value_set=_cut(self._lone, rows)))
        partners, changed = self.find_partners(lone)
        paired, at = pc.is_valid(partners), lone.schema.get_field_index("id")
        known = lone.set_column(at, lone.field("id"), partners).filter(pc.and_(paired, pc.fill_null(changed, False)))
        rest = lone.filter(pc.invert(paired))
        if not self.assigns:
            return pa.concat_tables([versions, known, rest]).sort_by("id"), rest.slice(0, 0)
        unknown = rest.set_column(at, rest.field("id"), pa.nulls(len(rest), pa.int64()))
        return pa.concat_tables([versions, known]).sort_by("id"), unknown

    def find_partners(self, rows: pa.Table) -> tuple[Any, Any]:
        """Return two arrays: the id of each row's partner, NULL if there is none; and whether the partner has other values."""
        ids = self.pairs["source"].combine_chunks()
        first, count = _bounds(ids, rows)
        place = pc.index_in(rows["id"], value_set=ids.slice(first, count))
        pairs = self.pairs.slice(first, count)
        return pairs["destination"].take(place), pairs["changed"].take(place)

    def _describe(self, rows: pa.Table, part: int) -> pa.Table:
        if self.table is TRADES:
            keys = [text.encode() for text in _list(rows["trade_id"])]
        else:
            keys = _hash(encode_rows(rows, self.table, _without_names(self.table.natural_key)))
        at: Any = rows["position_id"].combine_chunks() if self.table is EVENTS else pa.array([None] * len(rows), _ID)
        columns: dict[str, Any] = {
            "id": rows["id"].combine_chunks(),
            "key": pa.array(keys, _BYTES),
            "row": pa.array(_hash_values(rows, self.table), _BYTES),
            "origin": encode_rows(rows, self.table, _ORIGINS.get(self.table.name, self.table.identity)).cast(_BYTES),
            "same": encode_rows(rows, self.table, ("id", *self.table.identity)).cast(_BYTES),
            "position": at,
            "part": pa.array([part] * len(rows), _ID),
        }
        return pa.table(columns, schema=_LONE)

    async def _look_up(self, destination: ConnectedStore, lone: pa.Table, removed: set[Any]) -> pa.Table:
        """Find trades of ``lone`` in the destination by their trade_id, and return the pairs, without the ids in ``removed``."""
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


class MappedEvents:
    """Reads the rows of the source, and replaces the position_id of each event by the id of the position in the destination.

    Attributes:
        position_ids: source id -> destination id of each position that both stores have. An event of another position is read
            with position_id NULL. None if ids need no translation, because the destination has no other positions.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.position_ids: Mapping[int, int] | None = None

    async def read_rows(self, selection: RowFilter) -> pa.Table:
        """Return the next rows that ``selection`` selects; see `iftb_store.protocols.Stores.read_rows`."""
        rows = await self._stores.read_rows(selection)
        if selection.table is not EVENTS or self.position_ids is None or rows["position_id"].null_count == rows.num_rows:
            return rows
        ids = [self.position_ids.get(number) for number in _list(rows["position_id"])]
        field = rows.schema.field("position_id")
        return rows.set_column(rows.schema.get_field_index("position_id"), field, pa.array(ids, field.type))

    async def digest_days(self, series: RowFilter) -> list[tuple[int, int, bytes]] | None:
        """Return the digests of the days of a series of bars; see `iftb_store.abilities.SupportsDigests`."""
        return await self._stores.digest_days(series) if isinstance(self._stores, SupportsDigests) else None


async def compute_checksum_without_ids(store: RowReader, partition: Partition) -> str:
    """Return a checksum, in hexadecimal, of all values except id and position_id; the order of the rows does not matter.

    The checksum is the sum of the BLAKE2b digests with 16 bytes of all rows, modulo 2**128.
    """
    table, total = partition.table, 0
    async with aclosing(read_batches(store, partition)) as batches:
        async for rows in batches:
            total += await asyncio.to_thread(lambda rows: sum(map(_to_integer, _hash_values(rows, table))), rows)
    return f"{total % 2**128:032x}"


async def match_positions(source: RowReader, destination: RowReader) -> dict[int, int] | None:
    """Return source id -> destination id of each position that both stores have; None if no id needs to be translated."""
    whole, matcher = Partition(RowFilter(POSITIONS)), Matcher(POSITIONS)
    source_rows, destination_rows = [await _read_all(store, whole) for store in (source, destination)]
    matcher.take(0, whole, compare_rows(POSITIONS, source_rows, destination_rows))
    await matcher.pair()
    if not matcher.assigns and not matcher.extra.num_rows:
        return None
    partners, _ = matcher.find_partners(source_rows)
    alone = pc.is_in(source_rows["id"], value_set=matcher.lone)
    ids = pc.if_else(alone, partners, source_rows["id"])
    return {
        source_id: stored_id
        for source_id, stored_id in zip(_list(source_rows["id"]), _list(ids), strict=True)
        if stored_id is not None
    }


async def _read_all(store: RowReader, partition: Partition) -> pa.Table:
    rows = list[pa.Table]()
    async with aclosing(read_batches(store, partition)) as batches:
        rows = [batch async for batch in batches]
    return pa.concat_tables([arrow_schema(partition.table).empty_table(), *rows])


def _pair(source: pa.Table, destination: pa.Table, key: str, *, unique: bool, translated: bool) -> pa.Table:
    """Pair rows of the source with rows of the destination that have the same value (not NULL) in a column.

    Args:
        source: rows of the source without a partner.
        destination: rows of the destination without a partner.
        key: the name of the column.
        unique: True: pair a row only if no other row of the same store has its value. False: pair the rows with a value in the
            order of their ids.
        translated: whether the ids of positions are those of the destination already, so that an event without a position may be
            paired with one that has it; see `Matcher`.
    """
    one, two = (_rank(rows.filter(pc.is_valid(rows[key])), key, unique=unique) for rows in (source, destination))
    if not one.num_rows or not two.num_rows:
        return _PAIRS.empty_table()
    found = one.join(two, [key, "rank"], join_type="inner", right_suffix="_there")
    # keys of a join lose their name's suffix
    changed = pc.not_equal(found["row"], found["row_there"]) if key != "row" else pa.array([False] * len(found), pa.bool_())
    mine, its = found["position"], found["position_there"]
    lacks = pc.is_valid(mine) if translated else pc.xor(pc.is_valid(mine), pc.is_valid(its))
    moved = pc.if_else(pc.and_(pc.is_valid(mine), pc.is_valid(its)), pc.not_equal(mine, its), lacks)
    return pa.table([found["id"], found["id_there"], pc.or_(changed, moved), found["part"]], schema=_PAIRS)


def _rank(rows: pa.Table, key: str, *, unique: bool) -> pa.Table:
    """Add a column ``rank``, which numbers the rows that have the same key from 0, in the order of their ids."""
    rows = rows.sort_by([(key, "ascending"), ("id", "ascending")])
    keys, places = rows[key].combine_chunks(), pa.array(range(rows.num_rows), _ID)
    again = pa.concat_arrays([pa.array([False] * min(1, len(keys)), pa.bool_()), pc.equal(keys[1:], keys[:-1])])
    first = pc.fill_null_forward(pc.if_else(again, pa.scalar(None, _ID), places))
    ranked = rows.append_column("rank", pc.subtract(places, first))
    if not unique:
        return ranked
    followed = pa.concat_arrays([again[1:], pa.array([False] * min(1, len(keys)), pa.bool_())])
    return ranked.filter(pc.invert(pc.or_(again, followed)))


def _bounds(ids: Any, rows: pa.Table) -> tuple[int, int]:
    """Find the part of sorted ``ids`` in the range of the ids of ``rows``; return (index of the first id, number of ids)."""
    if not rows.num_rows or not len(ids):
        return 0, 0
    numbers = memoryview(ids.buffers()[1]).cast("q")[ids.offset : ids.offset + len(ids)]
    least, greatest = pc.min_max(rows["id"]).as_py().values()
    first = bisect_left(numbers, least)
    return first, bisect_right(numbers, greatest) - first


def _cut(ids: Any, rows: pa.Table) -> Any:
    return ids.slice(*_bounds(ids, rows))


def _without(rows: pa.Table, ids: Any) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["id"], value_set=ids.combine_chunks())))


def _list(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _hash(encoded: Any) -> list[bytes]:
    return [blake2b(row, digest_size=16).digest() for row in encoded.to_pylist()]


def _hash_values(rows: pa.Table, table: TableSpec) -> list[bytes]:
    return _hash(encode_rows(rows, table, _without_names(table.columns)))


def _without_names(columns: Iterable[str]) -> list[str]:
    return [name for name in columns if name not in ("id", "position_id")]


def _to_integer(digest: bytes) -> int:
    return int.from_bytes(digest, "little")


def _name_row(table: TableSpec, row: Mapping[str, Any]) -> str:
    values = " ".join(str(row[name]) for name in table.identity)
    return f"{table.model.__name__.lower()} {show(values)}"


async def read_greatest_id(session: Any, scope: TableScope, table: TableSpec) -> pa.Table:
    """Read the selected row with the greatest id; return an empty table if no row is selected.

    Raises:
        StoreError: the id is so great that the destination would have too few ids for new rows.
    """
    stores = get_stores(session)
    lookups = get_lookups(stores)
    found = [await lookups.find_greatest_id(selection) for selection in scope.list_selections(table)]
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
    """Return a filter for the row with the id ``number``; if there is none, it selects the row with the next greater id."""
    return RowFilter(table, after=(number - 1,), limit=1)
