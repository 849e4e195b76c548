"""A copy into a store with other rows, which gets more during the copy: none is lost or mistaken for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from iftb_store import (
    BalanceRepository,
    DatabaseManager,
    FillRepository,
    LedgerRepository,
    OHLCVRepository,
    PositionRepository,
    StoreError,
    SystemEventRepository,
    TradeRepository,
)
from iftb_store.errors import CollisionError
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TABLES, TableScope
from iftb_store.schema.table_spec import RowFilter, TableSpec
from iftb_store.schema.types import to_epoch_us
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, balance, bar, ledger_entry, position, trade
from iftb_store.testing.samples import fill as fill_of_order
from iftb_store.transfer import plan as partitions
from iftb_store.transfer import writing
from iftb_store.transfer.copy import Copy, prepare
from tests.support.filled import fill

Put = Callable[..., Awaitable[None]]

#: The writes of a bot on the destination, by table.
_OWN: dict[str, Callable[[DatabaseManager], Awaitable[Any]]] = {
    "ohlcv": lambda db: OHLCVRepository(db).insert_many([bar(T0, symbol="OWN"), bar(T0 + 60 * HOUR)]),
    "trades": lambda db: TradeRepository(db).insert(trade("OWN", symbol="OWN")),
    "positions": lambda db: PositionRepository(db).update_position(position(symbol="OWN")),
    "system_events": lambda db: SystemEventRepository(db).log_event("own", "info", "", symbol="OWN"),
    "fills": lambda db: FillRepository(db).record(fill_of_order("OWN", symbol="OWN")),
    "ledger_entries": lambda db: LedgerRepository(db).record(ledger_entry("OWN", symbol="OWN")),
    "balance_snapshots": lambda db: BalanceRepository(db).record(balance(currency="OWN")),
}


@pytest.fixture
def source(tmp_path: Path) -> str:
    """URL of a SQLite file that holds what `fill` writes."""
    url = f"sqlite:///{tmp_path / 'source.db'}"
    asyncio.run(fill(url))
    return url


@asynccontextmanager
async def both(source: str, destination: str, *, copied: bool) -> AsyncIterator[tuple[DatabaseManager, DatabaseManager]]:
    """Open both; the destination has the source's rows, or only tables."""
    async with DatabaseManager(source) as one, DatabaseManager(destination) as two:
        await prepare(two)
        if copied:
            await Copy(one, two).run()
        yield one, two


async def contents(db: DatabaseManager) -> dict[str, pa.Table]:
    async with db.get_session() as session:
        found = {table: await get_stores(session).read_rows(RowFilter(table)) for table in TABLES.values()}
        return {table.name: rows.select(table.written) for table, rows in found.items()}


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Put], Put]], None]:
    """Set a function that wraps the write of each batch of a copy."""

    def around(made: Callable[[Put], Put]) -> None:
        monkeypatch.setattr(writing, "put", made(writing.put))

    return around


async def test_a_changed_row_is_refused_even_if_earlier_rows_are_missing(source: str, sqlite_url: str) -> None:
    async with both(source, sqlite_url, copied=True) as (one, two):
        hour = "symbol = 'BTCUSDT' AND timeframe = '1h' AND timestamp"
        await raw.run(two, f"DELETE FROM ohlcv WHERE {hour} < {to_epoch_us(T0 + 12 * HOUR)}")
        await raw.run(two, f"UPDATE ohlcv SET trades_count = 777 WHERE {hour} = {to_epoch_us(T0 + 19 * HOUR)}")
        before = await contents(two)
        with pytest.raises(CollisionError, match=r"^ohlcv binance BTCUSDT 1h .* 19:00:00\+00:00: the trades_count is NULL in"):
            await Copy(one, two, on_conflict="refuse").run()
        assert await contents(two) == before


async def test_a_trade_id_of_a_row_that_is_not_chosen_is_refused_before_a_delete(source: str, url: str) -> None:
    async with both(source, url, copied=True) as (one, two):
        await raw.run(two, "UPDATE trades SET trade_id = 'OTHER' WHERE id = 2")
        await raw.run(two, "UPDATE trades SET id = 9, trade_id = 'TRD-002', symbol = 'OWNUSDT' WHERE id = 3")
        before = await contents(two)
        with pytest.raises(CollisionError, match="trade 'TRD-002' with the id 2 is stored in the destination with the id 9"):
            await Copy(one, two, TableScope(["trades"], symbols=["BTCUSDT"]), delete=True, keep_ids=True).run()
        assert await contents(two) == before


async def test_trades_with_swapped_trade_ids_keep_their_ids_if_rows_may_be_deleted(source: str, url: str) -> None:
    async with both(source, url, copied=True) as (one, two):
        for before, after in (("TRD-002", "x"), ("TRD-003", "TRD-002"), ("x", "TRD-003")):
            await raw.run(two, f"UPDATE trades SET trade_id = '{after}' WHERE trade_id = '{before}'")
        with pytest.raises(CollisionError, match="has the same id 2 as the destination's trade 'TRD-003'"):
            await Copy(one, two, keep_ids=True).run()
        await Copy(one, two, delete=True, keep_ids=True).run()
        assert await contents(two) == await contents(one)


async def test_trades_with_swapped_trade_ids_are_matched_by_their_trade_ids(source: str, url: str) -> None:
    async with both(source, url, copied=True) as (one, two):
        for before, after in (("TRD-002", "x"), ("TRD-003", "TRD-002"), ("x", "TRD-003")):
            await raw.run(two, f"UPDATE trades SET trade_id = '{after}' WHERE trade_id = '{before}'")
        await Copy(one, two).run()
        ours, theirs = [(await contents(db))["trades"].sort_by("trade_id").drop_columns("id") for db in (one, two)]
        assert ours == theirs
        assert [await raw.value(two, f"SELECT id FROM trades WHERE trade_id = 'TRD-00{number}'") for number in (2, 3)] == [3, 2]


@pytest.mark.parametrize("table", ["trades", "system_events"])
async def test_an_id_near_the_largest_possible_one_is_refused_before_a_write(table: str, source: str, sqlite_url: str) -> None:
    async with both(source, sqlite_url, copied=False) as (one, two):
        await raw.run(one, f"UPDATE {table} SET id = {2**62 + 1} WHERE id = 2")
        with pytest.raises(StoreError, match=f"^{table}: a row of the source has the id {2**62 + 1}; .* a smaller id"):
            await Copy(one, two).run()
        assert not any(rows.num_rows for rows in (await contents(two)).values())
        await raw.run(one, f"UPDATE {table} SET id = {2**62} WHERE id = {2**62 + 1}")
        await Copy(one, two).run()
        assert await contents(two) == await contents(one)
        await _OWN[table](two)


async def test_rows_that_the_destination_is_given_while_a_copy_runs_stay_and_are_counted(
    source: str, url: str, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Callable[[Put], Put]], None]
) -> None:
    begun = set[str]()

    def with_bot(put: Put) -> Put:
        async def both_write(db: DatabaseManager, table: TableSpec, rows: pa.Table, **options: Any) -> None:
            await put(db, table, rows, **options)
            if table.name not in begun:
                begun.add(table.name)
                await _OWN[table.name](db)

        return both_write

    meanwhile(with_bot)
    monkeypatch.setattr(partitions, "ROWS", 20)
    async with both(source, url, copied=False) as (one, two):
        done = await Copy(one, two).run()
        assert {(item.table, item.kept) for item in done if item.kept} == {(name, 1) for name in TABLES}
        ours, theirs = await contents(one), await contents(two)
    assert theirs["ohlcv"].num_rows == ours["ohlcv"].num_rows + 2
    for table in list(TABLES.values())[1:]:
        ids: Any = theirs[table.name]["id"]
        is_own: Any = pc.greater(ids, pc.max(ours[table.name]["id"]))
        assert theirs[table.name].filter(is_own).num_rows == 1
        assert theirs[table.name].filter(pc.invert(is_own)) == ours[table.name]


@pytest.mark.each_once
@pytest.mark.parametrize("table", [name for name in TABLES if name != "ohlcv"])
async def test_an_id_that_the_destination_just_gave_is_refused_and_its_row_stays(
    table: str, source: str, url: str, meanwhile: Callable[[Callable[[Put], Put]], None]
) -> None:
    begun: list[TableSpec] = []

    def after_bot(put: Put) -> Put:
        async def both_write(db: DatabaseManager, given: TableSpec, rows: pa.Table, **options: Any) -> None:
            if not begun:
                begun.append(given)
                await _OWN[table](db)
            await put(db, given, rows, **options)

        return both_write

    meanwhile(after_bot)
    async with both(source, url, copied=False) as (one, two):
        with pytest.raises(CollisionError):
            await Copy(one, two, TableScope([table])).run()
        name = "currency" if table == "balance_snapshots" else "symbol"
        assert await raw.value(two, f"SELECT MIN(id) FROM {table} WHERE {name} = 'OWN'") <= 2
        assert await raw.value(two, f"SELECT COUNT(*) - COUNT(DISTINCT id) FROM {table}") == 0


async def test_a_trade_that_the_destination_is_given_while_a_copy_runs_keeps_its_trade_id(
    source: str, url: str, meanwhile: Callable[[Callable[[Put], Put]], None]
) -> None:
    given: list[int] = []

    def with_bot(put: Put) -> Put:
        async def both_write(db: DatabaseManager, table: TableSpec, rows: pa.Table, **options: Any) -> None:
            await put(db, table, rows, **options)
            if not given:
                given.append(await TradeRepository(db).insert(trade("TRD-002", symbol="OWN")))

        return both_write

    meanwhile(with_bot)
    async with both(source, url, copied=False) as (one, two):
        with pytest.raises(CollisionError, match="the rows copied before stay"):
            await Copy(one, two, TableScope(["trades"])).run()
        assert await raw.value(two, "SELECT symbol FROM trades WHERE trade_id = 'TRD-002'") == "OWN"
