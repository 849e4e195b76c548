"""A copy into a store with rows of its own: rows are matched by natural keys, new ones get new ids, and nothing is doubled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, SystemEventRepository, TradeRepository
from iftb_store.batches.arrow import to_rows
from iftb_store.errors import CollisionError
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BALANCES, FILLS, LEDGER, TableSpec
from iftb_store.testing.samples import HOUR, T0, Clock, balance, bar, fill, hourly, ledger_entry, position, trade
from iftb_store.transfer.copy import Copy
from tests.conftest import Run
from tests.support.filled import ROWS
from tests.transfer.copies import ENGINES, LATER, change, contents, grow, moved, write

OWN = {"ohlcv": 3, "trades": 2, "positions": 2, "system_events": 2, "fills": 2, "ledger_entries": 2, "balance_snapshots": 2}


async def own_rows(db: DatabaseManager, clock: Clock) -> None:
    """Write rows whose ids are also ids of the source's rows."""
    await OHLCVRepository(db, clock=clock).insert_many(hourly(3, symbol="OWN"))
    trades, positions = TradeRepository(db, clock=clock), PositionRepository(db, clock=clock)
    events = SystemEventRepository(db, clock=clock)
    for number in (1, 2):
        await trades.insert(trade(f"OWN-{number}", symbol="OWN"))
        await positions.update_position(position(symbol=f"OWN{number}"))
        await events.log_event("own", "info", f"number {number}", symbol="OWN")
        own: list[tuple[TableSpec, Any]] = [
            (FILLS, fill(f"OWN-{number}", symbol="OWN")),
            (LEDGER, ledger_entry(f"OWN-{number}", symbol="OWN")),
            (BALANCES, balance(currency=f"OWN-{number}")),
        ]
        async with db.get_session() as session:
            for table, row in own:
                kept = replace(row, id=number, created_at=clock())
                await get_stores(session).write_rows(table, to_rows(table, [kept]))


async def event_of_a_position(db: DatabaseManager, clock: Clock) -> None:
    """Log an event that names the newest position of the source."""
    await PositionRepository(db, clock=clock).update_position(position(symbol="NAMED", entry_time=LATER))
    (named,) = [item for item in await PositionRepository(db).get_open_positions() if item.symbol == "NAMED"]
    await SystemEventRepository(db, clock=clock).log_event("opened", "info", "NAMED", position_id=named.id)


def without_ids(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row without its id, in an order that does not depend on ids; events name the symbol of their position."""
    found = contents(url)
    symbols = {row["id"]: row["symbol"] for row in found["positions"]}
    for row in found["system_events"]:
        if row["position_id"] in symbols:
            row["position_id"] = symbols[row["position_id"]]
    return {
        name: sorted(({key: value for key, value in row.items() if key != "id"} for row in rows), key=str)
        for name, rows in found.items()
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_two_stores_merge_and_a_second_copy_finds_every_row_again(
    engine: str, source: str, second: Callable[[str], str], run: Run
) -> None:
    destination = second(engine)
    write(source, event_of_a_position)
    write(destination, own_rows)
    own = without_ids(destination)
    assert sum(count for count, _, _ in moved(run, source, destination).values()) == sum(ROWS.values()) + 2
    merged = {name: sorted(rows + own[name], key=str) for name, rows in without_ids(source).items()}
    assert without_ids(destination) == merged
    assert moved(run, source, destination) == {}
    write(source, grow)
    grown = moved(run, source, destination)
    assert (grown["trades"], grown["system_events"]) == ((1, 1, 0), (1, 0, 0))
    assert grown["positions"][0] == 1
    assert without_ids(destination) == {name: sorted(rows + own[name], key=str) for name, rows in without_ids(source).items()}
    deleted = moved(run, source, destination, "--delete")
    assert {name.partition(" ")[0]: count for name, count in deleted.items()} == {
        name: (0, 0, count) for name, count in OWN.items()
    }
    assert without_ids(destination) == without_ids(source)
    code, out, err = run("verify", source, destination, "--json")
    assert (code, err, {item["equal"] for item in json.loads(out)["parts"]}) == (0, "", {True})


def test_verify_names_the_rows_that_differ_though_ids_do(source: str, second: Callable[[str], str], run: Run) -> None:
    destination = second("sqlite")
    write(destination, own_rows)
    moved(run, source, destination)
    change(
        destination,
        "UPDATE trades SET fee = 'b17.25' WHERE trade_id = 'TRD-002'",
        "DELETE FROM system_events WHERE event_type = 'own' AND message = 'number 1'",
    )
    code, out, _ = run("verify", source, destination, "--json")
    found = {item["table"]: item for item in json.loads(out)["parts"] if item["table"] != "ohlcv"}
    assert code == 1
    assert ("fee", {"id": 2}) in [(item["column"], item["row"]) for item in found["trades"]["differences"]]
    extra = [item for item in found["system_events"]["differences"] if item["source"] == 0]
    assert len(extra) == len(found["system_events"]["differences"]) == 1


async def test_a_trade_that_the_scope_does_not_select_in_the_destination_is_found(source: str, url: str) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(url) as two:
        await two.migrate()
        await TradeRepository(two).insert(trade("OWN"))
        number = await TradeRepository(two).insert(trade("TRD-002", symbol="OTHER"))
        (done,) = await Copy(one, two, TableScope(["trades"], symbols=["BTCUSDT"])).run()
        assert (done.inserted, done.updated, done.equal) == (done.source.rows - 1, 1, True)
        stored = await TradeRepository(two).get_recent(limit=100)
    assert [item.symbol for item in stored if item.id == number] == ["BTCUSDT"]
    assert sorted(item.trade_id for item in stored if item.trade_id.startswith("TRD")) == ["TRD-002", "TRD-003"]


async def test_a_refusing_copy_names_the_value_of_a_row_that_has_another_id(source: str, url: str) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(url) as two:
        await two.migrate()
        await TradeRepository(two).insert(trade("OWN"))
        await Copy(one, two).run()
        mine = await TradeRepository(one).insert(trade("NEW", entry_time=T0 + HOUR))
        await TradeRepository(two).insert(trade("NEW", entry_time=T0))
        with pytest.raises(CollisionError, match=rf"^trades {mine}: the entry_time is .* in the source and"):
            await Copy(one, two, on_conflict="refuse").run()


async def test_two_equal_events_stay_two(tmp_path: Path, url: str) -> None:
    async with DatabaseManager(f"sqlite:///{tmp_path / 'one.db'}") as one, DatabaseManager(url) as two:
        for db, types in ((one, ["same", "same"]), (two, ["own", "same"])):
            await db.migrate()
            for kind in types:
                await SystemEventRepository(db, clock=Clock(T0)).log_event(kind, "info", "")
        counts = [[item.inserted for item in await Copy(one, two).run() if item.table == "system_events"] for _ in range(3)]
        assert counts == [[1], [0], [0]]


async def test_bars_of_two_stores_are_one_store_and_keep_their_times(sqlite_url: str, second: Callable[[str], str]) -> None:
    async with DatabaseManager(sqlite_url) as one, DatabaseManager(second("duckdb")) as two:
        for db, moment, symbol in ((one, T0, "BTCUSDT"), (two, LATER, "OWN")):
            await db.migrate()
            await OHLCVRepository(db, clock=Clock(moment)).insert_many([bar(T0, symbol=symbol), bar(T0 + HOUR, symbol="BOTH")])
        await Copy(one, two).run()
        ((new,), (kept,)) = [await OHLCVRepository(two).get_latest(name, "1h") for name in ("BTCUSDT", "BOTH")]
    assert (new.created_at, kept.created_at) == (T0, LATER)
    assert len({new.id, kept.id}) == 2


def test_two_stores_that_got_the_same_rows_in_another_order_are_equal(sqlite_url: str, duckdb_url: str, run: Run) -> None:
    async def fill(url: str, turn: int) -> None:
        async with DatabaseManager(url) as db:
            await db.migrate()
            for name in ("A", "B")[::turn]:
                await OHLCVRepository(db).insert_many(hourly(4, symbol=name))

    for url, turn in ((sqlite_url, 1), (duckdb_url, -1)):
        asyncio.run(fill(url, turn))
    assert run("verify", sqlite_url, duckdb_url)[0] == 0
