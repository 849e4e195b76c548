"""Tests of the views: numbers are doubles, times are text of fixed width, and every row of the table is shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    TradeRepository,
)
from iftb_store.batches.arrow import to_rows
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BARS, ColumnKind, TableSpec
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, requires
from iftb_store.testing.samples import HOUR, LARGEST, NOW, SMALLEST, T0, Clock, bar, every_record, full_bar, full_trade
from iftb_store.values.tags import encode_texts

_VALUES = [
    Decimal(0),
    SMALLEST,
    LARGEST,
    Decimal("0.1"),
    Decimal(10),
    Decimal("50000.25"),
    Decimal("123456789.123456789123456789"),
    Decimal("9.999999999999999999"),
]
_SIGNED = sorted({*_VALUES, *(value.copy_negate() for value in _VALUES if value)})
_MOMENTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 12, 30, 45, 6, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]


def _is_near(found: Any, exact: Decimal) -> bool:
    return isinstance(found, float) and found == pytest.approx(float(exact), rel=1e-9, abs=0)


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds").removesuffix("+00:00")


def _show_value(kind: ColumnKind, value: Any) -> Any:
    """Return a field's value as the view of its table shows it."""
    if kind is ColumnKind.TIME:
        return None if value is None else _text(value)
    if kind is ColumnKind.TEXTS:
        return encode_texts(value)
    if isinstance(value, list):
        return encode_texts(value)
    return float(value) if isinstance(value, Decimal | int) else value


async def _assert_whole(db: DatabaseManager, table: TableSpec, row: Any) -> None:
    """Check that the only row of a view has the values of ``row`` in every column."""
    (shown,) = await raw.fetch(db, f"SELECT {', '.join(table.columns)} FROM {table.name}_view")
    found = dict(zip(table.columns, shown, strict=True))
    for name, kind in table.kinds.items():
        if kind is ColumnKind.JSON and found[name] is not None:
            assert isinstance(found[name], str), f"{name} must be text"
            found[name] = json.loads(found[name])
        expected = _show_value(kind, getattr(row, name))
        assert type(found[name]) is type(expected), f"the view must show {name} as {type(expected).__name__}"
        assert found[name] == (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected), name


@requires(Capability.VIEWS)
class ViewTests(SuiteFixtures):
    """SQL queries of the views have the same results on every engine."""

    async def test_the_view_of_bars_shows_every_column(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db, clock=Clock()).insert_many([full_bar()])
        (stored,) = await OHLCVRepository(db).get_latest("BTCUSDT", "1h")
        await _assert_whole(db, BARS, stored)

    @requires(Capability.RECORDS)
    async def test_the_views_of_records_show_every_column(self, db: DatabaseManager) -> None:
        for table, row in every_record():
            async with db.get_session() as session:
                await get_stores(session).write_rows(table, to_rows(table, [row]))
            await _assert_whole(db, table, row)

    @requires(Capability.RECORDS)
    async def test_decimals_are_doubles_that_compare_as_numbers(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            for index, value in enumerate(_SIGNED):
                await TradeRepository(session).insert(full_trade_of(index, value))
        rows = await raw.fetch(db, "SELECT fee FROM trades_view ORDER BY fee")
        wrong = [(found, value) for (found,), value in zip(rows, _SIGNED, strict=True) if not _is_near(found, value)]
        assert wrong == [], f"a view must show a decimal as the nearest double, in the order of numbers: {wrong}"
        below = await raw.value(db, "SELECT COUNT(*) FROM trades_view WHERE fee < 0")
        assert below == len([value for value in _SIGNED if value < 0])
        (average,) = (await raw.fetch(db, "SELECT AVG(fee) FROM trades_view WHERE fee BETWEEN -100 AND 100"))[0]
        inside = [value for value in _SIGNED if abs(value) <= 100]
        assert average == pytest.approx(float(sum(inside) / len(inside)), rel=1e-9, abs=1e-12)

    async def test_times_are_text_of_fixed_width_in_utc(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(moment) for moment in _MOMENTS])
        rows = await raw.fetch(db, "SELECT timestamp FROM ohlcv_view ORDER BY timestamp")
        assert [moment for (moment,) in rows] == [_text(moment) for moment in _MOMENTS]
        since = await raw.fetch(db, "SELECT timestamp FROM ohlcv_view WHERE timestamp >= '2024-02-29' AND timestamp < '2024-03'")
        assert since == [("2024-02-29 12:30:45.000006",)]

    async def test_counts_are_doubles_too(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([bar(trades_count=3), bar(T0 + HOUR, trades_count=4), bar(T0 + 2 * HOUR)])
        assert await raw.value(db, "SELECT AVG(trades_count) FROM ohlcv_view") == 3.5
        assert await raw.value(db, "SELECT SUM(trades_count) / 2 FROM ohlcv_view") == 3.5

    async def test_text_compares_by_its_bytes(self, db: DatabaseManager) -> None:
        names = sorted(["BTC", "btc", "Zebra", "ärger", "_x", "1INCH", "a b", "a-b"], key=str.encode)
        await OHLCVRepository(db).insert_many([bar(symbol=name, timestamp=NOW) for name in reversed(names)])
        rows = await raw.fetch(db, "SELECT symbol FROM ohlcv_view ORDER BY symbol")
        assert [name for (name,) in rows] == names


def full_trade_of(index: int, fee: Decimal) -> Any:
    """Return a trade with its own trade_id and a fee."""
    item = full_trade(f"T{index:02}")
    item.fee = fee
    return item
