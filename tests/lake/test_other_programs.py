"""What another program that knows Delta does to a lake: bars stored twice or without a partition, features, damage."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, TableFeatures, write_deltalake
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.doctor import examine
from iftb_store.models import UpsertReport
from iftb_store.testing import raw
from iftb_store.testing.rows import add, read_names
from iftb_store.testing.samples import HOUR, T0, hourly
from iftb_store_lake.layout import PART
from tests.lake.test_compaction import compact, fill

_BARS = 5
_LAST = T0 + (_BARS - 1) * HOUR


def folder_of(url: str) -> Path:
    return Path(str(make_url(url).database))


async def store(db: DatabaseManager, url: str, part: str | None = "binance.1h.2024") -> None:
    """Let another program store five bars, with ids of its own."""
    rows = await read_rows(db)
    ids: Any = pc.add(rows["id"], 1_000)
    fresh = rows.set_column(rows.schema.get_field_index("id"), "id", ids)
    write_deltalake(folder_of(url), fresh.append_column(PART, pa.array([part] * _BARS, pa.string())), mode="append")


async def read_rows(db: DatabaseManager) -> pa.Table:
    return await OHLCVRepository(db).read_arrow()


async def read_volumes(db: DatabaseManager) -> list[int]:
    return [int(volume) for (volume,) in await raw.fetch(db, "SELECT volume FROM ohlcv ORDER BY timestamp, id")]


@pytest.fixture(params=["loaded", "streamed"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a commit rewrite files as it does small and large ones."""
    if request.param == "streamed":
        monkeypatch.setattr("iftb_store_lake.changes._MOST_LOADED", 0)
        monkeypatch.setattr("iftb_store_lake.changes._MANY", 0)


@pytest.fixture(params=["twice", "no partition"])
def case(request: pytest.FixtureRequest, size: None) -> str:
    return str(request.param)


async def prepare(db: DatabaseManager, url: str, case: str) -> int:
    """Store five bars twice, or once and without a partition; return how often."""
    await OHLCVRepository(db).insert_many(hourly(_BARS))
    if case == "twice":
        await store(db, url)
        return 2
    rows = await read_rows(db)
    await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, _LAST)
    write_deltalake(folder_of(url), rows.append_column(PART, pa.nulls(_BARS, pa.string())), mode="append")
    return 1


async def test_an_upsert_changes_and_counts_them(lake_url: str, case: str) -> None:
    async with DatabaseManager(lake_url) as db:
        copies = await prepare(db, lake_url, case)
        fresh = hourly(_BARS + 1, volume=Decimal(7))
        assert await OHLCVRepository(db).upsert_many(fresh, report=True) == UpsertReport(1, _BARS, 0)
        assert await read_volumes(db) == [7] * (copies * _BARS + 1)


async def test_a_session_deletes_and_inserts_them_again_as_one(lake_url: str, case: str) -> None:
    async with DatabaseManager(lake_url) as db:
        copies = await prepare(db, lake_url, case)
        async with db.get_session() as session:
            repository = OHLCVRepository(session)
            assert await repository.delete_range("BTCUSDT", "1h", T0, _LAST) == copies * _BARS
            await repository.insert_many(hourly(_BARS, volume=Decimal(7)))
            assert len(await repository.get_range("BTCUSDT", "1h", T0, _LAST)) == _BARS
        assert await read_volumes(db) == [7] * _BARS


async def test_a_deletion_deletes_them(lake_url: str, case: str) -> None:
    async with DatabaseManager(lake_url) as db:
        copies = await prepare(db, lake_url, case)
        assert await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, _LAST) == copies * _BARS
        assert await read_volumes(db) == []


async def test_a_compaction_keeps_bars_without_a_partition(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await prepare(db, lake_url, "no partition")
        for count in (1, 2):
            write_deltalake(
                folder_of(lake_url),
                (await read_rows(db)).slice(0, 1).append_column(PART, pa.nulls(1, pa.string())),
                mode="append",
            )
            assert await OHLCVRepository(db).insert_many(hourly(1, symbol=f"NEW{count}")) == 1
        before = await read_volumes(db)
        assert (await compact(db)).rewritten == 1
        assert await read_volumes(db) == before


@pytest.mark.parametrize("call", [read_names, compact], ids=lambda call: call.__name__)
async def test_deletion_vectors_that_are_switched_on_are_refused(lake_url: str, call: Any) -> None:
    async with DatabaseManager(lake_url) as db:
        await add(db)
        DeltaTable(folder_of(lake_url)).alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
        with pytest.raises(OperationalError, match="switched on deletionVectors"):
            await call(db)


async def test_the_doctor_reports_a_damaged_checkpoint_as_an_error(lake_url: str) -> None:
    async with DatabaseManager(lake_url) as db:
        await fill(db)
        (folder_of(lake_url) / "_delta_log" / "_last_checkpoint").write_text("{}")
        with pytest.raises(OperationalError, match="_last_checkpoint is damaged"):
            await examine(db)
