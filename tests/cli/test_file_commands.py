"""The commands export and import: nothing to export, rows on a terminal, stdin, and options for files of other tools."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.stores import line, write_dump
from tests.conftest import Run
from tests.support.filled import fill

pytestmark = pytest.mark.usefixtures("plain_environment")

KRAKEN = "1706745600,1,2,1,1,0.00011865000000000001,3\n1706749200,,,,,0,0\n"
NAMES = "timestamp,open,high,low,close,volume,trades_count"


@pytest.fixture
def filled(sqlite_url: str) -> str:
    asyncio.run(fill(sqlite_url))
    return sqlite_url


@pytest.mark.parametrize("words", [("--symbol", "NONE"), ("--symbol", "NONE", "--json"), ("--symbol", "NONE", "--quiet")])
def test_an_export_of_nothing_fails(run: Run, filled: str, words: tuple[str, ...]) -> None:
    code, _, err = run("export", filled, "-o", "none.csv", *words)
    assert (code, err) == (1, "error: no row of ohlcv matches the options; no bar or recent trade has a similar symbol\n")
    assert Path("none.csv").read_text().count("\n") == 1


def test_an_export_of_nothing_leaves_an_earlier_file(run: Run, filled: str) -> None:
    assert run("export", filled, "-o", "kept.csv")[0] == 0
    before = Path("kept.csv").read_text()
    code, _, err = run("export", filled, "-o", "kept.csv", "--overwrite", "--exchange", "nowhere")
    assert (code, err) == (1, "error: no row of ohlcv matches the options; kept.csv was left as it was\n")
    assert Path("kept.csv").read_text() == before


def test_floats_are_exported_on_request(run: Run, filled: str) -> None:
    exact = run("export", filled, "-o", "exact.jsonl")
    code, out, _ = run("export", filled, "-o", "floats.jsonl", "--decimals", "float")
    assert (code, exact[0], out) == (0, 0, exact[1].replace("exact", "floats"))
    assert '"close": "' in Path("exact.jsonl").read_text()
    assert '"close": "' not in Path("floats.jsonl").read_text()
    assert "--decimals must be one of float" in run("export", filled, "-o", "other.csv", "--decimals", "from-float")[2]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals there")
def test_rows_on_a_terminal_are_not_mixed_with_a_progress_bar(filled: str) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "iftb_store", "export", filled, "-o", "-", "--format", "csv"]
    child = subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
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
    assert b"\x1b" not in written
    assert written.startswith(b"symbol,exchange,timeframe,timestamp,")


def test_a_file_without_a_header_is_imported_with_its_columns(run: Run, stored: str) -> None:
    Path("XBTUSD_60.csv").write_text(KRAKEN)
    series = ("--symbol", "XBTUSD", "--timeframe", "1h", "--exchange", "kraken")
    asked = run("import", stored, "XBTUSD_60.csv", *series)
    assert asked[0] == 2
    assert asked[2].startswith(f"error: XBTUSD_60.csv: has no header; name its 7 columns, e.g. --columns {NAMES}; ")
    fine = run("import", stored, "XBTUSD_60.csv", *series, "--columns", NAMES, "--skip-empty")
    assert "more than 18 digits after the point; use --decimals from-float to round it to 18 places" in fine[2]
    code, out, err = run(
        "import", stored, "XBTUSD_60.csv", *series, "--columns", NAMES, "--skip-empty", "--decimals", "from-float"
    )
    assert (code, err) == (0, "")
    assert "1 bar (1 inserted, 0 changed, 0 equal)" in out
    assert "(1 value rounded to 18 places; rows without prices skipped: 1)" in out


def test_a_stored_bar_is_changed_unless_that_is_refused(run: Run, stored: str) -> None:
    write_dump("BTCUSDT-1m-2024-02.csv", line(0), line(1))
    run("import", stored, "BTCUSDT-1m-2024-02.csv")
    first, *rest = line(0).split(",")
    write_dump("BTCUSDT-1m-2024-02.csv", ",".join([first, rest[0], "99", *rest[2:]]), line(1), line(2))

    code, out, err = run("import", stored, "BTCUSDT-1m-2024-02.csv", "--on-conflict", "refuse")
    assert (code, out) == (1, "0 of 1 file imported, 0 bars\n")
    assert "would change the stored bar of binance BTCUSDT 1m 2024-02-01 00:00:00; leave --on-conflict refuse out" in err

    code, out, err = run("import", stored, "BTCUSDT-1m-2024-02.csv")
    assert (code, err) == (0, "")
    assert out.endswith("1 of 1 file imported, 3 bars (1 inserted, 1 changed, 1 equal)\n")


def test_a_pipe_is_imported_from_stdin(stored: str) -> None:
    command = [sys.executable, "-m", "iftb_store", "import", stored, "-", "--symbol", "BTCUSDT", "--timeframe", "1m"]
    done = subprocess.run(command, input=line(0).encode(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"stdin: binance BTCUSDT 1m, 1 bar (1 inserted, 0 changed, 0 equal)")
