"""`iftb-store doctor`: every kind of fault, caused by raw SQL, is found and named, and its remedy fixes it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from sqlalchemy import Connection, make_url, text

from iftb_store import (
    BalanceRepository,
    DatabaseManager,
    FillRepository,
    LedgerRepository,
    OHLCVBar,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    Timeframe,
    TradeRepository,
)
from iftb_store.abilities import SupportsMigrations
from iftb_store.cli import main
from iftb_store.doctor import Finding, examine_rows
from iftb_store.doctor import examine as examine_store
from iftb_store.doctor.sqlite_decimals import AS_SORTABLE, AS_SORTABLE_NEGATIVE, PLAIN, PLAIN_NEGATIVE, UNSORTABLE
from iftb_store.schema.types import to_epoch_us
from iftb_store.testing.samples import T0, balance, ledger_entry, position, trade
from iftb_store.testing.samples import fill as sample_fill
from iftb_store.values.decimals import format_plain, to_sortable
from tests.cli.test_cli_health import read_only
from tests.support.doctor_faults import BAR, CASES, ENGINES, TWICE, Case

Execute = Callable[[str], None]

HOURS = 10


def calm(timestamp: datetime, timeframe: Timeframe = "1h", **changes: Any) -> OHLCVBar:
    """Return a valid bar."""
    prices = (Decimal("100.5"), Decimal("101.25"), Decimal("99.75"), Decimal(100))
    return replace(OHLCVBar("BTCUSDT", "binance", timeframe, timestamp, *prices, Decimal("7.5")), **changes)


async def fill(url: str) -> None:
    """Create a healthy database with rows in every table; T0 is a Monday and the first of a month."""
    async with DatabaseManager(url) as db:
        await db.migrate()
        # the first ids are theirs
        await OHLCVRepository(db).insert_many([calm(T0 + timedelta(hours=hour)) for hour in range(HOURS)])
        await OHLCVRepository(db).insert_many(
            [
                *(calm(T0 - timedelta(weeks=3000) + timedelta(weeks=week), "1w") for week in range(3)),
                *(calm(T0.replace(month=month), "1M") for month in (1, 2, 3)),
                *(calm(T0 + timedelta(days=3 * step), "3d") for step in range(3)),
            ]
        )
        for number in (1, 2, 3):
            await TradeRepository(db).insert(trade(f"T-{number}", symbol=f"S{number}"))
            await PositionRepository(db).update_position(position(trade_id=f"T-{number}", symbol=f"S{number}"))
            await SystemEventRepository(db).log_event("opened", "info", "", details={"n": 1}, trade_id="T-1", position_id=1)
        numbers = (1, 2, 3)
        await FillRepository(db).record_many([sample_fill(f"F-{number}", symbol="S1", trade_id="T-1") for number in numbers])
        await LedgerRepository(db).record_many([ledger_entry(f"L-{number}", trade_id="T-2") for number in numbers])
        await BalanceRepository(db).record_many([balance(timestamp=T0 + timedelta(hours=hour)) for hour in numbers])
        await TradeRepository(db).update(
            3, action="close", exit_price=Decimal(1), exit_time=T0 + timedelta(hours=1), realized_pnl=Decimal("-1.5")
        )
        await PositionRepository(db).close_position(3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A healthy database file of each engine that has files."""
    folder = tmp_path_factory.mktemp("healthy")
    made = {engine: folder / f"store.{engine}" for engine in ("sqlite", "duckdb")}
    for engine, path in made.items():
        asyncio.run(fill(f"{engine}:///{path}"))
    return made


@dataclass
class Store:
    """A healthy database, and a function that runs a statement in it without the code under test."""

    engine: str
    url: str
    execute: Execute

    def written(self, statement: str) -> str:
        """Return a statement with ``{dec:1.5}`` and ``{time:2024-01-01}`` in this engine's format."""
        return statement.format(dec=_Decimals(self.engine), time=_Times(self.engine))


class _Decimals:
    def __init__(self, engine: str) -> None:
        self.engine = engine

    def __format__(self, digits: str) -> str:
        return f"'{to_sortable(digits)}'" if self.engine == "sqlite" else digits


class _Times(_Decimals):
    def __format__(self, moment: str) -> str:
        return str(to_epoch_us(datetime.fromisoformat(f"{moment}+00:00"))) if self.engine == "sqlite" else f"'{moment}+00'"


@pytest.fixture
def stores(request: pytest.FixtureRequest, files: dict[str, Path], tmp_path: Path) -> Callable[[str], Store]:
    """Make a healthy database on an engine."""

    def made(engine: str) -> Store:
        if engine == "postgres":
            url: str = request.getfixturevalue("postgres_url")
            asyncio.run(fill(url))
            return Store(engine, url, request.getfixturevalue("postgres_database")[1])
        path = tmp_path / "store.db"
        shutil.copyfile(files[engine], path)
        return Store(engine, f"{engine}:///{path}", _in_sqlite(path) if engine == "sqlite" else _in_duckdb(path))

    return made


def _in_sqlite(path: Path) -> Execute:
    def execute(statement: str) -> None:
        connection = sqlite3.connect(path)
        connection.executescript(statement)
        connection.close()

    return execute


def _in_duckdb(path: Path) -> Execute:
    def execute(statement: str) -> None:
        with duckdb.connect(path) as connection:
            # nothing runs before a fetch
            connection.execute(statement).fetchall()

    return execute


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, stores: Callable[[str], Store]) -> Store:
    """A healthy database on each engine in turn."""
    return stores(request.param)


def examine(url: str) -> list[Finding]:
    async def found() -> list[Finding]:
        async with DatabaseManager(url) as db:
            return await examine_store(db)

    return asyncio.run(found())


def kinds(findings: Sequence[Finding]) -> set[tuple[str, str, str]]:
    return {(finding.severity, finding.kind, finding.table) for finding in findings}


@pytest.mark.parametrize(
    ("case", "engine"),
    [
        # `nox -s tests` looks for each fault on one engine
        pytest.param(case, engine, id=f"{case}-{engine}", marks=[pytest.mark.full] if place != number % len(case.engines) else [])
        for number, case in enumerate(CASES)
        for place, engine in enumerate(case.engines)
    ],
)
def test_a_fault_is_found_and_its_remedy_fixes_it(stores: Callable[[str], Store], case: Case, engine: str) -> None:
    store = stores(engine)
    store.execute(store.written(case.faults))

    found = examine(store.url)

    assert case.found in kinds(found)
    (finding, *_) = [one for one in found if (one.severity, one.kind, one.table) == case.found and case.where in (one.where, "")]
    assert case.rows in (finding.rows, ())
    if case.is_fixed:
        run_remedies(store, found)
        left = examine(store.url)
        assert case.found not in kinds(left)
        assert [one for one in left if one.statements] == []


def run_remedies(store: Store, found: Sequence[Finding]) -> None:
    for finding in found:
        for statement in finding.statements:
            store.execute(statement)


def test_a_healthy_database_has_nothing_wrong(store: Store) -> None:
    assert examine(store.url) == []


def test_nothing_is_changed(store: Store) -> None:
    store.execute(store.written("UPDATE trades SET realized_pnl = {dec:1} WHERE id = 1"))
    store.execute("DELETE FROM ohlcv WHERE id = 3")
    before = asyncio.run(contents(store.url))

    assert examine(store.url) != []

    assert asyncio.run(contents(store.url)) == before


@pytest.mark.parametrize("engine", ["sqlite", "duckdb"])
def test_a_file_that_may_only_be_read_is_examined_and_keeps_its_bytes(stores: Callable[[str], Store], engine: str) -> None:
    store = stores(engine)
    store.execute("DELETE FROM ohlcv WHERE id = 3")
    path = Path(str(make_url(store.url).database))
    before = path.read_bytes()

    found = examine(read_only(store.url))

    assert [finding.kind for finding in found] == ["holes"]
    assert path.read_bytes() == before


def test_rows_are_examined_in_a_snapshot_and_nothing_is_written(stores: Callable[[str], Store]) -> None:
    asked = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"

    def examined(conn: Connection) -> tuple[Any, ...]:
        examine_rows(conn)
        return tuple(conn.execute(text(asked)).one())

    store = stores("postgres")

    async def run() -> tuple[Any, ...]:
        async with DatabaseManager(store.url) as db:
            return await db.ability(SupportsMigrations).with_connection(examined, read_only=True)

    assert asyncio.run(run()) == ("repeatable read", "on")


def test_many_rows_are_counted_few_are_named_and_all_are_fixed(store: Store) -> None:
    async def write() -> None:
        async with DatabaseManager(store.url) as db:
            minute = timedelta(minutes=1)
            await OHLCVRepository(db).insert_many([calm(T0 + (index + 0.5) * minute, "1m") for index in range(60)])

    asyncio.run(write())

    (finding,) = examine(store.url)

    assert (finding.kind, finding.count, len(finding.rows)) == ("off the grid", 60, 5)
    assert len(finding.statements[0]) < 300
    run_remedies(store, [finding])
    assert examine(store.url) == []


def test_a_statement_names_any_symbol_and_can_be_printed(store: Store) -> None:
    symbol = "O'Brien \N{SNOWMAN} \\n; -- \x1b[31m\t:symbol %s {0} ?"

    async def write() -> None:
        async with DatabaseManager(store.url) as db:
            half = timedelta(minutes=30)
            bars = [calm(T0 + half + timedelta(hours=hour), symbol=symbol) for hour in range(51)]
            await OHLCVRepository(db).insert_many(bars)

    asyncio.run(write())
    if store.engine == "duckdb":
        store.execute(f"INSERT INTO ohlcv ({BAR}) SELECT {BAR} FROM ohlcv WHERE symbol LIKE 'O%'")

    found = examine(store.url)

    assert {finding.kind for finding in found} == {"off the grid"} | ({"duplicate bars"} if store.engine == "duckdb" else set())
    assert {len(finding.rows) for finding in found} == {5}
    assert all(statement.isprintable() for finding in found for statement in finding.statements)
    run_remedies(store, found)
    assert examine(store.url) == []


def test_only_the_duplicate_is_deleted_if_all_ids_are_equal(stores: Callable[[str], Store]) -> None:
    store = stores("duckdb")
    before = asyncio.run(contents(store.url))
    store.execute(f"{TWICE.format('ohlcv', BAR)}; UPDATE ohlcv SET id = 7")

    run_remedies(store, examine(store.url))

    assert len(asyncio.run(contents(store.url))[0]) == len(before[0])
    assert examine(store.url) == []


def test_a_series_whose_name_is_no_utf_8_is_reported(stores: Callable[[str], Store]) -> None:
    store = stores("sqlite")
    store.execute("UPDATE ohlcv SET symbol = CAST(x'ff41' AS TEXT), timestamp = timestamp + 1 WHERE id = 3")

    off_grid = [finding for finding in examine(store.url) if finding.kind == "off the grid"]

    assert [finding.where for finding in off_grid] == [r"binance \xffA 1h"]


def test_unreadable_values_are_fixed_before_values_are_compared(stores: Callable[[str], Store]) -> None:
    store = stores("sqlite")
    # as text '9' is above 'c100.5', as a number it is not
    store.execute("UPDATE ohlcv SET high = '9' WHERE id = 3")

    assert [finding.kind for finding in examine(store.url)] == ["plain decimal"]

    run_remedies(store, examine(store.url))
    assert {finding.kind for finding in examine(store.url)} == {"high below low"}


def test_a_database_without_tables_must_be_migrated(url: str) -> None:
    async def found() -> list[Finding]:
        async with DatabaseManager(url) as db:
            return await examine_store(db)

    (finding,) = asyncio.run(found())

    assert (finding.severity, finding.kind) == ("error", "schema")
    assert "`iftb-store migrate URL`" not in finding.remedy
    assert "`iftb-store migrate " in finding.remedy


@pytest.fixture(scope="module")
def sqlite() -> Iterator[Callable[[str, object], Any]]:
    """Evaluate SQLite expressions of one value ``v``."""
    connection = sqlite3.connect(":memory:")

    def reckon(sql: str, value: object) -> Any:
        return connection.execute(f"SELECT {sql.format('v')} FROM (SELECT ? AS v)", (value,)).fetchone()[0]

    yield reckon
    connection.close()


_DIGITS = [
    "0",
    "1",
    "-1",
    "1.5",
    "-1.5",
    "-0.5",
    "10",
    "-10",
    "99",
    "-99",
    "-90",
    "0.000000000000000001",
    "-0.000000000000000001",
    "12345678901234567890",
    "-99.9",
]
_LARGEST = ["99999999999999999999.999999999999999999", "-99999999999999999999.999999999999999999"]


@pytest.mark.parametrize("digits", [*_DIGITS, *_LARGEST])
def test_plain_digits_become_the_sortable_text_that_python_makes(sqlite: Callable[[str, object], Any], digits: str) -> None:
    is_negative = sqlite(PLAIN_NEGATIVE, digits)
    assert (sqlite(PLAIN, digits), is_negative) == (not digits.startswith("-"), digits.startswith("-"))
    sortable = to_sortable(digits)
    assert sqlite(AS_SORTABLE_NEGATIVE if is_negative else AS_SORTABLE, digits) == sortable
    assert (sqlite(UNSORTABLE, digits), sqlite(UNSORTABLE, sortable)) == (1, 0)


@pytest.mark.parametrize("digits", ["01.50", "-0", "-0.0", ".5", "5.", "000", "-.50", "-007"])
def test_digits_written_carelessly_become_sortable_too(sqlite: Callable[[str, object], Any], digits: str) -> None:
    sortable = AS_SORTABLE_NEGATIVE if sqlite(PLAIN_NEGATIVE, digits) else AS_SORTABLE
    assert sqlite(sortable, digits) == to_sortable(format_plain(Decimal(digits)) or "")


_NOT_SORTABLE = [
    *("", "a", "b1", "a12", "b05", "a1.50", "a1.", "a1.5.5", "T8.4", "T9~", "T9.9~", "S98~", "S91~x", "a-1", "u1", "A"),
    *("a1.0000000000000000001", "T8.49~", "T8.~", "b1.2", "NaN", "~", "a 1", "a1 ", "Infinity", "1e5", 1.5, b"a1", 7),
]


@pytest.mark.parametrize("value", _NOT_SORTABLE)
def test_what_is_no_sortable_text_is_found(sqlite: Callable[[str, object], Any], value: object) -> None:
    assert sqlite(UNSORTABLE, value) == 1


@pytest.mark.parametrize(
    "value", ["", "-", ".", "1e5", "1-5", "--5", "1.2.3", "NaN", "1" + "0" * 20, "1." + "0" * 18 + "1", " 1", "a1"]
)
def test_what_is_no_plain_decimal_is_not_made_one(sqlite: Callable[[str, object], Any], value: str) -> None:
    assert not sqlite(PLAIN, value)
    assert not sqlite(PLAIN_NEGATIVE, value)


def test_the_command_says_that_nothing_is_wrong(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", store.url]) == 0
    assert capsys.readouterr().out == "no problems found\n"


def test_the_demo_leaves_nothing_wrong_but_the_gap_that_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--path", str(tmp_path / "demo")]) == 0
    capsys.readouterr()

    url = f"sqlite:///{tmp_path / 'demo' / 'demo.db'}"
    assert main(["doctor", url]) == 0

    out = capsys.readouterr().out
    assert f"`iftb-store gaps {url} BTCUSDT 1m --exchange binance`" in out
    assert out.endswith("no problems found; 1 note\n")


@pytest.fixture
def ill(stores: Callable[[str], Store]) -> Store:
    """A database with an error and a warning."""
    store = stores("sqlite")
    store.execute("UPDATE ohlcv SET close = '100' WHERE id = 3; UPDATE ohlcv SET timestamp = timestamp - 1 WHERE id = 10")
    return store


def test_the_command_shows_the_finding_then_its_rows_its_remedy_and_its_statement(
    ill: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", ill.url]) == 1

    head, first, rows, remedy, statement, *_, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["severity", "finding", "where", "count"]
    assert first.split() == ["error", "plain", "decimal", "ohlcv", "close", "1"]
    assert rows.strip() == "at binance BTCUSDT 1h 2024-01-01 02:00:00"
    assert "sortable text" in remedy
    assert statement.startswith("UPDATE ohlcv SET close = ")
    assert statement.endswith(" WHERE id = 3;")
    assert last == "1 error, 1 warning"


def test_json_holds_what_the_table_says(ill: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", ill.url, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["severity"], one["kind"], one["count"]) for one in found] == [
        ("error", "plain decimal", 1),
        ("warning", "off the grid", 1),
    ]
    assert found[1]["statements"] == ["DELETE FROM ohlcv WHERE id = 10"]


def test_quiet_reports_only_by_the_exit_code(ill: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", ill.url, "--quiet"]) == 1
    assert capsys.readouterr() == ("", "")


async def contents(url: str) -> list[Any]:
    """Return every row, and the catalog."""
    catalogs = {
        "postgresql": (
            "SELECT oid, relname, relfilenode, relkind FROM pg_class ORDER BY oid",
            "SELECT * FROM pg_sequences ORDER BY sequencename",
            "SELECT oid, nspname FROM pg_namespace ORDER BY oid",
        ),
        "sqlite": ("SELECT * FROM sqlite_master", "PRAGMA data_version"),
        "duckdb": (
            "SELECT sql FROM duckdb_tables()",
            "SELECT sql FROM duckdb_indexes()",
            "SELECT sequence_name, last_value FROM duckdb_sequences()",
        ),
    }
    reads = [f"SELECT CAST(t AS text) FROM {table} t ORDER BY id" for table in ("ohlcv", "trades", "positions", "system_events")]
    engine = make_url(url).get_backend_name()
    if engine == "sqlite":
        reads = [read.replace("CAST(t AS text)", "*") for read in reads]
    async with DatabaseManager(url) as db, db.get_session() as session:
        return [(await session.execute(text(sql))).all() for sql in (*reads, *catalogs[engine])]
