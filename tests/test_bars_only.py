"""The conformance suite passes backends that keep only bars, and no test hangs on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.packages import run_suite

_FOLDER = Path(__file__).parent / "support" / "bars_only"
# what `nox -s tests` runs of the suite on each; `nox -s full` runs all of it
_SOME = ("-k", "TestBarsOnly and (copy or status or raw or record)")
_ALL = ("-n", "2")


@pytest.mark.parametrize(
    "chosen", [_SOME, pytest.param(_ALL, marks=[pytest.mark.full, pytest.mark.timeout(3_600)])], ids=["some", "all"]
)
def test_backends_that_keep_only_bars_pass_the_suite(chosen: tuple[str, ...]) -> None:
    done = run_suite(_FOLDER, "tests/support/bars_only/conformance.py", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
