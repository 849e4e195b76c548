"""`iftb-store status` as a health probe, and a stopped import: their output and exit codes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager, SystemEventRepository
from iftb_store.cli import main
from iftb_store.testing import raw
from tests.support.wire import wire

_OPENED = 1_706_745_600_000


@pytest.fixture
def migrated(url: str) -> str:
    """URL of a migrated database without rows, on each of the three engines."""
    assert main(["migrate", url]) == 0
    return url


def read_only(url: str) -> str:
    """Return the URL of the same database, read-only."""
    made = make_url(url)
    options = {"sqlite": {"mode": "ro"}, "duckdb": {"access_mode": "read_only"}}.get(made.get_backend_name(), {})
    return made.update_query_dict(options).render_as_string(hide_password=False)


def probe_status(capsys: pytest.CaptureFixture[str], url: str) -> tuple[int, dict[str, object]]:
    """Return the exit code and output of `status --json`."""
    capsys.readouterr()
    code = main(["status", url, "--json"])
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return code, found


def test_a_healthy_database_is_reachable_writable_and_at_the_head(migrated: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = probe_status(capsys, migrated)
    assert code == 0
    assert (found["healthy"], found["reachable"], found["writable"], found["problems"]) == (True, True, True, [])
    assert found["pool"] == {"in_use": 0, "capacity": 15}


def test_the_probe_leaves_no_rows(migrated: str, capsys: pytest.CaptureFixture[str]) -> None:
    probe_status(capsys, migrated)
    probe_status(capsys, migrated)

    async def log_first_event() -> tuple[int, int]:
        async with DatabaseManager(migrated) as db:
            await SystemEventRepository(db).log_event("first", "info", "")
            (event,) = await SystemEventRepository(db).get_recent_events()
            return event.id or 0, await raw.count(db, "trades")

    # no id was used either
    assert asyncio.run(log_first_event()) == (1, 0)


def test_the_table_says_the_same(migrated: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["status", migrated]) == 0
    out = capsys.readouterr().out
    assert "reachable yes" in out
    assert "writable  yes" in out
    assert "pool      0 of 15 connections in use" in out


def test_a_database_without_tables_is_not_healthy(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(make_empty(url))
    code, found = probe_status(capsys, url)
    assert (code, found["reachable"], found["writable"]) == (1, True, False)
    assert "iftb-store migrate" in str(found["problems"])


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_a_read_only_database_is_not_writable(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    assert main(["migrate", url]) == 0
    code, found = probe_status(capsys, read_only(url))
    assert (code, found["reachable"], found["writable"]) == (1, True, False)
    assert "read-only" in str(found["problems"])


@pytest.fixture
def postgres_without_writes(postgres_url: str, postgres_database: tuple[str, Callable[[str], None]]) -> Iterator[str]:
    """URL of a migrated PostgreSQL database whose new sessions may only read."""
    assert main(["migrate", postgres_url]) == 0
    _, execute = postgres_database
    alter = f"ALTER DATABASE {make_url(postgres_url).database}"
    execute(f"{alter} SET default_transaction_read_only = on")
    yield postgres_url
    execute(f"{alter} RESET default_transaction_read_only")


def test_a_postgres_that_takes_no_writes_is_not_writable(
    postgres_without_writes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = probe_status(capsys, postgres_without_writes)
    assert (code, found["reachable"], found["writable"]) == (1, True, False)
    assert "read-only" in str(found["problems"])


@pytest.mark.parametrize(
    "url", ["postgresql://bot:s3cret-sentinel@127.0.0.1:9/iftb?sslmode=disable", "sqlite:////no/such/file.db"]
)
def test_a_database_that_cannot_be_reached_is_reported_in_json_too(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = probe_status(capsys, url)
    assert (code, found["reachable"], found["pool"]) == (1, False, None)
    assert found["problems"] != []
    assert "s3cret" not in json.dumps(found)


def test_a_server_that_falls_silent_is_not_reachable(postgres_url: str) -> None:
    async def probe() -> tuple[bool, list[str]]:
        async with wire(postgres_url) as (passing, url), DatabaseManager(url) as db:
            passing.is_silent = True
            found = await db.health(within=0.1)
            return found.reachable, found.problems

    reachable, problems = asyncio.run(probe())
    assert not reachable
    assert problems == ["the database did not answer within 0.1 s"]


@pytest.mark.one_of_each
@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent there")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_import_keeps_whole_files_and_nothing_of_the_current_one(
    migrated: str, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    whole, long = tmp_path / "BTCUSDT-1m-2024-01.csv", tmp_path / "BTCUSDT-1m-2024-02.csv"
    whole.write_text("".join(map(line, range(100))))
    # takes many seconds
    long.write_text("".join(map(line, range(100, 600_000))))
    command = [sys.executable, "-u", "-m", "iftb_store", "import", migrated, str(whole), str(long)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert b"100 bars" in running.stdout.readline()
        running.send_signal(sent)
        _, err = running.communicate(timeout=60)

    assert running.returncode == code
    assert b"Traceback" not in err
    assert b"stopped with 1 of 2 files stored, 100 bars; no row of the current file was stored" in err
    assert asyncio.run(bars_in(migrated)) == 100


def line(minute: int) -> str:
    opened = _OPENED + minute * 60_000
    return f"{opened},1.5,1.5,1.5,1.5,10,{opened + 59_999},15,3,5,7.5,0\n"


async def make_empty(url: str) -> None:
    async with DatabaseManager(url):
        pass


async def bars_in(url: str) -> int:
    async with DatabaseManager(url) as db:
        return await raw.count(db, "ohlcv")
