"""The lines for notebooks of docs/notebooks.md run in a real kernel, whose event loop is running, and so do the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from iftb_store.cli import main
from tests.conftest import Run
from tests.support.documents import DOCS, read_blocks

# the blocks of the page's first section: the first stores the bars that the others read
_STORING, *_READING = read_blocks(DOCS / "notebooks.md")[:3]


def _run_cells(folder: Path, cells: list[str]) -> list[str]:
    """Run cells in a new kernel in a folder; return what each has printed."""
    # the kernel with the name python3 may be that of another environment
    where = "import sys; print(sys.executable)"
    kind: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    content = {
        "nbformat": 4,
        "nbformat_minor": 4,
        "metadata": {},
        "cells": [{**kind, "source": cell} for cell in (where, *cells)],
    }
    # nbformat has no types
    read: Any = nbformat.reads
    notebook = read(json.dumps(content), as_version=4)
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert printed[0].strip() == sys.executable
    return printed[1:]


@pytest.fixture(autouse=True)
def own_jupyter_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No files of the kernel outside the test's folder."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def test_the_page_s_cells_run_in_a_kernel_twice_on_fresh_data(tmp_path: Path) -> None:
    printed_before = [block.printed or "" for block in _READING]
    for hours, shown in ((24, printed_before), (12, ["2024-02-01 11:00:00+00:00 42611\n", "(11, "])):
        (tmp_path / "tour.db").unlink(missing_ok=True)
        fresh = _STORING.text.replace("range(24)", f"range({hours})")
        printed = _run_cells(tmp_path, [fresh, *(block.text for block in _READING)])[1:]
        assert [text[: len(start)] for text, start in zip(printed, shown, strict=True)] == shown


def test_a_command_runs_in_a_kernel(tmp_path: Path) -> None:
    cell = (
        "from iftb_store.cli import main\nprint(main(['migrate', 'sqlite:///bot.db']), main(['positions', 'sqlite:///bot.db']))"
    )
    (printed,) = _run_cells(tmp_path, [cell])
    assert printed.splitlines()[-1] == "0 0"


async def test_commands_run_where_a_loop_is_running(run: Run, url: str, tmp_path: Path) -> None:
    assert run("migrate", url)[0] == 0
    assert run("status", url)[0] == 0
    assert run("export", url, "-o", str(tmp_path / "bars.csv"))[0] in (0, 1)
    assert main(["demo", "--path", str(tmp_path / "demo")]) == 0
