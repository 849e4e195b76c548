"""The architecture: which module may import which, and how a scheme finds its backend."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from iftb_store import DatabaseManager, StoreError, URLError
from iftb_store.registry import GROUP, find_backend

_ROOT = Path(__file__).parent.parent
_BACKENDS = ("iftb_store_postgres", "iftb_store_sqlite", "iftb_store_duckdb", "iftb_store_lake")
_DRIVERS = ("aiosqlite", "asyncpg", "deltalake", "duckdb", "duckdb_engine", "pyarrow")
#: The packages of the SDK, lowest first: each imports only itself and those before it.
_ROOMS = (
    "_version", "errors", "_io", "values", "config", "url", "models", "schema", "batches", "health", "protocols", "abilities",
    "analytics", "registry",
    "standby", "measuring", "manager", "repositories", "transfer", "foreign", "files", "maintenance",
    "doctor", "html_report", "sync", "cli",
)  # fmt: skip
_PUBLIC = ("errors", "values", "models", "schema", "batches", "health", "protocols", "abilities", "relational", "columnar")
#: Exceptions from that order: packages beside it with all that they may import, or additional imports of a package.
_BESIDE = {
    "columnar": (*_ROOMS[: _ROOMS.index("abilities") + 1], "relational"),
    "relational": (*_ROOMS[: _ROOMS.index("abilities") + 1], "iftb_store_migrations"),
    "iftb_store_migrations": (*_ROOMS[: _ROOMS.index("health") + 1],),
    "doctor": ("iftb_store_migrations",),
    **dict.fromkeys(_BACKENDS, _PUBLIC),
}
#: The modules that a command runs, from the top.
_SCRIPTS = ("iftb_store_migrations.env",)
_OURS = ("iftb_store", "iftb_store_migrations", *_BACKENDS)


def _modules(*packages: str) -> list[Path]:
    folders = [_ROOT / parent / package for package in packages for parent in ("", "backends", "migrations")]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    """Yield every module and name that a file imports anywhere, dotted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _ours(path: Path) -> set[str]:
    return {name for name in _imports(path) if name.split(".")[0] in _OURS}


def _name(path: Path) -> str:
    parts = path.relative_to(_ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in ("backends", "migrations") else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(module: str) -> str:
    """Return the package of a module: a folder or a module of iftb_store, or another package."""
    package, *rest = module.split(".")
    return rest[0] if package == "iftb_store" and rest else package


def _edges() -> dict[str, set[str]]:
    """Return which module imports which, anywhere in the file."""
    modules = {_name(path): path for path in _modules(*_OURS)}
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        imported = _ours(path)
        edges[module] = {name if name in modules else name.rpartition(".")[0] for name in imported} & set(modules)
    return edges


def _find_cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return the modules of one cycle; empty if there is none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for imported in sorted(edges.get(module, ())):
            if found := visit(imported, [*way, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := visit(module, []))), [])


def _find_wrong_imports(edges: dict[str, set[str]]) -> list[str]:
    """Return the imports that the order of the packages does not allow."""
    wrong: list[str] = []
    for module, imported in edges.items():
        room = _room(module)
        allowed = {*_ROOMS[: _ROOMS.index(room) + 1], *_BESIDE.get(room, ())} if room in _ROOMS else _BESIDE.get(room)
        # the root exports the public names; the suite and the tests may use everything public
        if allowed is None or module in ("iftb_store", "iftb_store.__main__", *_SCRIPTS):
            continue
        wrong += [f"{module} imports {name}" for name in sorted(imported) if _room(name) not in {room, *allowed}]
    return wrong


def _find_duplicates(definitions: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: modules for name, modules in definitions.items() if len(modules) > 1}


def _definitions() -> dict[str, list[str]]:
    """Return the public names of the SDK's modules, each with the modules that define it."""
    found: dict[str, list[str]] = {}
    for path in _modules("iftb_store"):
        module = _name(path)
        if _room(module) in ("testing", "cli"):
            continue
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in names:
                # single letters are type variables; pc is pyarrow.compute, which has no types
                if not name.startswith("_") and len(name) > 1 and name != "pc":
                    found.setdefault(name, []).append(module)
    return found


def test_every_module_imports_only_packages_below_its_own() -> None:
    assert _find_wrong_imports(_edges()) == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("iftb_store_sqlite.backend", "iftb_store._io.tasks"),
        ("iftb_store_sqlite.backend", "iftb_store.manager"),
        ("iftb_store.schema.types", "iftb_store.batches.bars"),
        ("iftb_store.transfer.copy", "iftb_store.files.formats"),
        ("iftb_store.relational.sessions", "iftb_store.repositories.base"),
        ("iftb_store.models", "iftb_store.relational.sessions"),
    ],
)
def test_an_import_of_a_room_above_is_found(module: str, imported: str) -> None:
    assert _find_wrong_imports({module: {imported}}) == [f"{module} imports {imported}"]


def test_no_modules_import_each_other_in_a_cycle() -> None:
    assert _find_cycle(_edges()) == []


def test_a_cycle_that_is_added_is_found() -> None:
    edges = _edges()
    edges["iftb_store.models"].add("iftb_store.transfer.copy")
    assert "iftb_store.models" in _find_cycle(edges)


def test_a_public_name_is_defined_in_one_module() -> None:
    assert _find_duplicates(_definitions()) == {}


def test_a_public_name_that_is_defined_twice_is_found() -> None:
    definitions = _definitions()
    definitions["TableScope"].append("iftb_store.models")
    assert _find_duplicates(definitions) == {"TableScope": ["iftb_store.schema.scope", "iftb_store.models"]}


def test_the_shipped_suite_is_imported_only_by_tests() -> None:
    suite = _ROOT / "iftb_store" / "testing"
    imported = {name for path in _modules(*_OURS) if not path.is_relative_to(suite) for name in _ours(path)}
    assert [name for name in imported if name.startswith("iftb_store.testing")] == []


def test_duckdb_is_used_without_deltalake() -> None:
    code = "import sys, iftb_store; iftb_store.DatabaseManager('duckdb:///:memory:'); print('deltalake' in sys.modules)"
    assert _python(code).stdout.strip() == "False"


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
        "delta": "iftb_store_lake",
        "delta+s3": "iftb_store_lake",
    }


@pytest.mark.parametrize(
    ("driver", "url", "extra"),
    [
        ("asyncpg", "postgresql://bot:hunter2@localhost/bot", "postgres"),
        ("aiosqlite", "sqlite:///:memory:", "sqlite"),
        ("duckdb", "duckdb:///:memory:", "duckdb"),
        ("pyarrow", "duckdb:///:memory:", "duckdb"),
        ("deltalake", "delta:///lake", "lake"),
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
        StoreError, match=r"'sqlite' is registered by another_store:Backend \(another-store\) and iftb_store_sqlite:"
    ):
        find_backend("sqlite")


def test_a_strangers_backend_enters_by_the_same_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "another-store", "another = iftb_store_sqlite:SQLiteBackend")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_backend("another") is find_backend("sqlite")


def test_an_unknown_scheme_is_an_error_that_names_the_installed_ones() -> None:
    with pytest.raises(URLError) as caught:
        DatabaseManager("mysql://bot:hunter2@localhost/bot")
    assert str(caught.value) == (
        "no backend is installed for the URL scheme 'mysql'; "
        "installed: delta, delta+s3, duckdb, postgres, postgresql, postgresql+asyncpg, sqlite, sqlite+aiosqlite"
    )


def test_every_package_says_that_it_is_typed() -> None:
    packages = {path.parent for path in _modules(*_OURS) if path.name == "__init__.py" and path.parent.name in _OURS}
    assert {path.name for path in packages if (path / "py.typed").is_file()} == set(_OURS)


def _install(site: Path, distribution: str, entry_point: str) -> None:
    """Write the metadata that pip writes for a distribution with one entry point of iftb-store's group."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_point}\n")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
