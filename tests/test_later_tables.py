"""What has the name of a table that a later revision creates, and positions that an earlier revision cannot hold."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

import iftb_store_migrations as migrations
from iftb_store import Base, DatabaseManager, SchemaError, SystemEventRepository, TradeRepository
from iftb_store.schema.revision import HEAD
from tests.support.schema_sql import ROW, run, scalars, sql


@pytest.mark.parametrize("table", ["bar_digests", "fills"])
async def test_a_table_of_the_app_with_the_name_of_a_later_table_is_left_as_it_is(url: str, table: str) -> None:
    await run(url, lambda conn: migrations.upgrade(conn, "0001"))
    await sql(url, f"CREATE TABLE {table} (note INTEGER)", f"INSERT INTO {table} VALUES (7)")

    with pytest.raises(SchemaError, match=f"something named {table} that is not iftb-store's view or table of this name"):
        await run(url, migrations.upgrade)

    assert await run(url, migrations.current) == "0001"
    assert await scalars(url, f"SELECT note FROM {table}") == [7]


@pytest.mark.parametrize("revision", [None, "0001", "0003"])
async def test_a_creation_of_the_tables_by_a_newer_version_does_not_hinder_the_migration(url: str, revision: str | None) -> None:
    older = revision or "0003"
    await run(url, lambda conn: migrations.upgrade(conn, older))
    await sql(url, ROW, *(["DROP TABLE iftb_store_version"] if revision is None else []))
    await run(url, Base.metadata.create_all)

    with pytest.raises(SchemaError, match=f"is at revision {older}, which is older than {HEAD} .*migrate"):
        await run(url, migrations.create)
    await run(url, migrations.upgrade)

    assert await run(url, migrations.differences) == []
    assert await scalars(url, "SELECT message FROM system_events") == ["kept"]


async def test_open_positions_of_two_accounts_forbid_the_downgrade(url: str) -> None:
    await run(url, migrations.upgrade)
    opened = "symbol, exchange, side, entry_price, quantity, margin, entry_time, status, leverage, account"
    value, moment = ("'a1'", "0") if url.startswith("sqlite") else ("1", "'2024-01-01 00:00:00+00'")
    row = f"'BTC', 'okx', 'long', {value}, {value}, {value}, {moment}, 'open', {value}"
    await sql(url, *(f"INSERT INTO positions ({opened}) VALUES ({row}, '{account}')" for account in ("a", "b")))

    with pytest.raises((IntegrityError, OperationalError)):
        await run(url, lambda conn: migrations.downgrade(conn, "0003"))

    assert await scalars(url, "SELECT account FROM positions ORDER BY account") == ["a", "b"]
    assert await run(url, migrations.differences) == []


@pytest.mark.parametrize("has_later_tables", [False, True])
async def test_older_tables_without_a_recorded_revision_are_refused_until_they_are_migrated(
    url: str, has_later_tables: bool
) -> None:
    await run(url, lambda conn: migrations.upgrade(conn, "0003"))
    await sql(url, ROW, "DROP TABLE iftb_store_version")
    if has_later_tables:
        await run(url, Base.metadata.create_all)

    async with DatabaseManager(url) as db:
        with pytest.raises(SchemaError, match=r"no recorded revision and are older than .*; run `iftb-store migrate"):
            await TradeRepository(db).get_open()
        await db.migrate()
        assert await TradeRepository(db).get_open() == []
        assert [event.message for event in await SystemEventRepository(db).get_recent_events()] == ["kept"]
