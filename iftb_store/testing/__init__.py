"""The conformance suite: subclass `BackendConformance`, supply the fixture ``url``, and pytest proves your backend.

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mybackend:///{tmp_path}/store"

Needs ``pip install "iftb-store[testing]"``.
"""

from __future__ import annotations

import pytest

_MODULES = (
    "app_sessions",
    "backups",
    "bars",
    "concurrency",
    "engines",
    "events",
    "fixtures",
    "gaps",
    "hostile",
    "hostile_values",
    "interrupting",
    "lifecycle",
    "machine",
    "model",
    "model_values",
    "places",
    "positions",
    "programmes",
    "properties",
    "raw",
    "running",
    "sessions",
    "statistics",
    "suite",
    "tasks",
    "trades",
    "values",
    "whole_rows",
)
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from iftb_store.testing.suite import BackendConformance  # noqa: E402 - pytest must know the modules before they are imported

__all__ = ["BackendConformance"]
