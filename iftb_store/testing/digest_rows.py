"""Tests of the table bar_digests, in which the destination of a copy stores digests of its bars; the table has no ids."""

from __future__ import annotations

from dataclasses import asdict, astuple, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from sqlalchemy import insert

from iftb_store import DatabaseManager
from iftb_store.batches.arrow import arrow_schema
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import DIGESTS, BarDigest, RowFilter
from iftb_store.schema.tables import Base
from iftb_store.testing.fixtures import SuiteFixtures, needs
from iftb_store.testing.samples import T0

_DAY = timedelta(days=1)
_CHECKED = datetime(2024, 3, 1, 12, 30, 45, 123_456, tzinfo=UTC)


def _digest(day: datetime, symbol: str = "BTCUSDT", timeframe: str = "1h", bar_count: int = 24) -> BarDigest:
    return BarDigest("binance", symbol, timeframe, day, bar_count, f"{bar_count:032x}", _CHECKED)


#: In the order of the key, whose text compares by its bytes.
_ROWS = [
    _digest(datetime(1, 1, 2, tzinfo=UTC), "BTC/USDT:USDT", "1m", 2**63 - 1),
    *(_digest(T0 + index * _DAY, bar_count=index) for index in range(7)),
    _digest(datetime(9999, 12, 31, tzinfo=UTC), "BTCUSDT", "4h", 0),
    replace(_digest(T0, "a"), checked_at=datetime.max.replace(microsecond=0, tzinfo=UTC)),
    replace(_digest(T0, "\N{ROCKET}"), digest=""),
]


async def _store(db: DatabaseManager, rows: list[BarDigest]) -> None:
    needs(db, Capability.MIGRATIONS)
    needs(db, Capability.RAW_WRITES)
    async with db.get_session() as session:
        for row in rows:
            await session.execute(insert(Base.metadata.tables[DIGESTS.name]).values(**asdict(row)))


async def _read(db: DatabaseManager, selection: RowFilter) -> list[BarDigest]:
    async with db.get_session() as session:
        rows = await get_stores(session).read_rows(selection)
    assert rows.schema == arrow_schema(DIGESTS)
    return [BarDigest(**row) for row in rows.to_pylist()]


class DigestRowTests(SuiteFixtures):
    """read_rows and delete_rows of bar_digests."""

    async def test_digests_are_read_as_they_are_stored_in_the_order_of_their_keys(self, db: DatabaseManager) -> None:
        await _store(db, _ROWS[::-1])
        assert await _read(db, RowFilter(DIGESTS)) == _ROWS

    async def test_digests_of_a_series_are_selected_by_the_day(self, db: DatabaseManager) -> None:
        await _store(db, _ROWS)
        series = {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1h"}
        assert await _read(db, RowFilter(DIGESTS, series)) == _ROWS[1:8]
        assert await _read(db, RowFilter(DIGESTS, series, T0 + _DAY, T0 + 3 * _DAY)) == _ROWS[2:5]
        assert await _read(db, RowFilter(DIGESTS, {"symbol": "a"})) == _ROWS[9:10]
        assert await _read(db, RowFilter(DIGESTS, {**series, "symbol": "none"})) == []

    async def test_digests_are_read_in_parts(self, db: DatabaseManager) -> None:
        await _store(db, _ROWS)
        series = {"exchange": "binance", "symbol": "BTCUSDT", "timeframe": "1h"}
        for equal in ({}, series):
            found: list[BarDigest] = []
            selection = RowFilter(DIGESTS, equal, limit=3)
            while part := await _read(db, selection):
                assert len(part) <= 3
                found += part
                selection = replace(selection, after=tuple(getattr(part[-1], name) for name in selection.order))
            assert found == (_ROWS[1:8] if equal else _ROWS)

    async def test_digests_are_deleted_by_their_keys(self, db: DatabaseManager) -> None:
        await _store(db, _ROWS)
        gone = [*_ROWS[:3], _digest(T0 - _DAY), *_ROWS[-2:]]
        rows = pa.Table.from_pylist([asdict(row) for row in sorted(gone, key=astuple)], arrow_schema(DIGESTS))
        async with db.get_session() as session:
            assert await get_stores(session).delete_rows(DIGESTS, rows) == 5
        assert await _read(db, RowFilter(DIGESTS)) == _ROWS[3:-2]
