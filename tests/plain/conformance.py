"""The conformance suite on the plain backend; tests/test_plain.py runs it, pytest does not collect it by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from iftb_store import DatabaseManager
from iftb_store.schema.tables import Base
from iftb_store.testing import BackendConformance


class TestPlain(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"plain:///{tmp_path / 'store.db'}"

    async def make_tables(self, db: DatabaseManager) -> None:
        engine = create_engine(f"sqlite:///{repr(db).partition('plain:///')[2].rstrip(chr(39) + ')')}")
        Base.metadata.create_all(engine)
        engine.dispose()
