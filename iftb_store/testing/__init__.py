"""The conformance suite: subclass `BackendConformance`, supply the fixture ``url``, and pytest checks your backend.

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mybackend:///{tmp_path}/store"

Needs ``pip install "iftb-store[testing]"``.
"""

from __future__ import annotations

import pkgutil

import pytest

# register all modules of this package: in a module that pytest does not rewrite, a failed assertion shows no values
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from iftb_store.testing.suite import BackendConformance  # noqa: E402 - pytest must know the modules before they are imported

__all__ = ["BackendConformance"]
