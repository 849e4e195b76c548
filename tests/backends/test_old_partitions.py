"""prune drops partitions of PostgreSQL that are older as a whole, and deletes the other old bars."""

from __future__ import annotations

from datetime import timedelta

from iftb_store import DatabaseManager, OHLCVRepository, examine, list_partitions, partition_bars, prune
from iftb_store.testing.samples import T0, hourly

_BARS = 24 * 100


async def test_old_partitions_are_dropped_whole(postgres_tables_url: str) -> None:
    async with DatabaseManager(postgres_tables_url) as db:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            await OHLCVRepository(db).insert_many(hourly(_BARS, symbol=symbol))
        await partition_bars(db, "month", ahead=0)
        before = T0 + timedelta(days=70)
        plan = await prune(db, before, "ohlcv", dry_run=True)
        report = await prune(db, before, "ohlcv")
        names = [one.name for one in (await list_partitions(db)).partitions]
        left = await OHLCVRepository(db).list_series()
        assert report == type(report)(before, plan.parts, plan.partitions, 0, dry_run=False)
        assert report.partitions == ("ohlcv_2024_01", "ohlcv_2024_02")
        assert [(part.series, part.rows) for part in report.parts] == [
            ("binance BTCUSDT 1h", 24 * 70),
            ("binance ETHUSDT 1h", 24 * 70),
        ]
        assert not {"ohlcv_2024_01", "ohlcv_2024_02"} & {*names}
        assert [(one.first, one.count) for one in left] == [(before, 24 * 30)] * 2
        assert [one for one in await examine(db) if one.severity == "error"] == []


async def test_a_selection_of_bars_drops_no_partition(postgres_tables_url: str) -> None:
    async with DatabaseManager(postgres_tables_url) as db:
        for symbol in ("BTCUSDT", "ETHUSDT"):
            await OHLCVRepository(db).insert_many(hourly(24 * 40, symbol=symbol))
        await partition_bars(db, "month", ahead=0)
        report = await prune(db, T0 + timedelta(days=35), "ohlcv", symbol="BTCUSDT")
        assert (report.partitions, report.rows) == ((), 24 * 35)
        assert [one.count for one in await OHLCVRepository(db).list_series()] == [24 * 5, 24 * 40]
