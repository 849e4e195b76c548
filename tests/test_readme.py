"""The documents are correct: the README's code runs and prints what it shows, and the names in it exist."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from iftb_store.cli import app
from iftb_store.config import DatabaseSettings
from iftb_store.registry import GROUP
from tests.support.packages import install_example

_ROOT = Path(__file__).parent.parent
_README = (_ROOT / "README.md").read_text()
_GUIDE = (_ROOT / "CONTRIBUTING.md").read_text()
_SETUP = re.findall(r"^```bash\n(python3 [^\n]+)\n```$", _README, re.MULTILINE)


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_blocks_of_the_tour_print_what_the_readme_shows(tmp_path: Path) -> None:
    done = [_run(tmp_path, "-c", block) for block in _blocks(_README, "python")]
    assert [(item.stdout, item.stderr) for item in done] == [(shown, "") for shown in _blocks(_README, "text")]


def test_the_set_up_is_two_commands_of_one_line() -> None:
    assert len(_SETUP) == 2


def test_ci_calls_the_readme_s_command_for_the_tests() -> None:
    assert _SETUP[1] in (_ROOT / ".ci" / "run").read_text().splitlines()


def test_the_readme_names_every_command() -> None:
    assert [command.name for command in app.registered_commands if f"`iftb-store {command.name} " not in _README] == []


def test_the_readme_names_every_scheme() -> None:
    assert [point.name for point in entry_points(group=GROUP) if f"`{point.name}`" not in _README] == []


def test_the_readme_names_every_variable() -> None:
    variables = [field.validation_alias or f"DB_{name.upper()}" for name, field in DatabaseSettings.model_fields.items()]
    assert [name for name in variables if f"`{name}`" not in _README] == []


@pytest.mark.full
def test_the_guide_s_comparison_with_the_model_passes_on_the_example_backend(tmp_path: Path) -> None:
    install_example(tmp_path)
    (model,) = _blocks(_GUIDE, "python")
    (tmp_path / "test_model.py").write_text(model)
    done = _run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_model.py")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["RELIABILITY.md", "SECURITY.md"])
def test_every_file_that_a_page_of_promises_names_is_there(page: str) -> None:
    folders = (_ROOT, _ROOT / "tests", _ROOT / "tests" / "faults", _ROOT / "backends")
    named = set(re.findall(r"`([\w/]+\.py)`", (_ROOT / page).read_text()))
    assert named
    assert {name for name in named if not any((folder / name).exists() for folder in folders)} == set()


def test_every_function_that_a_page_of_promises_names_is_in_its_file() -> None:
    roots = (_ROOT, _ROOT / "backends", _ROOT / "migrations")
    named = re.findall(r"`([\w.]+)` in `([\w/]+\.py)`", (_ROOT / "RELIABILITY.md").read_text())
    assert named
    for function, file in named:
        (path,) = (root / file for root in roots if (root / file).exists())
        assert re.search(rf"\b{function.rpartition('.')[2]}\b", path.read_text()), f"{function} is not in {file}"
