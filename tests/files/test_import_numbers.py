"""Numbers of an import as tools leave them: floats with noise in every format, rows without prices, exports with floats."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import pytest_asyncio

from iftb_store import (
    DatabaseManager,
    ImportedFile,
    InvalidValueError,
    OHLCVRepository,
    TradeRepository,
    export_table,
    import_files,
)
from iftb_store.testing.samples import HOUR, T0, bar, trade

# as in freqtrade's own ADA/BTC candles, and as Kraken's volumes, which are sums of floats
NOISE = [0.00005330000000000001, 0.00011865000000000001, 0.1 + 0.2]
EXACT = [Decimal("0.0000533"), Decimal("0.00011865"), Decimal("0.30000000000000004")]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest_asyncio.fixture
async def db(url: str) -> AsyncIterator[DatabaseManager]:
    """An empty store, on each of the three engines in turn."""
    async with DatabaseManager(url) as manager:
        await manager.migrate()
        yield manager


def candles() -> pd.DataFrame:
    times = pd.date_range(T0, periods=3, freq="5min", tz="UTC")
    return pd.DataFrame({"date": times, "open": NOISE, "high": 1.0, "low": 0.0, "close": NOISE, "volume": NOISE})


def write(name: str, content: str) -> None:
    Path(name).write_text(content)


def write_json(name: str) -> None:
    rows = [[1_704_067_200_000 + index * 300_000, value, 1.0, 0.0, value, value] for index, value in enumerate(NOISE)]
    write(name, json.dumps(rows))


def read(name: str) -> str:
    return Path(name).read_text()


FILES: dict[str, Callable[[str], Any]] = {
    "ADA_BTC-5m.feather": lambda name: candles().to_feather(name),
    "ADA_BTC-5m.parquet": lambda name: candles().to_parquet(name),
    "ADA_BTC-5m.csv": lambda name: candles().to_csv(name, index=False),
    "ADA_BTC-5m.csv.gz": lambda name: candles().to_csv(name, index=False),
    "ADA_BTC-5m.json": write_json,
}


async def import_one(db: DatabaseManager, path: str, **options: Any) -> ImportedFile:
    (file,) = (await import_files(db, path, **options)).files
    return file


@pytest.mark.parametrize("name", FILES)
async def test_floats_with_noise_are_rounded_and_counted(db: DatabaseManager, name: str) -> None:
    FILES[name](name)
    file = await import_one(db, name, decimals="from_float")
    bars = await OHLCVRepository(db).get_range("ADA/BTC", "5m", T0, T0 + HOUR)
    assert [(item.open, item.close, item.volume) for item in bars] == [(value,) * 3 for value in EXACT]
    assert (file.rounded, file.inserted) == (6, 3)
    assert "6 values rounded to 18 places" in file.notes


@pytest.mark.parametrize("name", ["ADA_BTC-5m.csv", "ADA_BTC-5m.json"])
async def test_a_value_with_too_many_places_names_the_option(db: DatabaseManager, name: str) -> None:
    FILES[name](name)
    with pytest.raises(Exception, match=r"row 1: open .* more than 18 digits after the point; use --decimals from-float"):
        await import_files(db, name)
    assert await OHLCVRepository(db).list_series() == []


async def test_a_dump_of_klines_is_rounded_on_request(db: DatabaseManager) -> None:
    line = "1706745660000,2.8350,2.8380,2.8320,2.8360,0.00011865000000000001,1706745719999,213403.5590,513,32980,93511.3580,0"
    write("BTCUSDT-1m-2024-01.csv", f"{line}\n")
    file = await import_one(db, "BTCUSDT-1m-2024-01.csv", decimals="from_float")
    assert (file.rounded, file.notes) == (1, ("1 value rounded to 18 places",))
    (stored,) = await OHLCVRepository(db).get_latest("BTCUSDT", "1m", 1)
    assert stored.volume == Decimal("0.00011865")


async def test_rows_without_prices_are_skipped_on_request_and_counted(db: DatabaseManager) -> None:
    lines = ["date,open,high,low,close,volume", "2024-01-01,1,2,1,1,1", "2024-01-02,,,,,0", "2024-01-03,nan,nan,nan,nan,"]
    write("A-1d.csv", "\n".join([*lines, "2024-01-04,1,2,1,1,1", ""]))
    with pytest.raises(Exception, match="row 2: open is null; use --skip-empty to skip rows without prices"):
        await import_files(db, "A-1d.csv")
    file = await import_one(db, "A-1d.csv", skip_empty=True)
    assert (file.rows, file.skipped, file.notes) == (2, 2, ("rows without prices skipped: 2",))


async def test_a_row_after_skipped_rows_keeps_its_number(db: DatabaseManager) -> None:
    rows: list[list[Any]] = [[1704067200000, None, None, None, None, None], [1704070800000, 1, 2, 1, "x", 1]]
    write("A-1h.json", json.dumps(rows))
    with pytest.raises(Exception, match="row 2: close 'x' is not a decimal number"):
        await import_files(db, "A-1h.json", skip_empty=True)


async def test_floats_of_a_frame_that_are_nan_are_without_a_price(db: DatabaseManager) -> None:
    frame = candles()
    frame.loc[1, ["open", "high", "low", "close"]] = float("nan")
    frame.to_feather("ADA_BTC-5m.feather")
    file = await import_one(db, "ADA_BTC-5m.feather", skip_empty=True)
    assert (file.rows, file.skipped) == (2, 1)


@pytest.mark.parametrize("name", ["bars.parquet", "bars.feather", "bars.csv", "bars.jsonl"])
async def test_an_export_with_floats_comes_back_on_request(db: DatabaseManager, name: str) -> None:
    await OHLCVRepository(db).insert_many([bar(close=Decimal("50500.123456789012345678")), bar(T0 + HOUR)])
    await export_table(db, name, decimals="float")
    if name.endswith("csv"):
        assert ",50500.12345678901," in read(name)
    else:
        with pytest.raises(Exception, match="type double, which is not a decimal number; use --decimals from-float"):
            await import_files(db, name)
    file = await import_one(db, name, decimals="from_float")
    assert (file.rows, file.changed, file.equal) == (2, 1, 1)


async def test_json_and_trades_are_exported_with_floats(db: DatabaseManager) -> None:
    await TradeRepository(db).insert(trade(entry_price=Decimal("0.1")))
    await export_table(db, "trades.jsonl", table="trades", decimals="float")
    await export_table(db, "trades.parquet", table="trades", decimals="float")
    assert json.loads(read("trades.jsonl"))["entry_price"] == 0.1
    assert (await import_one(db, "trades.jsonl", decimals="from_float")).equal == 1
    assert pq.read_table("trades.parquet")["entry_price"].to_pylist() == [0.1]
    with pytest.raises(InvalidValueError, match="decimals must be one of float"):
        await export_table(db, "other.csv", decimals="text")  # type: ignore[arg-type]
