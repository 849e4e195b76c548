"""Ctrl-C and SIGTERM end every command that waits in its engine, long before its wait ends, and nothing is changed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

import duckdb
import pytest

from iftb_store import DatabaseManager, SystemEventRepository
from iftb_store.cli import main
from iftb_store.testing import raw
from tests.faults.children import forkserver
from tests.faults.rounds import FULL
from tests.support.filled import ROWS, fill

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process's signals are looked up in /proc")

# seconds; each command below would wait 300
_PATIENCE = 30.0
_SERIES = ("BTCUSDT", "1h")
READS = {
    "status": ["status", "{url}"],
    "doctor": ["doctor", "{url}"],
    "stats": ["stats", "{url}"],
    "gaps": ["gaps", "{url}", *_SERIES],
    "latest": ["latest", "{url}", *_SERIES],
    "positions": ["positions", "{url}"],
    "events": ["events", "{url}"],
    "export": ["export", "{url}", "-o", "{folder}/out.parquet"],
    "verify": ["verify", "{url}", "{other}"],
    "verify the other way round": ["verify", "{other}", "{url}"],
    "copy from it": ["copy", "{url}", "sqlite:///{folder}/copy.db"],
    "backup": ["backup", "{url}", "{folder}/saved"],
}
WRITES = {
    "import": ["import", "{url}", "{folder}/bars.parquet"],
    "restore": ["restore", "{folder}/backup", "{url}"],
    "copy into it": ["copy", "{other}", "{url}"],
}
TABLES = ", ".join(ROWS)
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass(frozen=True)
class Blocked:
    """A store in which every command of ``commands`` waits, until ``block`` ends."""

    url: str
    commands: dict[str, list[str]]
    block: Callable[[], AbstractContextManager[None]]


def run_command(words: list[str], errors: str) -> None:
    """The child: one command, its errors in a file."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
    sys.stderr = open(errors, "w")  # noqa: PTH123, SIM115
    code = main(words)
    sys.stderr.flush()
    sys.exit(code)


def catches_sigterm(pid: int) -> bool:
    """Return whether a process handles SIGTERM, as a command does once it connects."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << signal.SIGTERM - 1)
    return False


async def log_event(url: str) -> None:
    async with DatabaseManager(url) as db:
        await SystemEventRepository(db).log_event("other", "info", "only in this store")


@pytest.fixture
def other(tmp_path: Path) -> str:
    """A store with rows, one of them its own, so that copies of it have to write; beside it a backup and an export of it."""
    url = f"sqlite:///{tmp_path / 'other.db'}"
    asyncio.run(fill(url))
    asyncio.run(log_event(url))
    assert main(["backup", url, str(tmp_path / "backup"), "--quiet"]) == 0
    assert main(["export", url, "-o", str(tmp_path / "bars.parquet"), "--quiet"]) == 0
    return url


@contextmanager
def lock_tables(url: str, execute: Callable[[str], None]) -> Iterator[None]:
    execute(f"BEGIN; LOCK TABLE {TABLES}")
    try:
        yield
    finally:
        execute("ROLLBACK")


@contextmanager
def lock_file(path: Path, *statements: str) -> Iterator[None]:
    holder = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        holder.execute(statement)
    try:
        yield
    finally:
        holder.close()


def hold_duckdb(path: str, held: Connection, over: Connection) -> None:
    """The process that has a DuckDB file open."""
    with duckdb.connect(path):
        held.send(None)
        over.poll(None)


@contextmanager
def held_by_another_process(path: Path) -> Iterator[None]:
    context = forkserver()
    held, signal_held = context.Pipe(duplex=False)
    wait, over = context.Pipe(duplex=False)
    holder = context.Process(target=hold_duckdb, args=(str(path), signal_held, wait), daemon=True)
    holder.start()
    held.recv()
    try:
        yield
    finally:
        over.send(None)
        holder.join()


@pytest.fixture(params=["postgresql", "sqlite", "sqlite, written to", "duckdb"])
def blocked(request: pytest.FixtureRequest, tmp_path: Path) -> Blocked:
    """A store with rows that is blocked in the ways that each engine has."""
    path = tmp_path / "store.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        _, execute = request.getfixturevalue("postgres_database")
        asyncio.run(fill(url))
        return Blocked(f"{url}&statement_timeout=300s", READS | WRITES, lambda: lock_tables(url, execute))
    scheme = request.param.partition(",")[0]
    asyncio.run(fill(f"{scheme}:///{path}"))
    if scheme == "duckdb":
        return Blocked(f"duckdb:///{path}?connect_timeout=300", READS | WRITES, lambda: held_by_another_process(path))
    url = f"sqlite:///{path}?timeout=300"
    if request.param == "sqlite":
        statements = ["PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "SELECT * FROM ohlcv"]
        return Blocked(url, READS | WRITES, lambda: lock_file(path, *statements))
    return Blocked(url, WRITES, lambda: lock_file(path, "BEGIN IMMEDIATE"))


@pytest.mark.parametrize("sent", SIGNALS if FULL else [signal.SIGTERM])
def test_every_command_that_waits_is_ended_by_a_signal(
    blocked: Blocked, other: str, tmp_path: Path, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    wrong: list[str] = []
    with blocked.block():
        for name, words in blocked.commands.items():
            errors = tmp_path / f"{name}.errors"
            command = [word.format(url=blocked.url, other=other, folder=tmp_path) for word in words]
            child = forkserver().Process(target=run_command, args=(command, str(errors)), daemon=True)
            child.start()
            assert child.pid is not None
            deadline = monotonic() + _PATIENCE
            while child.is_alive() and not catches_sigterm(child.pid) and monotonic() < deadline:
                child.join(0.01)
            # further into its wait, be it for the lock
            child.join(0.3)
            os.kill(child.pid, sent)
            child.join(_PATIENCE)
            if child.exitcode != SIGNALS[sent] or "Traceback" in errors.read_text():
                wrong.append(f"{name}: exit code {child.exitcode}, {errors.read_text()[-500:]}")
            child.kill()
            child.join()
            errors.unlink()
    assert wrong == []
    left = {path.name for path in tmp_path.iterdir()} - before - {"copy.db", "copy.db-wal", "copy.db-shm"}
    assert {name for name in left if not name.startswith("store.db")} == set()
    assert asyncio.run(counts(blocked.url)) == ROWS


async def counts(url: str) -> dict[str, int]:
    async with DatabaseManager(url) as db:
        return {table: await raw.count(db, table) for table in ROWS}
