"""The conformance suite on the sabotaged backends; tests/test_sabotage.py runs it, pytest does not collect it by itself.

IFTB_STORE_SABOTAGES, if set, has the tests to run by the fault of the backend, and the engine on which it is based, in JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import asyncpg
import pytest
from sqlalchemy import make_url

from iftb_store.testing import BackendConformance
from iftb_store.testing.fixtures import SuiteFixtures
from iftb_store.testing.machine import compare_with_model

#: The name of the comparison with the model, beside the names of the suite's tests.
MODEL = "test_the_model"
_POSTGRES = os.environ.get("IFTB_STORE_SABOTAGE_POSTGRES", "")


class TestSabotaged(BackendConformance):
    time_limit = float(os.environ.get("IFTB_STORE_SABOTAGE_LIMIT", BackendConformance.time_limit))

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sabotage:///{tmp_path / 'store.db'}"


class SQLiteFixtures(SuiteFixtures):
    fault = "none"

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sabotage:///{tmp_path / 'store.db'}?fault={quote_plus(self.fault)}"

    @pytest.fixture
    def second_url(self, tmp_path: Path) -> str:
        (tmp_path / "second").mkdir()
        return f"sabotage:///{tmp_path / 'second' / 'store.db'}?fault={quote_plus(self.fault)}"

    @pytest.fixture
    def impatient_url(self, url: str) -> str:
        return f"{url}&timeout=0.01"


class PostgresFixtures(SuiteFixtures):
    fault = "none"

    @pytest.fixture
    def url(self) -> str:
        asyncio.run(empty(_POSTGRES))
        given = make_url(_POSTGRES).set(drivername="sabotagedpg").update_query_dict({"fault": self.fault})
        return given.render_as_string(hide_password=False)


async def empty(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()


def compare_with_the_model(self: object, tmp_path: Path) -> None:
    fault = quote_plus(type(self).fault)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    compare_with_model({"the backend": f"sabotage:///{tmp_path / 'store.db'}?fault={fault}"}, examples=40, steps=20)


def find_test(name: str) -> Any:
    """Return a test of the suite by its name, or the comparison with the model."""
    parts = (vars(part) for part in BackendConformance.__mro__)
    return compare_with_the_model if name == MODEL else next(part[name] for part in parts if name in part)


def make_class(fault: str, engine: str, tests: list[str]) -> type:
    """Return a test class with some tests of the suite, on the backend with a fault."""
    base: type = PostgresFixtures if engine == "postgresql" else SQLiteFixtures
    if MODEL in tests:
        base = object
    return type(f"Test {fault} on {engine}", (base,), {"fault": fault, **{name: find_test(name) for name in tests}})


if "IFTB_STORE_SABOTAGES" in os.environ:
    del TestSabotaged
    for _fault, _engine, _tests in json.loads(os.environ["IFTB_STORE_SABOTAGES"]):
        _class = make_class(_fault, _engine, _tests)
        globals()[_class.__name__] = _class
