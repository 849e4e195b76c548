"""Databases of past versions are upgraded with every value unchanged; tests/frozen has one per revision."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, text

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeRepository,
)
from iftb_store.abilities import SupportsMigrations
from iftb_store.doctor import examine
from iftb_store.registry import get_stores
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import COVERAGE, DIGESTS, RowFilter
from iftb_store.testing import raw
from iftb_store.testing.samples import bar, position, trade
from iftb_store.transfer.verify import compare_stores
from iftb_store_migrations import current, downgrade, revisions
from tests.frozen.record import exact_text, record_of
from tests.support.whole_rows import everything

_FROZEN = Path(__file__).parent / "frozen"
_REVISIONS = sorted(path.parent.name for path in _FROZEN.glob("*/rows.json"))
_ENGINES = ("sqlite", "duckdb", "postgresql")
_MOST_BYTES = 1_000_000
_COUNT = 50

Thaw = Callable[[str], str]
Records = list[dict[str, Any]]


@pytest.fixture(params=_REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    """Each revision with frozen databases."""
    name: str = request.param
    return name


@pytest.fixture
def thaw(revision: str, tmp_path: Path, request: pytest.FixtureRequest) -> Thaw:
    """Load a copy of the frozen database into its engine; return its URL."""

    def to_engine(engine: str) -> str:
        folder = _FROZEN / revision
        if engine == "postgresql":
            url: str = request.getfixturevalue("postgres_url")
            # line ends are part of the values
            asyncio.run(_load(url, (folder / "store.sql").read_bytes().decode()))
            return url
        name = {"sqlite": "store.db", "duckdb": "store.duckdb"}[engine]
        (tmp_path / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
        return f"{engine}:///{tmp_path / name}"

    return to_engine


@pytest.fixture(params=_ENGINES)
def frozen_url(request: pytest.FixtureRequest, thaw: Thaw) -> str:
    """URL of a copy of a frozen database, on each engine."""
    return thaw(request.param)


@pytest.fixture
def frozen_sqlite_url(thaw: Thaw) -> str:
    """URL of a copy of the frozen SQLite database."""
    return thaw("sqlite")


@pytest.fixture
def expected(revision: str) -> dict[str, Records]:
    """The rows of the frozen databases of a revision, by table."""
    recorded: dict[str, Records] = json.loads((_FROZEN / revision / "rows.json").read_text(encoding="utf-8"))["tables"]
    return recorded


async def _load(url: str, dump: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(dump)
    await connection.close()


def _of_users(expected: dict[str, Records]) -> list[str]:
    """Return the tables of users' data that the revision had."""
    return [table for table in TABLES if table in expected]


def _comparable(rows: list[Any], expected: Records) -> dict[int, str]:
    """Return rows by their id, in the columns that the revision had."""
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: exact_text({name: row[name] for name in expected[0]}) for row in rows}


def test_every_revision_has_frozen_databases() -> None:
    missing = set(revisions()) - set(_REVISIONS)
    assert missing == set(), "commit the revision, then make its databases: python -m tests.frozen.make"


def test_frozen_databases_of_a_revision_are_small(revision: str) -> None:
    assert sum(path.stat().st_size for path in (_FROZEN / revision).iterdir()) < _MOST_BYTES


def test_each_column_of_the_rows_varies_and_is_null_if_nullable(expected: dict[str, Records]) -> None:
    for table in (table for table in (*TABLES.values(), DIGESTS, COVERAGE) if table.name in expected):
        rows = expected[table.name]
        assert len(rows) == _COUNT
        for column in rows[0]:
            values = {exact_text({column: row[column]}) for row in rows}
            assert len(values) > 1, f"{table.name}.{column} has only one value"
            assert (None in [row[column] for row in rows]) is not table.is_required(column), f"{table.name}.{column}"


@pytest.mark.each_once
async def test_a_frozen_database_is_at_its_revision(frozen_url: str, revision: str, expected: dict[str, Records]) -> None:
    async with DatabaseManager(frozen_url) as db:
        status = await db.status()
    assert (status.revision, status.tables) == (revision, dict.fromkeys(_of_users(expected), _COUNT))


async def test_migrating_keeps_every_value(frozen_url: str, expected: dict[str, Records]) -> None:
    async with DatabaseManager(frozen_url) as db:
        await db.migrate()
        assert (await db.status()).state == "current"
        tables = await everything(db)
    for table in _of_users(expected):
        rows = [record_of(row) for row in tables[table]]
        assert _comparable(rows, expected[table]) == _comparable(expected[table], expected[table]), table


@pytest.mark.each_once
async def test_migrating_keeps_every_digest_and_what_was_asked_for(frozen_url: str, expected: dict[str, Records]) -> None:
    async with DatabaseManager(frozen_url) as db:
        await db.migrate()
        for table in (DIGESTS, COVERAGE):
            async with db.get_session() as session:
                rows = (await get_stores(session).read_rows(RowFilter(table))).to_pylist()
            stored = sorted(exact_text(record_of(row)) for row in rows)
            assert stored == sorted(map(exact_text, expected.get(table.name, [])))


@pytest.mark.each_once
async def test_columns_that_later_revisions_added_have_their_defaults(frozen_url: str, expected: dict[str, Records]) -> None:
    async with DatabaseManager(frozen_url) as db:
        await db.migrate()
        tables = await everything(db)
    for table in _of_users(expected):
        added: dict[str, Any] = {
            name: [] if name == "tags" else spec.default
            for name, spec in TABLES[table].specs.items()
            if name not in expected[table][0]
        }
        assert all({name: row[name] for name in added} == added for row in tables[table]), table


@pytest.mark.each_once
async def test_a_downgrade_to_each_revision_and_back_keeps_what_the_revision_has(frozen_url: str, revision: str) -> None:
    async with DatabaseManager(frozen_url) as db:
        connected = db.ability(SupportsMigrations).with_connection
        earlier_ones = revisions()[-2::-1]
        kept = {earlier: partial(_read_texts, columns=_columns_at(min(earlier, revision))) for earlier in earlier_ones}
        stored = {earlier: await connected(read) for earlier, read in kept.items()}
        await db.migrate()
        for earlier in earlier_ones:
            await connected(partial(downgrade, revision=earlier))
            assert await connected(current) == earlier
            assert await connected(kept[earlier]) == stored[earlier]
        await db.migrate()
        assert await connected(kept[earlier_ones[-1]]) == stored[earlier_ones[-1]]
        assert (await db.status()).state == "current"


def _columns_at(revision: str) -> dict[str, list[str]]:
    """Return the columns of each table of users' data at a revision."""
    recorded: dict[str, Records] = json.loads((_FROZEN / revision / "rows.json").read_text(encoding="utf-8"))["tables"]
    return {table: list(recorded[table][0]) for table in _of_users(recorded)}


def _read_texts(conn: Connection, columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the rows of each table as the engine's text."""
    rows: dict[str, list[str]] = {}
    for name, names in columns.items():
        shown = ", ".join(f"CAST({column} AS TEXT)" for column in names)
        rows[name] = [repr(row) for row in conn.execute(text(f"SELECT {shown} FROM {name} ORDER BY id"))]
    return rows


@pytest.mark.each_once
async def test_repositories_list_the_migrated_rows(frozen_url: str, expected: dict[str, Records]) -> None:
    async with DatabaseManager(frozen_url) as db:
        await db.migrate()
        bars, positions = OHLCVRepository(db), PositionRepository(db)
        markets = {row["exchange"] for row in expected["positions"]}
        lists: dict[str, list[Any]] = {
            "ohlcv": [
                row
                for item in await bars.list_series()
                for row in await bars.get_range(item.symbol, item.timeframe, item.first, item.last, item.exchange)
            ],
            "trades": await TradeRepository(db).get_recent(1_000),
            "positions": [row for market in markets for row in await positions.get_open_positions(market)],
            "system_events": await SystemEventRepository(db).get_recent_events(limit=1_000),
        }
    listed = {**expected, "positions": [row for row in expected["positions"] if row["status"] == "open"]}
    for table, items in lists.items():
        rows = [record_of(item) for item in items]
        assert _comparable(rows, expected[table]) == _comparable(listed[table], expected[table]), table


@pytest.mark.each_once
async def test_the_doctor_finds_no_error_in_a_migrated_database(frozen_url: str) -> None:
    async with DatabaseManager(frozen_url) as db:
        await db.migrate()
        findings = await examine(db)
    assert [finding for finding in findings if finding.severity == "error"] == []


@pytest.mark.each_once
async def test_new_rows_of_a_migrated_database_get_ids_past_the_stored_ones(
    frozen_url: str, expected: dict[str, Records]
) -> None:
    async with DatabaseManager(frozen_url) as db:
        await db.migrate()
        await OHLCVRepository(db).insert_many([bar(symbol="new")])
        await TradeRepository(db).insert(trade("new", symbol="new"))
        await PositionRepository(db).update_position(position(symbol="new"))
        await SystemEventRepository(db).log_event("new", "info", "", symbol="new")
        for table in ("ohlcv", "trades", "positions", "system_events"):
            number = await raw.value(db, f"SELECT id FROM {table} WHERE symbol = 'new'")
            assert number > max(row["id"] for row in expected[table])


@pytest.mark.each_once
@pytest.mark.parametrize("frozen_url", ["duckdb", "postgresql"], indirect=True)
async def test_verify_finds_the_migrated_databases_of_two_engines_equal(
    frozen_sqlite_url: str, frozen_url: str, expected: dict[str, Records]
) -> None:
    async with DatabaseManager(frozen_sqlite_url) as source, DatabaseManager(frozen_url) as destination:
        await source.migrate()
        await destination.migrate()
        parts = await compare_stores(source, destination)
    assert [part for part in parts if not part.equal] == []
    assert sum(part.source.rows for part in parts if part.table in TABLES) == _COUNT * len(_of_users(expected))
