"""The functions copy, verify, backup and restore of iftb_store, on the three engines."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from iftb_store import (
    BackupReport,
    CollisionError,
    CopyReport,
    DatabaseManager,
    InvalidValueError,
    NotConnectedError,
    OHLCVRepository,
    RestoreReport,
    SchemaError,
    SystemEventRepository,
    Unsupported,
    VerifyReport,
    backup,
    copy,
    restore,
    verify,
)
from iftb_store.testing.samples import HOUR, T0, bar, hourly
from tests.conftest import Run
from tests.support.filled import ROWS, fill

_ALL = sum(ROWS.values())


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[DatabaseManager]:
    """A store on each of the three engines in turn, with what `fill` writes."""
    await fill(url)
    async with DatabaseManager(url) as manager:
        yield manager


@pytest_asyncio.fixture
async def other(tmp_path: Path) -> AsyncIterator[DatabaseManager]:
    """A SQLite store without tables."""
    async with DatabaseManager(f"sqlite:///{tmp_path / 'other.db'}") as manager:
        yield manager


async def test_a_copy_creates_the_tables_and_reports_what_it_moved(db: DatabaseManager, other: DatabaseManager) -> None:
    first, second = await copy(db, other), await copy(db, other)
    assert isinstance(first, CopyReport)
    assert (first.created_tables, first.dry_run, first.left_out) == (True, False, ())
    assert sum(part.inserted for part in first.parts) == sum(part.source.rows for part in first.parts) == _ALL
    assert not second.created_tables
    assert sum(part.unchanged for part in second.parts) == _ALL
    assert all(part.equal for part in (*first.parts, *second.parts))


async def test_a_copy_into_each_engine_is_equal(db: DatabaseManager, tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path / 'source.db'}"
    await fill(source)
    async with DatabaseManager(source) as filled:
        await copy(filled, db)
        found = await verify(filled, db)
    assert isinstance(found, VerifyReport)
    assert (found.equal, found.left_out) == (True, ())
    assert sum(part.destination.rows for part in found.parts) == _ALL


async def test_a_dry_run_writes_nothing(db: DatabaseManager, other: DatabaseManager) -> None:
    with pytest.raises(SchemaError):
        await copy(db, other, dry_run=True)
    await other.migrate()
    report = await copy(db, other, tables="trades", dry_run=True)
    assert report.dry_run
    assert [(part.table, part.inserted) for part in report.parts] == [("trades", ROWS["trades"])]
    assert (await other.status()).tables["trades"] == 0


async def test_a_selection_is_copied_and_verified(db: DatabaseManager, other: DatabaseManager) -> None:
    chosen: dict[str, Any] = {"symbols": "BTCUSDT", "timeframes": ["1h"], "start": T0 + HOUR, "end": T0 + 3 * HOUR}
    (part,) = (await copy(db, other, **chosen)).parts
    assert (part.series, part.inserted) == ("binance BTCUSDT 1h", 3)
    assert (await verify(db, other, **chosen)).equal
    assert not (await verify(db, other, tables="ohlcv")).equal


async def test_since_selects_the_newest_rows(db: DatabaseManager, other: DatabaseManager) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    newest = [bar(hour - 24 * number * HOUR, symbol="NEWUSDT") for number in range(1, 4)]
    await OHLCVRepository(db).insert_many(newest)
    for since in ("50h", timedelta(hours=50), hour - 49 * HOUR):
        report = await copy(db, other, symbols="NEWUSDT", tables="ohlcv", since=since)
        assert sum(part.source.rows for part in report.parts) == 2
    found = await verify(db, other, symbols="NEWUSDT", tables="ohlcv", since="50h")
    assert (found.equal, sum(part.destination.rows for part in found.parts)) == (True, 2)
    assert not (await verify(db, other, symbols="NEWUSDT", tables="ohlcv", since="2w")).equal


async def test_differences_are_reported_by_key_and_column(db: DatabaseManager, other: DatabaseManager) -> None:
    await copy(db, other)
    await OHLCVRepository(other).upsert_many([bar(T0 + 3 * HOUR, trades_count=7)])
    found = await verify(db, other)
    assert not found.equal
    (part,) = (part for part in found.parts if not part.equal)
    (difference,) = (item for item in part.differences if item.column == "trades_count")
    assert difference.row == {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1h", "timestamp": T0 + 3 * HOUR}
    assert (difference.source, difference.destination) == (None, 7)
    with pytest.raises(CollisionError, match="nothing was written"):
        await copy(db, other, on_conflict="refuse")


async def test_only_delete_removes_what_only_the_destination_has(db: DatabaseManager, other: DatabaseManager) -> None:
    await copy(db, other)
    await SystemEventRepository(other).log_event("mine", "info", "only here")
    assert sum(part.kept for part in (await copy(db, other)).parts) == 1
    assert sum(part.deleted for part in (await copy(db, other, delete=True)).parts) == 1
    assert (await verify(db, other)).equal


async def test_a_backup_is_restored(db: DatabaseManager, other: DatabaseManager, tmp_path: Path) -> None:
    saved = await backup(db, tmp_path / "saved")
    assert isinstance(saved, BackupReport)
    assert (saved.path, saved.tables) == (tmp_path / "saved", ROWS)
    restored = await restore(tmp_path / "saved", other)
    assert isinstance(restored, RestoreReport)
    assert (restored.path, restored.left_out) == (tmp_path / "saved", ())
    assert sum(part.inserted for part in restored.parts) == _ALL
    assert (await verify(db, other)).equal


async def test_a_restore_overwrites_on_demand_only(db: DatabaseManager, tmp_path: Path) -> None:
    await backup(db, tmp_path / "saved")
    await SystemEventRepository(db).log_event("new", "info", "after the backup")
    with pytest.raises(CollisionError, match="is not in the backup"):
        await restore(tmp_path / "saved", db)
    report = await restore(str(tmp_path / "saved"), db, overwrite=True)
    assert sum(part.deleted for part in report.parts) == 1


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
async def test_a_database_is_no_backup_of_itself(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    await fill(f"{engine}:///{path}")
    async with DatabaseManager(f"{engine}:///{path}") as db:
        with pytest.raises(InvalidValueError, match="is the database itself"):
            await restore(path, db)


async def test_every_step_is_announced_and_counted(db: DatabaseManager, other: DatabaseManager, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []

    def record(step: str, done: int, total: int | None) -> None:
        calls.append((step, done, total))

    await copy(db, other, progress=record)
    assert [step for step, done, total in calls if (done, total) == (0, None)] == ["compare", "copy", "verify"]
    assert max(done for step, done, _ in calls if step == "copy") == _ALL
    for work in (verify(db, other, progress=record), backup(db, tmp_path / "saved", progress=record)):
        calls.clear()
        await work
        assert (calls[0][1], calls[0][2]) == (0, None)
        assert len(calls) > 1
    calls.clear()
    await restore(tmp_path / "saved", other, progress=record)
    assert calls[0][0] == "check the backup"


async def test_an_error_of_the_callback_ends_the_copy(db: DatabaseManager, other: DatabaseManager) -> None:
    def fail(step: str, done: int, total: int | None) -> None:
        if step == "copy":
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await copy(db, other, progress=fail)
    await copy(db, other)
    assert (await verify(db, other)).equal


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"start": T0, "since": "7d"}, "start and since are both given"),
        ({"since": "7"}, "since '7' is not a duration; write it as 30m, 12h, 7d or 2w"),
        ({"since": "1M"}, "is not a duration"),
        ({"since": timedelta(0)}, "since '0:00:00' is not in the past"),
        ({"since": "0d"}, "since '0d' is not in the past"),
        ({"since": "999999999w"}, "is before the year 1"),
        ({"since": timedelta.max}, "is before the year 1"),
        ({"since": 7}, "since must be a timedelta, a datetime or text such as '7d', not int"),
        ({"tables": ["candles"]}, "there is no table 'candles'"),
        ({"symbols": 7}, "symbols must be a name or a list of names, not 7"),
        ({"symbols": [7]}, "symbols must be a name or a list of names"),
        ({"start": T0, "end": T0 - HOUR}, "is after end"),
        ({"progress": 7}, r"progress must be a function of \(step, done, total\), not int"),
    ],
)
async def test_a_wrong_argument_is_refused(arguments: dict[str, Any], reason: str, sqlite_url: str, tmp_path: Path) -> None:
    await fill(sqlite_url)
    async with DatabaseManager(sqlite_url) as source, DatabaseManager(f"sqlite:///{tmp_path / 'other.db'}") as destination:
        for work in (copy, verify):
            with pytest.raises(InvalidValueError, match=reason):
                await work(source, destination, **arguments)
        assert (await destination.status()).state == "empty"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"on_conflict": "ours"}, "on_conflict must be one of source-wins, refuse, not 'ours'"),
        ({"delete": 1}, "delete must be True or False"),
        ({"keep_ids": None}, "keep_ids must be True or False"),
        ({"full": "yes"}, "full must be True or False"),
        ({"dry_run": 0}, "dry_run must be True or False"),
    ],
)
async def test_a_wrong_option_of_a_copy_is_refused(
    arguments: dict[str, Any], reason: str, sqlite_url: str, duckdb_url: str
) -> None:
    await fill(sqlite_url)
    async with DatabaseManager(sqlite_url) as source, DatabaseManager(duckdb_url) as destination:
        with pytest.raises(InvalidValueError, match=reason):
            await copy(source, destination, **arguments)
        assert (await destination.status()).state == "empty"


async def test_what_is_no_store_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    url: Any = sqlite_url
    async with DatabaseManager(sqlite_url) as db:
        for work, name in ((copy(url, db), "source"), (verify(db, url), "destination"), (backup(url, "saved"), "db")):
            with pytest.raises(InvalidValueError, match=f"{name} must be a connected store, e.g. a DatabaseManager, not str"):
                await work
        path: Any = 7
        with pytest.raises(InvalidValueError, match="path must be a file name, not int"):
            await restore(path, db)
        with pytest.raises(InvalidValueError, match="No such file"):
            await restore(tmp_path / "absent", db)
        with pytest.raises(SchemaError):
            await copy(db, db)


async def test_a_store_must_be_connected(sqlite_url: str, duckdb_url: str) -> None:
    await fill(sqlite_url)
    async with DatabaseManager(sqlite_url) as db:
        for work in (copy(db, DatabaseManager(duckdb_url)), verify(DatabaseManager(duckdb_url), db)):
            with pytest.raises(NotConnectedError):
                await work
        with pytest.raises(InvalidValueError, match="the same database"):
            await copy(db, db)


async def test_tables_that_a_store_does_not_keep_are_left_out(sqlite_url: str, bars_only_url: str) -> None:
    await fill(sqlite_url)
    async with DatabaseManager(sqlite_url) as source, DatabaseManager(bars_only_url) as destination:
        copied, verified = await copy(source, destination), await verify(source, destination)
        assert (
            copied.left_out
            == verified.left_out
            == ("trades", "positions", "system_events", "fills", "ledger_entries", "balance_snapshots")
        )
        with pytest.raises(Unsupported, match="keeps only bars"):
            await copy(source, destination, tables="trades")


@pytest.mark.parametrize("command", ["copy", "verify", "backup", "restore"])
async def test_json_has_the_fields_of_the_reports(command: str, sqlite_url: str, tmp_path: Path, run: Run) -> None:
    target, saved = f"sqlite:///{tmp_path / 'target.db'}", str(tmp_path / "saved")
    await fill(sqlite_url)
    async with DatabaseManager(sqlite_url) as db, DatabaseManager(target) as other:
        await copy(db, other)
        await backup(db, saved)
        if command == "verify":
            await OHLCVRepository(other).upsert_many([dataclasses.replace(hourly(4)[3], trades_count=7)])
        report: Any = {
            "copy": lambda: copy(db, other, full=True),
            "verify": lambda: verify(db, other),
            "backup": lambda: backup(db, saved, overwrite=True),
            "restore": lambda: restore(saved, other),
        }[command]
        expected = dataclasses.asdict(await report())
    words = {
        "copy": (sqlite_url, target, "--full"),
        "verify": (sqlite_url, target),
        "backup": (sqlite_url, saved, "--overwrite"),
        "restore": (saved, target),
    }
    out = (await asyncio.to_thread(run, command, *words[command], "--json"))[1]
    assert json.loads(out) == json.loads(json.dumps(expected, default=_as_text))


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
