"""Tests of an installed wheel outside a checkout, without PostgreSQL's driver; `nox -s wheel` runs them there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import iftb_store
from iftb_store.testing import BackendConformance

_DRIVERS = "import sys, iftb_store; print(sorted({'aiosqlite', 'asyncpg', 'duckdb', 'pyarrow'} & sys.modules.keys()))"


class TestSQLite(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'store.db'}"


class TestDuckDB(BackendConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"duckdb:///{tmp_path / 'store.duckdb'}"


def test_the_package_is_the_installed_one() -> None:
    assert Path(iftb_store.__file__).is_relative_to(sys.prefix)


def test_importing_the_package_imports_no_driver() -> None:
    assert _run(sys.executable, "-c", _DRIVERS).stdout.strip() == "[]"


@pytest.mark.parametrize("scheme", ["sqlite", "duckdb"])
def test_migrate_makes_a_database_that_status_finds_current(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}:///{tmp_path / 'store.db'}"
    assert _command("migrate", url).returncode == 0
    assert _command("migrate", url).returncode == 0
    assert _command("status", url).returncode == 0


def test_a_missing_driver_gives_the_install_line() -> None:
    done = _command("status", "postgresql://bot:hunter2@localhost/bot")
    assert done.returncode == 1
    assert 'pip install "iftb-store[postgres]"' in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(str(Path(sys.executable).with_name("iftb-store")), *arguments)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)
