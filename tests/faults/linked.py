"""Linked sessions: bars, a trade, its position and an event with one number, and which of them are stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, SystemEventRepository, TradeRepository
from iftb_store.testing import raw
from iftb_store.testing.samples import hourly, position, trade
from tests.faults.tally import Tally

# each fourth session has enough bars for the bulk path of an engine (COPY, chunks)
_FEW, _MANY, _EACH = 3, 400, 4

_TABLES = ("ohlcv", "trades", "positions", "system_events")

Counts = tuple[int, ...]


def name_of(number: int) -> str:
    """Return the symbol of a number; names sort as the numbers do."""
    return f"S{number:09}"


def whole(number: int) -> Counts:
    """Return the rows of each table that a session writes."""
    return (_MANY if number % _EACH == 0 else _FEW, 1, 1, 1)


async def write(session: Any, number: int) -> None:
    """Write all rows of a number, in a session, or with a manager in one transaction per call."""
    name = name_of(number)
    await OHLCVRepository(session).upsert_many(hourly(whole(number)[0], symbol=name))
    await TradeRepository(session).insert(trade(name, symbol=name, quantity=Decimal(number + 1)))
    await PositionRepository(session).update_position(replace(position(trade_id=name), symbol=name))
    await SystemEventRepository(session).log_event("fill", "info", name, symbol=name, trade_id=name)


async def found(db: DatabaseManager, first: int = 0) -> dict[int, Counts]:
    """Return the stored rows of each number from ``first`` on, read with raw SQL."""
    counts: dict[int, list[int]] = {}
    for index, table in enumerate(_TABLES):
        sql = f"SELECT symbol, count(*) FROM {table} WHERE symbol >= :first GROUP BY symbol"
        for name, rows in await raw.fetch(db, sql, first=name_of(first)):
            counts.setdefault(int(name[1:]), [0] * len(_TABLES))[index] = int(rows)
    return {number: tuple(each) for number, each in counts.items()}


def judge(tally: Tally, stored: Mapping[int, Counts], acknowledged: Collection[int], refused: Collection[int] = ()) -> None:
    """Check that acknowledged numbers are stored completely and refused ones not at all.

    Every other number must be stored completely or not at all.
    """
    for number in {*stored, *acknowledged}:
        rows, complete = stored.get(number), whole(number)
        if number in acknowledged and rows is None:
            tally.note("lost", f"{number} was acknowledged and is not there")
        elif rows is not None and any(count > due for count, due in zip(rows, complete, strict=True)):
            tally.note("duplicated", f"{number} has the rows {rows}, not {complete}")
        elif rows is not None and rows != complete:
            tally.note("lost", f"{number} is there in part: the rows {rows}, not {complete}")
        elif rows is not None and number in refused:
            tally.note("duplicated", f"{number} was refused and is there")
