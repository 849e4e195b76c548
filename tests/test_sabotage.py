"""The conformance suite detects each fault of the sabotaged backend, and passes that backend without a fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_SOUND = "test_connecting_twice_is_harmless"

_SABOTAGES = {
    "rounds a decimal": "test_a_trades_decimals_come_back_exactly",
    "drops tzinfo": "test_a_trades_times_come_back_in_utc",
    "swallows a duplicate": "test_a_bar_stored_already_is_an_integrity_error",
    "commits on error": "test_an_exception_rolls_everything_back",
    "forgets isolation": "test_no_update_is_lost_under_isolation",
    "moves created_at": "test_upsert_keeps_id_and_created_at_of_a_stored_bar",
    "orders ties oldest first": "test_events_of_one_time_come_newest_id_first",
    "leaves out the end": "test_get_range_includes_both_ends",
    "loses a row": "test_insert_many_stores_every_bar_of_a_batch",
    "sums floats": "test_sums_keep_the_last_place_beside_the_largest_number",
    "reopens a position": "test_a_closed_position_is_not_changed_by_a_stale_object",
}


def run_suite(sabotage: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the suite on the sabotaged backend in a separate process, which finds its entry point."""
    path = os.pathsep.join(filter(None, [str(_HERE / "sabotage"), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "sabotage/conformance.py", "-q", "-p", "no:cacheprovider", "--tb=line", *options],
        cwd=_HERE,
        env={**os.environ, "PYTHONPATH": path, "IFTB_STORE_SABOTAGE": sabotage},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.one_of_each
@pytest.mark.parametrize(("sabotage", "caught_by"), _SABOTAGES.items())
def test_the_suite_catches_a_backend_that(sabotage: str, caught_by: str) -> None:
    result = run_suite(sabotage, "-k", f"{caught_by} or {_SOUND}")
    assert result.returncode == 1, result.stdout
    assert f"FAILED sabotage/conformance.py::TestSabotaged::{caught_by}" in result.stdout.replace("tests/sabotage", "sabotage")
    assert f"::{_SOUND}" not in result.stdout
    assert " passed" in result.stdout


def test_the_suite_catches_a_backend_that_keeps_a_connection_after_any_test() -> None:
    result = run_suite("keeps a connection", "-k", "test_a_clean_exit_commits")
    assert "ERROR sabotage/conformance.py::TestSabotaged::test_a_clean_exit_commits" in result.stdout.replace(
        "tests/sabotage", "sabotage"
    )
    assert "1 passed" in result.stdout


def test_the_same_tests_pass_the_same_backend_without_a_fault() -> None:
    # the whole suite passes the backend that it wraps: tests/test_conformance.py
    result = run_suite("none", "-k", " or ".join({*_SABOTAGES.values(), _SOUND}))
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.split(" passed")[0].split()[-1]) > len(_SABOTAGES)
