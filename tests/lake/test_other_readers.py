"""Other programs that read Delta tables find the same bars in a lake, after it has been written, changed and compacted."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from contextlib import chdir
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.testing.samples import HOUR, LARGEST, SMALLEST, T0, bar
from iftb_store_lake.cluster import Answer, Cluster
from iftb_store_lake.layout import COLUMNS, COLUMNS_SQL, KEY_SQL
from tests.lake.servers import run_sail
from tests.lake.test_compaction import compact

_YEARS_AGO = T0 - 900 * 24 * HOUR


async def fill(url: str) -> pa.Table:
    """Write a lake whose files were replaced, and return its bars in the order of their keys."""
    async with DatabaseManager(url) as db:
        repository = OHLCVRepository(db)
        for start in (T0, T0 + 20 * HOUR, _YEARS_AGO):
            await repository.insert_many(
                [
                    bar(start + hour * HOUR, symbol=name, exchange=exchange, close=Decimal(hour) / 8, trades_count=None)
                    for exchange in ("binance", "Ōdd.exchange ' %")
                    for name in ("BTCUSDT", "É/x y")
                    for hour in range(20)
                ]
            )
        extremes = [bar(T0, high=LARGEST, low=LARGEST.copy_negate()), bar(T0 + HOUR, volume=SMALLEST, trades_count=2**62)]
        await repository.upsert_many(extremes)
        await repository.delete_range("BTCUSDT", "1h", T0 + 5 * HOUR, T0 + 9 * HOUR)
        assert (await compact(db)).partitions
        await repository.upsert_many([bar(T0 + 50 * HOUR, volume=Decimal("0.000000000000000001"))])
        rows = await repository.read_arrow()
    return rows.select(COLUMNS).sort_by([(name, "ascending") for name in ("exchange", "symbol", "timeframe", "timestamp")])


def checksum(rows: pa.Table) -> str:
    """Return a checksum of rows: of each value's text, and of which values are NULL."""
    found = hashlib.blake2b()
    for name in COLUMNS:
        found.update(name.encode())
        for value in _as_texts(rows[name]):
            found.update(b"\0" if value is None else b"\1" + value.encode() + b"\0")
    return found.hexdigest()


def _as_texts(column: Any) -> Iterable[str | None]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    found: list[Any] = column.cast(pa.string()).to_pylist()
    return found


def read_with_sail(folder: str) -> pa.Table:
    with run_sail() as (port, _):
        cluster = Cluster(f"127.0.0.1:{port}", folder)
        answer = Answer(cluster, cluster.query(f"SELECT {COLUMNS_SQL} FROM delta.`{folder}` ORDER BY {KEY_SQL}", {}))
        try:
            answer.start()
            parts = list[pa.Table]()
            while (part := answer.read()) is not None:
                parts.append(part)
        finally:
            answer.close()
            cluster.close()
    return pa.concat_tables(parts)


def read_with_polars(folder: str) -> pa.Table:
    pytest.importorskip("polars_deltalake", reason="polars-deltalake is not installed; `nox -s readers` installs it")
    rows: pa.Table = import_module("polars_deltalake").scan_delta(folder).select(COLUMNS).collect().to_arrow()
    return rows


def read_with_clickhouse(folder: str) -> pa.Table:
    pytest.importorskip("chdb", reason="chdb is not installed; `nox -s readers` installs it")
    sql = f"SELECT {COLUMNS_SQL} FROM deltaLakeLocal('{folder}')"
    # it reads only files below the working directory
    with chdir(folder):
        rows: pa.Table = import_module("chdb").query(sql, "ArrowTable")
    return rows


@pytest.mark.parametrize("read", [read_with_sail, read_with_polars, read_with_clickhouse], ids=lambda read: read.__name__)
async def test_another_reader_finds_the_same_bars(lake_url: str, read: Any) -> None:
    expected = await fill(lake_url)
    rows = read(str(Path(str(make_url(lake_url).database))))
    order: Any = pc.sort_indices(
        rows, sort_keys=[(name, "ascending") for name in ("exchange", "symbol", "timeframe", "timestamp")]
    )
    assert checksum(rows.take(order)) == checksum(expected)


def test_a_checksum_shows_a_changed_digit() -> None:
    moment = pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], pa.timestamp("us", "UTC"))
    rows = pa.table({name: moment if name in ("timestamp", "created_at") else pa.array(["1"]) for name in COLUMNS})
    other = rows.set_column(COLUMNS.index("close"), "close", pa.array(["2"]))
    assert checksum(rows) != checksum(other)
