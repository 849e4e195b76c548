"""The house's order: who may import whom, and how a scheme finds its backend."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from iftb_store import DatabaseManager, StoreError, URLError
from iftb_store.registry import GROUP, backend_for

_ROOT = Path(__file__).parent.parent
_BACKENDS = ("iftb_store_postgres", "iftb_store_sqlite", "iftb_store_duckdb")
_DRIVERS = ("aiosqlite", "asyncpg", "duckdb", "duckdb_engine", "pyarrow")
_OURS = ("iftb_store", "iftb_store_migrations", *_BACKENDS)


def _modules(*packages: str) -> list[Path]:
    folders = [_ROOT / parent / package for package in packages for parent in ("", "backends", "migrations")]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    """Yield every module and every name that a file imports, dotted, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _ours(path: Path) -> set[str]:
    return {name for name in _imports(path) if name.split(".")[0] in _OURS}


def test_nothing_of_the_sdk_imports_a_backend() -> None:
    imported = {name for path in _modules("iftb_store", "iftb_store_migrations") for name in _ours(path)}
    assert [name for name in imported if name.split(".")[0] in _BACKENDS] == []


@pytest.mark.parametrize("name", ["models", "errors"])
def test_models_and_errors_import_nothing_of_ours(name: str) -> None:
    assert _ours(_ROOT / "iftb_store" / f"{name}.py") == set()


def test_the_protocols_import_no_implementation() -> None:
    modules = {name.split(".")[1] for name in _ours(_ROOT / "iftb_store" / "protocols.py")}
    assert modules <= {"batches", "errors", "models", "schema"}


@pytest.mark.parametrize("backend", _BACKENDS)
def test_a_backend_imports_public_names_of_the_sdk_alone(backend: str) -> None:
    imported = {name for path in _modules(backend) for name in _ours(path) if not name.startswith(f"{backend}.")}
    assert [name for name in imported if not name.startswith("iftb_store.") or "._" in name] == []


def test_the_shipped_suite_is_imported_by_tests_alone() -> None:
    suite = _ROOT / "iftb_store" / "testing"
    imported = {name for path in _modules(*_OURS) if not path.is_relative_to(suite) for name in _ours(path)}
    assert [name for name in imported if name.startswith("iftb_store.testing")] == []


def test_importing_the_package_imports_no_driver() -> None:
    code = f"import sys, iftb_store, iftb_store.cli; print(sorted({set(_DRIVERS)} & sys.modules.keys()))"
    assert _python(code).stdout.strip() == "[]"


def test_every_scheme_is_found_through_the_entry_points() -> None:
    owners = {point.name: point.value.partition(":")[0] for point in entry_points(group=GROUP)}
    assert owners == {
        "postgresql": "iftb_store_postgres",
        "postgres": "iftb_store_postgres",
        "postgresql+asyncpg": "iftb_store_postgres",
        "sqlite": "iftb_store_sqlite",
        "sqlite+aiosqlite": "iftb_store_sqlite",
        "duckdb": "iftb_store_duckdb",
    }


@pytest.mark.parametrize(
    ("driver", "url", "extra"),
    [
        ("asyncpg", "postgresql://bot:hunter2@localhost/bot", "postgres"),
        ("aiosqlite", "sqlite:///:memory:", "sqlite"),
        ("duckdb", "duckdb:///:memory:", "duckdb"),
        ("pyarrow", "duckdb:///:memory:", "duckdb"),
    ],
)
def test_a_missing_driver_is_an_error_with_the_install_line(driver: str, url: str, extra: str) -> None:
    done = _python(f"import sys; sys.modules[{driver!r}] = None; import iftb_store; iftb_store.DatabaseManager({url!r})")
    assert done.stderr.splitlines()[-1] == (
        f"iftb_store.errors.MissingDriverError: the backend for {url.partition(':')[0]!r} needs the module {driver!r}, "
        f'which is not installed; run: pip install "iftb-store[{extra}]"'
    )
    assert "hunter2" not in done.stderr


def test_reading_arrow_without_pyarrow_is_an_error_with_the_install_line() -> None:
    code = (
        "import asyncio, sys; sys.modules['pyarrow'] = None; import iftb_store as s\n"
        "asyncio.run(s.OHLCVRepository(s.DatabaseManager('sqlite:///:memory:')).read_arrow())"
    )
    assert _python(code).stderr.splitlines()[-1] == (
        "iftb_store.errors.MissingDriverError: Arrow tables need the module pyarrow, which is not installed; "
        'run: pip install "iftb-store[arrow]"'
    )


def test_two_claimants_of_a_scheme_are_an_error_that_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "another-store", "sqlite = another_store:Backend")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        StoreError, match=r"'sqlite' is claimed by another_store:Backend \(another-store\) and iftb_store_sqlite:"
    ):
        backend_for("sqlite")


def test_a_strangers_backend_enters_by_the_same_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "another-store", "another = iftb_store_sqlite:SQLiteBackend")
    monkeypatch.syspath_prepend(tmp_path)
    assert backend_for("another") is backend_for("sqlite")


def test_an_unknown_scheme_is_an_error_that_names_the_installed_ones() -> None:
    with pytest.raises(URLError) as caught:
        DatabaseManager("mysql://bot:hunter2@localhost/bot")
    assert str(caught.value) == (
        "no backend is installed for the URL scheme 'mysql'; "
        "installed: duckdb, postgres, postgresql, postgresql+asyncpg, sqlite, sqlite+aiosqlite"
    )


def test_every_package_says_that_it_is_typed() -> None:
    packages = {path.parent for path in _modules(*_OURS) if path.name == "__init__.py" and path.parent.name in _OURS}
    assert {path.name for path in packages if (path / "py.typed").is_file()} == set(_OURS)


def _install(site: Path, distribution: str, entry_point: str) -> None:
    """Write the metadata that pip writes for a distribution with one entry point of our group."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_point}\n")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
