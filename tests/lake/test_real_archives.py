"""The exchange's real dumps, if present: from PostgreSQL into a lake in a bucket, read by a cluster, and on into DuckDB."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from iftb_store import DatabaseManager, OHLCVRepository, copy, verify
from iftb_store.files.klines import import_klines
from iftb_store.files.readers.binance import KlineDump
from iftb_store.testing.many_series import find_gaps
from tests.files import test_real_dumps
from tests.lake.conftest import KEYS
from tests.lake.servers import run_sail, sail_variables

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not test_real_dumps.DATA.exists(), reason="the exchange's own dumps are not here"),
]
_HOLE = 5


async def test_real_archives_are_the_same_at_each_step_and_a_flipped_digit_is_found(
    postgres_tables_url: str, s3_endpoint: str, s3_url: str, duckdb_tables_url: str
) -> None:
    with run_sail(**sail_variables(s3_endpoint, KEYS)) as (port, _):
        lake_url = f"{s3_url}&engine=sc://127.0.0.1:{port}"
        async with (
            DatabaseManager(postgres_tables_url) as postgres,
            DatabaseManager(lake_url) as lake,
            DatabaseManager(duckdb_tables_url) as duckdb,
        ):
            for name, _ in test_real_dumps.ARCHIVES.values():
                await import_klines(postgres, KlineDump(test_real_dumps.DATA / name))
            await _make_hole(postgres)

            await copy(postgres, lake, tables=["ohlcv"])
            assert await _read(lake) == await _read(postgres)
            assert (await verify(postgres, lake, tables=["ohlcv"])).equal

            await copy(lake, duckdb, tables=["ohlcv"])
            assert await _read(duckdb) == await _read(postgres)
            assert (await verify(lake, duckdb, tables=["ohlcv"])).equal

            await _flip_digit(lake)
            for other in (postgres, duckdb):
                assert not (await verify(other, lake, tables=["ohlcv"])).equal


async def _read(db: DatabaseManager) -> tuple[Any, ...]:
    """Return the series, with their numbers of bars and of missing ones, and the gaps."""
    repository = OHLCVRepository(db)
    series, gaps = await repository.list_series(), await find_gaps(repository)
    assert {one.symbol: one.count + one.missing for one in series} == {
        symbol: bars for symbol, (_, bars) in test_real_dumps.ARCHIVES.items()
    }
    assert len(gaps) == 1
    return series, gaps


async def _make_hole(db: DatabaseManager) -> None:
    """Delete some bars in the middle, as the archives are complete."""
    series = (await OHLCVRepository(db).list_series())[0]
    middle = series.first + (series.last - series.first) / 2
    bars = await OHLCVRepository(db).get_range(series.symbol, "1m", middle, series.last)
    deleted = await OHLCVRepository(db).delete_range(series.symbol, "1m", bars[0].timestamp, bars[_HOLE - 1].timestamp)
    assert deleted == _HOLE


async def _flip_digit(db: DatabaseManager) -> None:
    bar = (await OHLCVRepository(db).get_latest("NEARUSDT", "1m", 1))[0]
    digits = str(bar.close)
    bar.close = Decimal(digits[:-1] + str((int(digits[-1]) + 1) % 10))
    await OHLCVRepository(db).upsert_many([bar])
