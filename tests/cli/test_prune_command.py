"""The commands prune and rollup: what they print, and a killed run that the next one continues."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, SystemEventRepository, prune
from iftb_store.testing.samples import T0, Clock, hourly
from tests.conftest import Run

_BEFORE = "2024-01-11"


@pytest.fixture
def filled(url: str) -> str:
    """The URL of a database with 300 hourly bars and 20 events."""

    async def fill() -> None:
        clock = Clock(T0)
        async with DatabaseManager(url) as db:
            await db.create_tables()
            await OHLCVRepository(db).insert_many(hourly(300))
            for number in range(20):
                clock.now = T0 + timedelta(days=number)
                await SystemEventRepository(db, clock=clock).log_event("tick", "info", str(number))

    asyncio.run(fill())
    return url


def test_prune_counts_first_and_then_deletes_as_many(filled: str, run: Run) -> None:
    words = ("prune", filled, "--older-than", _BEFORE, "--table", "ohlcv", "--table", "system_events", "--keep-daily")
    code, out, err = run(*words, "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == [
        "10 daily bars would be stored first",
        "250 rows older than 2024-01-11 00:00 (UTC) to be deleted; nothing was changed",
    ]
    code, out, err = run(*words, "--json")
    found = json.loads(out)
    assert (code, found["daily_bars"], found["dry_run"]) == (0, 10, False)
    assert found["parts"] == [
        {"table": "ohlcv", "series": "binance BTCUSDT 1h", "rows": 240},
        {"table": "system_events", "series": "", "rows": 10},
    ]
    assert run(*words, "--quiet") == (0, "", "")


def test_rollup_stores_what_is_missing(filled: str, run: Run) -> None:
    assert run("rollup", filled, "1h", "4h") == (
        0,
        "binance BTCUSDT: 75 bars of 4h\n75 bars of 4h stored, from the 1h bars of 1 series\n",
        "",
    )
    assert run("rollup", filled, "1h", "4h")[1] == "0 bars of 4h stored, from the 1h bars of 1 series\n"
    assert run("rollup", filled, "1m", "1h")[1] == "no series has bars of 1m\n"


def test_what_is_missing_is_named(filled: str, run: Run) -> None:
    assert run("prune", filled, "--table", "ohlcv")[2] == "error: --older-than is required, e.g. --older-than 90d\n"
    assert run("prune", filled, "--older-than", "90d")[0] == 2
    assert run("prune", filled, "--older-than", "soon", "--table", "ohlcv")[0] == 2
    assert run("rollup", filled, "1h")[0] == 2


_PRUNE = """
import asyncio, os, signal, sys
from iftb_store import DatabaseManager, prune

def stop(step, done, total):
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with DatabaseManager(sys.argv[1]) as db:
        await prune(db, "1d", ["ohlcv", "system_events"], keep_daily=True, progress=stop)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_prune_continues_and_every_pruned_day_has_its_daily_bar(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bot.db'}"

    async def fill() -> None:
        async with DatabaseManager(url) as db:
            await db.create_tables()
            await OHLCVRepository(db).insert_many(hourly(24 * 150))

    async def look() -> tuple[int, set[object], set[object]]:
        async with DatabaseManager(url) as db:
            left = await OHLCVRepository(db).get_range("BTCUSDT", "1h", T0, T0 + timedelta(days=200))
            days = await OHLCVRepository(db).get_range("BTCUSDT", "1d", T0, T0 + timedelta(days=200))
            return len(left), {one.timestamp.date() for one in left}, {one.timestamp.date() for one in days}

    asyncio.run(fill())
    done = subprocess.run([sys.executable, "-c", _PRUNE, url, "1000"], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    left, hours, days = asyncio.run(look())
    assert 0 < left < 24 * 150
    assert len(hours | days) == 150

    async def finish() -> tuple[int, int]:
        async with DatabaseManager(url) as db:
            report = await prune(db, "1d", "ohlcv", keep_daily=True)
            return report.rows, report.daily_bars

    assert asyncio.run(finish()) == (left, 0)
    assert asyncio.run(look()) == (0, set(), hours | days)
