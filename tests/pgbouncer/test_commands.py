"""The commands through PgBouncer in transaction mode: migrations with their lock, status, doctor, verify and copies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, TradeRepository
from iftb_store.testing.samples import HOUR, T0, bar, trade
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("plain_environment")


async def fill(url: str) -> None:
    async with DatabaseManager(url) as db:
        await OHLCVRepository(db).insert_many([bar(T0 + index * HOUR) for index in range(3_000)])
        await TradeRepository(db).insert(trade())


def test_the_commands_work_through_it(pooled_url: str, sqlite_url: str, run: Run) -> None:
    for words in (("migrate", pooled_url), ("migrate", pooled_url)):
        assert run(*words)[0] == 0
    asyncio.run(fill(pooled_url))
    code, out, _ = run("status", pooled_url, "--json")
    assert (code, json.loads(out)["schema"]["tables"]["ohlcv"]) == (0, 3_000)
    code, out, err = run("doctor", pooled_url)
    assert code == 0, out + err
    for source, destination in ((pooled_url, sqlite_url), (sqlite_url, pooled_url)):
        code, out, err = run("copy", source, destination)
        assert code == 0, out + err
    code, out, err = run("verify", pooled_url, sqlite_url)
    assert code == 0, out + err


def test_a_series_is_exported_and_imported_through_it(pooled_url: str, tmp_path: Path, run: Run) -> None:
    assert run("migrate", pooled_url)[0] == 0
    asyncio.run(fill(pooled_url))
    path = str(tmp_path / "bars.parquet")
    code, out, err = run("export", pooled_url, "--output", path)
    assert code == 0, out + err
    code, out, err = run("import", pooled_url, path)
    assert code == 0, out + err


async def test_two_migrations_at_once_end_well(pooled_url: str) -> None:
    async with DatabaseManager(pooled_url) as one, DatabaseManager(pooled_url) as other:
        await asyncio.gather(one.migrate(), other.migrate())
        assert (await one.status()).state == "current"
