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

# number of open positions that a message names
_NAMED = 4


class PositionRepository(RecordRepository):
    """Reads and writes positions.

    At most one position is open per (exchange, account, symbol, side). A closed position stays in the table and never changes.
    Decimals are rounded half-even to 18 places. Naive times are UTC, and returned times are aware UTC. Given the manager, each
    call is a transaction of its own; given a session, the writes are committed at its end.

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

    async def get_open_positions(self, exchange: str | None = "binance", *, account: str | None = None) -> list[Position]:
        """Return the open positions of an exchange, ordered by entry_time, then id; oldest first.

        Args:
            exchange: the exchange; None returns the open positions of all exchanges, ordered by exchange, symbol, entry_time
                and id.
            account: only positions of this account; None: of the repository's account, or of all.

        Returns:
            The positions; empty if none is open.

        Raises:
            InvalidValueError: the exchange or the account is not text that can be stored.

        Example:
            opened = await positions.get_open_positions(exchange=None)
            [(position.symbol, position.side, position.trade_id) for position in opened]  # -> [('BTCUSDT', 'long', 'T-2')]
        """
        market = {**select_exchange(exchange), **self._choose_account(account), "status": "open"}
        return await self._select(RowFilter(POSITIONS, market))

    async def get_position(
        self, symbol: str, exchange: str | None = "binance", *, side: Side | None = None, account: str | None = None
    ) -> Position | None:
        """Return the open position of a symbol, or None; ``side`` selects the long or the short position.

        Args:
            symbol: the symbol of the position.
            exchange: the exchange of the position; None: any exchange.
            side: the side of the position; None: any side.
            account: the account of the position; None: the repository's account, or any.

        Returns:
            The position, or None if none is open.

        Raises:
            AmbiguousPositionError: several open positions match, e.g. a long and a short one, or those of two accounts; the
                message names them.
            InvalidValueError: a value is one that no position can have.

        Example:
            (await positions.get_position("BTCUSDT")).quantity  # -> Decimal('0.01')
            await positions.get_position("BTCUSDT", side="short")  # -> None
        """
        market = {"symbol": checks.name_text(symbol, "symbol"), **select_exchange(exchange), "status": "open"}
        if side is not None:
            market["side"] = POSITION_CHECKS["side"](side, "side")
        market |= self._choose_account(account)
        found: list[Position] = await self._select(RowFilter(POSITIONS, market))
        if len(found) < 2:
            return found[0] if found else None
        choices = [name for name in ("exchange", "account", "side") if len({getattr(item, name) for item in found}) > 1]
        if choices == ["side"]:
            raise AmbiguousPositionError(
                f"both a long and a short position of {symbol} on {found[0].exchange} are open; select one with side="
            )
        places = [f"a {item.side} one on {item.exchange}" for item in found[:_NAMED]]
        if "account" in choices:
            places = [f"{place} of the account {show(item.account)}" for place, item in zip(places, found, strict=False)]
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise AmbiguousPositionError(
            f"positions of {symbol} are open: {' and '.join(places)}{more}; select one with "
            f"{' and '.join(f'{name}=' for name in choices)}"
        )

    async def update_position(self, position: Position, *, replace: bool = False) -> None:
        """Store a position: replace every field of the open one, or insert it.

        If the object has no id, it replaces every field of the open position with the same (exchange, account, symbol, side), or
        is inserted if there is no such position, also if an equal one was closed before. An open position of another trade is not
        replaced, so that two bots on one database do not take over each other's position; a trade_id of None, stored or given,
        matches any. The call is atomic, even if several bots call at once. If the object has an id, it replaces every field of
        the position with this id, which must be open.

        Args:
            position: the position. The object is not changed; its created_at and last_updated are ignored.
            replace: whether to replace an open position of another trade.

        Raises:
            PositionConflictError: the open position has another trade_id; the message names both. Nothing is changed.
            NotFoundError: no position of the repository's account has the id.
            PositionClosedError: the position with the id is no longer open.
            IntegrityError: another open position has the same (exchange, account, symbol, side).
            InvalidValueError: a value cannot be stored, the quantity of an open position is not above 0, or the position belongs
                to another account than the repository.

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
        checked = self._assign_account(checked)
        async with self._stores() as stores:
            now = self._now()
            if checked.id is None:
                stamped = dataclasses.replace(checked, created_at=now, last_updated=now)
                if not await stores.records.upsert_position(stamped, replace=replace):
                    raise await _find_conflict(stores, checked)
                return
            changes = {name: getattr(checked, name) for name in POSITION_CHECKS if name != "id"}
            await self._update_open(stores, checked.id, {**changes, "last_updated": now})

    async def close_position(self, position_id: int) -> None:
        """Set the status of an open position to closed; last_updated becomes the current time.

        Args:
            position_id: the id of the position, `Position.id`, which the store assigned.

        Raises:
            NotFoundError: no position of the repository's account has the id.
            PositionClosedError: the position is no longer open.
            InvalidValueError: the id is not a whole number.

        Example:
            position = await positions.get_position("BTCUSDT")
            await positions.close_position(position.id)
            await positions.get_position("BTCUSDT")  # -> None
        """
        number = checks.integer(position_id, "position_id")
        async with self._stores() as stores:
            await self._update_open(stores, number, {"status": "closed", "last_updated": self._now()})

    async def _update_open(self, stores: Stores, position_id: int, changes: dict[str, Any]) -> None:
        selected = {"id": position_id, **self._choose_account()}
        if await stores.records.update(POSITIONS, {**selected, "status": "open"}, changes):
            return
        if await stores.records.select(RowFilter(POSITIONS, selected)):
            raise PositionClosedError(
                f"position {position_id} is no longer open and cannot be changed; to store a new position, leave id None"
            )
        raise NotFoundError(
            f"no position{self._name_scope()} has the id {position_id}; get_open_positions() lists the open positions"
        )


async def _find_conflict(stores: Stores, position: Position) -> Exception:
    key = {name: getattr(position, name) for name in POSITIONS.unique}
    stored: list[Position] = await stores.records.select(RowFilter(POSITIONS, key | dict(POSITIONS.unique_among)))
    owner = next((item.trade_id for item in stored if item.trade_id is not None), None)
    if owner is None:
        return operational_error("the open position of another trade was closed or changed meanwhile; try again", transient=True)
    return PositionConflictError(
        f"the open {position.side} position of {position.symbol} on {position.exchange} has the trade_id {show(owner)}, and the "
        f"position to store has {show(position.trade_id)}; close the open one first, or pass replace=True to take it over",
        owner,
    )
