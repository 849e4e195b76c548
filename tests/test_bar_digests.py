"""The table bar_digests on the three engines: values that cannot be read, the doctor and backups."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager, StoreError, SystemEventRepository
from iftb_store.abilities import SupportsMigrations
from iftb_store.doctor import examine
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import DIGESTS, RowFilter
from iftb_store.testing import raw
from iftb_store.transfer.backup import backup
from iftb_store_migrations import differences

_DAY = {"sqlite": "1704067200000000", "postgresql": "'2024-01-01 00:00:00+00'", "duckdb": "'2024-01-01 00:00:00+00'"}
_UNREADABLE = {"sqlite": "'soon'", "postgresql": "'infinity'", "duckdb": "'infinity'"}


async def store(db: DatabaseManager, url: str, checked_at: dict[str, str]) -> None:
    engine = make_url(url).get_backend_name()
    await raw.run(
        db,
        f"INSERT INTO bar_digests VALUES ('binance', 'BTCUSDT', '1h', {_DAY[engine]}, 24, '0f', {checked_at[engine]})",
    )


async def read(db: DatabaseManager, selection: RowFilter) -> int:
    async with db.get_session() as session:
        return int((await get_stores(session).read_rows(selection)).num_rows)


@pytest.mark.parametrize("equal", [{}, {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1h"}], ids=["all", "series"])
async def test_a_time_that_cannot_be_read_is_an_error_that_names_the_key(url: str, equal: dict[str, str]) -> None:
    async with DatabaseManager(url) as db:
        await db.migrate()
        await store(db, url, _UNREADABLE)
        with pytest.raises(StoreError, match=r"bar_digests: the checked_at of the row with the key 'binance BTCUSDT 1h .*delete"):
            await read(db, RowFilter(DIGESTS, equal))


async def test_the_doctor_examines_rows_although_the_table_is_missing(url: str) -> None:
    async with DatabaseManager(url) as db:
        await db.migrate()
        await SystemEventRepository(db).log_event("close", "info", "", trade_id="gone")
        await raw.run(db, "DROP TABLE bar_digests")
        found = [(finding.kind, finding.table) for finding in await examine(db)]
    assert found == [("table missing", "bar_digests"), ("event of an unknown trade", "system_events")]


async def test_a_backup_of_duckdb_has_the_table_without_its_rows(duckdb_url: str, tmp_path: Path) -> None:
    saved = tmp_path / "saved.duckdb"
    async with DatabaseManager(duckdb_url) as db:
        await db.migrate()
        await store(db, duckdb_url, _DAY)
        await backup(db, saved)
    async with DatabaseManager(f"duckdb:///{saved}") as db:
        assert await read(db, RowFilter(DIGESTS)) == 0
        assert await db.ability(SupportsMigrations).with_connection(differences) == []
