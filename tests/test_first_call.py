"""The first call of a process does not block its event loop: slow imports run in a thread."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

import iftb_store_migrations as migrations
from benchmarks.first_calls import CALLS
from iftb_store.schema.revision import HEAD, REVISIONS
from tests.faults.rounds import FULL

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks there")
def test_no_first_call_imports_another_package_in_the_event_loop(url: str) -> None:
    # each call on one of the engines, after the first, which makes the tables; `nox -s full` makes each on all
    turn = ["postgresql", "sqlite", "duckdb"].index(make_url(url).get_backend_name())
    names = [name for place, name in enumerate(CALLS) if FULL or place == 0 or place % 3 == turn]
    command = [sys.executable, "-m", "tests.support.importing", url, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: [] for name in names}


def test_the_revisions_of_the_package_are_those_of_its_directory() -> None:
    assert list(REVISIONS) == migrations.revisions()
    assert migrations.head() == HEAD
