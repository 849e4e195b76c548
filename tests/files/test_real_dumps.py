"""The exchange's real dumps, if present: imported on every engine, each value read back by raw SQL."""

from __future__ import annotations

import csv
import io
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from iftb_store import DatabaseManager
from iftb_store.files.klines import import_klines
from iftb_store.files.readers.binance import KlineDump
from iftb_store.testing import raw

DATA = Path(__file__).parents[3] / "shared" / "data"
ARCHIVES = {"FILUSDT": ("FILUSDT-1m-2023-04.zip", 43_200), "NEARUSDT": ("NEARUSDT-1m-2024-02.zip", 41_760)}

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the exchange's own dumps are not here")


@pytest.mark.parametrize("symbol", ARCHIVES)
async def test_every_value_of_an_archive_is_stored_and_a_second_import_changes_nothing(url: str, symbol: str) -> None:
    name, bars = ARCHIVES[symbol]
    async with DatabaseManager(url) as db:
        await db.create_tables()

        await import_klines(db, KlineDump(DATA / name))
        first = await stored(db, symbol)
        await import_klines(db, KlineDump(DATA / name))
        second = await stored(db, symbol)

    assert len(first) == bars
    assert [decoded(row) for row in first] == in_file(DATA / name)
    assert second == first


async def stored(db: DatabaseManager, symbol: str) -> list[tuple[Any, ...]]:
    """Return the rows as the engine holds them, ids and created_at included."""
    return await raw.fetch(
        db,
        "SELECT timestamp, open, high, low, close, volume, quote_volume, trades_count, id, created_at FROM ohlcv "
        "WHERE exchange = 'binance' AND symbol = :symbol AND timeframe = '1m' ORDER BY timestamp",
        symbol=symbol,
    )


def decoded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (raw.moment(row[0]), *map(raw.number, row[1:7]), row[7])


def in_file(path: Path) -> list[tuple[Any, ...]]:
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
        _header, *lines = csv.reader(io.TextIOWrapper(member))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        (epoch + timedelta(milliseconds=int(line[0])), *map(Decimal, line[1:6]), Decimal(line[7]), int(line[8])) for line in lines
    ]
