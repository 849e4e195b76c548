"""Commands between a backend that keeps only bars and our engines: they work on bars, and report what they leave out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
    Unsupported,
    examine,
)
from iftb_store.errors import CollisionError
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.testing.samples import HOUR, T0, bar
from iftb_store.transfer.copy import Copy, prepare
from iftb_store.transfer.verify import compare_stores
from iftb_store_sqlite import SQLiteBackend
from tests.conftest import Run
from tests.support.filled import fill
from tests.transfer.copies import ENGINES

_RECORDS = ("trades", "positions", "system_events", "fills", "ledger_entries", "balance_snapshots")


@pytest.fixture
def bars_url(bars_only_url: str) -> str:
    """URL of a store of bars."""
    return bars_only_url


def write(url: str, work: Callable[[DatabaseManager], Any]) -> None:
    async def connected() -> None:
        async with DatabaseManager(url) as db:
            await work(db)

    asyncio.run(connected())


def bars(url: str) -> list[dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        async with DatabaseManager(url) as db, db.get_session() as session:
            # the id of a bar is the store's own
            rows: list[dict[str, Any]] = (await get_stores(session).read_rows(RowFilter(BARS))).select(BARS.written).to_pylist()
            return rows

    return asyncio.run(read())


@pytest.mark.parametrize("engine", ENGINES)
def test_bars_are_copied_into_a_store_of_bars_and_out_of_it(
    engine: str, source: str, bars_url: str, second: Callable[[str], str], run: Run
) -> None:
    code, out, err = run("copy", source, bars_url)
    assert (code, err) == (0, "")
    assert "left out: trades, positions, system_events, fills, ledger_entries, balance_snapshots; SRC or DST does not" in out
    assert bars(bars_url) == bars(source)
    destination = second(engine)
    code, out, err = run("copy", bars_url, destination, "--json")
    report = json.loads(out)
    assert (code, err, report["left_out"]) == (0, "", [*_RECORDS])
    assert {item["table"] for item in report["parts"]} == {"ohlcv"}
    assert all(item["equal"] for item in report["parts"])
    assert bars(destination) == bars(source)
    for words in ((source, bars_url), (bars_url, destination)):
        code, out, err = run("verify", *words)
        assert (code, err) == (0, "")
        assert "left out: trades" in out


def test_a_second_copy_moves_what_changed(source: str, bars_url: str, run: Run) -> None:
    assert run("copy", source, bars_url)[0] == 0
    changed = replace(bar(T0 + 3 * HOUR), close=Decimal(7))
    write(source, lambda db: OHLCVRepository(db).upsert_many([changed, bar(T0, symbol="NEWUSDT")]))
    write(bars_url, lambda db: OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, T0))
    assert run("verify", source, bars_url)[0] == 1
    code, out, _ = run("copy", source, bars_url, "--json")
    assert code == 0
    moved = {item["series"]: (item["inserted"], item["updated"]) for item in json.loads(out)["parts"]}
    assert moved["binance BTCUSDT 1h"] == (1, 1)
    assert moved["binance NEWUSDT 1h"] == (1, 0)
    assert bars(bars_url) == bars(source)


def test_a_window_of_a_series_is_copied(source: str, bars_url: str, run: Run) -> None:
    chosen = ["--symbol", "BTCUSDT", "--timeframe", "1h", "--start", str(T0 + HOUR), "--end", str(T0 + 3 * HOUR)]
    code, out, _ = run("copy", source, bars_url, *chosen, "--dry-run", "--json")
    assert (code, [item["inserted"] for item in json.loads(out)["parts"]]) == (0, [3])
    assert run("copy", source, bars_url, *chosen)[0] == 0
    assert [row["timestamp"] for row in bars(bars_url)] == [T0 + number * HOUR for number in (1, 2, 3)]
    assert run("verify", bars_url, source, *chosen)[0] == 0
    assert run("copy", bars_url, source, *chosen, "--delete")[0] == 0


def test_bars_are_copied_beside_bars_of_the_store_s_own(source: str, bars_url: str, run: Run) -> None:
    write(bars_url, lambda db: OHLCVRepository(db).insert_many([bar(T0, symbol="OWN")]))
    before = bars(bars_url)
    assert run("copy", source, bars_url, "--quiet")[0] == 0
    assert [row for row in bars(bars_url) if row["symbol"] != "OWN"] == bars(source)
    assert [row for row in bars(bars_url) if row["symbol"] == "OWN"] == before


@pytest.mark.parametrize("table", _RECORDS)
def test_a_table_that_one_store_does_not_keep_is_refused_by_name(
    table: str, source: str, bars_only_url: str, tmp_path: Path, run: Run
) -> None:
    remedy = f"keeps only bars, no {table}; leave these tables out, or use a database that keeps them"
    for command in ("copy", "verify"):
        for words in ((source, bars_only_url), (bars_only_url, source)):
            code, out, err = run(command, *words, "--table", "ohlcv", "--table", table)
            assert (code, out) == (1, "")
            assert remedy in err
    code, _, err = run("export", bars_only_url, "-o", str(tmp_path / "x.jsonl"), "--table", table)
    assert code == 1
    assert remedy in err
    assert run("export", source, "-o", str(tmp_path / "y.jsonl"), "--table", table)[0] == 0
    code, _, err = run("import", bars_only_url, str(tmp_path / "y.jsonl"))
    assert code == 1
    assert remedy in err
    assert bars(bars_only_url) == []


def test_bars_are_exported_and_imported(source: str, bars_url: str, tmp_path: Path, run: Run) -> None:
    assert run("copy", source, bars_url, "--quiet")[:2] == (0, "")
    file = str(tmp_path / "bars.parquet")
    assert run("export", bars_url, "-o", file)[0] == 0
    before = bars(bars_url)
    write(bars_url, lambda db: OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, T0 + 100 * HOUR))
    assert len(bars(bars_url)) < len(before)
    for _ in range(2):
        assert run("import", bars_url, file)[0] == 0
        assert bars(bars_url) == before
    code, _, err = run("import", bars_url, file, "--insert")
    assert code == 1
    assert "is already stored" in err


def test_an_export_is_imported_beside_bars_of_the_store_s_own(source: str, bars_url: str, tmp_path: Path, run: Run) -> None:
    file = str(tmp_path / "bars.jsonl")
    assert run("export", source, "-o", file)[0] == 0
    write(bars_url, lambda db: OHLCVRepository(db).insert_many([bar(T0, symbol="OWN")]))
    for words in ((), ("--new-ids",)):
        assert run("import", bars_url, file, *words)[0] == 0
    assert [row for row in bars(bars_url) if row["symbol"] != "OWN"] == bars(source)


def test_status_counts_bars_series_files_and_bytes(source: str, bars_url: str, run: Run) -> None:
    assert run("copy", source, bars_url, "--quiet")[0] == 0
    code, out, err = run("status", bars_url, "--json")
    found = json.loads(out)
    assert (code, err, found["healthy"], found["writable"]) == (0, "", True, True)
    schema = found["schema"]
    assert (schema["version"], schema["files"], schema["revision"], schema["state"]) == ("3", 1, None, "no revisions")
    assert schema["tables"] == {"ohlcv": len(bars(source))}
    assert schema["series"] == len({(row["exchange"], row["symbol"], row["timeframe"]) for row in bars(source)})
    assert schema["bytes"] > 0
    code, out, _ = run("status", bars_url)
    assert code == 0
    assert "revision" not in out
    assert "files     1" in out


async def store_wrong_bars(db: DatabaseManager) -> None:
    """Store bars that no repository accepts."""
    moments = [timedelta(minutes=1), *(number * HOUR for number in (2, 3, 4, 9))]
    await OHLCVRepository(db).insert_many([bar(T0 + moment, symbol="ODD") for moment in moments])
    await OHLCVRepository(db).insert_many([bar(T0 + number * HOUR, symbol="SOUND") for number in range(5)])
    async with db.get_session() as session:
        stores = get_stores(session)
        rows = await stores.read_rows(RowFilter(BARS, {"exchange": "binance", "symbol": "ODD", "timeframe": "1h"}))
        odd: list[dict[str, Any]] = rows.to_pylist()
        odd[1]["high"] = Decimal(1)
        odd[2]["close"] = Decimal(60_000)
        odd[3]["volume"] = Decimal(-1)
        odd[4]["low"] = Decimal(-1)
        await stores.write_rows(BARS, pa.Table.from_pylist(odd, rows.schema))


def test_the_doctor_finds_wrong_bars_without_sql(bars_only_url: str, run: Run) -> None:
    write(bars_only_url, store_wrong_bars)
    code, out, err = run("doctor", bars_only_url, "--json")
    assert (code, err) == (1, "")
    found = {item["kind"]: item for item in json.loads(out)}
    assert {kind: item["severity"] for kind, item in found.items()} == {
        "high below low": "error",
        "negative volume": "error",
        "off the grid": "warning",
        "open or close beyond": "warning",
        "holes": "note",
        "negative price": "note",
    }
    assert {item["where"] for item in found.values()} == {"binance ODD 1h"}
    assert found["off the grid"]["rows"] == ["2024-01-01 00:01:00"]
    assert found["holes"]["remedy"].startswith(f"5 bars are missing; `iftb-store gaps {bars_only_url} ODD 1h")
    assert all(not item["statements"] for item in found.values())


async def test_the_doctor_without_sql_finds_what_it_finds_with_sql(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(sqlite_url)
    async with DatabaseManager(sqlite_url) as db:
        await store_wrong_bars(db)
        known = [finding for finding in await examine(db) if finding.table == "ohlcv"]
        monkeypatch.setattr(SQLiteBackend, "capabilities", SQLiteBackend.capabilities - {Capability.MIGRATIONS})
        found = await examine(db)
    assert {replace(finding, statements=()) for finding in known} == {one for one in found if one.table == "ohlcv"}


@pytest.mark.parametrize("repository", [TradeRepository, PositionRepository, SystemEventRepository])
async def test_a_repository_of_records_is_refused(repository: Any, bars_only_url: str) -> None:
    async with DatabaseManager(bars_only_url) as db, db.get_session() as session:
        for target in (db, session):
            with pytest.raises(Unsupported, match=r"keeps only bars, no .*; keep those on PostgreSQL"):
                repository(target)


async def test_a_report_names_what_was_left_out(source: str, bars_only_url: str) -> None:
    async with DatabaseManager(source) as one, DatabaseManager(bars_only_url) as two:
        assert not await prepare(two)
        assert (await Copy(one, two).run()).left_out == _RECORDS
        assert (await compare_stores(one, two)).left_out == _RECORDS
        assert (await Copy(one, two, TableScope(["ohlcv"])).run()).left_out == ()
        with pytest.raises(Unsupported, match="the destination keeps only bars, no trades"):
            await prepare(two, TableScope(["trades"]))
        await OHLCVRepository(one).upsert_many([bar(T0, close=Decimal(50_001))])
        with pytest.raises(CollisionError, match="the source wins"):
            await Copy(one, two, on_conflict="refuse").run()


def test_a_store_of_bars_is_backed_up_and_restored(source: str, bars_only_url: str, tmp_path: Path, run: Run) -> None:
    assert run("copy", source, bars_only_url, "--quiet")[0] == 0
    code, _, err = run("backup", bars_only_url, str(tmp_path / "bars.backup"))
    assert (code, err) == (0, "")
    other = bars_only_url.replace("bars.db", "other.db")
    code, out, err = run("restore", str(tmp_path / "bars.backup"), other)
    assert (code, err) == (0, "")
    assert "left out: trades, positions, system_events" in out
    assert bars(other) == bars(source)
