"""Deletes the old rows of the selected tables, in batches that are committed one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import pyarrow as pa

from iftb_store.abilities import ConnectedStore, SupportsPartitionDrops
from iftb_store.batches.arrow import arrow_schema
from iftb_store.errors import Unsupported
from iftb_store.maintenance.pace import Pace
from iftb_store.maintenance.reports import PrunedPart
from iftb_store.maintenance.rolling import Roller, list_series_in, read_times, select_series
from iftb_store.models import Fill, Position
from iftb_store.protocols import Capability, Isolation, Stores
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, DIGESTS, EVENTS, FILLS, POSITIONS, TRADES, RowFilter, TableSpec
from iftb_store.transfer.access import open_complete_session, require_complete_reads
from iftb_store.transfer.kept import keeps_digests
from iftb_store.transfer.plan import require_schema
from iftb_store.transfer.progress import ProgressFactory, StepCallback, count_rows
from iftb_store.values.timeframes import SECONDS, check_timeframe

#: The ids of the rows to delete, by table.
_Ids: TypeAlias = list[tuple[TableSpec, list[int]]]

_TICK, _DAY = timedelta(microseconds=1), timedelta(days=1)
_DAILY: Final = "1d"
_OPEN_ACTION, _CLOSED = "open", "closed"
# closed positions read at once
_POSITIONS = 10_000


class Pruner:
    """Deletes the rows of a selection that are older than a time.

    Args:
        db: the store.
        before: rows older than this time are deleted.
        scope: the selection of tables and rows.
        is_whole: whether the scope selects all rows of its tables.
        keep_daily: whether daily bars are kept, and those that are missing are stored first.
        dry: whether to count only.
        step: reports the progress of each table.

    Attributes:
        before: the time; with ``keep_daily`` a midnight.
        partitions: the names of the partitions that were dropped.
        daily_bars: the number of daily bars that were stored.
    """

    def __init__(
        self,
        db: ConnectedStore,
        before: datetime,
        scope: TableScope,
        *,
        is_whole: bool,
        keep_daily: bool,
        dry: bool,
        step: ProgressFactory,
    ) -> None:
        self.before = before.replace(hour=0, minute=0, second=0, microsecond=0) if keep_daily else before
        self.partitions: list[str] = []
        self.daily_bars = 0
        self._db, self._scope, self._is_whole, self._keep_daily, self._dry = db, scope, is_whole, keep_daily, dry
        self._step = step
        self._last = self.before - _TICK
        self._rows = dict[tuple[TableSpec, str], int]()
        # the days of daily bars that a dry run would have stored, by exchange and symbol
        self._planned = dict[tuple[str, str], set[datetime]]()
        # the ids of the closed positions of each trade, and of those that go with their trades
        self._closed = dict[str, list[int]]()
        self._gone = set[int]()

    async def run(self) -> tuple[PrunedPart, ...]:
        """Delete the rows; return their numbers, in the order of tables and series."""
        await require_schema(self._db, self._scope.tables, insert=False)
        for table in self._scope.tables:
            with self._step(f"prune {table.name}") as tell:
                if table is BARS:
                    await self._prune_bars(tell)
                elif table is TRADES:
                    await self._find_closed()
                    await self._prune_records(TRADES, self._take_trades, tell)
                elif table is POSITIONS:
                    await self._prune_records(POSITIONS, self._take_positions, tell)
                else:
                    await self._prune_records(EVENTS, self._take_events, tell)
        order = [BARS, TRADES, POSITIONS, EVENTS, FILLS]
        counted = sorted(self._rows.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
        return tuple(PrunedPart(table.name, series, rows) for (table, series), rows in counted)

    def _count(self, table: TableSpec, rows: int, series: str = "") -> None:
        if rows or table is not BARS:
            self._rows[table, series] = self._rows.get((table, series), 0) + rows

    async def _prune_bars(self, tell: StepCallback) -> None:
        if self._is_whole and not self._keep_daily:
            await self._drop_partitions()
        series = [
            found
            for selection in self._scope.selections(BARS)
            for found in await list_series_in(self._db, replace(selection, end=self._last))
            if not self._keep_daily or _is_short(found[0][2])
        ]
        # the shortest timeframe first: its bars of a day make the best daily bar
        series.sort(key=lambda found: (found[0][:2], SECONDS.get(found[0][2]) or 0))
        if self._keep_daily:
            # the complete days of every timeframe before the incomplete ones of any
            for names, _ in series:
                await self._roll_up(names, partial=False)
        count = count_rows(tell, sum(rows for _, rows in series))
        for names, rows in series:
            if self._dry:
                if self._keep_daily:
                    await self._roll_up(names, partial=True)
                self._count(BARS, rows, " ".join(names))
                count(rows)
                continue
            await self._forget_digests(RowFilter(DIGESTS, dict(select_series(names).equal), end=self._last))
            await self._delete_bars(names, count)

    async def _delete_bars(self, names: tuple[str, str, str], count: Callable[[int], None]) -> None:
        pace = Pace(self._db)
        roller = self._make_roller(names, partial=True) if self._keep_daily else None
        while True:
            async with open_complete_session(self._db, [BARS]) as session:
                times = await read_times(get_stores(session), replace(select_series(names, end=self._last), limit=pace.rows))
            if not times:
                return
            first, last = times[0], times[-1]
            if roller is not None:
                first, last = roller.begin(first), min(roller.end(last), self._last)

            async def work(session: Any, first: datetime = first, last: datetime = last) -> tuple[int, int]:
                await require_complete_reads(session, [BARS], insert=roller is not None)
                # in the same transaction, so that no bar is lost whose day has no daily bar
                new = [] if roller is None else await roller.fill_in(session, names[0], names[1], first, last)
                return await get_stores(session).bars.delete(select_series(names, first, last)), len(new)

            async with pace.batch():
                deleted, daily = await self._db.run(work)
            self.daily_bars += daily
            self._count(BARS, deleted, " ".join(names))
            count(deleted)

    def _make_roller(self, names: tuple[str, str, str], *, partial: bool) -> Roller:
        return Roller(check_timeframe(names[2]), _DAILY, self._last, partial=partial, dry=self._dry)

    async def _roll_up(self, names: tuple[str, str, str], *, partial: bool) -> None:
        known = self._planned.setdefault(names[:2], set())
        roller = self._make_roller(names, partial=partial)
        self.daily_bars += await roller.roll_up(self._db, names[0], names[1], None, known)

    async def _drop_partitions(self) -> None:
        with suppress(Unsupported):
            backend = self._db.ability(SupportsPartitionDrops)
            if not self._dry:
                await self._forget_digests(RowFilter(DIGESTS, end=self._last))
            for partition in await backend.drop_partitions(self.before, dry_run=self._dry):
                self.partitions.append(partition.name)
                # a dry run counts these bars with the others
                for names, rows in () if self._dry else partition.rows:
                    self._count(BARS, rows, " ".join(names))

    async def _forget_digests(self, selection: RowFilter) -> None:
        """Delete the digests of the days whose bars are deleted, so that a later copy does not take these days for stored."""
        if not keeps_digests(self._db):
            return

        async def work(session: Any) -> None:
            stores = get_stores(session)
            rows = await stores.read_rows(replace(selection, only=DIGESTS.key))
            if rows.num_rows:
                await stores.delete_rows(DIGESTS, rows)

        await self._db.run(work, idempotent=True)

    async def _prune_records(
        self,
        table: TableSpec,
        take: Callable[[Stores, pa.Table], Awaitable[_Ids]],
        tell: StepCallback,
    ) -> None:
        """Delete old rows of a table, in the order of their ids; ``take`` returns the ids of the rows to delete, by table."""
        count = count_rows(tell, None)
        self._count(table, 0)
        # in one transaction that fails if a row of it was changed since, so that no trade that was just opened again is deleted
        isolation: Isolation | None = "serializable" if Capability.ISOLATION in self._db.capabilities else None
        tables = [table, *([FILLS, POSITIONS] if table is TRADES else [])]
        pace = Pace(self._db)
        for selection in self._scope.selections(table):
            after: tuple[Any, ...] | None = None
            while True:
                batch = replace(selection, end=self._last, after=after, limit=pace.rows, only=_COLUMNS[table.name])

                async def work(session: Any, batch: RowFilter = batch) -> tuple[pa.Table, list[tuple[TableSpec, int]]]:
                    await require_complete_reads(session, tables)
                    stores = get_stores(session)
                    rows = await stores.read_rows(batch)
                    found = await take(stores, rows)
                    for of_table, ids in () if self._dry else found:
                        if ids:
                            await stores.delete_rows(of_table, _to_keys(of_table, ids))
                    return rows, [(of_table, len(ids)) for of_table, ids in found]

                async with pace.batch():
                    if self._dry:
                        async with self._db.get_session() as session:
                            rows, counts = await work(session)
                    else:
                        rows, counts = await self._db.run(work, isolation=isolation)
                if not rows.num_rows:
                    break
                for of_table, number in counts:
                    self._count(of_table, number)
                    count(number)
                after = (rows["id"][-1].as_py(),)

    async def _find_closed(self) -> None:
        """Read which closed positions belong to which trades."""
        after: tuple[Any, ...] | None = None
        while True:
            async with open_complete_session(self._db, [POSITIONS]) as session:
                rows = await get_stores(session).read_rows(
                    RowFilter(POSITIONS, after=after, limit=_POSITIONS, only=("id", "status", "trade_id"))
                )
            if not rows.num_rows:
                return
            for row in rows.to_pylist():
                if row["status"] == _CLOSED and row["trade_id"] is not None:
                    self._closed.setdefault(row["trade_id"], []).append(row["id"])
            after = (rows["id"][-1].as_py(),)

    async def _take_trades(self, stores: Stores, rows: pa.Table) -> _Ids:
        old = [
            row
            for row in rows.to_pylist()
            if row["action"] != _OPEN_ACTION and self._is_old(row["exit_time"] or row["updated_at"])
        ]
        if not old:
            return []
        opened: list[Position] = await stores.records.select(RowFilter(POSITIONS, {"status": "open"}))
        held = {position.trade_id for position in opened}
        chosen = [row for row in old if row["trade_id"] not in held]
        fills = list[int]()
        for row in chosen:
            its: list[Fill] = await stores.records.select(RowFilter(FILLS, {"trade_id": row["trade_id"]}))
            fills += [fill.id for fill in its if fill.id is not None]
        positions = [number for row in chosen for number in self._closed.get(row["trade_id"], ())]
        self._gone.update(positions)
        return [(FILLS, fills), (POSITIONS, positions), (TRADES, [row["id"] for row in chosen])]

    async def _take_positions(self, stores: Stores, rows: pa.Table) -> _Ids:
        closed = [row for row in rows.to_pylist() if row["status"] == _CLOSED and row["id"] not in self._gone]
        return [(POSITIONS, [row["id"] for row in closed if self._is_old(row["last_updated"])])]

    async def _take_events(self, stores: Stores, rows: pa.Table) -> _Ids:
        ids: list[Any] = rows["id"].to_pylist()
        return [(EVENTS, ids)]

    def _is_old(self, moment: datetime | None) -> bool:
        return moment is not None and moment < self.before


_COLUMNS = {
    "trades": ("id", "trade_id", "action", "exit_time", "updated_at"),
    "positions": ("id", "status", "last_updated"),
    "system_events": ("id", "created_at"),
}


def _to_keys(table: TableSpec, ids: list[int]) -> pa.Table:
    return pa.table({"id": pa.array(sorted(ids), arrow_schema(table).field("id").type)})


def _is_short(timeframe: str) -> bool:
    """Return whether a day has several bars of a timeframe, and whole ones."""
    seconds = SECONDS.get(timeframe)
    return seconds is not None and seconds < _DAY.total_seconds()
