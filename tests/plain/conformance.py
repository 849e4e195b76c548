"""The conformance suite on the plain backends; tests/test_third_party.py runs it, pytest does not collect it by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from iftb_store.testing import BackendConformance


class TestPlain(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"plain:///{tmp_path / 'store.db'}"


class TestPlainPostgres(BackendConformance):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return make_url(postgres_url).set(drivername="plainpg").render_as_string(hide_password=False)


class TestNaiveTimes(BackendConformance):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return make_url(postgres_url).set(drivername="naivepg").render_as_string(hide_password=False)
