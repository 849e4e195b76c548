"""The conformance suite on the example backend: pip install -e 'examples/backend[test]' && pytest examples/backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from iftb_store.testing import BackendConformance


class TestMyBackend(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"mydb:///{tmp_path / 'store.db'}"
