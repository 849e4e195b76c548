"""The conformance suite on the backends that keep only bars; tests/test_bars_only.py runs it, pytest does not collect it."""

from __future__ import annotations

from pathlib import Path

import pytest

from iftb_store.testing import BackendConformance
from iftb_store.testing.machine import compare_with_model


class TestBarsOnly(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"barsonly:///{tmp_path / 'store.db'}"

    @pytest.fixture
    def second_url(self, tmp_path: Path) -> str:
        return f"barsonly:///{tmp_path / 'second.db'}"


def test_any_programme_of_bars_gives_what_the_model_gives(tmp_path: Path) -> None:
    compare_with_model({"bars only": f"barsonly:///{tmp_path / 'store.db'}"}, examples=30)
