"""The repository of positions."""

from __future__ import annotations

import dataclasses
from typing import Any

from iftb_store.errors import (
    AmbiguousPositionError,
    NotFoundError,
    PositionClosedError,
    PositionConflictError,
    operational_error,
)
from iftb_store.models import Position
from iftb_store.protocols import Stores
from iftb_store.repositories.base import RecordRepository, check_fields
from iftb_store.repositories.exchanges import select_exchange
from iftb_store.schema.row_checks import POSITION_CHECKS
from iftb_store.schema.table_spec import POSITIONS, RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import Side
from iftb_store.values.display import show


class PositionRepository(RecordRepository):
    """Reads and writes positions.

    At most one position is open per (exchange, symbol, side). A closed position stays in the table and never changes. Decimals
    are rounded half-even to 18 places. Naive times are UTC, and returned times are aware UTC. With a manager, each call is a
    separate transaction; with a session, the writes are committed at the session's end.

    If a read finds nothing on the default exchange, binance, but another exchange has positions that match, a warning is logged,
    once for each manager.

    Besides its listed errors, each method raises NotConnectedError before connect(), SchemaError if the database has no
    tables of iftb-store, and OperationalError if the database fails (TransientError if a new attempt may succeed).

    Example:
        # the examples of the methods use this name, and an open position of BTCUSDT
        positions = PositionRepository(db)
        len(await positions.get_open_positions())  # -> 1
    """

    _scanned = POSITIONS

    async def get_open_positions(self, exchange: str | None = "binance") -> list[Position]:
        """Return the open positions of an exchange, ordered by entry_time, then id; oldest first.

        Args:
            exchange: the exchange; None returns the open positions of all exchanges, ordered by exchange, symbol, entry_time
                and id.

        Returns:
            The positions; empty if none is open.

        Raises:
            InvalidValueError: the exchange is not text that can be stored.

        Example:
            opened = await positions.get_open_positions(exchange=None)
            [(position.symbol, position.side, position.trade_id) for position in opened]  # -> [('BTCUSDT', 'long', 'T-2')]
        """
        return await self._select(RowFilter(POSITIONS, {**select_exchange(exchange), "status": "open"}))

    async def get_position(self, symbol: str, exchange: str | None = "binance", *, side: Side | None = None) -> Position | None:
        """Return the open position of a symbol, or None; ``side`` selects the long or the short position.

        Args:
            symbol: the symbol of the position.
            exchange: the exchange of the position; None: any exchange.
            side: the side of the position; None: any side.

        Returns:
            The position, or None if none is open.

        Raises:
            AmbiguousPositionError: two open positions match, e.g. a long and a short one, and the caller gave no side.
            InvalidValueError: a value is one that no position can have.

        Example:
            (await positions.get_position("BTCUSDT")).quantity  # -> Decimal('0.01')
            await positions.get_position("BTCUSDT", side="short")  # -> None
        """
        market = {"symbol": checks.name_text(symbol, "symbol"), **select_exchange(exchange), "status": "open"}
        if side is not None:
            market["side"] = POSITION_CHECKS["side"](side, "side")
        found: list[Position] = await self._select(RowFilter(POSITIONS, market))
        if len(found) < 2:
            return found[0] if found else None
        if exchange is None:
            places = " and ".join(f"a {item.side} one on {item.exchange}" for item in found)
            raise AmbiguousPositionError(f"positions of {symbol} are open: {places}; select one with exchange= and side=")
        raise AmbiguousPositionError(
            f"both a long and a short position of {symbol} on {exchange} are open; select one with side="
        )

    async def update_position(self, position: Position, *, replace: bool = False) -> None:
        """Store a position: replace every field of the open one, or insert it.

        If the object has no id, it replaces every field of the open position with the same (exchange, symbol, side); if no such
        position is open, the object is inserted. An open position of another trade is not replaced, so that two bots on one
        database do not take over each other's position; a trade_id of None, stored or given, matches any. The call is atomic,
        even if several bots call at once. If the object has an id, it replaces every field of the position with this id, which
        must be open.

        Args:
            position: the position. The object is not changed; its created_at and last_updated are ignored.
            replace: whether to replace an open position of another trade.

        Raises:
            PositionConflictError: the open position has another trade_id; the message names both. Nothing is changed.
            NotFoundError: no position has the id.
            PositionClosedError: the position with the id is no longer open.
            IntegrityError: another open position has the same (exchange, symbol, side).
            InvalidValueError: a value cannot be stored, or the quantity of an open position is not above 0.

        Example:
            position = await positions.get_position("BTCUSDT")
            position.current_price, position.unrealized_pnl = Decimal("42700"), Decimal("1")
            await positions.update_position(position)
            (await positions.get_position("BTCUSDT")).unrealized_pnl  # -> Decimal('1')
        """
        checked = check_fields(position, Position, POSITION_CHECKS)
        if checked.status == "open":
            checks.check_quantity(checked.quantity, "an open position")
        checks.boolean(replace, "replace")
        async with self._stores() as stores:
            now = self._now()
            if checked.id is None:
                stamped = dataclasses.replace(checked, created_at=now, last_updated=now)
                if not await stores.records.upsert_position(stamped, replace=replace):
                    raise await _find_conflict(stores, checked)
                return
            changes = {name: getattr(checked, name) for name in POSITION_CHECKS if name != "id"}
            await _update_open(stores, checked.id, {**changes, "last_updated": now})

    async def close_position(self, position_id: int) -> None:
        """Set the status of an open position to closed; last_updated becomes the current time.

        Args:
            position_id: the id of the position, `Position.id`, which the store assigned.

        Raises:
            NotFoundError: no position has the id.
            PositionClosedError: the position is no longer open.
            InvalidValueError: the id is not a whole number.

        Example:
            position = await positions.get_position("BTCUSDT")
            await positions.close_position(position.id)
            await positions.get_position("BTCUSDT")  # -> None
        """
        number = checks.integer(position_id, "position_id")
        async with self._stores() as stores:
            await _update_open(stores, number, {"status": "closed", "last_updated": self._now()})


async def _find_conflict(stores: Stores, position: Position) -> Exception:
    key = {name: getattr(position, name) for name in ("exchange", "symbol", "side")}
    stored: list[Position] = await stores.records.select(RowFilter(POSITIONS, {**key, "status": "open"}))
    owner = next((item.trade_id for item in stored if item.trade_id is not None), None)
    if owner is None:
        return operational_error("the open position of another trade was closed or changed meanwhile; try again", transient=True)
    return PositionConflictError(
        f"the open {position.side} position of {position.symbol} on {position.exchange} has the trade_id {show(owner)}, and the "
        f"position to store has {show(position.trade_id)}; close the open one first, or pass replace=True to take it over",
        owner,
    )


async def _update_open(stores: Stores, position_id: int, changes: dict[str, Any]) -> None:
    if await stores.records.update(POSITIONS, {"id": position_id, "status": "open"}, changes):
        return
    if await stores.records.select(RowFilter(POSITIONS, {"id": position_id})):
        raise PositionClosedError(
            f"position {position_id} is no longer open and cannot be changed; to store a new position, leave id None"
        )
    raise NotFoundError(f"no position has the id {position_id}; get_open_positions() lists the open positions")
