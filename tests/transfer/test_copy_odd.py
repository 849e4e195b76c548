"""iftb-store copy, verify and restore of odd rows: similar names, duplicates, values that raw SQL damaged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, SystemEventRepository
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, bar, hourly
from iftb_store.transfer import plan as partitions
from tests.conftest import Run


def fill_store(url: str, work: Callable[[DatabaseManager], Any]) -> str:
    """Migrate an empty database and write into it; return its URL."""

    async def connected() -> None:
        async with DatabaseManager(url) as db:
            await db.migrate()
            await work(db)

    asyncio.run(connected())
    return url


def alike(close: int) -> Callable[[DatabaseManager], Any]:
    """Write a bar to each of three series whose names, joined by spaces, are almost the same text."""
    series = [("okx", "spot BTC"), ("okx spot", "BTC"), ("okx spot ", "BTC")]
    bars = [bar(T0, exchange=exchange, symbol=symbol, close=Decimal(close)) for exchange, symbol in series]
    return lambda db: OHLCVRepository(db).insert_many(bars)


def test_series_whose_names_look_alike_are_copied_and_compared_each_for_itself(
    sqlite_url: str, duckdb_url: str, run: Run
) -> None:
    fill_store(sqlite_url, alike(1))
    code, out, _ = run("copy", sqlite_url, duckdb_url, "--json")
    copied = [item for item in json.loads(out)["parts"] if item["table"] == "ohlcv"]
    assert code == 0
    assert [(item["series"], item["inserted"]) for item in copied] == [
        ("okx 'spot BTC' 1h", 1),
        ("'okx spot' BTC 1h", 1),
        ("'okx spot ' BTC 1h", 1),
    ]
    asyncio.run(_delete(duckdb_url, "exchange = 'okx spot'"))
    code, _, err = run("verify", sqlite_url, duckdb_url)
    assert (code, err) == (1, "error: ohlcv 'okx spot' BTC 1h 2024-01-01 00:00:00+00:00: only in SRC\n")
    assert run("copy", sqlite_url, duckdb_url)[0] == 0
    assert run("verify", sqlite_url, duckdb_url)[0] == 0


def test_what_a_restore_would_overwrite_is_named_by_its_own_series(
    sqlite_url: str, duckdb_url: str, tmp_path: Path, run: Run
) -> None:
    fill_store(sqlite_url, alike(1))
    assert run("backup", sqlite_url, str(tmp_path / "backup"))[0] == 0
    assert run("copy", sqlite_url, duckdb_url)[0] == 0
    asyncio.run(raw_sql(duckdb_url, "UPDATE ohlcv SET close = 2 WHERE exchange = 'okx spot'"))
    code, _, err = run("restore", str(tmp_path / "backup"), duckdb_url)
    assert code == 1
    assert "ohlcv 'okx spot' BTC 1h 2024-01-01 00:00:00+00:00 has other values in the backup" in err


@pytest.mark.parametrize("number", [3, 4, 5, 8, 12])
def test_a_duplicate_bar_is_found_wherever_two_batches_meet(
    number: int, sqlite_url: str, duckdb_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(sqlite_url, lambda db: OHLCVRepository(db).insert_many(hourly(12)))
    monkeypatch.setattr(partitions, "ROWS", 4)
    assert run("copy", sqlite_url, duckdb_url)[0] == 0
    asyncio.run(raw_sql(duckdb_url, f"INSERT INTO ohlcv SELECT * REPLACE (7 AS close) FROM ohlcv WHERE id = {number}"))
    row = f"ohlcv binance BTCUSDT 1h {T0 + (number - 1) * HOUR}"
    code, _, err = run("verify", sqlite_url, duckdb_url)
    assert (code, err.splitlines()[0]) == (1, f"error: {row}: duplicate in DST")
    assert run("verify", duckdb_url, sqlite_url)[0] == 1
    code, _, err = run("copy", sqlite_url, duckdb_url)
    assert (code, err) == (1, f"error: {row} occurs more than once in the destination; `iftb-store doctor` finds such rows\n")
    code, _, err = run("copy", duckdb_url, sqlite_url.replace("store.db", "third.db"))
    assert (code, err) == (1, f"error: {row} occurs more than once in the source; `iftb-store doctor` finds such rows\n")


@pytest.mark.parametrize("chosen", [["--symbol", "BTCUSDT"], ["--table", "trades"]])
def test_if_no_row_was_chosen_nothing_is_compared(chosen: list[str], sqlite_url: str, duckdb_url: str, run: Run) -> None:
    fill_store(sqlite_url, lambda db: OHLCVRepository(db).insert_many(hourly(1)))
    chosen = [*chosen, "--start", "2030-01-01"]
    code, out, err = run("copy", sqlite_url, duckdb_url, *chosen)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "neither SRC nor DST has a row that matches the options"
    code, out, err = run("verify", sqlite_url, duckdb_url, *chosen)
    assert (code, err) == (1, "error: neither SRC nor DST has a row that matches the options; nothing was compared\n")
    assert "equal:" not in out
    assert run("verify", sqlite_url, duckdb_url, "--table", "trades")[0] == 0


_DAMAGE = {
    "sqlite": {
        ("ohlcv", "timestamp"): ["'abc'", "1.5", "9000000000000000000"],
        ("ohlcv", "trades_count"): ["'abc'"],
        ("ohlcv", "close"): ["'garbage'", "'e1,e2'", "'1.5'", "''", "'t' || '9999999999999999999999999999999999999999'"],
        ("system_events", "message"): ["'a' || char(0)", "CAST(x'ff' AS TEXT)", "x'00'"],
        ("system_events", "created_at"): ["9000000000000000000"],
    },
    "duckdb": {("system_events", "created_at"): ["'infinity'::TIMESTAMPTZ"]},
    "postgres": {
        ("ohlcv", "close"): ["'NaN'"],
        ("system_events", "created_at"): ["'infinity'", "'0044-03-15 00:00:00+00 BC'"],
    },
}


@pytest.mark.parametrize("engine", _DAMAGE)
def test_a_value_that_its_column_cannot_hold_is_named_with_its_row(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, run: Run
) -> None:
    async def rows(db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(3))
        for number in range(3):
            await SystemEventRepository(db).log_event("start", "info", str(number))

    url = fill_store(request.getfixturevalue(f"{engine}_url"), rows)
    for (table, column), values in _DAMAGE[engine].items():
        asyncio.run(raw_sql(url, f"CREATE TABLE sound AS SELECT * FROM {table} WHERE id = 2"))
        for value in values:
            asyncio.run(raw_sql(url, f"UPDATE {table} SET {column} = {value} WHERE id = 2"))
            code, _, err = run("copy", url, f"sqlite:///{tmp_path / 'copy.db'}", "--table", table)
            assert code == 1
            assert err.startswith(f"error: {table}: the {column} of the row with the id 2 cannot be read: it is ")
        asyncio.run(raw_sql(url, f"UPDATE {table} SET {column} = (SELECT {column} FROM sound) WHERE id = 2", "DROP TABLE sound"))


@pytest.mark.parametrize("engine", ["postgres", "duckdb"])
def test_an_event_with_invalid_json_is_named(engine: str, request: pytest.FixtureRequest, sqlite_url: str, run: Run) -> None:
    fill_store(sqlite_url, lambda db: SystemEventRepository(db).log_event("start", "info", "", details={"a": 1}))
    asyncio.run(raw_sql(sqlite_url, "UPDATE system_events SET details = '[not json'"))
    code, _, err = run("copy", sqlite_url, request.getfixturevalue(f"{engine}_url"))
    assert code == 1
    assert "system_events: the details of the row with the id 1 cannot be read: it is '[not json'; `iftb-store doctor`" in err


def test_a_series_whose_name_is_no_text_is_reported(sqlite_url: str, duckdb_url: str, run: Run) -> None:
    fill_store(sqlite_url, lambda db: OHLCVRepository(db).insert_many(hourly(3)))
    asyncio.run(raw_sql(sqlite_url, "UPDATE ohlcv SET symbol = x'ff00' WHERE id = 2"))
    code, _, err = run("copy", sqlite_url, duckdb_url)
    assert (code, err.partition(";")[0]) == (1, "error: ohlcv: a row's symbol cannot be read: it is b'\\xff\\x00'")


def test_a_series_of_a_timeframe_that_nobody_knows_is_copied(sqlite_url: str, duckdb_url: str, run: Run) -> None:
    fill_store(sqlite_url, lambda db: OHLCVRepository(db).insert_many(hourly(3)))
    asyncio.run(raw_sql(sqlite_url, "UPDATE ohlcv SET timeframe = '7x'"))
    assert run("copy", sqlite_url, duckdb_url)[0] == 0
    assert run("verify", duckdb_url, sqlite_url)[0] == 0


async def raw_sql(url: str, *statements: str) -> None:
    """Run raw SQL."""
    async with DatabaseManager(url) as db:
        for sql in statements:
            await raw.run(db, sql)


async def _delete(url: str, condition: str) -> None:
    await raw_sql(url, f"DELETE FROM ohlcv WHERE {condition}")
