"""Backends written by the guide pass the suite: the example package, and two for SQL with few features."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.packages import install_example, run_suite

_ROOT = Path(__file__).parent.parent
_PLAIN = _ROOT / "tests/plain/iftb_store_plain.py"
_EXAMPLE = _ROOT / "examples/backend/iftb_store_mydb.py"
# what `nox -s tests` runs of the suite on each; `nox -s full` runs all of it
_SOME = (
    "-k",
    "(upsert or copy or copied or verif or digest) and not (hostile or test_any_ or task or 000 or 10001 or stored_batch"
    " or same_bars or every_bar or large_upsert or overwrites_stored or opposite or sparse_batch or awkward)",
)
_ALL = ("-n", "2")


@pytest.mark.parametrize(
    "chosen", [_SOME, pytest.param(_ALL, marks=[pytest.mark.full, pytest.mark.timeout(3_600)])], ids=["some", "all"]
)
def test_the_example_backend_passes_the_suite(chosen: tuple[str, ...], tmp_path: Path) -> None:
    install_example(tmp_path)
    done = run_suite(tmp_path, "examples/backend/test_mydb.py", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "chosen", [_SOME, pytest.param(_ALL, marks=[pytest.mark.full, pytest.mark.timeout(3_600)])], ids=["some", "all"]
)
def test_backends_for_sql_with_few_features_pass_the_suite(chosen: tuple[str, ...]) -> None:
    done = run_suite(_PLAIN.parent, "tests/plain/conformance.py", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("backend", "lines"), [(_PLAIN, 200), (_EXAMPLE, 60)], ids=["plain", "example"])
def test_a_backend_by_the_guide_is_short(backend: Path, lines: int) -> None:
    assert sum(bool(line.strip()) for line in backend.read_text().splitlines()) <= lines


@pytest.mark.parametrize("backend", [_PLAIN, _EXAMPLE], ids=["plain", "example"])
def test_a_backend_by_the_guide_imports_no_private_name(backend: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(backend.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{name.name}" for node in imports for name in node.names if (node.module or "").startswith("iftb_")]
    assert names
    assert [name for name in names if any(part.startswith("_") for part in name.split("."))] == []
