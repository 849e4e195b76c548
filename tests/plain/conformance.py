"""The conformance suite on the plain backend; tests/test_plain.py runs it, pytest does not collect it by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from iftb_store.testing import BackendConformance


class TestPlain(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"plain:///{tmp_path / 'store.db'}"
