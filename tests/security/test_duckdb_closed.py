"""DuckDB cannot open other files and its settings cannot be changed, unless the URL allows it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, TradeRepository, URLError
from iftb_store.abilities import SupportsBackup
from iftb_store.doctor import examine
from iftb_store.testing import raw
from iftb_store.testing.samples import trade
from iftb_store.transfer.backup import backup
from tests.support.filled import ROWS, fill


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{}')",
        "SELECT * FROM read_csv('{}')",
        "SELECT * FROM '{}'",
        "SELECT * FROM glob('{}')",
        "COPY trades TO '{}.csv'",
        "ATTACH '{}.duckdb' AS other",
        "EXPORT DATABASE '{}.exported'",
    ],
)
async def test_sql_that_works_with_files_needs_the_url_s_option(duckdb_url: str, tmp_path: Path, sql: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n1,2\n")
    async with DatabaseManager(duckdb_url) as db:
        await db.migrate()
        with pytest.raises(OperationalError, match=r"external_access=true in the URL|does not exist"):
            await raw.run(db, sql.format(path))
    assert await asyncio.to_thread(lambda: sorted(tmp_path.glob("mine*"))) == [path]
    async with DatabaseManager(f"{duckdb_url}?external_access=true") as db:
        await raw.run(db, sql.format(path))


@pytest.mark.parametrize("setting", ["enable_external_access = true", "memory_limit = '1GB'", "TimeZone = 'Asia/Tokyo'"])
async def test_no_setting_can_be_changed(duckdb_url: str, setting: str) -> None:
    async with DatabaseManager(duckdb_url) as db:
        with pytest.raises(OperationalError, match=r"locked; set threads, memory_limit or temp_directory in the URL"):
            await raw.run(db, f"SET {setting}")
    async with DatabaseManager("duckdb:///:memory:") as db:
        with pytest.raises(OperationalError, match="locked"):
            await raw.run(db, f"SET {setting}")


async def test_a_variable_of_python_s_is_no_table(duckdb_url: str) -> None:
    mine = pa.table({"a": [1]})
    for url in (duckdb_url, f"{duckdb_url}?external_access=true"):
        async with DatabaseManager(url) as db:
            with pytest.raises(OperationalError, match="mine does not exist"):
                await raw.fetch(db, "SELECT * FROM mine")
    assert mine.num_rows == 1


async def test_managers_of_one_process_share_a_closed_file(duckdb_url: str) -> None:
    managers = [DatabaseManager(duckdb_url) for _ in range(8)]
    await asyncio.gather(*(db.connect() for db in managers))
    await managers[0].migrate()
    for number, db in enumerate(managers):
        assert await raw.value(db, "SELECT current_setting('TimeZone')") == "UTC"
        await TradeRepository(db).insert(trade(f"t{number}"))
    await asyncio.gather(*(db.disconnect() for db in managers))


async def test_a_closed_file_and_an_open_one_are_not_mixed(duckdb_url: str) -> None:
    options = ["", "?external_access=true"]
    for first, second in (options, options[::-1]):
        async with DatabaseManager(duckdb_url + first):
            with pytest.raises(OperationalError, match="this process has it open with other options"):
                await DatabaseManager(duckdb_url + second).connect()


def test_the_option_is_true_or_false() -> None:
    with pytest.raises(URLError, match=r"external_access='maybe' in the duckdb URL must be true or false"):
        DatabaseManager("duckdb:///:memory:?external_access=maybe")


async def test_a_backup_takes_what_is_wrong_with_a_table_too(duckdb_url: str, tmp_path: Path) -> None:
    await fill(duckdb_url)
    async with DatabaseManager(duckdb_url) as db:
        await raw.run(db, "DROP INDEX uq_positions_open_key")
        await raw.run(db, "ALTER TABLE trades ADD COLUMN note VARCHAR DEFAULT 'mine'")
        await backup(db, tmp_path / "saved")
    async with DatabaseManager(f"duckdb:///{tmp_path / 'saved'}") as db:
        state = await db.status()
        assert (state.tables, state.state) == (ROWS, "current")
        assert await raw.fetch(db, "SELECT DISTINCT note FROM trades") == [("mine",)]
        assert [finding.where for finding in await examine(db) if finding.kind == "index missing"] == [
            "index uq_positions_open_key"
        ]


async def test_a_backup_names_what_it_leaves_out(duckdb_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with DatabaseManager(duckdb_url) as db:
        await db.migrate()
        await raw.run(db, "CREATE TABLE notes (body VARCHAR)")
        with caplog.at_level(logging.WARNING):
            await backup(db, tmp_path / "saved")
    assert [record.getMessage() for record in caplog.records] == [
        "the backup does not contain these objects, which do not belong to iftb-store: 'notes'"
    ]


async def test_a_backup_reports_its_progress_in_bytes(duckdb_url: str, tmp_path: Path) -> None:
    await fill(duckdb_url)
    reports: list[tuple[int, int]] = []
    async with DatabaseManager(duckdb_url) as db:
        await db.ability(SupportsBackup).backup(str(tmp_path / "saved"), lambda done, total: reports.append((done, total)))
    assert reports
    assert all(0 < done <= total for done, total in reports)
    with duckdb.connect(str(tmp_path / "saved")) as connection:
        assert connection.execute("SELECT count(*) FROM ohlcv").fetchall() == [(ROWS["ohlcv"],)]
