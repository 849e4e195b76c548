"""The repository of trades."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, Unpack, cast

from sqlalchemy.exc import IntegrityError

from iftb_store.analytics.statistics import trade_statistics
from iftb_store.errors import InvalidValueError, NotFoundError, TradeConflictError
from iftb_store.models import Trade, TradeChanges, TradeStatistics
from iftb_store.repositories.base import RecordRepository, check_fields
from iftb_store.schema.row_checks import TRADE_CHECKS
from iftb_store.schema.table_spec import TRADES
from iftb_store.values import checks
from iftb_store.values.display import show


class TradeRepository(RecordRepository):
    """Reads and writes trades; the bot assigns each trade a unique ``trade_id``, and the store assigns ``id``."""

    _scanned = TRADES

    async def insert(self, trade: Trade) -> int:
        """Insert a trade and return its id. The object is not changed; its id, created_at and updated_at are ignored.

        Raises:
            IntegrityError: a trade with this trade_id is already stored.
            InvalidValueError: a value cannot be stored.
        """
        checked = check_fields(trade, Trade, TRADE_CHECKS)
        async with self._stores() as stores:
            return await stores.records.insert(TRADES, self._stamp(checked))

    async def record(self, trade: Trade) -> int:
        """Insert a trade unless an equal trade is already stored, and return its id; the call is safe to repeat after a restart.

        A stored trade is equal if it has the same trade_id and the same value in every field that the caller can set:
        decimals are compared by value, quotients after rounding, times in UTC, JSON in the form in which it is read back.
        id, created_at and updated_at are not compared. Two sessions that record the same trade at the same time get the
        same id.

        Raises:
            TradeConflictError: a trade with this trade_id and other values is stored; the message names the differing fields.
                Nothing is changed.
            InvalidValueError: a value cannot be stored.
        """
        checked = check_fields(trade, Trade, TRADE_CHECKS)
        async with self._stores() as stores:
            try:
                return await stores.records.insert(TRADES, self._stamp(checked))
            except IntegrityError:
                found = await stores.records.select(TRADES, {"trade_id": checked.trade_id})
                if not found:
                    raise
        stored: Trade = found[0]
        differing = tuple(name for name in TRADE_CHECKS if not _same(getattr(stored, name), getattr(checked, name)))
        if differing:
            raise TradeConflictError(
                f"a trade with trade_id {show(checked.trade_id)} is already stored (id {stored.id}) with another "
                f"{', '.join(differing)}; use update({stored.id}, …) to change it, or another trade_id for another trade",
                differing,
            )
        return checks.integer(stored.id, "id")

    async def update(self, trade_id: int, **kwargs: Unpack[TradeChanges]) -> None:
        """Set fields of one trade; its updated_at becomes the current time.

        Args:
            trade_id: the trade's id that the store assigned and insert returned, not the bot's trade_id.
            **kwargs: the new values by the names of the fields; `iftb_store.TradeChanges` lists the fields.

        Raises:
            NotFoundError: no trade has this id.
            InvalidValueError: an unknown field, a value that cannot be stored, or an attempt to set id, created_at or
                updated_at, which the store sets.
            TypeError: the new values include the bot's trade_id, which cannot be changed.
        """
        number = checks.integer(trade_id, "trade_id (the id that insert returned)")
        changes = cast("dict[str, Any]", kwargs)
        _check_field_names(changes)
        checked = {name: check(changes[name], name) for name, check in TRADE_CHECKS.items() if name in changes}
        async with self._stores() as stores:
            if not await stores.records.update(TRADES, {"id": number}, {**checked, "updated_at": self._now()}):
                raise NotFoundError(f"no trade has the id {number}; insert() returns ids, get_by_symbol() finds trades")

    async def get_by_id(self, trade_id: int) -> Trade | None:
        """Return the trade with this id, which the store assigned, or None if there is no such trade."""
        number = checks.integer(trade_id, "trade_id (the id that insert returned)")
        async with self._stores() as stores:
            return next(iter(await stores.records.select(TRADES, {"id": number})), None)

    async def get_recent(self, limit: int = 100) -> list[Trade]:
        """Return the newest trades of all exchanges, ordered by entry_time, then id; newest first.

        Raises:
            InvalidValueError: limit is below 1.
        """
        count = checks.integer(limit, "limit", least=1)
        async with self._stores() as stores:
            return await stores.records.select(TRADES, {}, descending=True, limit=count)

    async def get_by_symbol(self, symbol: str, limit: int = 100, exchange: str = "binance") -> list[Trade]:
        """Return the newest trades of one symbol, ordered by entry_time, then id; newest first.

        Raises:
            InvalidValueError: limit is below 1.
        """
        market = {"symbol": checks.name_text(symbol, "symbol"), "exchange": checks.name_text(exchange, "exchange")}
        count = checks.integer(limit, "limit", least=1)
        async with self._stores() as stores:
            return await stores.records.select(TRADES, market, descending=True, limit=count)

    async def get_statistics(self, days: int = 30, exchange: str = "binance") -> TradeStatistics:
        """Return statistics of the trades that were realized in the last ``days`` days.

        A trade is included if its realized_pnl is set, whatever its action, and its exit_time (or updated_at, if it has no
        exit_time) is in these days. A trade with realized_pnl > 0 is a win, with realized_pnl < 0 a loss; a trade with
        realized_pnl 0 is included only in total_trades. Sums are exact; see
        `iftb_store.analytics.statistics.trade_statistics` for the rounding of quotients.

        Raises:
            InvalidValueError: days is below 1, or the window begins before the year 1.
        """
        count = checks.integer(days, "days", least=1)
        market = checks.name_text(exchange, "exchange")
        try:
            since = self._now() - timedelta(days=count)
        except OverflowError as error:
            raise InvalidValueError(f"{count} days before now is outside the years 1 to 9999") from error
        async with self._stores() as stores:
            return trade_statistics(await stores.records.get_totals(since, market))

    def _stamp(self, trade: Trade) -> Trade:
        now = self._now()
        return replace(trade, created_at=now, updated_at=now)


def _same(stored: object, given: object) -> bool:
    # JSON is compared as text, because in Python True == 1, although JSON distinguishes true from 1
    if isinstance(stored, dict) and isinstance(given, dict):
        return json.dumps(stored, sort_keys=True) == json.dumps(given, sort_keys=True)
    return stored == given


def _check_field_names(changes: dict[str, Any]) -> None:
    for name in (name for name in changes if name not in TRADE_CHECKS):
        if name in TRADES.columns:
            raise InvalidValueError(f"{name} is set by the store and cannot be changed")
        settable = ", ".join(field for field in TRADE_CHECKS if field != "trade_id")
        raise InvalidValueError(f"a trade has no field {show(name)}; the fields that can be set are {settable}")
