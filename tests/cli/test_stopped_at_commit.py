"""A command that is stopped during its COMMIT reports correctly what it wrote."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iftb_store import DatabaseManager
from iftb_store.testing import raw
from tests.conftest import Run
from tests.faults.rounds import FULL
from tests.support.filled import ROWS, fill

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent there")

ROOT = Path(__file__).parents[2]
_OPENED = 1_706_745_600_000
_SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
SIGNALS = pytest.mark.parametrize(("sent", "code"), _SIGNALS if FULL else _SIGNALS[:1])


@pytest.fixture
def migrated(url: str, run: Run) -> str:
    """URL of a migrated database without rows, on each of the three engines."""
    assert run("migrate", url)[0] == 0
    return url


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A dump of 100 bars."""
    path = tmp_path / "BTCUSDT-1m-2024-01.csv"
    times = (_OPENED + minute * 60_000 for minute in range(100))
    path.write_text("".join(f"{time},1.5,1.5,1.5,1.5,10,{time + 59_999},15,3,5,7.5,0\n" for time in times))
    return path


def stopped(sent: signal.Signals, *words: str, times: int = 1) -> tuple[int, str]:
    """Run a command that gets a signal during its COMMIT; return its exit code and what it wrote to stderr."""
    command = [sys.executable, "-m", "tests.support.stopping", str(int(sent)), str(times), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


async def rows_in(url: str, table: str) -> int:
    async with DatabaseManager(url) as db:
        return await raw.count(db, table)


@pytest.mark.one_of_each
@SIGNALS
def test_a_dump_whose_commit_succeeded_is_reported_as_stored(migrated: str, dump: Path, sent: signal.Signals, code: int) -> None:
    found, err = stopped(sent, "import", migrated, str(dump))
    assert (found, asyncio.run(rows_in(migrated, "ohlcv"))) == (code, 100)
    assert "stopped with 1 of 1 file stored, 100 bars; it is safe to import all of them again" in err


@pytest.mark.one_of_each
def test_trades_whose_commit_succeeded_are_reported_as_stored(migrated: str, tmp_path: Path, run: Run) -> None:
    asyncio.run(fill(f"sqlite:///{tmp_path / 'source.db'}"))
    exported = str(tmp_path / "trades.parquet")
    assert run("export", f"sqlite:///{tmp_path / 'source.db'}", "--table", "trades", "-o", exported)[0] == 0
    code, err = stopped(signal.SIGTERM, "import", migrated, exported)
    assert (code, asyncio.run(rows_in(migrated, "trades"))) == (143, ROWS["trades"])
    assert "stopped with 1 of 1 file stored, 3 rows; it is safe to import all of them again" in err


@pytest.mark.one_of_each
def test_a_second_signal_during_the_commit_reports_an_unknown_outcome(migrated: str, dump: Path) -> None:
    _, err = stopped(signal.SIGTERM, "import", migrated, str(dump), times=2)
    assert "stopped with 0 of 1 file stored, 0 bars; it is unknown whether BTCUSDT-1m-2024-01.csv is stored too" in err


@pytest.mark.one_of_each
@SIGNALS
def test_a_migration_that_is_stopped_says_how_to_look(url: str, sent: signal.Signals, code: int) -> None:
    found, err = stopped(sent, "migrate", url)
    assert found == code
    assert "iftb-store status" in err
    assert "migrating again is safe" in err


@pytest.mark.one_of_each
@SIGNALS
def test_a_copy_that_is_stopped_does_not_deny_its_last_batch(url: str, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    source = f"sqlite:///{tmp_path / 'source.db'}"
    asyncio.run(fill(source))
    found, err = stopped(sent, "copy", source, url)
    assert found == code
    assert "copied, which stay, and perhaps one more batch, whose COMMIT was in progress" in err
