"""The public functions for what the commands do: loaded at first use, documented, and their examples run."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import iftb_store
from iftb_store import DatabaseManager
from tests.support.filled import fill

_FUNCTIONS = ("backup", "copy", "examine", "export_table", "import_files", "restore", "verify")
_KLINE = "1706745660000,2.8350,2.8380,2.8320,2.8360,75272,1706745719999,213403.5590,513,32980,93511.3580,0\n"


def _section(function: Any, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:    .*\n?|\n)+)", f"{inspect.getdoc(function)}\n", re.MULTILINE)
    assert found is not None, f"{function.__name__} has no section {title}"
    return textwrap.dedent(found[1])


@pytest.fixture
def in_a_folder_with_a_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    Path("BTCUSDT-1m-2024-01.csv").write_text(_KLINE)


@pytest.mark.parametrize("name", _FUNCTIONS)
@pytest.mark.usefixtures("in_a_folder_with_a_dump")
async def test_the_example_of_a_function_runs(name: str, url: str, tmp_path: Path) -> None:
    await fill(url)
    example = _section(getattr(iftb_store, name), "Example")
    code = compile(example, f"<{name}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with DatabaseManager(url) as db, DatabaseManager(f"sqlite:///{tmp_path / 'other.db'}") as other:
        if name == "verify":
            await other.migrate()
        names = {each: getattr(iftb_store, each) for each in _FUNCTIONS}
        await eval(code, {**names, "db": db, "source": db, "destination": other})


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_every_parameter_of_a_function_is_described(name: str) -> None:
    function = getattr(iftb_store, name)
    described = re.findall(r"^(\w+): ", _section(function, "Args"), re.MULTILINE)
    assert described == list(inspect.signature(function).parameters)
    assert _section(function, "Returns")
    assert "InvalidValueError: " in _section(function, "Raises")


def test_every_public_name_can_be_imported() -> None:
    assert [name for name in iftb_store.__all__ if not hasattr(iftb_store, name)] == []
    with pytest.raises(AttributeError, match="module 'iftb_store' has no attribute 'absent'"):
        _ = iftb_store.absent


def test_the_functions_are_loaded_at_first_use_and_without_pyarrow() -> None:
    names = ", ".join(_FUNCTIONS)
    code = (
        "import sys, iftb_store; before = set(sys.modules)\n"
        "rooms = {name.split('.')[1] for name in before if name.startswith('iftb_store.')}\n"
        "assert not rooms & {'transfer', 'files', 'doctor'}, rooms\n"
        f"from iftb_store import {names}\n"
        "assert 'pyarrow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""


@pytest.mark.parametrize("call", ["copy(db, db)", "verify(db, db)", "restore('x', db)", "export_table(db, 'x.csv')"])
def test_without_pyarrow_a_function_says_what_to_install(call: str) -> None:
    code = (
        "import asyncio, sys; sys.modules['pyarrow'] = None; import iftb_store\n"
        "from iftb_store import copy, export_table, restore, verify\n"
        "async def main():\n"
        "    async with iftb_store.DatabaseManager('sqlite:///:memory:') as db:\n"
        f"        await {call}\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1].startswith("iftb_store.errors.MissingDriverError: Arrow tables need the module pyarrow")
