"""Finds source rows that must not be copied: their id or another unique value belongs to a different destination row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.arrow import arrow_schema
from iftb_store.errors import CollisionError, StoreError
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, GREATEST_ID, POSITIONS, TRADES, RowFilter, TableSpec
from iftb_store.transfer.access import open_complete_session
from iftb_store.transfer.diff import RowDiff, select_rows
from iftb_store.transfer.lookups import get_lookups
from iftb_store.transfer.numbers import Numbers
from iftb_store.transfer.plan import LastCommitted, Partition, RowReader, read_batches
from iftb_store.values.display import show

T = TypeVar("T")

_OPEN_KEY = ("exchange", "symbol", "side")
REMEDY = "copy into another database, or leave these rows out (--table, --exchange, --symbol, --start, --end)"

# maximum number of values in one lookup
_MOST = 500


def is_other_row(table: TableSpec, compared: RowDiff) -> Any:
    """Return, for each changed row, whether the destination's row with the same id is a different row.

    It is a different row if it has another value in a column of `TableSpec.identity`; otherwise it is a version of the same row.
    """
    differs: Any = pc.is_null(compared.changed["id"])
    for name in table.identity:
        differs = pc.or_(differs, pc.not_equal(compared.changed[name], compared.stored[name]))
    return differs


class Collisions:
    """Examines the rows that a copy would write into one table, and refuses those that conflict with destination rows.

    With ``delete``, the selected rows that only the destination has cause no conflict, because they are deleted first.
    """

    def __init__(self, table: TableSpec, source: Any, destination: ConnectedStore, *, delete: bool) -> None:
        self._table, self._source = table, get_lookups(get_stores(source))
        self._destination, self._delete = destination, delete
        self._greatest = self._foreign = 0
        self._wanted, self._freed = Numbers(), Numbers()
        self._open: dict[int, tuple[str, ...]] = {}
        self._opening: dict[tuple[str, ...], int] = {}
        self._closing: list[pa.Table] = []

    @property
    def exchanged(self) -> bool:
        """Whether a copied bar will get the id of another destination bar, which will get another id itself or be deleted."""
        return self._wanted.meets(self._freed)

    @property
    def closing(self) -> pa.Table:
        """The source's rows for positions that are open in the destination and are going to be overwritten.

        The copy writes these rows first. One of them may close its position, which makes room for another open position: only
        one can be open per exchange, symbol and side.
        """
        return pa.concat_tables([arrow_schema(self._table).empty_table(), *self._closing])

    async def begin(self) -> None:
        """Read from the destination what the checks need: the number and greatest id of its bars, and its open positions."""
        async with open_complete_session(self._destination, [self._table]) as session:
            if self._table is BARS:
                self._foreign, self._greatest = await get_lookups(get_stores(session)).measure_ids(BARS)
            if self._table is POSITIONS:
                rows = await get_stores(session).records.select(POSITIONS, {"status": "open"})
                self._open = {row.id: tuple(getattr(row, name) for name in _OPEN_KEY) for row in rows}

    def known(self, rows: int) -> None:
        """Record that ``rows`` bars have the same ids in the source and the destination; these bars cannot conflict."""
        self._foreign -= rows

    @property
    def impossible(self) -> bool:
        """Whether no ids of bars can conflict, because the source has every bar of the destination with the same id.

        If True, the check need not read the new bars. Always False for tables other than bars.
        """
        return self._table is BARS and self._foreign <= 0

    async def take(self, partition: Partition, compared: RowDiff) -> None:
        """Check the rows to be written against the rows that they would replace.

        Args:
            partition: the partition of the rows.
            compared: the differences in one range of keys.

        Raises:
            CollisionError: a row's id belongs to a different row, or its trade_id is stored under another id.
        """
        if self._table is BARS:
            self._take_bars(compared)
            return
        other = pc.and_(is_other_row(self._table, compared), pc.invert(self._removed(compared.stored, partition)))
        if pc.any(other).as_py():
            mine, its = (rows.filter(other).slice(0, 1).to_pylist()[0] for rows in (compared.changed, compared.stored))
            raise CollisionError(
                f"{self._table.name}: the source's {self._name_row(mine)} has the same id {mine['id']} as the destination's "
                f"{self._name_row(its)}; {REMEDY}"
            )
        if self._table is TRADES:
            # with delete, a changed row may replace a different row, which is deleted first; its trade_id is then a new one
            renamed = compared.changed.filter(is_other_row(self._table, compared))
            await self._refuse_trade_ids(partition, pa.concat_tables([compared.new, renamed]))
        if self._table is POSITIONS:
            self._take_positions(partition, compared)

    async def end(self) -> None:
        """Raise for conflicts that can be found only after all rows are compared.

        Raises:
            CollisionError: a bar's id belongs to another bar, or a second position would be open for the same key.
        """
        if self._wanted and not self.impossible:
            await self._refuse_ids()
        taken = {key: number for number, key in self._open.items()}
        for key, number in self._opening.items():
            if key in taken:
                raise CollisionError(
                    f"positions: the source's open position {number} of {' '.join(key)} conflicts with the destination's open "
                    f"position {taken[key]}; close one of them, or {REMEDY}"
                )

    def _removed(self, rows: pa.Table, partition: Partition) -> Any:
        if self._delete:
            return select_rows(rows, partition.selection)
        return pc.is_null(rows["id"])

    def _take_bars(self, compared: RowDiff) -> None:
        moved: Any = pc.not_equal(compared.changed["id"], compared.stored["id"])
        self.known(compared.same + compared.changed.num_rows - (pc.sum(moved).as_py() or 0))
        for rows in (compared.new, compared.changed.filter(moved)):
            ids: Any = rows["id"]
            self._wanted.add(ids.filter(pc.less_equal(ids, pa.scalar(self._greatest))).to_pylist())
        freed: list[Any] = compared.stored["id"].filter(moved).to_pylist()
        self._freed.add(freed + compared.extra["id"].to_pylist() if self._delete else freed)

    async def _refuse_ids(self) -> None:
        async for rows in read_batches(LastCommitted(self._destination), Partition(RowFilter(BARS))):
            numbers: list[Any] = rows["id"].to_pylist()
            for index, number in enumerate(numbers):
                if number in self._wanted and number not in self._freed:
                    its = rows.slice(index, 1).to_pylist()[0]
                    raise self._collision(number, its, await self._source.find_rows(BARS, "id", [number]))

    async def meanwhile(self, last: int) -> None:
        """Check that bars which the destination stored since `begin` do not have ids of other bars of the source.

        Args:
            last: the greatest id that the copy is going to write.

        Raises:
            CollisionError: one of these bars has the id of another bar of the source.
        """
        async with open_complete_session(self._destination, [self._table]) as session:
            found = await get_lookups(get_stores(session)).find_rows(BARS, "id", range(self._greatest + 1, last + 1))
        theirs = {bar["id"]: bar for bar in found}
        for part in _parts(list(theirs)):
            for bar in await self._source.find_rows(BARS, "id", part):
                if bar != theirs[bar["id"]]:
                    raise self._collision(bar["id"], theirs[bar["id"]], [bar])

    def _collision(self, number: int, its: Mapping[str, Any], ours: Iterable[Mapping[str, Any]]) -> CollisionError:
        names = " and ".join(map(self._name_row, ours))
        return CollisionError(
            f"ohlcv: the source's {names} has the same id {number} as the destination's {self._name_row(its)}; {REMEDY}"
        )

    async def _refuse_trade_ids(self, partition: Partition, new: pa.Table) -> None:
        ids: dict[Any, Any] = dict(zip(new["trade_id"].to_pylist(), new["id"].to_pylist(), strict=True))
        for part in _parts(list(ids)):
            async with open_complete_session(self._destination, [self._table]) as session:
                found = await get_lookups(get_stores(session)).find_rows(TRADES, "trade_id", part)
            for its in found:
                if not (self._delete and _is_chosen(its, partition.selection)):
                    raise CollisionError(
                        f"trades: the source's trade {show(its['trade_id'])} with the id {ids[its['trade_id']]} is stored in "
                        f"the destination with the id {its['id']}; {REMEDY}"
                    )

    def _take_positions(self, partition: Partition, compared: RowDiff) -> None:
        removed = compared.extra.filter(self._removed(compared.extra, partition))
        its_status: Any = compared.stored["status"]
        self._closing.append(compared.changed.filter(pc.equal(its_status, pa.scalar("open"))))
        gone: list[Any] = [*compared.stored["id"].to_pylist(), *removed["id"].to_pylist()]
        for number in gone:
            self._open.pop(number, None)
        for rows in (compared.new, compared.changed):
            status: Any = rows["status"]
            opened = rows.filter(pc.equal(status, pa.scalar("open"))).select(["id", *_OPEN_KEY])
            self._opening |= {tuple(key): number for number, *key in zip(*opened.to_pydict().values(), strict=True)}

    def _name_row(self, row: Mapping[str, Any]) -> str:
        if self._table is BARS:
            series = " ".join(row[name] for name in ("exchange", "symbol", "timeframe"))
            return f"bar {series} {row['timestamp'].isoformat(' ')}"
        values = " ".join(str(row[name]) for name in self._table.identity)
        return f"{self._table.model.__name__.lower()} {show(values)}"


def _is_chosen(row: Mapping[str, Any], selection: RowFilter) -> bool:
    moment = row[selection.table.time]
    return (
        all(row[name] == value for name, value in selection.equal.items())
        and (selection.start is None or moment >= selection.start)
        and (selection.end is None or moment <= selection.end)
    )


def _parts(values: Sequence[T]) -> Iterable[Sequence[T]]:
    return (values[first : first + _MOST] for first in range(0, len(values), _MOST))


async def read_greatest_id(session: Any, scope: TableScope, table: TableSpec) -> pa.Table:
    """Return the row with the greatest id among the selected rows; an empty table if no row is selected.

    Raises:
        StoreError: the id is so great that the destination would have too few ids for new rows.
    """
    stores = get_stores(session)
    found = [await get_lookups(stores).find_last(selection) for selection in scope.selections(table)]
    if not any(found):
        return await stores.read_rows(RowFilter(table, limit=1))
    last = max(filter(None, found), key=lambda row: row["id"])
    number = last["id"]
    if number > GREATEST_ID:
        raise StoreError(
            f"{table.name}: a row of the source has the id {number}; ids above {GREATEST_ID} would leave too few ids for "
            f"new rows in the destination; give the row a smaller id in the source, or {REMEDY}"
        )
    rows = await stores.read_rows(_of(table, last))
    # the copy reports a duplicate bar later, when it reads the whole series
    return rows.slice(0, 1)


async def rows_to_write_first(destination: RowReader, table: TableSpec, row: pa.Table, closing: pa.Table) -> pa.Table:
    """Return the rows to write first: the positions in ``closing``, and ``row``, the row with the greatest id.

    ``row`` is left out if the destination already has it under the same id.
    """
    values = row.to_pylist()[0]
    stored = await destination.read_rows(_of(table, values))
    is_stored: Any = pc.is_in(row["id"], value_set=stored["id"].combine_chunks())
    is_closing: Any = pc.is_in(row["id"], value_set=closing["id"].combine_chunks())
    rows = row.filter(pc.invert(pc.or_(is_stored, is_closing)))
    return pa.concat_tables([rows, closing]).sort_by(table.key[-1])


def _of(table: TableSpec, row: Mapping[str, Any]) -> RowFilter:
    """Return a filter that selects one row by its id; for a bar, by its key, because the id of bars has no index."""
    if table is not BARS:
        return RowFilter(table, after=(row["id"] - 1,), limit=1)
    *series, moment = (row[name] for name in table.key)
    return RowFilter(table, dict(zip(table.key, series, strict=False)), start=moment, end=moment, limit=1)
