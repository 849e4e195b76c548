"""Imports of complete rows: rows stored already, ids in use, rows that no store would write, and any text."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from iftb_store import (
    DatabaseManager,
    InvalidValueError,
    OHLCVRepository,
    PositionRepository,
    SystemEventRepository,
    TradeConflictError,
    TradeRepository,
)
from iftb_store.batches.arrow import arrow_schema
from iftb_store.cli import main
from iftb_store.files.detect import detect_format
from iftb_store.files.export import export_table
from iftb_store.files.import_ import import_file
from iftb_store.files.lines import csv_header, csv_lines, json_lines
from iftb_store.files.options import Hints
from iftb_store.files.readers.binance import DumpError
from iftb_store.files.readers.choice import open_reader
from iftb_store.files.rows import check_complete_rows
from iftb_store.files.source import Source
from iftb_store.schema.table_spec import EVENTS, TRADES, TableSpec
from iftb_store.testing import raw
from iftb_store.testing.samples import Clock, full_position, full_trade, hourly, position, trade
from tests.support.whole_rows import TABLES, empty, everything, everything_but_bar_ids, fill

_WIDE = Context(prec=50)


async def exported(db: DatabaseManager, folder: Path, format: str = "parquet") -> dict[str, Source]:
    """Export every table; return the files."""
    for table in TABLES:
        await export_table(db, folder / f"{table}.{format}", table=table)
    return {table: Source(folder / f"{table}.{format}", Hints()) for table in TABLES}


async def exported_and_renamed(db: DatabaseManager, folder: Path) -> tuple[dict[str, Source], dict[str, list[dict[str, Any]]]]:
    """Export three bars and a row of each other table, then change the stored rows; return the files and the exported rows."""
    await OHLCVRepository(db).insert_many(hourly(3))
    await TradeRepository(db).insert(full_trade("A"))
    await PositionRepository(db).update_position(full_position())
    await SystemEventRepository(db).log_event("one", "info", "")
    sources, given = await exported(db, folder), await everything(db)
    await raw.run(db, "UPDATE ohlcv SET symbol = 'ETHUSDT'")
    await raw.run(db, "UPDATE trades SET trade_id = 'B'")
    return sources, given


async def test_a_second_import_changes_nothing(url: str, tmp_path: Path) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await fill(db)
        before = await everything(db)
        sources = await exported(db, tmp_path)

        for source in sources.values():
            await import_file(db, source)

        assert await everything(db) == before


async def test_what_is_stored_already_is_refused_on_demand(url: str, tmp_path: Path) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        await fill(db)
        before = await everything_but_bar_ids(db)
        sources = await exported(db, tmp_path)

        for source in sources.values():
            with pytest.raises(IntegrityError):
                await import_file(db, source, insert=True)
        unchanged = await everything_but_bar_ids(db)
        await empty(db)
        for source in sources.values():
            await import_file(db, source, insert=True)

        assert unchanged == before
        assert await everything_but_bar_ids(db) == before


async def test_ids_of_other_rows_are_refused_and_nothing_is_stored(url: str, tmp_path: Path) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        sources, _ = await exported_and_renamed(db, tmp_path)
        for table in ("trades", "positions", "system_events"):
            await raw.run(db, f"DELETE FROM {table}")
        await TradeRepository(db, clock=Clock()).insert(trade("B"))
        await PositionRepository(db, clock=Clock()).update_position(position())
        await SystemEventRepository(db, clock=Clock()).log_event("other", "info", "")
        for table in ("trades", "positions", "system_events"):
            await raw.run(db, f"UPDATE {table} SET id = 1")
        before = await everything_but_bar_ids(db)

        for table in ("trades", "positions", "system_events"):
            with pytest.raises(IntegrityError, match=r"belongs to another|already stored"):
                await import_file(db, sources[table])

        assert await everything_but_bar_ids(db) == before


async def test_a_number_and_a_boolean_in_json_are_different_values(url: str, tmp_path: Path) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        for number in range(3):
            await SystemEventRepository(db).log_event("a", "info", str(number), details={"value": number and 1, "text": "ü"})
        sources = await exported(db, tmp_path, "jsonl")
        content = (tmp_path / "system_events.jsonl").read_text()
        first = await import_file(db, sources["system_events"])
        (tmp_path / "system_events.jsonl").write_text(re.sub(r"(value\W+)0", r"\1false", content))
        with pytest.raises(DumpError, match="would change the stored row of system_events with the id 1"):
            await import_file(db, sources["system_events"], on_conflict="refuse")
        second = await import_file(db, sources["system_events"])
        (stored, *_) = reversed(await SystemEventRepository(db).get_recent_events())
    assert [(one.inserted, one.changed, one.equal) for one in (first, second)] == [(0, 0, 3), (0, 1, 2)]
    assert stored.details == {"value": False, "text": "ü"}


@pytest.mark.parametrize("as_text", [False, True], ids=["list", "text"])
async def test_tags_are_a_list_in_json_and_are_read_from_a_list_or_its_text(
    sqlite_url: str, tmp_path: Path, as_text: bool
) -> None:
    tags, path = ['say "a, b"', "ü"], tmp_path / "trades.jsonl"
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await TradeRepository(db).insert(trade("A", tags=tags))
        await TradeRepository(db).insert(trade("B"))
        sources = await exported(db, tmp_path, "jsonl")
        before = await everything(db)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["tags"] for row in rows] == [tags, []]
        if as_text:
            rows[0]["tags"] = json.dumps(tags)
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        await empty(db)
        for new_ids in (False, True):
            await import_file(db, sources["trades"], new_ids=new_ids)
        assert (await everything(db))["trades"] == before["trades"]


async def test_bars_and_trades_come_in_under_new_ids(url: str, tmp_path: Path) -> None:
    async with DatabaseManager(url) as db:
        await db.create_tables()
        sources, given = await exported_and_renamed(db, tmp_path)

        for _ in range(2):
            for table in ("ohlcv", "trades"):
                await import_file(db, sources[table], new_ids=True)

        after = await everything(db)
        assert [_values(row) for row in after["ohlcv"] if row["symbol"] == "BTCUSDT"] == [_values(row) for row in given["ohlcv"]]
        assert [_values(row) for row in after["trades"] if row["trade_id"] == "A"] == [_values(row) for row in given["trades"]]
        assert len({row["id"] for row in after["ohlcv"]}) == 6
        assert len({row["id"] for row in after["trades"]}) == 2
        for table in ("positions", "system_events"):
            with pytest.raises(InvalidValueError, match="identified only by their id"):
                await import_file(db, sources[table], new_ids=True)


async def test_a_trade_that_is_stored_with_other_values_does_not_come_in(sqlite_url: str, tmp_path: Path) -> None:
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await TradeRepository(db).insert(full_trade("A"))
        sources = await exported(db, tmp_path)
        await raw.run(db, "UPDATE trades SET side = 'long'")

        with pytest.raises(TradeConflictError, match="side"):
            await import_file(db, sources["trades"], new_ids=True)


def test_the_command_names_the_remedy(sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def store() -> None:
        async with DatabaseManager(sqlite_url) as db:
            await db.create_tables()
            await TradeRepository(db).insert(trade("A"))
            await exported(db, tmp_path)
            await raw.run(db, "UPDATE trades SET trade_id = 'B'")

    asyncio.run(store())
    path = str(tmp_path / "trades.parquet")

    refused, taken = main(["import", sqlite_url, path]), main(["import", sqlite_url, path, "--new-ids"])

    captured = capsys.readouterr()
    assert (refused, taken) == (1, 0)
    assert captured.err.startswith(f"error: {path}: ")
    assert captured.err.endswith("no row of this file was stored; use --new-ids to store them under new ids\n")


_CHANGES: list[tuple[str, str, Any, str]] = [
    ("ohlcv", "symbol", "", "symbol is empty"),
    ("ohlcv", "symbol", "a\0b", "NUL"),
    ("ohlcv", "timeframe", "7m", "unknown timeframe '7m'"),
    ("ohlcv", "high", Decimal("-1"), "high is below low"),
    ("ohlcv", "volume", Decimal("-1"), "volume is negative"),
    ("ohlcv", "trades_count", -1, "trades_count"),
    ("trades", "id", 0, "id is below 1"),
    ("trades", "id", 2**63 - 1, "id is greater than 4611686018427387904"),
    ("trades", "id", None, "id is null"),
    ("ohlcv", "created_at", None, "created_at is null"),
    ("ohlcv", "timestamp", None, "timestamp is null"),
    ("trades", "side", "up", "side must be one of"),
    ("trades", "trade_id", " ", "trade_id is empty"),
    ("trades", "entry_price", None, "entry_price is null"),
    ("trades", "llm_analysis", "[1]", "llm_analysis must be a dict"),
    ("trades", "llm_analysis", "{", "llm_analysis is not a JSON object"),
    ("trades", "llm_analysis", '{"a": NaN}', "nan, which JSON cannot hold"),
    ("trades", "llm_analysis", '{"a": "\\u0000"}', "NUL"),
    ("trades", "llm_analysis", '{"a": "\\ud800"}', "surrogate"),
    ("trades", "llm_analysis", '{"a":' * 5_000 + "1" + "}" * 5_000, "llm_analysis is nested too deeply"),
    ("positions", "status", "ajar", "status must be one of"),
    ("system_events", "severity", "loud", "severity must be one of"),
    ("system_events", "message", "\0", "NUL"),
    ("system_events", "position_id", -1, "position_id"),
]


@pytest.mark.parametrize(("table", "column", "value", "problem"), _CHANGES)
async def test_a_row_that_no_store_would_write_is_refused_by_its_number(
    sqlite_url: str, tmp_path: Path, table: str, column: str, value: Any, problem: str
) -> None:
    path = tmp_path / f"{table}.parquet"
    async with DatabaseManager(sqlite_url) as db:
        await db.create_tables()
        await OHLCVRepository(db).insert_many(hourly(2))
        for name in "AB":
            await TradeRepository(db).insert(full_trade(name))
            await SystemEventRepository(db).log_event(name, "info", name, {})
            await PositionRepository(db).update_position(replace(full_position(), symbol=name))
        await exported(db, tmp_path)
        await empty(db)
        rows = pq.read_table(path)
        field = rows.schema.get_field_index(column)
        changed = pa.array([rows[column][0].as_py(), value], rows.schema.field(column).type)
        pq.write_table(rows.set_column(field, column, changed), path)

        with pytest.raises(DumpError) as caught:
            await import_file(db, Source(path, Hints()))

        assert str(caught.value).startswith(f"{path}, row 2: ")
        assert problem in str(caught.value)
        assert await raw.count(db, table) == 0


async def test_a_file_of_another_version_s_columns_is_refused(tmp_path: Path) -> None:
    rows = pa.table({"id": [1], "moon": ["full"]}).replace_schema_metadata(
        {"iftb_store.table": "trades", "iftb_store.version": "9.0"}
    )
    pq.write_table(rows, tmp_path / "trades.parquet")

    with pytest.raises(DumpError, match=r"iftb-store '9\.0' exported this file from the table 'trades', whose columns differ"):
        Source(tmp_path / "trades.parquet", Hints())


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12) | st.text(
    '",\r\n\t ;\ufeff', max_size=6
)
_NAME = _TEXT.filter(lambda text: text != "" and not text.isspace())
_TIME = st.datetimes(timezones=st.just(UTC))
_UNITS = st.integers(-(10**38) + 1, 10**38 - 1) | st.integers(-100, 100)
_DECIMAL = _UNITS.map(lambda units: Decimal(units).scaleb(-18, _WIDE))
_EVENT = st.fixed_dictionaries(
    {
        "event_type": _NAME,
        "severity": st.just("info"),
        "message": _TEXT,
        "details": st.none()
        | st.dictionaries(_TEXT, _TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=2),
        "symbol": st.none() | _NAME,
        "position_id": st.none() | st.integers(0, 2**63 - 1),
        "stack_trace": st.none() | _TEXT,
        "created_at": _TIME,
    }
)
_TRADE = st.fixed_dictionaries(
    {
        "trade_id": _NAME,
        "symbol": _NAME,
        "exchange": _NAME,
        "side": st.just("long"),
        "action": st.just("open"),
        **dict.fromkeys(["entry_price", "quantity", "leverage", "fee"], _DECIMAL),
        "exit_price": st.none() | _DECIMAL,
        **dict.fromkeys(["entry_time", "created_at", "updated_at"], _TIME),
        "exit_time": st.none() | _TIME,
    }
)


@settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(_EVENT, min_size=1, max_size=4).map(lambda rows: (EVENTS, rows))
    | st.lists(_TRADE, min_size=1, max_size=4, unique_by=lambda row: row["trade_id"]).map(lambda rows: (TRADES, rows))
)
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_any_row_comes_back_from_a_line(tmp_path: Path, rows: tuple[TableSpec, list[dict[str, Any]]], format: str) -> None:
    table, values = rows
    numbered = [{**_texts_of_json(row), "id": index + 1} for index, row in enumerate(values)]
    given_rows = pa.Table.from_pylist(numbered, arrow_schema(table))
    (batch,) = given_rows.combine_chunks().to_batches()
    path = tmp_path / f"rows.{format}"
    path.write_bytes(csv_header(table) + csv_lines(table, batch) if format == "csv" else json_lines(table, batch))

    reader = open_reader(path, detect_format(path))
    found = pa.concat_tables([check_complete_rows(table, part) for part in reader.tables(list(table.columns))])
    reader.close()

    assert [_texts_of_json(row, back=True) for row in found.to_pylist()] == [
        _texts_of_json(row, back=True) for row in given_rows.to_pylist()
    ]


def _texts_of_json(row: dict[str, Any], *, back: bool = False) -> dict[str, Any]:
    turn = json.loads if back else json.dumps
    return {name: turn(value) if name == "details" and value is not None else value for name, value in row.items()}


def _values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("id", "created_at", "updated_at")}
