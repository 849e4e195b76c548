"""A process forks while its manager works: the child is refused at once, the parent loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.faults.rounds import rounds
from tests.faults.tally import Tally

FAULT = "process forked"

pytestmark = [
    pytest.mark.timeout(7_200),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]


@pytest.mark.one_of_each
def test_forks_are_refused_and_the_parent_loses_nothing(url: str, tally: Tally) -> None:
    words = [sys.executable, "-m", "tests.faults.forking", url, str(rounds(FAULT))]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for name, figure in json.loads(ended.stdout).items():
        setattr(tally, name, figure)
