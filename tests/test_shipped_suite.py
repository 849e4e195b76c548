"""The shipped conformance suite in a third party's project: order, time limit, and the output of a failed assertion."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from iftb_store import testing
from iftb_store.testing import BackendConformance
from iftb_store.testing.bars import InsertTests
from iftb_store.testing.hostile import HostileTests
from iftb_store.testing.properties import PropertyTests
from iftb_store.testing.values import DecimalTests, TimeTests

_SABOTAGE = Path(__file__).parent / "sabotage"
_SOUND = "test_connecting_twice_is_harmless"
# one per module of the suite
_EMPTY_ANSWERS = {
    "arrow.py": "test_trades_are_read_as_they_are_stored",
    "arrow_writes.py": "test_the_last_row_of_a_key_wins_on_upsert",
    "bars.py": "test_get_range_is_oldest_first_whatever_the_order_of_writing",
    "bulk.py": "test_upsert_finds_the_stored_bars_of_a_sparse_batch",
    "resampling.py": "test_a_bar_is_made_of_the_bars_in_its_bucket",
    "series.py": "test_series_come_in_the_order_of_their_names_by_bytes",
    "streams.py": "test_the_ends_of_a_streams_window_are_inclusive",
}

_ENDLESS = """
import asyncio
import pytest
from iftb_store.testing.fixtures import SuiteFixtures

{mark}
class TestEndless(SuiteFixtures):
    time_limit = 1

    async def test_ends(self):
        pass

    async def test_never_ends(self):
        await asyncio.Event().wait()
"""


def run_pytest(folder: Path, *options: str, **environment: str) -> str:
    """Run the tests of a folder without a pytest configuration; return the output."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *options],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout


def run_as_a_stranger(folder: Path, sabotage: str, *options: str, **environment: str) -> str:
    """Run the suite on a sabotaged backend."""
    (folder / "test_stranger.py").write_text((_SABOTAGE / "conformance.py").read_text())
    path = os.pathsep.join(filter(None, [str(_SABOTAGE), os.environ.get("PYTHONPATH")]))
    return run_pytest(folder, *options, PYTHONPATH=path, IFTB_STORE_SABOTAGE=sabotage, **environment)


def names_of(part: type) -> set[str]:
    """Return the names of the tests of a part of the suite."""
    return {name for name in vars(part) if name.startswith("test_")}


def test_pytest_rewrites_the_assertions_of_every_module() -> None:
    modules = [module.name for module in pkgutil.walk_packages(testing.__path__, f"{testing.__name__}.")]
    assert f"{testing.__name__}.suite" in modules
    assert [name for name in modules if "@pytest_ar" not in vars(importlib.import_module(name))] == []


def test_a_failed_assertion_shows_its_values(tmp_path: Path) -> None:
    printed = run_as_a_stranger(tmp_path, "answers nothing", "-k", " or ".join(_EMPTY_ANSWERS.values()))
    failures = dict(re.findall(r"^\S+?(\w+\.py):\d+: (.*)", printed, re.MULTILINE))
    assert {module: text for module, text in failures.items() if "assert " not in text} == {}
    assert failures.keys() == _EMPTY_ANSWERS.keys(), printed


@pytest.mark.full
def test_a_call_that_never_answers_and_a_stream_without_an_end_end_at_the_limit(tmp_path: Path) -> None:
    chosen = "test_bars_off_the_grid_and_far_apart_are_streamed_whole or test_get_range_includes_both_ends"
    printed = run_as_a_stranger(tmp_path, "never ends", "-k", f"{chosen} or {_SOUND}", IFTB_STORE_SABOTAGE_LIMIT="3")
    assert "Timeout (>3.0s)" in printed
    assert "2 failed, 1 passed" in printed


@pytest.mark.one_of_each
@pytest.mark.parametrize(
    ("mark", "options", "environment", "limit"),
    [
        ("", (), {}, "1.0"),
        ("@pytest.mark.timeout(2)", (), {}, "2.0"),
        ("", ("--timeout=2",), {}, "2.0"),
        ("", ("-o", "timeout=2"), {}, "2.0"),
        ("", (), {"PYTEST_TIMEOUT": "2"}, "2.0"),
    ],
    ids=["its own", "mark", "option", "setting", "environment"],
)
def test_the_limit_of_a_test_is_the_suites_if_no_other_is_given(
    tmp_path: Path, mark: str, options: tuple[str, ...], environment: dict[str, str], limit: str
) -> None:
    (tmp_path / "test_stranger.py").write_text(_ENDLESS.format(mark=mark))
    assert f"Timeout (>{limit}s)" in run_pytest(tmp_path, *options, **environment)


def test_a_test_without_a_limit_runs_if_the_plugin_is_switched_off(tmp_path: Path) -> None:
    (tmp_path / "test_stranger.py").write_text(_ENDLESS.format(mark=""))
    printed = run_pytest(tmp_path, "-p", "no:timeout", "--strict-markers", "-k", "test_ends")
    assert "1 passed" in printed


def test_pytest_runs_the_suite_in_the_order_in_which_a_backend_is_written(tmp_path: Path) -> None:
    printed = run_as_a_stranger(tmp_path, "none", "--collect-only")
    names = list(dict.fromkeys(re.findall(r"::(test_\w+)", printed)))
    for part in (DecimalTests, TimeTests):
        first, names = names[: len(names_of(part))], names[len(names_of(part)) :]
        assert set(first) == names_of(part)
    last = names_of(HostileTests) | names_of(PropertyTests)
    assert set(names[-len(last) :]) == last
    assert names.index(next(name for name in names if name in names_of(InsertTests))) < len(names) // 10
    assert {*names} | names_of(DecimalTests) | names_of(TimeTests) == {
        name for name in dir(BackendConformance) if name.startswith("test_")
    }


def test_a_test_that_a_backend_overrides_is_its_own() -> None:
    class Changed(BackendConformance):
        async def test_connecting_twice_is_harmless(self) -> None:  # type: ignore[override]
            """Replaces the suite's fixture."""

    class ChangedAgain(Changed):
        test_connect_needs_no_tables = None  # type: ignore[assignment]

    assert Changed.test_connecting_twice_is_harmless.__doc__ == "Replaces the suite's fixture."
    assert ChangedAgain.test_connecting_twice_is_harmless.__doc__ == "Replaces the suite's fixture."
    assert ChangedAgain.test_connect_needs_no_tables is None
