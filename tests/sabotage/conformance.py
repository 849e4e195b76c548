"""The conformance suite on the sabotaged backend; tests/test_sabotage.py runs it, pytest does not collect it by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iftb_store.testing import BackendConformance


class TestSabotaged(BackendConformance):
    time_limit = float(os.environ.get("IFTB_STORE_SABOTAGE_LIMIT", BackendConformance.time_limit))

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sabotage:///{tmp_path / 'store.db'}"
