"""Rows for tests of sessions, isolation, cancellation and life cycle: bars, which every backend keeps, one bar for each name."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from iftb_store import OHLCVRepository
from iftb_store.testing.samples import bar


async def add(target: Any, name: str = "ROW") -> None:
    """Insert a bar with the symbol ``name`` in a session or with a manager; a second bar with this name raises IntegrityError."""
    await OHLCVRepository(target).insert_many([bar(symbol=name)])


async def change(target: Any, name: str, value: Decimal | int) -> None:
    """Store the value of a row: the volume of the bar whose symbol is ``name``."""
    await OHLCVRepository(target).upsert_many([bar(symbol=name, volume=Decimal(value))])


async def read_value(target: Any, name: str = "ROW") -> Decimal | None:
    """Return the value of a row; None if there is no row with this name."""
    found = await OHLCVRepository(target).get_latest(name, "1h", 1)
    return found[0].volume if found else None


async def read_names(target: Any) -> list[str]:
    """Return the names of the rows, in order."""
    return [series.symbol for series in await OHLCVRepository(target).list_series()]


async def delete_bars(target: Any) -> None:
    """Delete every bar."""
    repository = OHLCVRepository(target)
    for series in await repository.list_series():
        await repository.delete_range(series.symbol, series.timeframe, series.first, series.last, series.exchange)
