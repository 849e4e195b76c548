"""Tests of reading rows as Arrow tables: the schema, exact values, the order, and the selection of rows."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

import pyarrow as pa
import pytest

from iftb_store import (
    DatabaseManager,
    InvalidValueError,
    OHLCVBar,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEvent,
    SystemEventRepository,
    Trade,
    TradeRepository,
)
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import EVENTS, RowFilter
from iftb_store.testing.fixtures import SuiteFixtures, requires
from iftb_store.testing.rows import delete_bars
from iftb_store.testing.samples import (
    HOUR,
    LARGEST,
    SMALLEST,
    T0,
    bar,
    full_bar,
    full_position,
    full_trade,
    hourly,
    position,
    trade,
)

_Row = TypeVar("_Row", Trade, Position, SystemEvent)

_DECIMAL = pa.decimal128(38, 18)
_TIME = pa.timestamp("us", tz="UTC")
_FIELDS: dict[str, pa.DataType] = {
    "symbol": pa.string(),
    "exchange": pa.string(),
    "timeframe": pa.string(),
    "timestamp": _TIME,
    **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume"), _DECIMAL),
    "trades_count": pa.int64(),
    "id": pa.int64(),
    "created_at": _TIME,
}
_BARS = pa.schema(_FIELDS)
_SERIES: Final = ("BTCUSDT", "1h")
#: A number of rows that an engine reads in several chunks.
_MANY = 25_000
_ODD_NAMES = [
    '"',
    '""',
    "a,b",
    "line\nbreak",
    'quoted "\n" break',
    "x\r\n",
    "\\N",
    "NULL",
    "=x",
    "\x01\x1f",
    "nan",
    "1.50",
    " x ",
]


def bars_of(table: pa.Table) -> list[OHLCVBar]:
    """Return the rows of an Arrow table as bars."""
    return [OHLCVBar(**row) for row in table.to_pylist()]


def rows_of(model: type[_Row], table: pa.Table) -> list[_Row]:
    """Return the rows of an Arrow table as objects of a model, with their JSON decoded."""
    json_columns = {"decision_reasons", "llm_analysis", "details", "tags"} & set(table.column_names)
    rows = [row | {name: row[name] and json.loads(row[name]) for name in json_columns} for row in table.to_pylist()]
    return [model(**row) for row in rows]


class ReadArrowTests(SuiteFixtures):
    """read_arrow of bars returns the rows of get_range as one table."""

    async def test_bars_are_read_as_exact_decimals_and_utc_times(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([full_bar()])
        table = await OHLCVRepository(db).read_arrow()
        assert table.schema == _BARS

    async def test_a_table_holds_what_get_range_gives(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many([full_bar(T0), *hourly(3, exchange="kraken"), bar(T0 + HOUR, trades_count=0)])
        table = await OHLCVRepository(db).read_arrow(*_SERIES, exchange="binance")
        assert bars_of(table) == await OHLCVRepository(db).get_range(*_SERIES, T0, T0 + HOUR)

    async def test_a_first_text_that_begins_with_a_byte_order_mark_is_read_whole(self, db: DatabaseManager) -> None:
        # a CSV reader would mistake the first character for the file's byte order mark and drop it
        names = ["\ufeff", "\ufeffBTC"]
        for name in names:
            await OHLCVRepository(db).insert_many([bar(symbol=name, exchange=name)])
            assert (await OHLCVRepository(db).read_arrow(exchange=name))["symbol"].to_pylist() == [name]
            if Capability.RECORDS in db.capabilities:
                await SystemEventRepository(db).log_event(name, "info", "")
        if Capability.RECORDS in db.capabilities:
            assert (await SystemEventRepository(db).read_arrow())["event_type"].to_pylist() == names

    async def test_an_empty_selection_is_an_empty_table_of_the_same_schema(self, db: DatabaseManager) -> None:
        table = await OHLCVRepository(db).read_arrow(*_SERIES, exchange="binance")
        assert (table.schema, table.num_rows) == (_BARS, 0)

    async def test_numbers_at_the_edges_of_decimals_are_exact(self, db: DatabaseManager) -> None:
        least = LARGEST.copy_negate()
        given = bar(open=least, high=LARGEST, low=-SMALLEST, close=Decimal("-1.50"), volume=Decimal(0), quote_volume=SMALLEST)
        await OHLCVRepository(db).insert_many([given, bar(T0 + HOUR)])
        table = await OHLCVRepository(db).read_arrow()
        assert table.slice(0, 1).select(["open", "high", "low", "close", "volume", "quote_volume"]).to_pylist() == [
            {
                "open": least,
                "high": LARGEST,
                "low": -SMALLEST,
                "close": Decimal("-1.5"),
                "volume": Decimal(0),
                "quote_volume": SMALLEST,
            }
        ]

    async def test_moments_at_the_edges_of_the_calendar_are_exact(self, db: DatabaseManager) -> None:
        moments = [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        ]
        await OHLCVRepository(db).insert_many(list(map(bar, moments)))
        table = await OHLCVRepository(db).read_arrow()
        assert table["timestamp"].to_pylist() == moments

    async def test_rows_stand_in_the_order_of_the_key_text_by_its_bytes(self, db: DatabaseManager) -> None:
        names = ["a", "B", "\N{LATIN SMALL LETTER A WITH DIAERESIS}", "\U0001f4c8", "\uffee", "Z"]
        given = [bar(moment, symbol=name, exchange=other) for name in names for other in names for moment in (T0 + HOUR, T0)]
        await OHLCVRepository(db).insert_many(given)
        found = bars_of(await OHLCVRepository(db).read_arrow())
        keys = [(item.exchange.encode(), item.symbol.encode(), item.timeframe.encode(), item.timestamp) for item in found]
        assert keys == sorted(keys)
        assert len(keys) == len(given)

    async def test_names_with_any_characters_come_back_the_same(self, db: DatabaseManager) -> None:
        names = [
            '"',
            '""',
            "a,b",
            "line\nbreak",
            'quoted "\n" break',
            "\r\n",
            "\\N",
            "NULL",
            "=x",
            "\x01\x1f",
            "nan",
            "1.50",
            " x ",
        ]
        await OHLCVRepository(db).insert_many([bar(symbol=name, exchange=name) for name in names if not name.isspace()])
        table = await OHLCVRepository(db).read_arrow()
        kept = sorted((name for name in names if not name.isspace()), key=str.encode)
        assert (table["symbol"].to_pylist(), table["exchange"].to_pylist()) == (kept, kept)

    async def test_each_part_of_the_series_narrows_the_selection(self, db: DatabaseManager) -> None:
        near = [bar(), bar(symbol="ETHUSDT"), bar(exchange="kraken"), bar(timeframe="1d")]
        await OHLCVRepository(db).insert_many(near)
        repository = OHLCVRepository(db)
        found = [
            (await repository.read_arrow(symbol="ETHUSDT")).num_rows,
            (await repository.read_arrow(exchange="kraken")).num_rows,
            (await repository.read_arrow(timeframe="1d")).num_rows,
            (await repository.read_arrow("BTCUSDT", "1h")).num_rows,
            (await repository.read_arrow()).num_rows,
        ]
        assert found == [1, 1, 1, 2, 4]

    async def test_both_ends_of_the_window_are_inclusive(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(5))
        table = await OHLCVRepository(db).read_arrow(start=T0 + HOUR, end=(T0 + 3 * HOUR).replace(tzinfo=None))
        assert table["timestamp"].to_pylist() == [T0 + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR]

    async def test_many_bars_are_all_read_once(self, db: DatabaseManager) -> None:
        given = hourly(_MANY)
        await OHLCVRepository(db).insert_many(given)
        table = await OHLCVRepository(db).read_arrow(*_SERIES, exchange="binance")
        assert table["close"].to_pylist() == [item.close for item in given]
        assert table["timestamp"].to_pylist() == [item.timestamp for item in given]

    async def test_a_session_reads_its_own_writes_as_arrow(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            await OHLCVRepository(session).insert_many(hourly(3))
            table = await OHLCVRepository(session).read_arrow()
            await session.rollback()
        assert (table.num_rows, (await OHLCVRepository(db).read_arrow()).num_rows) == (3, 0)

    async def test_reading_arrow_leaves_the_session_free_to_write(self, db: DatabaseManager) -> None:
        await OHLCVRepository(db).insert_many(hourly(2))
        async with db.get_session() as session:
            await OHLCVRepository(session).read_arrow()
            await delete_bars(session)
        assert (await OHLCVRepository(db).read_arrow()).num_rows == 0

    async def test_a_window_that_ends_before_it_starts_is_refused(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="is after end"):
            await OHLCVRepository(db).read_arrow(start=T0 + HOUR, end=T0)

    async def test_an_unknown_timeframe_is_refused_as_arrow_too(self, db: DatabaseManager) -> None:
        with pytest.raises(InvalidValueError, match="7h"):
            await OHLCVRepository(db).read_arrow(timeframe="7h")  # type: ignore[arg-type]


@requires(Capability.RECORDS)
class OtherTablesAsArrowTests(SuiteFixtures):
    """read_arrow and stream_arrow of trades, positions and events."""

    async def test_trades_are_read_as_they_are_stored(self, db: DatabaseManager) -> None:
        numbers = [await TradeRepository(db).insert(item) for item in (full_trade("a"), trade("b"))]
        table = await TradeRepository(db).read_arrow()
        stored = [await TradeRepository(db).get_by_id(number) for number in numbers]
        assert rows_of(Trade, table) == stored
        assert table.schema.field("decision_reasons").type == pa.string()
        assert {table.schema.field(name).type for name in ("entry_price", "fee", "realized_pnl_pct")} == {_DECIMAL}

    async def test_positions_open_and_closed_are_read_as_they_are_stored(self, db: DatabaseManager) -> None:
        repository = PositionRepository(db)
        await repository.update_position(full_position())
        await repository.update_position(position())
        (stored,) = await repository.get_open_positions("kraken")
        (open_one,) = await repository.get_open_positions()
        await repository.close_position(open_one.id or 0)
        table = await repository.read_arrow()
        assert rows_of(Position, table)[0] == stored
        assert table["status"].to_pylist() == ["open", "closed"]

    async def test_events_are_read_as_they_are_stored(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        await repository.log_event("start", "info", "", details={"a": [1, "\n", None]}, symbol="=x")
        await repository.log_event("stop", "error", 'line\nbreak, "quoted" \\ and \t', stack_trace="")
        assert rows_of(SystemEvent, await repository.read_arrow()) == (await repository.get_recent_events())[::-1]

    async def test_rows_of_other_tables_are_selected_and_streamed(self, db: DatabaseManager) -> None:
        repository = TradeRepository(db)
        for index in range(5):
            await repository.insert(trade(str(index), entry_time=T0 + index * HOUR, symbol="ABAAA"[index]))
        table = await repository.read_arrow("A", T0 + HOUR, T0 + 4 * HOUR, "binance")
        assert table["trade_id"].to_pylist() == ["2", "3", "4"]
        batches = [batch["trade_id"].to_pylist() async for batch in repository.stream_arrow("A", batch_size=3)]
        assert [name for names in batches for name in names] == ["0", "2", "3", "4"]
        assert max(map(len, batches)) <= 3
        late = [batch["trade_id"].to_pylist() async for batch in repository.stream_arrow(start=T0 + 3 * HOUR, batch_size=1)]
        assert late == [["3"], ["4"]]
        assert (await repository.read_arrow(exchange="kraken")).num_rows == 0

    async def test_a_scan_of_a_size_ends_before_the_texts_become_too_much(self, db: DatabaseManager) -> None:
        repository = SystemEventRepository(db)
        for index, length in enumerate([0, 900, 10, 2_000, 3_000, 0, 0, 400, 0, 500]):
            details = {"x": "é" * (length // 12)} if index % 2 else None
            await repository.log_event(str(index), "info", "x" * (length // 2), symbol="AB"[index == 2], details=details)
        found: list[list[Any]] = []
        selection = RowFilter(EVENTS, {"symbol": "A"}, limit=5, size=1_000)
        async with db.get_session() as session:
            while (rows := await get_stores(session).read_rows(selection)).num_rows:
                found.append(rows["event_type"].to_pylist())
                selection = replace(selection, after=(rows["id"][-1].as_py(),))
        assert [name for names in found for name in names] == ["0", "1", "3", "4", "5", "6", "7", "8", "9"]
        assert found[:3] == [["0", "1"], ["3"], ["4"]]
        assert max(map(len, found)) <= 5
