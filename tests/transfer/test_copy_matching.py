"""Rows of a merged store are found again, whatever a bot or an administrator did to them in the source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from iftb_store import CopiedPart, DatabaseManager, OHLCVRepository, PositionRepository, SystemEventRepository, copy, verify
from iftb_store.registry import get_stores
from iftb_store.schema.table_spec import DIGESTS, EVENTS, POSITIONS, RowFilter, TableSpec
from iftb_store.testing import raw
from iftb_store.testing.samples import HOUR, T0, Clock, bar, hourly, position
from iftb_store.transfer import day_digests
from iftb_store.transfer.copy import Copy


@asynccontextmanager
async def stores(tmp_path: Path, url: str, *names: str) -> AsyncIterator[list[DatabaseManager]]:
    """Open a source for each name and the destination, each with tables."""
    urls = [*(f"sqlite:///{tmp_path / f'{name}.db'}" for name in names or ("source",)), url]
    found = [DatabaseManager(each) for each in urls]
    for db in found:
        await db.connect()
        await db.migrate()
    try:
        yield found
    finally:
        for db in found:
            await db.disconnect()


async def rows_of(db: DatabaseManager, table: TableSpec) -> list[dict[str, Any]]:
    async with db.get_session() as session:
        rows: list[dict[str, Any]] = (await get_stores(session).read_rows(RowFilter(table))).to_pylist()
    return rows


async def moved(source: DatabaseManager, destination: DatabaseManager, **options: Any) -> dict[str, tuple[int, int, int]]:
    """Copy; return (inserted, updated, kept) of each table that has rows."""
    parts: tuple[CopiedPart, ...] = (await copy(source, destination, **options)).parts
    assert all(part.equal for part in parts)
    return {part.table: (part.inserted, part.updated, part.kept) for part in parts if part.source.rows or part.kept}


async def test_events_and_positions_of_one_moment_are_all_copied_once(tmp_path: Path, url: str) -> None:
    async with stores(tmp_path, url) as (one, two):
        events, positions = SystemEventRepository(one, clock=Clock(T0)), PositionRepository(one, clock=Clock(T0))
        for number in range(3):
            await events.log_event("fill", "info", "order filled", details={"n": number})
            await positions.update_position(position(symbol=f"S{number}"))
        await SystemEventRepository(two).log_event("own", "info", "own")
        await PositionRepository(two).update_position(position(symbol="OWN"))
        assert await moved(one, two) == {"positions": (3, 0, 1), "system_events": (3, 0, 1)}
        for _ in range(2):
            assert await moved(one, two) == {"positions": (0, 0, 1), "system_events": (0, 0, 1)}
        assert [row["details"] for row in await rows_of(two, EVENTS)][1:] == [f'{{"n": {number}}}' for number in range(3)]
        assert [row["symbol"] for row in await rows_of(two, POSITIONS)] == ["OWN", "S0", "S1", "S2"]


async def test_a_position_whose_values_change_stays_one_row(tmp_path: Path, url: str) -> None:
    async with stores(tmp_path, url) as (one, two):
        positions = PositionRepository(one)
        await PositionRepository(two).update_position(position(symbol="OWN"))
        await positions.update_position(position(symbol="A"))
        assert await moved(one, two) == {"positions": (1, 0, 1)}
        (opened,) = await positions.get_open_positions()
        await positions.update_position(replace(opened, trade_id="T1", entry_time=T0 + HOUR))
        assert await moved(one, two) == {"positions": (0, 1, 1)}
        await positions.close_position(opened.id or 0)
        assert await moved(one, two) == {"positions": (0, 1, 1)}
        assert [(row["symbol"], row["status"], row["trade_id"]) for row in await rows_of(two, POSITIONS)] == [
            ("OWN", "open", None),
            ("A", "closed", "T1"),
        ]


async def test_a_row_that_is_deleted_in_the_source_stays_in_the_destination(tmp_path: Path, url: str) -> None:
    async with stores(tmp_path, url) as (one, two):
        positions = PositionRepository(one, clock=Clock(T0))
        for symbol in ("OWN", "OWN2"):
            await PositionRepository(two).update_position(position(symbol=symbol))
        for quantity in (1, 2):
            await positions.update_position(position(symbol="A", quantity=Decimal(quantity)))
            (opened,) = await positions.get_open_positions()
            await positions.close_position(opened.id or 0)
        assert await moved(one, two) == {"positions": (2, 0, 2)}
        await raw.run(one, "DELETE FROM positions WHERE id = 1")
        assert await moved(one, two) == {"positions": (0, 0, 3)}
        assert sorted(row["quantity"] for row in await rows_of(two, POSITIONS) if row["symbol"] == "A") == [1, 2]


async def test_an_event_names_its_own_position_or_none(tmp_path: Path, url: str) -> None:
    async with stores(tmp_path, url) as (one, two):
        await PositionRepository(two).update_position(position(symbol="OWN"))
        await SystemEventRepository(two).log_event("own", "info", "own")
        await PositionRepository(one).update_position(position(symbol="A"))
        (opened,) = await PositionRepository(one).get_open_positions()
        await SystemEventRepository(one).log_event("fill", "info", "filled", position_id=opened.id)

        async def read_names() -> list[str | None]:
            symbols = {row["id"]: row["symbol"] for row in await rows_of(two, POSITIONS)}
            return [symbols.get(row["position_id"]) for row in await rows_of(two, EVENTS)]

        assert await moved(one, two, tables="system_events") == {"system_events": (1, 0, 1)}
        assert await read_names() == [None, None]
        assert await moved(one, two) == {"positions": (1, 0, 1), "system_events": (0, 1, 1)}
        assert await read_names() == [None, "A"]
        assert await moved(one, two) == {"positions": (0, 0, 1), "system_events": (0, 0, 1)}
        await raw.run(one, "DELETE FROM positions")
        assert await moved(one, two) == {"positions": (0, 0, 2), "system_events": (0, 0, 1)}
        assert await read_names() == [None, "A"]


async def test_an_event_that_was_copied_before_its_position_is_put_right(tmp_path: Path, url: str) -> None:
    async with stores(tmp_path, url) as (one, two):
        await PositionRepository(two).update_position(position(symbol="OWN"))
        await PositionRepository(one).update_position(position(symbol="A"))
        (opened,) = await PositionRepository(one).get_open_positions()
        await SystemEventRepository(one).log_event("fill", "info", "filled", position_id=opened.id)
        await copy(one, two, tables="system_events")
        await copy(one, two)
        (other,) = [row["id"] for row in await rows_of(two, POSITIONS) if row["symbol"] == "A"]
        assert [row["position_id"] for row in await rows_of(two, EVENTS)] == [other]
        assert [part.table for part in (await verify(one, two)).parts if not part.equal] == ["positions"]


@pytest.mark.parametrize("keep_ids", [False, True])
async def test_an_event_that_was_edited_is_put_right_and_a_position_counts(tmp_path: Path, url: str, keep_ids: bool) -> None:
    async with stores(tmp_path, url) as (one, two):
        for number in (7, None):
            await SystemEventRepository(one).log_event("fill", "info", "filled", position_id=number)
        await copy(one, two, keep_ids=keep_ids)
        for db, change in ((two, "position_id = 8"), (one, "position_id = NULL"), (one, "stack_trace = 'edited'")):
            await raw.run(db, f"UPDATE system_events SET {change}")
            assert not (await verify(one, two)).equal
            assert (await moved(one, two, keep_ids=keep_ids))["system_events"][0] == 0
            assert (await verify(one, two)).equal


async def test_digests_of_days_that_are_gone_are_forgotten(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day_digests, "LEAST", 1)
    async with stores(tmp_path, url) as (one, two):
        await OHLCVRepository(one).insert_many(hourly(24 * 4))
        await copy(one, two)
        for db in (one, two):
            await OHLCVRepository(db).delete_range("BTCUSDT", "1h", T0, T0 + 23 * HOUR)
        await OHLCVRepository(two).insert_many([bar(T0 + (24 * 9 + hour) * HOUR) for hour in range(24)])
        (part,) = (await copy(one, two, tables="ohlcv", delete=True)).parts
        assert part.deleted == 24
        assert (await verify(one, two)).equal
        assert len(await rows_of(two, DIGESTS)) == 3


async def test_of_two_copies_at_once_none_keeps_a_digest_of_what_the_other_wrote(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_digests, "LEAST", 1)
    async with stores(tmp_path, url, "first", "second") as (one, other, two):
        await OHLCVRepository(one).insert_many(hourly(24))
        await OHLCVRepository(other).insert_many(hourly(24, trades_count=7))
        prove, begun = Copy._verify_plan, list[bool]()

        async def slow(self: Copy, *args: Any) -> None:
            await prove(self, *args)
            if not begun:
                begun.append(True)
                await copy(other, two)

        with monkeypatch.context() as patch:
            patch.setattr(Copy, "_verify_plan", slow)
            await copy(one, two)
        assert (await moved(one, two, tables="ohlcv"))["ohlcv"] == (0, 24, 0)
        assert (await verify(one, two)).equal
