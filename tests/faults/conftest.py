"""What the tests of faults share: the tally of a test, written when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from tests.faults.tally import Tally


@pytest.fixture
def engine(url: str) -> str:
    """The name of the engine that this run of the test is about."""
    return make_url(url).get_backend_name()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """The figures of the fault that the module's FAULT names, on the test's engine."""
    name = request.getfixturevalue("engine")
    figures = Tally(request.module.FAULT, name)
    yield figures
    figures.close()
