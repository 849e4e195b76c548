"""The repository of positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iftb_store.errors import AmbiguousPositionError, NotFoundError, PositionClosedError
from iftb_store.models import Position
from iftb_store.protocols import Stores
from iftb_store.repositories.base import RecordRepository, check_fields
from iftb_store.schema.row_checks import POSITION_CHECKS
from iftb_store.schema.table_spec import POSITIONS
from iftb_store.values import checks
from iftb_store.values.choices import Side


class PositionRepository(RecordRepository):
    """Reads and writes positions.

    At most one position is open per (exchange, symbol, side). A closed position stays in the table and never changes.
    """

    _scanned = POSITIONS

    async def get_open_positions(self, exchange: str = "binance") -> list[Position]:
        """Return the open positions of an exchange, ordered by entry_time, then id; oldest first."""
        market = checks.name_text(exchange, "exchange")
        async with self._stores() as stores:
            return await stores.records.select(POSITIONS, {"exchange": market, "status": "open"})

    async def get_position(self, symbol: str, exchange: str = "binance", *, side: Side | None = None) -> Position | None:
        """Return the open position of a symbol, or None if there is none; ``side`` selects the long or the short position.

        Raises:
            AmbiguousPositionError: a long and a short position are open, and the caller gave no side.
        """
        market = {"symbol": checks.name_text(symbol, "symbol"), "exchange": checks.name_text(exchange, "exchange")}
        wanted = checks.optional(POSITION_CHECKS["side"], side, "side")
        async with self._stores() as stores:
            stored: list[Position] = await stores.records.select(POSITIONS, {**market, "status": "open"})
        found = [item for item in stored if wanted in (None, item.side)]
        if len(found) > 1:
            raise AmbiguousPositionError(
                f"both a long and a short position of {market['symbol']} on {market['exchange']} are open; select one with side="
            )
        return found[0] if found else None

    async def update_position(self, position: Position) -> None:
        """Store a position. The object is not changed; its created_at and last_updated are ignored.

        If the object has no id, it replaces every field of the open position with the same (exchange, symbol, side), or is
        inserted if there is no such position. If the object has an id, it replaces every field of the position with this
        id, which must be open.

        Raises:
            NotFoundError: no position has the id.
            PositionClosedError: the position with the id is no longer open.
            IntegrityError: another open position has the same (exchange, symbol, side).
            InvalidValueError: a value cannot be stored.
        """
        checked = check_fields(position, Position, POSITION_CHECKS)
        async with self._stores() as stores:
            now = self._now()
            if checked.id is None:
                await stores.records.upsert_position(replace(checked, created_at=now, last_updated=now))
                return
            changes = {name: getattr(checked, name) for name in POSITION_CHECKS if name != "id"}
            await _update_open(stores, checked.id, {**changes, "last_updated": now})

    async def close_position(self, position_id: int) -> None:
        """Set the status of an open position to closed; last_updated becomes the current time.

        Raises:
            NotFoundError: no position has the id.
            PositionClosedError: the position is no longer open.
        """
        number = checks.integer(position_id, "position_id")
        async with self._stores() as stores:
            await _update_open(stores, number, {"status": "closed", "last_updated": self._now()})


async def _update_open(stores: Stores, position_id: int, changes: dict[str, Any]) -> None:
    if await stores.records.update(POSITIONS, {"id": position_id, "status": "open"}, changes):
        return
    if await stores.records.select(POSITIONS, {"id": position_id}):
        raise PositionClosedError(f"position {position_id} is no longer open and cannot be changed; a new position has no id")
    raise NotFoundError(f"no position has the id {position_id}; get_open_positions() lists the open positions")
