"""The public functions for what the commands do: loaded at first use, and without pyarrow a message."""

from __future__ import annotations

import subprocess
import sys

import pytest

import iftb_store

_FUNCTIONS = (
    "backup", "copy", "copy_from", "create_partitions", "examine", "export_table", "import_files", "list_partitions",
    "partition_bars", "prune", "report", "restore", "rollup", "verify",
)  # fmt: skip


def test_every_public_name_can_be_imported() -> None:
    assert [name for name in iftb_store.__all__ if not hasattr(iftb_store, name)] == []
    with pytest.raises(AttributeError, match="module 'iftb_store' has no attribute 'absent'"):
        _ = iftb_store.absent


def test_the_functions_are_loaded_at_first_use_and_without_pyarrow() -> None:
    names = ", ".join(_FUNCTIONS)
    code = (
        "import sys, iftb_store; before = set(sys.modules)\n"
        "rooms = {name.split('.')[1] for name in before if name.startswith('iftb_store.')}\n"
        "assert not rooms & {'transfer', 'files', 'maintenance', 'doctor', 'html_report'}, rooms\n"
        f"from iftb_store import {names}\n"
        "assert 'pyarrow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "call", ["copy(db, db)", "verify(db, db)", "restore('x', db)", "export_table(db, 'x.csv')", "prune(db, '1d', 'ohlcv')"]
)
def test_without_pyarrow_a_function_says_what_to_install(call: str) -> None:
    code = (
        "import asyncio, sys; sys.modules['pyarrow'] = None; import iftb_store\n"
        "from iftb_store import copy, export_table, prune, restore, verify\n"
        "async def main():\n"
        "    async with iftb_store.DatabaseManager('sqlite:///:memory:') as db:\n"
        f"        await {call}\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1].startswith("iftb_store.errors.MissingDriverError: Arrow tables need the module pyarrow")
