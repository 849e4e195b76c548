"""The documents are correct: what they name exists, and what is generated is current."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, metadata
from pathlib import Path
from typing import Any

import pytest

from iftb_store.config import DatabaseSettings
from iftb_store.registry import GROUP
from tests.support.command_page import BEGIN, END, PICTURE, draw_terminal, write_commands
from tests.support.documents import DOCS, PAGES, ROOT, SET_UP, list_links, read_blocks
from tests.support.packages import install_example

_README = (ROOT / "README.md").read_text()
_COMMANDS = (DOCS / "command.md").read_text()
_URLS = (DOCS / "urls.md").read_text()
_SETUP = [block.text.strip() for block in read_blocks(ROOT / "README.md") if block.text.startswith(SET_UP)]


def test_the_readme_is_short() -> None:
    assert len(_README.splitlines()) <= 150


def test_the_set_up_is_two_commands_of_one_line_near_the_top() -> None:
    assert [len(command.splitlines()) for command in _SETUP] == [1, 1]
    assert _README.index(_SETUP[1]) < _README.index("```python")


def test_ci_calls_the_readme_s_command_for_the_tests() -> None:
    assert _SETUP[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_commands_page_is_current() -> None:
    written = _COMMANDS.partition(BEGIN)[2].partition(END)[0]
    assert written == write_commands(), "`python -m tests.support.command_page` writes the page anew"


def test_the_picture_of_the_terminal_is_current() -> None:
    assert PICTURE.read_text() == draw_terminal(), "`python -m tests.support.command_page` draws it anew"


def test_the_urls_page_names_every_scheme() -> None:
    assert [point.name for point in entry_points(group=GROUP) if f"`{point.name}`" not in _URLS] == []


def test_the_urls_page_names_every_variable() -> None:
    variables = [field.validation_alias or f"DB_{name.upper()}" for name, field in DatabaseSettings.model_fields.items()]
    assert [name for name in variables if f"`{name}`" not in _URLS] == []


@pytest.mark.full
def test_the_guide_s_comparison_with_the_model_passes_on_the_example_backend(tmp_path: Path) -> None:
    install_example(tmp_path)
    (model,) = (block.text for block in read_blocks(DOCS / "backends.md") if block.language == "python" and not block.title)
    (tmp_path / "test_model.py").write_text(model)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_model.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["docs/reliability.md", "SECURITY.md"])
def test_every_file_that_a_page_of_promises_names_is_there(page: str) -> None:
    folders = (ROOT, ROOT / "tests", ROOT / "tests" / "faults", ROOT / "backends")
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / page).read_text()))
    assert named
    assert {name for name in named if not any((folder / name).exists() for folder in folders)} == set()


def test_every_function_that_a_page_of_promises_names_is_in_its_file() -> None:
    roots = (ROOT, ROOT / "backends", ROOT / "migrations")
    named = re.findall(r"`([\w.]+)` in `([\w/]+\.py)`", (ROOT / "docs/reliability.md").read_text())
    assert named
    for function, file in named:
        (path,) = (root / file for root in roots if (root / file).exists())
        assert re.search(rf"\b{function.rpartition('.')[2]}\b", path.read_text()), f"{function} is not in {file}"


def test_every_include_of_a_page_names_a_file() -> None:
    # a formatter of the pages' Python once took the mark of an include for an expression
    lines = [(page.name, line.strip()) for page in PAGES for line in page.read_text().splitlines() if re.match(r" *-- ?8", line)]
    assert lines
    written = [(name, line, re.fullmatch(r'--8<-- "(.+)"', line)) for name, line in lines]
    assert [(name, line) for name, line, found in written if found is None or not (ROOT / found[1]).is_file()] == []


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    targets = [target for target in list_links(_README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).is_file()] == []


def test_every_link_of_the_package_s_description_leads_to_a_host() -> None:
    # the wheel's, from which an index makes the page of the package
    description: Any = metadata("iftb-store").get_payload()  # type: ignore[attr-defined]
    assert "## Set up" in description
    assert [target for target in list_links(description) if not target.startswith("https://")] == []


def test_the_source_distribution_has_every_file_that_the_readme_links_to() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    targets = [f"/{target}" for target in list_links(_README) if "://" not in target]
    assert [target for target in targets if not any(Path(target).is_relative_to(path) for path in included)] == []
