"""What the tests of the commands share."""

from __future__ import annotations

import pytest

from iftb_store.cli import main


@pytest.fixture
def stored(sqlite_url: str) -> str:
    """URL of a migrated SQLite file without rows."""
    assert main(["migrate", sqlite_url]) == 0
    return sqlite_url
