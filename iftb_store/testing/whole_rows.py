"""Tests of write_rows and delete_rows; copies and restores use them to store complete rows, including ids and all times."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store import (
    DatabaseManager,
    OHLCVRepository,
    Position,
    PositionRepository,
    SystemEvent,
    SystemEventRepository,
    Trade,
    TradeRepository,
)
from iftb_store.batches.arrow import to_rows
from iftb_store.protocols import Capability
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import BALANCES, BARS, EVENTS, FILLS, LEDGER, POSITIONS, TRADES, RowFilter, TableSpec
from iftb_store.testing import raw
from iftb_store.testing.fixtures import SuiteFixtures, needs, requires
from iftb_store.testing.samples import (
    LARGEST,
    NOW,
    SMALLEST,
    T0,
    balance,
    bar,
    fill,
    full_balance,
    full_bar,
    full_fill,
    full_ledger_entry,
    full_position,
    full_trade,
    hourly,
    ledger_entry,
    position,
    trade,
)

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_LEAST = LARGEST.copy_negate()
_MANY = 5_432
_ID_OF_TRADES = TRADES.columns.index("id")
_TEXTS = [
    "",
    " ",
    "NULL",
    r"\N",
    r"\.",
    "\\",
    '"',
    '""',
    ",",
    "a\tb",
    "line\nbreak\r\n",
    '{"\n"}',
    "\x01\x1f\x7f",
    "Ü\u202e✓\U0001f4c8",
]
_JSON: list[Any] = [
    "{}",
    '{"a" : 1.0, "a":\t1.00}',
    '{"text": "\\u0041 \\"quoted\\" \\\\N\\n"}',
    '{\n "big": 1e400, "none": null}',
]


def rows_of(table: TableSpec, items: list[Any]) -> pa.Table:
    """Return objects as an Arrow table of complete rows; their JSON may be a dict or text."""
    return to_rows(table, items)


async def write_rows(db: DatabaseManager, table: TableSpec, rows: pa.Table) -> None:
    """Store complete rows of a table in a new session; skip the test if the backend does not keep the table."""
    if table is not BARS:
        needs(db, Capability.RECORDS)
    async with db.get_session() as session:
        await get_stores(session).write_rows(table, rows)


async def delete_rows(db: DatabaseManager, table: TableSpec, rows: pa.Table) -> int:
    """Delete rows of a table in a new session; return the number of deleted rows."""
    async with db.get_session() as session:
        return await get_stores(session).delete_rows(table, rows)


async def stored(db: DatabaseManager, table: TableSpec) -> pa.Table:
    """Return all rows of a table as an Arrow table, without the ids of bars, which each store assigns itself."""
    async with db.get_session() as session:
        return (await get_stores(session).read_rows(RowFilter(table))).select(table.written)


def _bars() -> pa.Table:
    edges = bar(
        _FIRST, open=_LEAST, high=LARGEST, low=-SMALLEST, close=Decimal("-1.50"), volume=SMALLEST, quote_volume=Decimal(0)
    )
    items = [
        replace(edges, id=7, created_at=_LAST, trades_count=2**63 - 1),
        replace(full_bar(T0), id=3, created_at=_FIRST),
        replace(bar(_LAST), id=2**40, created_at=NOW),
        *(
            replace(bar(symbol=text, exchange="odd"), id=100 + index, created_at=NOW)
            for index, text in enumerate(sorted(_TEXTS[1:], key=str.encode))
        ),
    ]
    return rows_of(BARS, items)


def _trades() -> pa.Table:
    bare = trade("bare", entry_price=_LEAST, quantity=SMALLEST, fee=-SMALLEST, leverage=LARGEST, entry_time=_FIRST)
    kept: dict[str, Any] = {"created_at": NOW, "updated_at": T0}
    odd = [
        replace(trade(f"{text}{index}"), id=100 + index, symbol=text or "x", decision_reasons=_JSON[index % len(_JSON)], **kept)
        for index, text in enumerate(_TEXTS)
    ]
    full = replace(full_trade(), id=5, exit_time=_LAST, created_at=_FIRST, updated_at=_LAST)
    return rows_of(TRADES, [replace(bare, id=1, **kept), full, *odd])


def _positions() -> pa.Table:
    bare = position(entry_price=LARGEST, quantity=_LEAST, margin=Decimal(0), entry_time=_LAST)
    odd = [
        replace(position(status="closed", trade_id=text), id=100 + index, last_updated=T0, created_at=NOW)
        for index, text in enumerate(_TEXTS)
    ]
    full = replace(full_position(), id=5, last_updated=_LAST, created_at=_FIRST)
    return rows_of(POSITIONS, [replace(bare, id=1, last_updated=NOW, created_at=T0), full, *odd])


def _events() -> pa.Table:
    full = SystemEvent("stop", "error", "", _JSON[0], "", "", "", 2**63 - 1, "", 5, _LAST)
    odd = [
        SystemEvent(text, "info", text, _JSON[index % len(_JSON)], text, text, text, None, text, 100 + index, NOW)
        for index, text in enumerate(_TEXTS)
    ]
    return rows_of(EVENTS, [SystemEvent("start", "debug", "bare", id=1, created_at=_FIRST), full, *odd])


def _fills() -> pa.Table:
    bare = fill("bare", price=_LEAST, quantity=SMALLEST, fee=LARGEST, timestamp=_FIRST)
    odd = [
        replace(fill(f"{text}{index}", trade_id=text, order_id=text, fee_currency=text, account=text), id=100 + index)
        for index, text in enumerate(_TEXTS)
    ]
    full = replace(full_fill(), id=5, timestamp=_LAST)
    return rows_of(FILLS, [replace(item, created_at=NOW) for item in (replace(bare, id=1), full, *odd)])


def _entries() -> pa.Table:
    bare = ledger_entry("bare", amount=_LEAST, timestamp=_FIRST)
    odd: list[Any] = [
        ledger_entry(f"{text}{index}", symbol=text, trade_id=text, account=text, details=_JSON[index % len(_JSON)])
        for index, text in enumerate(_TEXTS)
    ]
    odd = [replace(item, id=100 + index) for index, item in enumerate(odd)]
    full = replace(full_ledger_entry(), id=5, timestamp=_LAST)
    return rows_of(LEDGER, [replace(item, created_at=NOW) for item in (replace(bare, id=1), full, *odd)])


def _balances() -> pa.Table:
    bare = balance(total=_LEAST, timestamp=_FIRST)
    odd = [replace(balance(currency=text, account=text, free=LARGEST), id=100 + index) for index, text in enumerate(_TEXTS)]
    full = replace(full_balance(), id=5, timestamp=_LAST)
    return rows_of(BALANCES, [replace(item, created_at=NOW) for item in (replace(bare, id=1), full, *odd)])


#: Sample rows of each table: extreme values, unusual texts, and nullable columns both set and NULL.
EXAMPLES: list[tuple[TableSpec, pa.Table]] = [
    (BARS, _bars()),
    (TRADES, _trades()),
    (POSITIONS, _positions()),
    (EVENTS, _events()),
    (FILLS, _fills()),
    (LEDGER, _entries()),
    (BALANCES, _balances()),
]
_EXAMPLES = pytest.mark.parametrize(
    ("table", "rows"), EXAMPLES, ids=lambda given: given.name if isinstance(given, TableSpec) else ""
)


def _set_kept_fields(item: Trade | Position, number: int) -> Any:
    times: dict[str, Any] = {name: NOW for name in ("created_at", "updated_at", "last_updated") if name in item.__slots__}
    return replace(item, id=number, **times)


def _make_trades(*names: str) -> pa.Table:
    return rows_of(TRADES, [_set_kept_fields(trade(name), number) for number, name in enumerate(names, 1)])


def _make_positions(*statuses: str) -> pa.Table:
    return rows_of(POSITIONS, [_set_kept_fields(position(status=status), number) for number, status in enumerate(statuses, 1)])


def _make_events(count: int) -> pa.Table:
    return rows_of(EVENTS, [SystemEvent("tick", "info", "", id=number, created_at=NOW) for number in range(1, count + 1)])


def _at(rows: pa.Table, **values: Any) -> pa.Table:
    """Return a copy of the rows in which ``values`` override the values of the first row."""
    first, *others = rows.to_pylist()
    return pa.Table.from_pylist([{**first, **values}, *others], rows.schema)


@cache
def _make_bars(count: int, first: int = 1) -> pa.Table:
    return rows_of(BARS, [replace(item, id=first + index, created_at=NOW) for index, item in enumerate(hourly(count))])


class WholeRowTests(SuiteFixtures):
    """Stores.write_rows stores complete rows unchanged, and Stores.delete_rows deletes rows by their keys."""

    @_EXAMPLES
    async def test_every_column_of_a_row_comes_back_as_it_was_stored(
        self, db: DatabaseManager, table: TableSpec, rows: pa.Table
    ) -> None:
        await write_rows(db, table, rows)
        assert await stored(db, table) == rows.select(table.written)

    @_EXAMPLES
    async def test_only_the_requested_columns_are_read(self, db: DatabaseManager, table: TableSpec, rows: pa.Table) -> None:
        await write_rows(db, table, rows)
        wanted = tuple(name for place, name in enumerate(table.columns) if name in table.key or place % 3)
        column = "symbol" if "symbol" in table.columns else "currency"
        selection = RowFilter(table, {column: rows[column].drop_null()[0].as_py()}, only=wanted)
        async with db.get_session() as session:
            for equal in ({}, selection.equal):
                complete = await get_stores(session).read_rows(replace(selection, equal=equal, only=None))
                assert await get_stores(session).read_rows(replace(selection, equal=equal)) == complete.select(wanted)
            found = [await get_stores(session).read_rows(replace(selection, equal={column: "none"}))]
            found.append(await get_stores(session).read_rows(replace(selection, limit=1)))
        assert [(part.num_rows, part.column_names) for part in found] == [(0, [*wanted]), (1, [*wanted])]

    @_EXAMPLES
    async def test_stored_rows_are_overwritten_and_others_stay(
        self, db: DatabaseManager, table: TableSpec, rows: pa.Table
    ) -> None:
        await write_rows(db, table, rows)
        # each row gets the values of the next row, except in its key and in unique columns
        fixed = {*table.key, *table.identity, *table.unique, "id", "status"}
        turned = pa.concat_tables([rows.slice(1), rows.slice(0, 1)])
        changed = pa.table([(rows if name in fixed else turned)[name] for name in table.columns], schema=rows.schema)
        await write_rows(db, table, changed.slice(1))
        # a stored bar keeps its created_at
        kept = [name for name in table.written if name not in (*table.key, *table.overwritten)]
        expected = pa.table([(rows if name in kept else changed)[name] for name in table.columns], schema=rows.schema)
        assert await stored(db, table) == pa.concat_tables([rows.slice(0, 1), expected.slice(1)]).select(table.written)

    async def test_the_store_gives_a_bar_its_id(self, db: DatabaseManager) -> None:
        await write_rows(db, BARS, _make_bars(2, 50_000))
        before = await raw.value(db, "SELECT MIN(id) FROM ohlcv")
        await write_rows(db, BARS, _make_bars(3, 70_000))
        assert await raw.value(db, "SELECT MIN(id) FROM ohlcv") == before
        assert await raw.value(db, "SELECT COUNT(DISTINCT id) FROM ohlcv") == 3

    @requires(Capability.RECORDS)
    async def test_rows_without_ids_get_new_ones(self, db: DatabaseManager) -> None:
        await write_rows(db, TRADES, _make_trades("a"))
        for table, rows in (
            (TRADES, _make_trades("b", "c")),
            (POSITIONS, _make_positions("closed", "open")),
            (EVENTS, _make_events(2)),
        ):
            without = rows.set_column(
                rows.schema.get_field_index("id"), rows.schema.field("id"), pa.nulls(rows.num_rows, pa.int64())
            )
            await write_rows(db, table, without)
            names = [name for name in table.columns if name != "id"]
            found = await stored(db, table)
            assert found.slice(found.num_rows - rows.num_rows).select(names) == rows.select(names)
            assert len(set(found["id"].to_pylist())) == found.num_rows
        with pytest.raises(IntegrityError):
            await write_rows(db, TRADES, _make_trades("d", "b").set_column(_ID_OF_TRADES, "id", pa.nulls(2, pa.int64())))
        assert (await stored(db, TRADES))["trade_id"].to_pylist() == ["a", "b", "c"]

    @_EXAMPLES
    async def test_rows_whose_keys_are_given_are_deleted_and_counted(
        self, db: DatabaseManager, table: TableSpec, rows: pa.Table
    ) -> None:
        await write_rows(db, table, rows.slice(1))
        assert await delete_rows(db, table, rows.slice(0, 4).select(list(table.key))) == 3
        assert await stored(db, table) == rows.slice(4).select(table.written)

    @_EXAMPLES
    async def test_no_rows_are_nothing_to_put_or_drop(self, db: DatabaseManager, table: TableSpec, rows: pa.Table) -> None:
        if table is not BARS:
            needs(db, Capability.RECORDS)
        async with db.get_session() as session:
            await get_stores(session).write_rows(table, rows.slice(0, 0))
            dropped = await get_stores(session).delete_rows(table, rows.slice(0, 0))
        assert (dropped, (await stored(db, table)).num_rows) == (0, 0)

    async def test_many_rows_are_inserted_beside_those_that_are_overwritten(self, db: DatabaseManager) -> None:
        await write_rows(db, BARS, _make_bars(_MANY).slice(_MANY // 3, _MANY // 3))
        rows = _make_bars(_MANY, 50_000)
        await write_rows(db, BARS, rows)
        assert await stored(db, BARS) == rows.select(BARS.written)
        assert await delete_rows(db, BARS, rows.slice(2)) == _MANY - 2

    @requires(Capability.RECORDS)
    async def test_the_next_ids_of_records_are_above_every_stored_id(self, db: DatabaseManager) -> None:
        for table, rows in EXAMPLES[1:]:
            await write_rows(db, table, rows)
        number = await TradeRepository(db).insert(trade("new"))
        await PositionRepository(db).update_position(position(symbol="new"))
        await SystemEventRepository(db).log_event("new", "info", "")
        assert number > 100 + len(_TEXTS) - 1
        assert await raw.value(db, "SELECT id FROM positions WHERE symbol = 'new'") > 100 + len(_TEXTS) - 1
        assert await raw.value(db, "SELECT id FROM system_events WHERE event_type = 'new'") > 100 + len(_TEXTS) - 1

    @requires(Capability.RECORDS)
    async def test_ids_below_those_given_already_take_nothing_back(self, db: DatabaseManager) -> None:
        await write_rows(db, TRADES, rows_of(TRADES, [_set_kept_fields(trade("far"), 5_000)]))
        await write_rows(db, TRADES, rows_of(TRADES, [_set_kept_fields(trade("near"), 1)]))
        assert await TradeRepository(db).insert(trade("next")) > 5_000

    @requires(Capability.RECORDS)
    async def test_a_row_below_all_ids_that_a_store_gives_is_put_too(self, db: DatabaseManager) -> None:
        await write_rows(db, TRADES, rows_of(TRADES, [_set_kept_fields(trade("low"), -5)]))
        assert await TradeRepository(db).insert(trade("next")) > -5

    @requires(Capability.RECORDS)
    async def test_another_row_has_an_id_once_that_of_the_one_who_had_it_is_dropped(self, db: DatabaseManager) -> None:
        await write_rows(db, TRADES, _make_trades("a", "b", "c"))
        async with db.get_session() as session:
            await get_stores(session).delete_rows(TRADES, _make_trades("a", "b"))
            await get_stores(session).write_rows(TRADES, _make_trades("b", "a"))
        assert await stored(db, TRADES) == _make_trades("b", "a", "c")

    @requires(Capability.RECORDS)
    async def test_the_open_position_moves_from_one_row_to_another(self, db: DatabaseManager) -> None:
        for statuses in (("open", "closed"), ("closed", "open"), ("open", "liquidated")):
            await write_rows(db, POSITIONS, _make_positions(*statuses))
        assert await stored(db, POSITIONS) == _make_positions("open", "liquidated")

    @pytest.mark.parametrize(
        ("table", "before", "rows"),
        [
            (TRADES, _make_trades("a", "b"), rows_of(TRADES, [_set_kept_fields(trade("a"), 1), _set_kept_fields(trade("b"), 9)])),
            (
                TRADES,
                _make_trades("a", "b"),
                rows_of(TRADES, [_set_kept_fields(trade("a"), 1), _set_kept_fields(trade("other"), 2)]),
            ),
            (TRADES, _make_trades("a", "b"), _make_trades("b", "a")),
            (POSITIONS, _make_positions("closed"), _at(_make_positions("open", "closed"), created_at=T0)),
            (EVENTS, _make_events(3), _at(_make_events(5), created_at=T0)),
            (EVENTS, _make_events(3), _at(_make_events(5), event_type="other")),
            (EVENTS, _make_events(3), _at(_make_events(5), message="other")),
            (TRADES, _make_trades("a"), rows_of(TRADES, [_set_kept_fields(trade("b"), 7), _set_kept_fields(trade("b"), 8)])),
            (POSITIONS, _make_positions("open"), rows_of(POSITIONS, [_set_kept_fields(position(), 2)])),
            (
                POSITIONS,
                _make_positions("closed"),
                rows_of(POSITIONS, [_set_kept_fields(position(), 2), _set_kept_fields(position(), 3)]),
            ),
        ],
        ids=[
            "trade_id",
            "another trade",
            "trade_ids exchanged",
            "another position",
            "another time",
            "another type",
            "another message",
            "trade_id twice",
            "open position",
            "open position twice",
        ],
    )
    async def test_what_belongs_to_another_row_is_refused_and_the_session_continues(
        self, db: DatabaseManager, table: TableSpec, before: pa.Table, rows: pa.Table
    ) -> None:
        await write_rows(db, table, before)
        async with db.get_session() as session:
            await OHLCVRepository(session).insert_many([bar(symbol="EARLIER")])
            with pytest.raises(IntegrityError):
                await get_stores(session).write_rows(table, rows)
            await get_stores(session).write_rows(BARS, _make_bars(3, 50))
        assert await stored(db, table) == before
        assert await raw.count(db, "ohlcv") == 4

    @requires(Capability.RECORDS)
    async def test_a_row_that_another_session_has_under_way_is_not_overwritten(self, db: DatabaseManager) -> None:
        async with db.get_session() as session:
            number = await TradeRepository(session).insert(trade("own"))
            putting = asyncio.create_task(write_rows(db, TRADES, rows_of(TRADES, [_set_kept_fields(trade("other"), number)])))
            for _ in range(1_000):
                await asyncio.sleep(0)
        with pytest.raises(IntegrityError):
            await putting
        assert (await stored(db, TRADES))["trade_id"].to_pylist() == ["own"]

    @requires(Capability.RECORDS)
    async def test_what_was_put_is_rolled_back_with_its_session(self, db: DatabaseManager) -> None:
        await write_rows(db, TRADES, _make_trades("a", "b"))
        async with db.get_session() as session:
            await get_stores(session).write_rows(TRADES, _make_trades("a", "b", "c", "d", "e").slice(1))
            await get_stores(session).delete_rows(TRADES, _make_trades("a"))
            await session.rollback()
        assert await stored(db, TRADES) == _make_trades("a", "b")

    @pytest.mark.parametrize("turns", [1, 5, 30, 300, 1_000])
    async def test_rows_put_by_a_task_that_is_cancelled_are_all_there_or_none(self, db: DatabaseManager, turns: int) -> None:
        await write_rows(db, BARS, _make_bars(10))
        with suppress(OperationalError):
            async with db.get_session() as session:
                task = asyncio.create_task(get_stores(session).write_rows(BARS, _make_bars(_MANY, 50_000)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        assert await stored(db, BARS) in [_make_bars(count).select(BARS.written) for count in (10, _MANY)]
