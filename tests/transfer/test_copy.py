"""iftb-store copy: any engine into any other, only the differences, without overwriting the destination's own rows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, StoreError, SystemEventRepository, TradeRepository
from iftb_store.errors import CollisionError
from iftb_store.testing import raw
from iftb_store.testing.samples import T0, Clock, bar, hourly, position, trade
from iftb_store.transfer import copy as copying
from iftb_store.transfer import diff, writing
from iftb_store.transfer import plan as partitions
from iftb_store.transfer.copy import Copy, prepare
from tests.conftest import Run
from tests.support.filled import ROWS, fill
from tests.transfer.copies import ENGINES, LATER, change, contents, grow, moved, write


@pytest.mark.each_once
@pytest.mark.parametrize(("one", "two"), list(product(ENGINES, ENGINES)))
def test_every_value_goes_from_any_engine_to_any_other(
    one: str, two: str, request: pytest.FixtureRequest, second: Callable[[str], str], run: Run
) -> None:
    source, destination = request.getfixturevalue(f"{one}_url"), second(two)
    asyncio.run(fill(source))
    code, out, err = run("copy", source, destination)
    assert (code, err) == (0, "")
    assert out.startswith(f"{make_url(destination).render_as_string()}: created the tables\n")
    assert out.splitlines()[-1] == f"{sum(ROWS.values())} rows copied, and the copy is verified"
    assert contents(destination) == contents(source)
    assert run("verify", source, destination)[0] == 0
    assert moved(run, source, destination) == {}


GROWTH = {
    "ohlcv binance BTCUSDT 1h": (1, 1, 0),
    "ohlcv binance NEWUSDT 1h": (1, 0, 0),
    "trades": (1, 1, 0),
    "positions": (1, 1, 0),
    "system_events": (1, 0, 0),
}


async def add(db: DatabaseManager, clock: Clock) -> None:
    """Write one more row into each table."""
    await OHLCVRepository(db, clock=clock).insert_many([bar(T0, symbol="NEWUSDT")])
    await TradeRepository(db, clock=clock).insert(trade("TRD-004"))
    await PositionRepository(db, clock=clock).update_position(position(symbol="NEWUSDT"))
    await SystemEventRepository(db, clock=clock).log_event("tick", "info", "again")


ADDED = ("ohlcv binance NEWUSDT 1h", "trades", "positions", "system_events")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_copy_moves_only_what_is_new_or_changed(
    engine: str, source: str, second: Callable[[str], str], run: Run
) -> None:
    destination = second(engine)
    moved(run, source, destination)
    write(source, grow)
    assert moved(run, source, destination) == GROWTH
    assert contents(destination) == contents(source)


def test_only_the_days_and_ranges_of_ids_that_differ_are_read_again(
    source: str, second: Callable[[str], str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = second("sqlite")
    moved(run, source, destination)
    write(source, grow)
    again: list[tuple[str, int, int]] = []
    compare = diff.compare_partition

    def noting(source: Any, destination: Any, partition: partitions.Partition, part: partitions.DirtyRange) -> Any:
        again.append((partition.name, part.first, part.last))
        return compare(source, destination, partition, part)

    monkeypatch.setattr(copying, "compare_partition", noting)
    moved(run, source, destination)
    assert {place for place in again if place[0] == "ohlcv binance BTCUSDT 1h"} == {
        ("ohlcv binance BTCUSDT 1h", 19_723, 19_723),
        ("ohlcv binance BTCUSDT 1h", 19_725, 19_725),
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_ids_that_are_given_later_lie_past_those_that_came(
    engine: str, source: str, second: Callable[[str], str], run: Run
) -> None:
    destination = second(engine)
    moved(run, source, destination)
    write(destination, add)
    for name in ("trades", "positions", "system_events"):
        rows, before = contents(destination)[name], contents(source)[name]
        new = {row["id"] for row in rows} - {row["id"] for row in before}
        assert min(new) > max(row["id"] for row in before)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_only_the_destination_has_stay_or_are_deleted(
    engine: str, source: str, second: Callable[[str], str], run: Run
) -> None:
    destination = second(engine)
    moved(run, source, destination)
    write(destination, add)
    code, out, err = run("copy", source, destination)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "4 rows only in DST; they stay; use --delete to delete them"
    assert len(contents(destination)["ohlcv"]) == ROWS["ohlcv"] + 1
    assert moved(run, source, destination, "--delete") == dict.fromkeys(ADDED, (0, 0, 1))
    assert contents(destination) == contents(source)


def test_only_what_is_chosen_is_copied_and_deleted(source: str, second: Callable[[str], str], run: Run) -> None:
    destination = second("duckdb")
    assert set(moved(run, source, destination, "--symbol", "ETHUSDT")) == {
        f"{table} ETHUSDT" for table in ("trades", "positions", "fills", "ledger_entries")
    }
    window = ("--timeframe", "1h", "--start", "2024-01-01T06:00", "--end", "2024-01-01T07:00Z")
    assert moved(run, source, destination, *window) == {"ohlcv binance BTCUSDT 1h": (2, 0, 0)}
    write(destination, add)
    assert moved(run, source, destination, *window, "--delete") == {}
    assert moved(run, source, destination, "--table", "ohlcv", "--symbol", "NEWUSDT", "--delete") == {
        "ohlcv binance NEWUSDT 1h": (0, 0, 1)
    }


def test_what_is_not_chosen_is_not_deleted_though_its_ids_lie_beside(source: str, second: Callable[[str], str], run: Run) -> None:
    destination = second("sqlite")
    moved(run, source, destination)
    write(destination, add)
    change(destination, "UPDATE trades SET symbol = 'ETHUSDT' WHERE id = 2")
    assert moved(run, source, destination, "--table", "trades", "--symbol", "ETHUSDT", "--delete") == {
        "trades ETHUSDT": (0, 0, 1)
    }
    assert [row["trade_id"] for row in contents(destination)["trades"]] == ["TRD-001", "TRD-003", "TRD-004"]
    assert moved(run, source, destination, "--table", "trades") == {"trades": (1, 0, 0)}


def test_a_dry_run_reports_the_same_and_writes_nothing(source: str, second: Callable[[str], str], run: Run) -> None:
    destination = second("sqlite")
    write(destination, _nothing)
    report = json.loads(run("copy", source, destination, "--dry-run", "--json")[1])["parts"]
    assert {item["table"]: 0 for item in report} == dict.fromkeys(ROWS, 0)
    assert sum(item["inserted"] for item in report) == sum(ROWS.values())
    assert not any(contents(destination).values())
    moved(run, source, destination)
    write(source, grow)
    before = contents(destination)
    assert run("copy", source, destination, "--dry-run")[1].splitlines()[-1] == "8 rows to be copied; nothing was written"
    assert contents(destination) == before


async def _nothing(db: DatabaseManager, clock: Clock) -> None:
    pass


async def _own_trade(db: DatabaseManager, clock: Clock) -> None:
    await TradeRepository(db, clock=clock).insert(trade("OWN"))


async def _own_trades(db: DatabaseManager, clock: Clock) -> None:
    for number in range(1, 5):
        await TradeRepository(db, clock=clock).insert(trade(f"OWN-{number}"))
    await raw.run(db, "UPDATE trades SET trade_id = 'TRD-002' WHERE id = 4")
    await raw.run(db, "DELETE FROM trades WHERE id < 4")


async def _own_position(db: DatabaseManager, clock: Clock) -> None:
    await PositionRepository(db, clock=clock).update_position(position())


async def _own_open_position(db: DatabaseManager, clock: Clock) -> None:
    await PositionRepository(db, clock=clock).update_position(position(trade_id="OWN"))
    await raw.run(db, "UPDATE positions SET id = 9")


async def _own_event(db: DatabaseManager, clock: Clock) -> None:
    await SystemEventRepository(db, clock=clock).log_event("tick", "info", "my own")


@pytest.mark.each_once
@pytest.mark.parametrize(
    ("own", "why"),
    [
        (_own_trade, "trades: the source's trade 'TRD-001' has the same id 1 as the destination's trade 'OWN'"),
        (_own_trades, "trades: the source's trade 'TRD-002' with the id 2 is stored in the destination with the id 4"),
        (_own_position, "positions: the source's position .* has the same id 1 as the destination's position"),
        (
            _own_open_position,
            "positions: an open position of binance BTCUSDT long in the source conflicts with the destination's open position 9",
        ),
        (_own_event, "system_events: the source's systemevent .* has the same id 1 as the destination's systemevent .* my own"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
async def test_ids_that_must_be_kept_and_belong_to_other_rows_are_refused(own: Any, why: str, source: str, url: str) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(url) as two:
        await two.migrate()
        await own(two, Clock(LATER))
        with pytest.raises(CollisionError, match=why) as refused:
            await Copy(one, two, keep_ids=True).run()
        assert "copy into another database" in str(refused.value)
        counts = [await raw.count(two, table) for table in ROWS]
    assert sum(counts) == 1


def test_an_open_position_beside_another_one_of_its_key_is_refused(source: str, second: Callable[[str], str], run: Run) -> None:
    destination = second("sqlite")
    write(destination, _own_open_position)
    before = contents(destination)
    code, out, err = run("copy", source, destination)
    assert (code, out) == (1, "")
    assert err.startswith("error: positions: an open position of binance BTCUSDT long in the source conflicts")
    assert contents(destination) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_store_without_rows_can_be_copied(engine: str, sqlite_url: str, second: Callable[[str], str], run: Run) -> None:
    write(sqlite_url, _nothing)
    assert moved(run, sqlite_url, second(engine)) == {}


def test_batches_may_be_small_and_series_many(
    sqlite_url: str, second: Callable[[str], str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def many(db: DatabaseManager, clock: Clock) -> None:
        names = sorted(f"{'ab'[number % 2]}{number}" for number in range(20))
        await OHLCVRepository(db, clock=clock).insert_many([item for name in names for item in hourly(6, symbol=name)])

    write(sqlite_url, many)
    monkeypatch.setattr(partitions, "ROWS", 4)
    assert len(moved(run, sqlite_url, second("duckdb"))) == 20


def test_a_duplicate_bar_is_not_copied(duckdb_url: str, second: Callable[[str], str], run: Run) -> None:
    asyncio.run(fill(duckdb_url))
    change(duckdb_url, "INSERT INTO ohlcv SELECT * FROM ohlcv WHERE id = 6")
    code, _, err = run("copy", duckdb_url, second("sqlite"))
    assert code == 1
    assert err == (
        "error: ohlcv binance BTCUSDT 1h 2024-01-01 05:00:00+00:00 occurs more than once in the source; "
        "`iftb-store doctor` finds such rows\n"
    )


def test_a_partly_filled_destination_gets_the_rest(source: str, second: Callable[[str], str], run: Run) -> None:
    destination = second("sqlite")
    moved(run, source, destination)
    change(destination, "DELETE FROM ohlcv WHERE id BETWEEN 30 AND 60")
    assert sum(count for count, _, _ in moved(run, source, destination).values()) == 31


async def test_a_copy_made_while_a_bot_writes_is_a_snapshot(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(url)
    monkeypatch.setattr(partitions, "ROWS", 4)
    async with DatabaseManager(url) as source, DatabaseManager(f"sqlite:///{tmp_path / 'copied.db'}") as destination:
        await prepare(destination)
        sessions = 0

        async def bot() -> None:
            nonlocal sessions
            while True:
                async with source.get_session() as session:
                    sessions += 1
                    await OHLCVRepository(session).upsert_many([bar(T0, symbol="ZZZ", trades_count=sessions)])
                    await TradeRepository(session).insert(trade(f"BOT-{sessions}", symbol="ZZZ"))
                    await SystemEventRepository(session).log_event("bot", "info", "", symbol="ZZZ")
                await asyncio.sleep(0)

        writing = asyncio.create_task(bot())
        try:
            await Copy(source, destination).run()
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        counts = [
            await raw.value(destination, f"SELECT {what} WHERE symbol = 'ZZZ'")
            for what in ("count(*) FROM trades", "count(*) FROM system_events", "COALESCE(MAX(trades_count), 0) FROM ohlcv")
        ]
        assert counts == counts[:1] * 3
        assert counts[0] < sessions


async def test_a_destination_with_writes_during_a_copy_is_not_reported_equal(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(f"sqlite:///{tmp_path / 'copied.db'}") as two:
        await prepare(two)
        copy = Copy(one, two)
        prove = copy._verify

        async def late(*args: Any) -> None:
            await raw.run(two, "UPDATE ohlcv SET close = 'a1' WHERE symbol = 'BTCUSDT' AND timeframe = '1h'")
            await prove(*args)

        monkeypatch.setattr(copy, "_verify", late)
        with pytest.raises(StoreError, match="ohlcv binance BTCUSDT 1h differs from the source after the copy"):
            await copy.run()


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_copy_says_how_to_resume(
    signal_: signal.Signals, code: int, source: str, second: Callable[[str], str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = second("sqlite")
    monkeypatch.setattr(partitions, "ROWS", 10)
    put, done = writing.put, 0
    # a shell that starts the tests in the background makes them ignore SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def stopped(*args: Any, **options: Any) -> None:
        nonlocal done
        await put(*args, **options)
        done += args[2].num_rows
        if done >= 30:
            os.kill(os.getpid(), signal_)
            await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(writing, "put", stopped)
        found, _, err = run("copy", source, destination)
    signal.signal(signal.SIGINT, before)
    assert found == code
    assert re.fullmatch(r"error: stopped with 2\d rows copied, which stay, .*\n", err)
    assert moved(run, source, destination)
    assert contents(destination) == contents(source)


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ([], 2, "Missing argument 'SRC'"),
        (["{source}"], 2, "Missing argument 'DST'"),
        (["{source}", "{source}"], 2, "the source and the destination are the same database"),
        (["sqlite:///absent.db", "sqlite:///new.db"], 1, "there is no database file absent.db"),
        (["duckdb:///:memory:", "sqlite:///new.db"], 1, "run `iftb-store migrate duckdb:///:memory:`"),
        (["{source}", "sqlite:///new.db", "--timeframe", "7h"], 2, "7h"),
        (["{source}", "sqlite:///new.db", "--end", "2024-13-01"], 2, "--end '2024-13-01' is not a time"),
        (["{source}", "sqlite:///new.db", "--on-conflict", "merge"], 2, "'merge' is not one of"),
        (["{source}", "sqlite:///new.db", "--dry-run"], 1, "there is no database file new.db"),
        (["{source}", "oracle://new"], 2, "no backend is installed"),
    ],
)
def test_wrong_usage_is_reported_and_creates_nothing(
    words: list[str], code: int, why: str, source: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = run("copy", *(word.format(source=source) for word in words))
    assert (found, out) == (code, "")
    assert why in err
    assert not Path("new.db").exists()


def test_a_destination_at_another_revision_is_left_as_it_is(source: str, second: Callable[[str], str], run: Run) -> None:
    destination = second("sqlite")
    write(destination, _nothing)
    change(destination, "UPDATE iftb_store_version SET version_num = '9999'")
    code, _, err = run("copy", source, destination)
    assert code == 1
    assert "the database was migrated by a newer iftb-store" in err


def test_quiet_says_nothing(source: str, second: Callable[[str], str], run: Run) -> None:
    assert run("copy", source, second("sqlite"), "--quiet") == (0, "", "")
