"""The tables of copy, verify and restore on a terminal of 80 columns: no number is broken, no line is too long."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.filled import ROWS, fill

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals there")

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_on_terminal(columns: int, *words: str, **changed: str) -> list[str]:
    """Run a command whose stdout is a terminal; return the lines that it prints there."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **changed}
    command = [sys.executable, "-m", "iftb_store", *words]
    child = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    written = bytearray()
    try:
        while part := os.read(ours, 65_536):
            written += part
    except OSError:
        # Linux reports the end of a terminal as an error
        pass
    os.close(ours)
    assert child.wait(60) == 0
    return _ESCAPES.sub("", written.decode()).replace("\r", "").splitlines()


@pytest.fixture
def filled(sqlite_url: str) -> str:
    asyncio.run(fill(sqlite_url))
    return sqlite_url


def test_a_table_that_is_too_wide_becomes_a_list(filled: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'target.db'}"
    lines = run_on_terminal(80, "copy", filled, target)
    assert [line for line in lines if len(line) > 80 and "created the tables" not in line] == []
    listed = lines.index("ohlcv binance BTCUSDT 1h") + 1
    assert re.fullmatch(r"  rows 51, inserted 51, checksum [0-9a-f]{12}, equal yes", lines[listed])
    assert sum(int(found[1]) for line in lines if (found := re.search(r" inserted (\d+),", line))) == sum(ROWS.values())
    again = run_on_terminal(80, "copy", filled, target)
    assert re.fullmatch(r"  rows 51, unchanged 51, checksum [0-9a-f]{12}, equal yes", again[again.index(lines[listed - 1]) + 1])


def test_a_wide_terminal_gets_a_table(filled: str, tmp_path: Path) -> None:
    lines = run_on_terminal(130, "copy", filled, f"sqlite:///{tmp_path / 'target.db'}")
    row = next(line for line in lines if "BTCUSDT 1h" in line)
    assert re.fullmatch(r"ohlcv +binance BTCUSDT 1h +51 +51 +0 +0 +0 +0 +[0-9a-f]{12} +yes *", row)


def test_a_list_is_wrapped_between_its_numbers(filled: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'target.db'}"
    run_on_terminal(80, "copy", filled, target)
    lines = run_on_terminal(40, "verify", filled, target, "--table", "trades")
    assert lines[0] == "trades"
    words = " ".join(line.strip() for line in lines[1:-1])
    assert re.fullmatch(r"rows SRC 3, rows DST 3, checksum SRC ([0-9a-f]{12}), checksum DST \1, equal yes", words)
    assert max(map(len, lines)) <= 40
