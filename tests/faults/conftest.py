"""Fixtures of the tests of faults: the tally of a test, written when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from tests.faults.tally import Tally


@pytest.fixture
def engine(url: str) -> str:
    """The name of the engine that this test runs on."""
    return make_url(url).get_backend_name()


@pytest.fixture(params=["sqlite", "duckdb"])
def file_engine(request: pytest.FixtureRequest) -> str:
    """The engines whose database is a file, in turn."""
    name: str = request.param
    return name


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> str:
    """The name of the fault: the module's, unless a test overrides it."""
    name: str = request.module.FAULT
    return name


@pytest.fixture
def tally(fault: str, engine: str) -> Iterator[Tally]:
    """The figures of the test's fault on its engine."""
    figures = Tally(fault, engine)
    yield figures
    figures.close()
