"""Rows that a PostgreSQL role may not see are never mistaken for absent: transfers and the doctor read all rows or fail."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository, SystemEventRepository, TradeRepository
from iftb_store.doctor import examine
from iftb_store.files.export import export_table
from iftb_store.schema.scope import TableScope
from iftb_store.transfer.backup import backup
from iftb_store.transfer.copy import Copy
from iftb_store.transfer.functions import restore
from iftb_store.transfer.verify import compare_stores
from tests.security.rows import ROWS, execute

Run = Callable[..., tuple[int, str, str]]

_HIDES = """
    ALTER TABLE trades ENABLE ROW LEVEL SECURITY;
    CREATE POLICY few ON trades USING (id <= 3)"""
_REFUSED = r"row-level security lets the role \w+ see only some of the rows of trades; .*BYPASSRLS"


@pytest.fixture
async def copied(owner: str, tmp_path: Path) -> str:
    """URL of a copy of all rows, in SQLite."""
    url = f"sqlite:///{tmp_path / 'copy.db'}"
    async with DatabaseManager(owner) as source, DatabaseManager(url) as destination:
        await destination.create_tables()
        await Copy(source, destination).run()
    return url


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def trades(url: str) -> int:
    async with DatabaseManager(url) as db:
        return len(await TradeRepository(db).get_recent(100))


async def copy(source: DatabaseManager, destination: DatabaseManager) -> Any:
    return await Copy(source, destination, delete=True).run()


async def compare(source: DatabaseManager, destination: DatabaseManager) -> Any:
    return await compare_stores(source, destination)


@pytest.mark.parametrize("work", [copy, compare])
@pytest.mark.parametrize("hides", ["source", "destination"])
async def test_hidden_rows_end_a_transfer_before_it_writes(
    owner: str, hidden: str, copied: str, work: Callable[[DatabaseManager, DatabaseManager], Awaitable[Any]], hides: str
) -> None:
    await execute(owner, _HIDES)
    assert await trades(hidden) == 3
    source, destination = (hidden, copied) if hides == "source" else (copied, hidden)
    async with DatabaseManager(source) as one, DatabaseManager(destination) as two:
        with pytest.raises(OperationalError, match=_REFUSED):
            await work(one, two)
    assert (await trades(owner), await trades(copied)) == (ROWS, ROWS)


async def test_the_command_copy_deletes_nothing_for_a_role_that_sees_a_part(
    owner: str, hidden: str, copied: str, run: Run
) -> None:
    await execute(owner, _HIDES)
    code, out, err = await asyncio.to_thread(run, "copy", hidden, copied, "--delete")
    assert (code, await trades(copied)) == (1, ROWS)
    assert re.search(_REFUSED, err)
    assert "verified" not in out


async def test_a_role_that_sees_a_part_makes_no_backup(owner: str, hidden: str, tmp_path: Path) -> None:
    await execute(owner, _HIDES)
    async with DatabaseManager(hidden) as db:
        with pytest.raises(OperationalError, match=_REFUSED):
            await backup(db, tmp_path / "bot.backup")
    assert names_in(tmp_path) == []


async def test_a_role_that_sees_a_part_restores_nothing(owner: str, hidden: str, tmp_path: Path) -> None:
    async with DatabaseManager(owner) as db:
        await backup(db, tmp_path / "bot.backup")
    await execute(owner, f"{_HIDES}; DELETE FROM ohlcv")
    async with DatabaseManager(hidden) as db:
        with pytest.raises(OperationalError, match=_REFUSED):
            await restore(tmp_path / "bot.backup", db, overwrite=True)
        assert await OHLCVRepository(db).get_latest("BTCUSDT", "1h", 1) == []


@pytest.mark.parametrize("symbols", [[], ["BTCUSDT"]])
async def test_a_role_that_sees_a_part_exports_nothing(owner: str, hidden: str, tmp_path: Path, symbols: list[str]) -> None:
    await execute(owner, _HIDES)
    async with DatabaseManager(hidden) as db:
        with pytest.raises(OperationalError, match=_REFUSED):
            await export_table(db, tmp_path / "trades.csv", table="trades", symbols=symbols)
    assert names_in(tmp_path) == []


async def test_a_table_without_policies_is_copied_by_the_same_role(owner: str, hidden: str, copied: str) -> None:
    await execute(owner, _HIDES)
    async with DatabaseManager(hidden) as one, DatabaseManager(copied) as two:
        (bars,) = await Copy(one, two, TableScope(["ohlcv"]), delete=True).run()
    assert (bars.source.rows, bars.deleted, bars.equal) == (ROWS, 0, True)


async def test_a_policy_that_comes_while_a_copy_runs_ends_it(owner: str, hidden: str, copied: str) -> None:
    async with DatabaseManager(hidden) as db:
        async with db.get_session() as session:
            await db._backend.require_whole(session, ["trades"], insert=False)  # type: ignore[attr-defined]
            await execute(owner, _HIDES)
            with pytest.raises(OperationalError, match='row-level security policy for table "trades"'):
                await session.execute(text("SELECT count(*) FROM trades"))
            await session.rollback()
        assert len(await TradeRepository(db).get_recent(100)) == 3


async def test_the_owner_is_refused_if_its_policies_are_forced(owner: str, hidden: str, reader: str, copied: str) -> None:
    await execute(owner, f"ALTER TABLE trades OWNER TO {reader}; {_HIDES}")
    async with DatabaseManager(hidden) as one, DatabaseManager(copied) as two:
        await copy(one, two)
        await execute(owner, "ALTER TABLE trades FORCE ROW LEVEL SECURITY")
        with pytest.raises(OperationalError, match=_REFUSED):
            await copy(one, two)


async def test_a_bot_under_policies_works_as_before(owner: str, hidden: str) -> None:
    await execute(owner, _HIDES)
    async with DatabaseManager(hidden) as db:
        await SystemEventRepository(db).log_event("tick", "info", "")
        assert {found.id for found in await TradeRepository(db).get_recent(100)} == {1, 2, 3}
        assert (await db.health()).healthy


async def test_the_doctor_reports_hidden_rows_and_examines_none(owner: str, hidden: str, run: Run) -> None:
    await execute(owner, f"UPDATE trades SET realized_pnl = 1; {_HIDES}")
    async with DatabaseManager(hidden) as db:
        found = {(finding.severity, finding.kind, finding.table) for finding in await examine(db)}
    assert found >= {("error", "row security", "trades"), ("note", "policies", "trades")}
    assert "open with realized_pnl" not in {kind for _, kind, _ in found}
    code, out, _ = await asyncio.to_thread(run, "doctor", hidden)
    assert code == 1
    assert "no row was examined" in out


async def test_the_doctor_reports_policies_that_hide_nothing_from_it(owner: str) -> None:
    await execute(owner, f"UPDATE trades SET realized_pnl = 1; {_HIDES}")
    async with DatabaseManager(owner) as db:
        found = {(finding.severity, finding.kind) for finding in await examine(db)}
    assert found >= {("note", "policies"), ("warning", "open with realized_pnl")}


async def test_status_names_the_tables_with_policies(owner: str, hidden: str, run: Run) -> None:
    await execute(owner, _HIDES)
    async with DatabaseManager(hidden) as db:
        state = await db.status()
    assert (state.policies, state.tables["trades"]) == (("trades",), 3)
    code, out, _ = await asyncio.to_thread(run, "status", hidden)
    assert code == 0
    assert "trades: row-level security; the counts include only the rows that this role can see" in out


@pytest.mark.parametrize("work", [copy, compare])
async def test_tables_that_a_role_may_not_read_are_named_before_anything_is_written(
    owner: str, hidden: str, reader: str, tmp_path: Path, work: Callable[[DatabaseManager, DatabaseManager], Awaitable[Any]]
) -> None:
    await execute(owner, f"REVOKE SELECT ON trades, positions FROM {reader}")
    async with DatabaseManager(hidden) as one, DatabaseManager(f"sqlite:///{tmp_path / 'empty.db'}") as two:
        await two.create_tables()
        with pytest.raises(
            OperationalError, match=f"may not read positions, trades; .*GRANT SELECT ON positions, trades TO {reader}"
        ):
            await work(one, two)
        assert set((await two.status()).tables.values()) == {0}


async def test_a_role_that_may_read_one_table_copies_that_one(owner: str, hidden: str, reader: str, copied: str) -> None:
    await execute(owner, f"REVOKE ALL ON trades, positions, system_events FROM {reader}")
    async with DatabaseManager(hidden) as one, DatabaseManager(copied) as two:
        (bars,) = await Copy(one, two, TableScope(["ohlcv"])).run()
    assert (bars.source.rows, bars.equal) == (ROWS, True)


async def test_a_destination_that_takes_no_rows_is_named_before_any_is_written(
    owner: str, hidden: str, reader: str, copied: str
) -> None:
    await execute(owner, f"DELETE FROM ohlcv; REVOKE INSERT ON system_events FROM {reader}")
    async with DatabaseManager(copied) as one, DatabaseManager(hidden) as two:
        with pytest.raises(OperationalError, match=f"GRANT INSERT ON system_events TO {reader}"):
            await copy(one, two)
        assert await OHLCVRepository(two).get_latest("BTCUSDT", "1h", 1) == []


async def test_status_and_the_doctor_name_what_a_role_may_not_read(owner: str, hidden: str, reader: str, run: Run) -> None:
    await execute(owner, f"REVOKE SELECT ON trades FROM {reader}")
    code, _, err = await asyncio.to_thread(run, "status", hidden)
    assert code == 1
    assert f"GRANT SELECT ON trades TO {reader}" in err
    async with DatabaseManager(hidden) as db:
        (finding,) = (finding for finding in await examine(db) if finding.kind == "select")
    assert (finding.severity, finding.statements) == ("error", (f"GRANT SELECT ON trades TO {reader}",))


async def test_a_right_to_every_column_is_as_good_as_one_to_the_table(owner: str, hidden: str, reader: str, copied: str) -> None:
    async with DatabaseManager(owner) as db, db.get_session() as session:
        found = await session.execute(
            text("SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = 'trades'::regclass AND attnum > 0")
        )
        columns = found.scalar_one()
    await execute(owner, f"REVOKE SELECT ON trades FROM {reader}; GRANT SELECT ({columns}) ON trades TO {reader}")
    async with DatabaseManager(hidden) as one, DatabaseManager(copied) as two:
        await copy(one, two)
