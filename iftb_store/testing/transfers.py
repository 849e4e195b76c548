"""Tests of transfers: copies into a backend and out of it, and verifications, with another database on the other side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    TradeRepository,
    Unsupported,
    URLError,
)
from iftb_store.batches.arrow import to_rows
from iftb_store.errors import MissingDriverError
from iftb_store.protocols import Capability
from iftb_store.registry import find_backend, get_stores
from iftb_store.schema.scope import TABLES, TableScope
from iftb_store.schema.table_spec import BARS, RowFilter
from iftb_store.testing.fixtures import SuiteFixtures, lacks, needs
from iftb_store.testing.samples import HOUR, LARGEST, SMALLEST, T0, bar, every_record, full_bar, full_trade, hourly
from iftb_store.transfer.copy import Copy
from iftb_store.transfer.verify import compare_stores

_RECORDS = tuple(name for name in TABLES if name != BARS.name)


async def fill(db: DatabaseManager) -> None:
    """Store bars of several series and, if the backend keeps them, a row of each table of records."""
    odd = bar(T0 + timedelta(microseconds=1), symbol="ODD", open=LARGEST, high=LARGEST, low=SMALLEST, timeframe="1m")
    await OHLCVRepository(db).insert_many([*hourly(30), full_bar(T0 + 100 * HOUR), bar(symbol="ETHUSDT", timeframe="1M"), odd])
    if Capability.RECORDS in db.capabilities:
        async with db.get_session() as session:
            for table, row in every_record():
                await get_stores(session).write_rows(table, to_rows(table, [row]))


async def read_bars(db: DatabaseManager) -> list[dict[str, Any]]:
    """Return every column of every bar except the id, which each store assigns itself."""
    async with db.get_session() as session:
        rows: list[dict[str, Any]] = (await get_stores(session).read_rows(RowFilter(BARS))).select(BARS.written).to_pylist()
    return rows


class TransferTests(SuiteFixtures):
    """A copy into the backend and a copy out of it store the rows of the source, and a verification confirms it.

    The other side is a SQLite file if SQLite's driver is installed, otherwise the database of the fixture ``second_url``.
    """

    @pytest_asyncio.fixture
    async def other(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DatabaseManager]:
        """A connected manager of another database with tables."""
        try:
            find_backend("sqlite")
            url = f"sqlite:///{tmp_path / 'other side.db'}"
        except (MissingDriverError, URLError):
            url = request.getfixturevalue("second_url")
        async with DatabaseManager(url) as manager:
            if url.startswith("sqlite:"):
                await manager.create_tables()
            else:
                await self.make_tables(manager)
            yield manager

    async def test_a_copy_into_the_backend_stores_the_rows_of_the_source(
        self, db: DatabaseManager, other: DatabaseManager
    ) -> None:
        await fill(other)
        report = await Copy(other, db).run()
        assert all(item.equal for item in report), "a copy must be equal to its source"
        assert await read_bars(db) == await read_bars(other), "a copy into the backend must keep every value and created_at"

    async def test_a_copy_out_of_the_backend_stores_its_rows(self, db: DatabaseManager, other: DatabaseManager) -> None:
        await fill(db)
        report = await Copy(db, other).run()
        assert all(item.equal for item in report), "a copy must be equal to its source"
        assert await read_bars(other) == await read_bars(db), "a copy out of the backend must keep every value and created_at"

    async def test_a_copy_verifies_as_equal_from_both_sides(self, db: DatabaseManager, other: DatabaseManager) -> None:
        await fill(db)
        await Copy(db, other).run()
        for source, destination in ((db, other), (other, db)):
            found = await compare_stores(source, destination)
            assert [item for item in found if not item.equal] == [], "equal rows must have equal checksums on every engine"
            assert sum(item.source.rows for item in found if item.table == BARS.name) == 33

    async def test_a_second_copy_writes_only_what_changed(self, db: DatabaseManager, other: DatabaseManager) -> None:
        for source, destination in ((db, other), (other, db)):
            if source is db:
                await fill(db)
            await Copy(source, destination).run()
            close = Decimal(50_001) if source is db else Decimal(50_002)
            later = T0 + (200 if source is db else 201) * HOUR
            await OHLCVRepository(source).upsert_many([replace(bar(T0), close=close), bar(later)])
            bars = [item for item in await Copy(source, destination).run() if item.inserted or item.updated]
            assert [(item.table, item.inserted, item.updated) for item in bars] == [(BARS.name, 1, 1)]
            assert await read_bars(destination) == await read_bars(source)

    async def test_a_verification_names_the_value_that_differs(self, db: DatabaseManager, other: DatabaseManager) -> None:
        await fill(other)
        await Copy(other, db).run()
        await OHLCVRepository(db).upsert_many([replace(hourly(3)[2], close=Decimal(50_007))])
        (wrong,) = [item for item in await compare_stores(other, db) if not item.equal]
        (difference,) = wrong.differences
        assert (difference.row["timestamp"], difference.column, difference.destination) == (T0 + 2 * HOUR, "close", 50_007)

    async def test_a_window_of_one_series_is_copied(self, db: DatabaseManager, other: DatabaseManager) -> None:
        await fill(other)
        scope = TableScope(["ohlcv"], ["binance"], ["BTCUSDT"], ["1h"], T0 + HOUR, T0 + 3 * HOUR)
        (dry,) = await Copy(other, db, scope).run(dry=True)
        assert (dry.inserted, await read_bars(db)) == (3, []), "a dry run must count the rows and write nothing"
        await Copy(other, db, scope).run()
        assert [row["timestamp"] for row in await read_bars(db)] == [T0 + number * HOUR for number in (1, 2, 3)]
        assert all(item.equal for item in await compare_stores(db, other, scope))

    async def test_bars_that_only_the_destination_has_are_deleted_if_wanted(
        self, db: DatabaseManager, other: DatabaseManager
    ) -> None:
        await fill(other)
        await Copy(other, db).run()
        await OHLCVRepository(db).insert_many([bar(T0 + 60 * HOUR)])
        assert sum(item.kept for item in await Copy(other, db).run()) == 1
        assert sum(item.deleted for item in await Copy(other, db, delete=True).run()) == 1
        assert await read_bars(db) == await read_bars(other)

    async def test_bars_are_copied_beside_bars_of_the_backend_s_own(self, db: DatabaseManager, other: DatabaseManager) -> None:
        await fill(other)
        await OHLCVRepository(db).insert_many([bar(symbol="OWN")])
        own = await read_bars(db)
        await Copy(other, db, TableScope(["ohlcv"])).run()
        assert [row for row in await read_bars(db) if row["symbol"] == "OWN"] == own
        assert [row for row in await read_bars(db) if row["symbol"] != "OWN"] == await read_bars(other)

    async def test_ids_assigned_after_a_copy_are_greater_than_all_copied_ids(
        self, db: DatabaseManager, other: DatabaseManager
    ) -> None:
        needs(db, Capability.RECORDS)
        needs(other, Capability.RECORDS)
        await fill(other)
        await Copy(other, db).run()
        (copied,) = await TradeRepository(db).get_recent()
        later = await TradeRepository(db).insert(replace(full_trade(), trade_id="LATER"))
        assert later > (copied.id or 0), "an id that the store assigns must be greater than every id written by write_rows"

    async def test_records_are_copied_too(self, db: DatabaseManager, other: DatabaseManager) -> None:
        needs(db, Capability.RECORDS)
        needs(other, Capability.RECORDS)
        await fill(db)
        report = await Copy(db, other).run()
        assert {item.table: item.inserted for item in report if item.table in _RECORDS} == dict.fromkeys(_RECORDS, 1)
        assert all(item.equal for item in await compare_stores(other, db))

    async def test_tables_that_the_backend_does_not_keep_are_left_out_and_reported(
        self, db: DatabaseManager, other: DatabaseManager
    ) -> None:
        lacks(db, Capability.RECORDS)
        await fill(other)
        assert (await Copy(other, db).run()).left_out == _RECORDS
        assert (await compare_stores(db, other)).left_out == _RECORDS

    @pytest.mark.parametrize("table", _RECORDS)
    async def test_a_table_that_the_backend_does_not_keep_is_refused_by_name(
        self, table: str, db: DatabaseManager, other: DatabaseManager
    ) -> None:
        lacks(db, Capability.RECORDS)
        await fill(other)
        for source, destination in ((db, other), (other, db)):
            with pytest.raises(Unsupported, match=f"keeps only bars, no {table}; .* PostgreSQL"):
                await Copy(source, destination, TableScope(["ohlcv", table])).run()
            with pytest.raises(Unsupported, match=f"keeps only bars, no {table}"):
                await compare_stores(source, destination, TableScope([table]))
        assert await read_bars(db) == []
