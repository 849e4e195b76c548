"""Paths that are no regular files: pipes, devices, sockets and directories are refused at once and not read."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from iftb_store import DatabaseManager
from iftb_store.cli import main
from iftb_store.files.detect import detect_format
from iftb_store.files.klines import import_klines
from iftb_store.files.readers.binance import DumpError, KlineDump

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")

_NAMES = ("BTCUSDT-1m-2024-02.csv", "BTCUSDT-1m-2024-02.zip", "x.parquet", "x.feather", "x.json", "x.csv.gz", "pipe")


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Create a socket at a path."""
    with ExitStack() as opened:

        def listen(path: Path) -> None:
            # a socket's path may have about a hundred bytes
            made = opened.enter_context(socket.socket(socket.AF_UNIX))
            here = Path.cwd()
            os.chdir(path.parent)
            made.bind(path.name)
            os.chdir(here)

        yield listen


def made(path: Path, kind: str, listen: Callable[[Path], None]) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "socket": listen,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "directory": Path.mkdir,
    }
    makers[kind](path)


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "directory"])
def test_it_is_refused_with_a_remedy(tmp_path: Path, listening: Callable[[Path], None], name: str, kind: str) -> None:
    made(tmp_path / name, kind, listening)

    with pytest.raises(DumpError, match=f"{name}: is a {kind} and not a file; "):
        detect_format(tmp_path / name)


@pytest.mark.parametrize("kind", ["pipe", "device"])
async def test_a_dump_that_is_none_is_refused_in_python_too(
    tmp_path: Path, sqlite_url: str, listening: Callable[[Path], None], kind: str
) -> None:
    made(tmp_path / _NAMES[0], kind, listening)
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        with pytest.raises(DumpError, match=f"is a {kind} and not a file"):
            await import_klines(db, KlineDump(tmp_path / _NAMES[0]))


@pytest.mark.parametrize("name", _NAMES)
def test_a_command_ends_though_nobody_writes(sqlite_url: str, tmp_path: Path, name: str) -> None:
    assert main(["migrate", sqlite_url]) == 0
    os.mkfifo(tmp_path / name)
    command = [sys.executable, "-m", "iftb_store", "import", sqlite_url, str(tmp_path / name)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert "is a pipe and not a file; write its output to a file first; no row of this file was stored" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_ctrl_c_ends_the_import_of_a_file_that_takes_long(sqlite_url: str, tmp_path: Path) -> None:
    assert main(["migrate", sqlite_url]) == 0
    lines = (f"{1_000_000_000 + 60 * number},1,1,1,1,1\n" for number in range(2_000_000))
    (tmp_path / "x.csv").write_text("time,open,high,low,close,volume\n" + "".join(lines))
    (tmp_path / "a.csv").write_text("time,open,high,low,close,volume\n1000000000,1,1,1,1,1\n")
    files = (str(tmp_path / "a.csv"), str(tmp_path / "x.csv"))
    command = [sys.executable, "-u", "-m", "iftb_store", "import", sqlite_url, *files, "--symbol", "X", "--timeframe", "1m"]
    # a shell that runs the tests in its background has SIGINT ignored
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_heed_sigint) as running:
        assert running.stdout is not None
        assert b"1 bar" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)

    assert running.returncode == 130
    assert b"stopped with 1 of 2 files stored" in err


def _heed_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_link_to_a_file_is_a_file(sqlite_url: str, tmp_path: Path) -> None:
    assert main(["migrate", sqlite_url]) == 0
    (tmp_path / "x.csv").write_text("time,open,high,low,close,volume\n1000000000,1,1,1,1,1\n")
    (tmp_path / "y.csv").symlink_to("x.csv")
    assert main(["import", sqlite_url, str(tmp_path / "y.csv"), "--symbol", "X", "--timeframe", "1m"]) == 0
    assert asyncio.run(_count(sqlite_url)) == 1


async def _count(url: str) -> int:
    from iftb_store.testing import raw

    async with DatabaseManager(url) as db:
        return await raw.count(db, "ohlcv")
