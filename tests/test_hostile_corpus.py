"""Malicious files, each imported by the command: bounded memory and time, one sentence, no other file read."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from iftb_store.cli import main
from tests.faults.rounds import SOAK, rounds
from tests.faults.tally import Tally
from tests.support.hostile_corpus import write_corpus

_MOST_MEBIBYTES = 600
_SECRET = "-----BEGIN PRIVATE KEY----- c0ffee"

# imports each file by the command and prints the outcome; the peak memory is Linux's figure
_IMPORTER = """
import contextlib, io, json, resource, sys, time
from pathlib import Path
from iftb_store.cli import main

url, secret, *files = sys.argv[1:]
MOST = 20
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and str(args[0]) == secret else None)
for file in files:
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    # the kernel ends the process that computes longer
    resource.setrlimit(resource.RLIMIT_CPU, (used + 1 + MOST, resource.RLIM_INFINITY))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["import", url, file, "--symbol", "X", "--timeframe", "1h", "--quiet"])
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps([file, code, out.getvalue(), err.getvalue(), peak, len(opened)]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's own means")
@pytest.mark.timeout(36_000 if SOAK else 600)
def test_no_file_fills_the_memory_lasts_or_leads_to_another(tmp_path: Path, sqlite_url: str) -> None:
    assert main(["migrate", sqlite_url]) == 0
    secret, folder = tmp_path / "key.pem", tmp_path / "files"
    secret.write_text(_SECRET)
    folder.mkdir()
    files = write_corpus(folder, rounds("hostile file"), random.Random(None if SOAK else 12), secret)
    tally = Tally("hostile file", "importer")
    waiting = iter(files)
    # one process per file would take a second each, and the first file of a process has more memory
    while some := list(islice(waiting, 20)):
        command = [sys.executable, "-c", _IMPORTER, sqlite_url, str(secret), *map(str, some)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        for file, *result in said:
            with tally.round():
                for wrong in problems(Path(file), *result):
                    tally.note("lost", f"{Path(file).name}: {wrong}")
        if len(said) < len(some):
            tally.rounds += 1
            tally.hung += 1
            tally.notes.append(f"{some[len(said)].name}: ended by {done.returncode}: {done.stderr[-300:]}")
    database = tmp_path / "store.db"
    if _SECRET.encode() in database.read_bytes():
        tally.note("lost", "the other file's text is in the store")
    tally.close()


def problems(file: Path, code: int, out: str, err: str, peak: int, opened: int) -> list[str]:
    """Return the problems with a file's import."""
    wrong = []
    if peak > _MOST_MEBIBYTES:
        wrong.append(f"the process had {peak} MiB")
    if opened or _SECRET in out + err:
        wrong.append("another file was read")
    is_refused = code == 1 and err.startswith(f"error: {file}") and err.endswith("; no row of this file was stored\n")
    # an invalid option or name is wrong usage, and also one sentence
    is_usage = code == 2 and err.startswith("error: ")
    if not (code == 0 and not err) and not ((is_refused or is_usage) and err.count("\n") == 1):
        wrong.append(f"it said {err[-300:]!r} with the exit code {code}")
    return wrong
