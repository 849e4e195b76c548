"""A copy, a verification and a restore read a store of an older schema revision as it is, and a bot refuses to work on it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iftb_store import DatabaseManager, SchemaError, TradeRepository, Unsupported, copy, restore, verify
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import DIGESTS
from iftb_store.testing import raw
from tests.conftest import Run
from tests.frozen.record import exact_text, record_of
from tests.support.whole_rows import everything

_FROZEN = Path(__file__).parents[1] / "frozen"
_NEW = ("fills", "ledger_entries", "balance_snapshots")


@pytest.fixture(params=["0001", "0003"])
def revision(request: pytest.FixtureRequest) -> str:
    """An older revision."""
    name: str = request.param
    return name


@pytest.fixture(params=["store.db", "store.duckdb"])
def older(request: pytest.FixtureRequest, revision: str, tmp_path: Path) -> Path:
    """A file of a frozen database of the revision."""
    path: Path = tmp_path / request.param
    path.write_bytes(gzip.decompress((_FROZEN / revision / f"{request.param}.gz").read_bytes()))
    return path


def _url(path: Path) -> str:
    return f"{'duckdb' if path.suffix == '.duckdb' else 'sqlite'}:///{path}"


def _recorded(revision: str) -> dict[str, list[dict[str, Any]]]:
    recorded: dict[str, list[dict[str, Any]]] = json.loads((_FROZEN / revision / "rows.json").read_text("utf-8"))["tables"]
    return {table: rows for table, rows in recorded.items() if table != DIGESTS.name}


async def _assert_copied(db: DatabaseManager, expected: dict[str, list[dict[str, Any]]]) -> None:
    found = await everything(db)
    for table, rows in expected.items():
        specs = {name: spec for name, spec in TABLES[table].specs.items() if name not in rows[0]}
        defaults: dict[str, Any] = {name: [] if name == "tags" else spec.default for name, spec in specs.items()}
        assert all({name: row[name] for name in defaults} == defaults for row in found[table]), table
        # the ids of bars are the store's own
        kept = [name for name in rows[0] if table != "ohlcv" or name != "id"]
        one, two = (sorted(_text(row, kept) for row in side) for side in (found[table], rows))
        assert one == two, table
    assert all(found[table] == [] for table in _NEW)


def _text(row: dict[str, Any], names: list[str]) -> str:
    return exact_text(record_of({name: row[name] for name in names}))


@pytest.mark.each_once
@pytest.mark.parametrize("engine", ["sqlite", "duckdb", "postgres"])
async def test_a_copy_from_an_older_store_fills_in_the_defaults(
    older: Path, revision: str, engine: str, second: Callable[[str], str]
) -> None:
    # PostgreSQL's database is made by an event loop of its own
    url = await asyncio.to_thread(second, engine)
    async with DatabaseManager(_url(older)) as source, DatabaseManager(url) as destination:
        report = await copy(source, destination)
        assert report.left_out == _NEW
        await _assert_copied(destination, _recorded(revision))
        assert (await verify(source, destination)).equal
        again = await copy(source, destination)
        assert sum(part.inserted + part.updated for part in again.parts) == 0
        assert (await source.status()).revision == revision, "the source must stay as it is"


@pytest.mark.each_once
async def test_a_copy_from_an_older_store_merges_by_account(older: Path, second: Callable[[str], str]) -> None:
    async with DatabaseManager(_url(older)) as source, DatabaseManager(second("sqlite")) as destination:
        none = await copy(source, destination, accounts="bot-a")
        assert [part.source.rows for part in none.parts] == [0, 0, 0]
        await copy(source, destination, accounts="")
        counts = [await raw.count(destination, table) for table in ("ohlcv", "trades", "positions", "system_events")]
        assert counts == [0, 50, 50, 50]
        with pytest.raises(Unsupported, match=r"the source is at revision 000\d, which has no fills; migrate it first"):
            await copy(source, destination, tables="fills")


@pytest.mark.each_once
async def test_a_backup_of_an_older_revision_is_restored(older: Path, revision: str, second: Callable[[str], str]) -> None:
    async with DatabaseManager(second("sqlite")) as db:
        report = await restore(older, db)
        assert report.left_out == _NEW
        await _assert_copied(db, _recorded(revision))


@pytest.mark.each_once
async def test_the_bot_itself_refuses_an_older_store_before_and_after_a_copy(older: Path, second: Callable[[str], str]) -> None:
    async with DatabaseManager(_url(older)) as source, DatabaseManager(second("sqlite")) as destination:
        for _ in range(2):
            with pytest.raises(SchemaError, match=r"is at revision 000\d, which is older than .*migrate"):
                await TradeRepository(source).get_recent()
            await copy(source, destination)


@pytest.mark.each_once
async def test_an_older_destination_is_refused(older: Path, second: Callable[[str], str]) -> None:
    async with DatabaseManager(second("sqlite")) as source, DatabaseManager(_url(older)) as destination:
        await source.migrate()
        with pytest.raises(SchemaError, match="which is older than"):
            await copy(source, destination)


@pytest.mark.each_once
def test_the_command_reports_the_tables_that_the_older_store_lacks(older: Path, second: Callable[[str], str], run: Run) -> None:
    code, out, err = run("copy", _url(older), second("sqlite"))
    assert (code, err) == (0, "")
    assert "left out: fills, ledger_entries, balance_snapshots; SRC or DST does not keep them" in out
