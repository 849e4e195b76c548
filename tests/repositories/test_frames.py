"""Data frames: Polars and pandas read the store's tables, and the store writes their frames."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from iftb_store import DatabaseManager, InvalidValueError, OHLCVRepository
from iftb_store.testing.samples import HOUR, T0, full_bar, hourly

_ALL = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


def values(table: pa.Table) -> pa.Table:
    return table.drop_columns(["id", "created_at"])


async def test_a_polars_frame_goes_out_and_in_unchanged(url: str) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        repository = OHLCVRepository(db)
        await repository.insert_many([full_bar(T0), *hourly(3)[1:]])
        table = await repository.read_arrow()
        frame = pl.DataFrame(table)
        await repository.delete_range("BTCUSDT", "1h", *_ALL)
        assert await repository.write_arrow(frame, "insert") == 3
        assert values(await repository.read_arrow()) == values(table)


def test_polars_has_our_types() -> None:
    frame = pl.DataFrame(pa.table({"close": pa.array([Decimal("0.1")], pa.decimal128(38, 18)), "timestamp": [T0]}))
    assert frame.dtypes == [pl.Decimal(38, 18), pl.Datetime("us", "UTC")]


async def test_polars_own_types_are_taken(sqlite_url: str) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        frame = pl.DataFrame(
            {
                "exchange": pl.Series(["binance"] * 2, dtype=pl.Categorical),
                "symbol": pl.Series(["BTCUSDT"] * 2, dtype=pl.Enum(["BTCUSDT"])),
                "timeframe": ["1h", "1h"],
                "timestamp": [datetime(2024, 1, 1), datetime(2024, 1, 1, 1)],
                "open": [0.1, 0.2],
                "high": [1, 2],
                "low": [0.1, 0.2],
                "close": pl.Series([Decimal("0.5"), Decimal("0.75")]),
                "volume": [5.0, 0.3],
            }
        )
        with pytest.raises(InvalidValueError, match="from_float"):
            await OHLCVRepository(db).write_arrow(frame)
        await OHLCVRepository(db).write_arrow(frame, decimals="from_float")
        found = await OHLCVRepository(db).get_range("BTCUSDT", "1h", *_ALL)
    assert [(item.timestamp, item.open, item.high, item.close, item.volume) for item in found] == [
        (T0, Decimal("0.1"), Decimal(1), Decimal("0.5"), Decimal(5)),
        (T0 + HOUR, Decimal("0.2"), Decimal(2), Decimal("0.75"), Decimal("0.3")),
    ]


async def test_a_pandas_frame_goes_out_and_in_unchanged(sqlite_url: str) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        repository = OHLCVRepository(db)
        await repository.insert_many(hourly(3))
        table = await repository.read_arrow()
        frame: pd.DataFrame = table.to_pandas()
        await repository.delete_range("BTCUSDT", "1h", *_ALL)
        await repository.write_arrow(frame.set_index("timestamp"))
        assert values(await repository.read_arrow()) == values(table)
