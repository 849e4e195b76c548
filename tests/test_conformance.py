"""The conformance suite on our three backends."""

from __future__ import annotations

import pytest

from iftb_store.testing import BackendConformance


class TestPostgres(BackendConformance):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestSQLite(BackendConformance):
    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url


class TestDuckDB(BackendConformance):
    @pytest.fixture
    def url(self, duckdb_url: str) -> str:
        return duckdb_url
