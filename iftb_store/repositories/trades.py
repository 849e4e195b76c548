"""The repository of trades."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, cast
from weakref import WeakSet

from sqlalchemy.exc import IntegrityError

from iftb_store.analytics.statistics import trade_statistics
from iftb_store.errors import InvalidValueError, NotFoundError, TradeConflictError, integrity_error
from iftb_store.models import Trade, TradeChanges, TradeFilters, TradeTotals
from iftb_store.protocols import Stores
from iftb_store.repositories.applied_fills import FillApplier
from iftb_store.repositories.base import check_fields
from iftb_store.repositories.exchanges import select_exchange, warn_of_others, warn_of_records
from iftb_store.repositories.recording import check_field_names, list_differing_fields
from iftb_store.schema.row_checks import TRADE_CHECKS
from iftb_store.schema.scope import check_window
from iftb_store.schema.table_spec import TRADES, RowFilter
from iftb_store.values import checks
from iftb_store.values.choices import Fees, Side
from iftb_store.values.display import show
from iftb_store.values.suggestions import suggest

if TYPE_CHECKING:
    from iftb_store.analytics.figures import PerformanceReport, TradeStatistics

_log = logging.getLogger(__name__)
# the backends for which a trade was logged that is closed without its exit
_logged: WeakSet[Any] = WeakSet()
# the values of an open trade
_OPEN: dict[str, Any] = {"action": "open", "realized_pnl": None}


class TradeRepository(FillApplier):
    """Reads and writes trades; the bot assigns each a ``trade_id``, unique in all accounts, and the store assigns ``id``.

    The quantity of a trade is above 0; its side gives the direction. A closed trade may lack exit_price or realized_pnl, as some
    exchanges report them later; a warning is logged when the first such trade is stored, once for each manager.

    Decimals are rounded half-even to 18 places. Naive times are UTC, and returned times are aware UTC. With a manager, each call
    is a separate transaction; with a session, the writes are committed at the session's end.

    If a read finds nothing on the default exchange, binance, but another exchange has trades that match, a warning is logged,
    once for each manager.

    Besides its listed errors, each method raises NotConnectedError before connect(), SchemaError if the database has no
    tables of iftb-store, and OperationalError if the database fails (TransientError if a new attempt may succeed).

    Example:
        # the examples of the methods use this name, and a trade T-1 that is closed and T-2 that is open
        trades = TradeRepository(db)
        [trade.trade_id for trade in await trades.get_open()]  # -> ['T-2']
    """

    _scanned = TRADES

    async def insert(self, trade: Trade) -> int:
        """Insert a trade and return its id.

        Args:
            trade: the trade. The object is not changed; its id, created_at and updated_at are ignored.

        Returns:
            The id that the store assigned.

        Raises:
            IntegrityError: a trade with this trade_id is already stored; the message names the trade_id.
            InvalidValueError: a value cannot be stored, the quantity is not above 0, or the trade belongs to another account
                than the repository.

        Example:
            await trades.insert(new_trade)  # -> 3
            (await trades.get_by_id(3)).trade_id  # -> 'T-3'
        """
        checked = self._check(trade)
        async with self._stores() as stores:
            try:
                number = await stores.records.insert(TRADES, self._stamp(checked))
            except IntegrityError as error:
                if not await stores.records.select(RowFilter(TRADES, {"trade_id": checked.trade_id})):
                    raise
                raise integrity_error(
                    f"a trade with trade_id {show(checked.trade_id)} is already stored; to get its id, call record() with "
                    "the same values; to change it, call update()",
                    error,
                ) from error
            self._log_incomplete(checked)
            return number

    async def record(self, trade: Trade) -> int:
        """Insert a trade unless an equal trade is already stored, and return its id.

        A stored trade is equal if it has the same trade_id and the same value in every field that the caller can set:
        decimals are compared by value after rounding, times in UTC, JSON in the form in which it is read back.
        id, created_at and updated_at are not compared. So the call may be repeated with the same values until the stored trade
        is changed, e.g. closed; from then on it raises TradeConflictError. Two sessions that record the same trade at the same
        time get the same id.

        Args:
            trade: the trade. The object is not changed.

        Returns:
            The id of the new trade, or of the equal trade.

        Raises:
            TradeConflictError: a trade with this trade_id and other values is stored; the message names the differing fields.
                Nothing is changed.
            InvalidValueError: as in `insert`.

        Example:
            await trades.record(new_trade)  # -> 3
            await trades.record(new_trade)  # -> 3
        """
        checked = self._check(trade)
        async with self._stores() as stores:
            try:
                number = await stores.records.insert(TRADES, self._stamp(checked))
                self._log_incomplete(checked)
                return number
            except IntegrityError:
                found = await stores.records.select(RowFilter(TRADES, {"trade_id": checked.trade_id}))
                if not found:
                    raise
        stored: Trade = found[0]
        differing = list_differing_fields(stored, checked, TRADE_CHECKS)
        if differing:
            raise TradeConflictError(
                f"a trade with trade_id {show(checked.trade_id)} is already stored (id {stored.id}) with another "
                f"{', '.join(differing)}; use update({stored.id}, …) to change it, or another trade_id for another trade",
                differing,
            )
        return checks.integer(stored.id, "id")

    async def update(self, trade_id: int, **kwargs: Unpack[TradeChanges]) -> None:
        """Set fields of a trade; the argument ``trade_id`` is the id that insert returned, not the bot's trade_id.

        All of the fields are set, or none. The trade's updated_at becomes the current time.

        Args:
            trade_id: the id of the trade's row, `Trade.id`.
            **kwargs: the new values by the names of the fields; `iftb_store.TradeChanges` lists the fields.

        Raises:
            NotFoundError: no trade has this id.
            InvalidValueError: an unknown field, a value that cannot be stored, another account than that of the repository, or
                an attempt to set id, created_at or updated_at, which the store sets.
            TypeError: the new values include the bot's trade_id, which cannot be changed.

        Example:
            trade = await trades.get_by_trade_id("T-2")
            await trades.update(trade.id, action="close", exit_price=Decimal("42500"), realized_pnl=Decimal("-1"))
            await trades.get_open()  # -> []
        """
        number = checks.integer(trade_id, "trade_id (the id that insert returned)")
        changes = cast("dict[str, Any]", kwargs)
        check_field_names(changes)
        checked = {name: check(changes[name], name) for name, check in TRADE_CHECKS.items() if name in changes}
        if "quantity" in checked:
            checks.check_quantity(checked["quantity"], "a trade")
        self._choose_account(checked.get("account"))
        equal = {"id": number, **self._choose_account()}
        async with self._stores() as stores:
            if not await stores.records.update(TRADES, equal, {**checked, "updated_at": self._now()}):
                raise NotFoundError(
                    f"no trade{self._name_scope()} has the id {number}; insert() returns ids, get_by_symbol() finds trades"
                )
            given = checked.get("exit_price"), checked.get("realized_pnl")
            if checked.get("action", "open") != "open" and None in given and self._backend not in _logged:
                for trade in await stores.records.select(RowFilter(TRADES, {"id": number})):
                    self._log_incomplete(trade)

    async def get_by_id(self, trade_id: int) -> Trade | None:
        """Return the trade with this id, which the store assigned, or None.

        Args:
            trade_id: the id of the trade's row, which insert returned: not the bot's trade_id.

        Returns:
            The trade, or None if there is no such trade.

        Raises:
            InvalidValueError: the id is not a whole number.

        Example:
            (await trades.get_by_id(1)).trade_id  # -> 'T-1'
            await trades.get_by_id(99)  # -> None
        """
        number = checks.integer(trade_id, "trade_id (the id that insert returned)")
        selection = RowFilter(TRADES, {"id": number, **self._choose_account()})
        return next(iter(await self._read(lambda stores: stores.records.select(selection))), None)

    async def get_by_trade_id(self, trade_id: str) -> Trade | None:
        """Return the trade with this trade_id, which the bot assigned, or None.

        Args:
            trade_id: the trade_id that the bot gave the trade.

        Returns:
            The trade, or None if there is no such trade.

        Raises:
            InvalidValueError: the trade_id is one that no trade can have, e.g. a number.

        Example:
            (await trades.get_by_trade_id("T-1")).realized_pnl  # -> Decimal('0.775')
        """
        name = checks.name_text(trade_id, "trade_id")
        selection = RowFilter(TRADES, {"trade_id": name, **self._choose_account()})
        return next(iter(await self._read(lambda stores: stores.records.select(selection))), None)

    async def get_open(
        self,
        *,
        symbol: str | None = None,
        side: Side | None = None,
        exchange: str | None = "binance",
        **filters: Unpack[TradeFilters],
    ) -> list[Trade]:
        """Return the open trades: those with the action open whose realized_pnl is not set; oldest first.

        Args:
            symbol: only trades of this symbol; None: of all.
            side: only long or only short trades; None: both.
            exchange: only trades of this exchange; None: of all exchanges.
            **filters: account, strategy, exit_reason and tag: only trades with these values; see `iftb_store.TradeFilters`.

        Returns:
            The trades, ordered by entry_time, then id (of all exchanges: by exchange and symbol first); empty if none is open.

        Raises:
            InvalidValueError: a value is one that no trade can have.

        Example:
            # after a restart, whatever the exchange
            [trade.trade_id for trade in await trades.get_open(exchange=None)]  # -> ['T-2']
        """
        return await self._select(self._filter(filters, symbol, side, exchange, _OPEN))

    async def get_range(
        self,
        start: datetime,
        end: datetime,
        *,
        symbol: str | None = None,
        side: Side | None = None,
        exchange: str | None = "binance",
        **filters: Unpack[TradeFilters],
    ) -> list[Trade]:
        """Return the trades with start <= entry_time <= end, open and closed, oldest first.

        Args:
            start: start of the time window, inclusive; naive times are UTC.
            end: end of the time window, inclusive.
            symbol: only trades of this symbol; None: of all.
            side: only long or only short trades; None: both.
            exchange: only trades of this exchange; None: of all exchanges.
            **filters: account, strategy, exit_reason and tag: only trades with these values; see `iftb_store.TradeFilters`.

        Returns:
            The trades, ordered by entry_time, then id (of all exchanges: by exchange and symbol first); empty if there are
            none.

        Raises:
            InvalidValueError: start is after end, or a value is one that no trade can have.

        Example:
            day = await trades.get_range(start, start + timedelta(days=1), symbol="BTCUSDT")
            [(trade.trade_id, trade.action) for trade in day]  # -> [('T-1', 'close'), ('T-2', 'open')]
        """
        first, last = checks.utc(start, "start"), checks.utc(end, "end")
        check_window(first, last)
        return await self._select(replace(self._filter(filters, symbol, side, exchange), start=first, end=last))

    async def get_recent(
        self,
        limit: int = 100,
        *,
        symbol: str | None = None,
        side: Side | None = None,
        exchange: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        only_open: bool = False,
        **filters: Unpack[TradeFilters],
    ) -> list[Trade]:
        """Return the newest trades, ordered by entry_time, then id; newest first.

        Args:
            limit: the maximum number of trades, at least 1.
            symbol: only trades of this symbol; None: of all.
            side: only long or only short trades; None: both.
            exchange: only trades of this exchange; None (the default of this method): of all exchanges.
            start: only trades with this entry_time or a later one; naive times are UTC. None: no limit.
            end: only trades with this entry_time or an earlier one. None: no limit.
            only_open: whether to return only open trades, as `get_open` defines them.
            **filters: account, strategy, exit_reason and tag: only trades with these values; see `iftb_store.TradeFilters`.

        Returns:
            The trades, open and closed; empty if there are none.

        Raises:
            InvalidValueError: limit is below 1, start is after end, or a value is one that no trade can have.

        Example:
            [trade.trade_id for trade in await trades.get_recent(limit=2)]  # -> ['T-2', 'T-1']
            [trade.trade_id for trade in await trades.get_recent(tag="breakout")]  # -> ['T-1']
        """
        count = checks.integer(limit, "limit", least=1)
        equal = _OPEN if checks.boolean(only_open, "only_open") else None
        first, last = checks.optional(checks.utc, start, "start"), checks.optional(checks.utc, end, "end")
        if first is not None and last is not None:
            check_window(first, last)
        chosen = self._filter(filters, symbol, side, exchange, equal)
        selection = replace(chosen, start=first, end=last, limit=count)
        return await self._read(lambda stores: stores.records.select(selection, descending=True))

    async def get_by_symbol(
        self, symbol: str, limit: int = 100, exchange: str | None = "binance", **filters: Unpack[TradeFilters]
    ) -> list[Trade]:
        """Return the newest trades of one symbol, ordered by entry_time, then id; newest first.

        Args:
            symbol: the symbol of the trades.
            limit: the maximum number of trades, at least 1.
            exchange: only trades of this exchange; None: of all exchanges together.
            **filters: account, strategy, exit_reason and tag: only trades with these values; see `iftb_store.TradeFilters`.

        Returns:
            The trades, open and closed; empty if there are none.

        Raises:
            InvalidValueError: limit is below 1.

        Example:
            [newest] = await trades.get_by_symbol("BTCUSDT", limit=1)
            newest.trade_id  # -> 'T-2'
        """
        name = checks.name_text(symbol, "symbol")
        count = checks.integer(limit, "limit", least=1)
        return await self._select(replace(self._filter(filters, name, exchange=exchange), limit=count), descending=True)

    async def get_statistics(
        self, days: int = 30, exchange: str | None = "binance", **filters: Unpack[TradeFilters]
    ) -> TradeStatistics:
        """Return statistics of the trades of an exchange, or of all, that were realized in the last ``days`` days.

        A trade is included if its realized_pnl is set, whatever its action, and its exit_time (or updated_at, if it has no
        exit_time) is in these days. A trade with realized_pnl > 0 is a win, with realized_pnl < 0 a loss; a trade with
        realized_pnl 0 is included only in total_trades. Sums are exact; see
        `iftb_store.analytics.statistics.trade_statistics` for the rounding of quotients.

        Args:
            days: the length of the window, in periods of 24 hours before now, at least 1.
            exchange: only trades of this exchange; None: of all exchanges.
            **filters: account, strategy, exit_reason and tag: only trades with these values; see `iftb_store.TradeFilters`.

        Returns:
            The statistics; without trades every figure is 0, and profit_factor is None.

        Raises:
            InvalidValueError: days is below 1, the window begins before the year 1, or a value is one that no trade can have.

        Example:
            statistics = await trades.get_statistics(days=30)
            (statistics.total_trades, statistics.win_rate, statistics.net_pnl)  # -> (1, Decimal('100'), Decimal('0.775'))
        """
        count = checks.integer(days, "days", least=1)
        selection = self._filter(filters, exchange=exchange)
        try:
            since = self._now() - timedelta(days=count)
        except OverflowError as error:
            raise InvalidValueError(f"{count} days before now is outside the years 1 to 9999") from error

        async def read(stores: Stores) -> TradeTotals:
            totals = await stores.records.get_totals(since, selection)
            if not totals.trades:
                await warn_of_others(self._backend, selection, partial(_find_realized, stores, since, selection))
            return totals

        return trade_statistics(await self._read(read))

    async def get_performance(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = "binance",
        *,
        symbol: str | None = None,
        side: Side | None = None,
        starting_balance: Decimal | None = None,
        fees: Fees = "apart",
        tz: tzinfo = UTC,
        currency: str | None = None,
        **filters: Unpack[TradeFilters],
    ) -> PerformanceReport:
        """Return the performance of the trades that were closed in a time window: exact figures, and None where one is undefined.

        A trade counts if its realized_pnl is set, whatever its action, and it was closed in the window: at its exit_time, or at
        its updated_at, if it has no exit_time. `iftb_store.PerformanceReport` defines every figure. The sums take every
        realized_pnl for the same currency: if pairs in BTC and in USDT are stored, name a symbol. The funding that the ledger
        has is reported apart, and added to nothing.

        All is read from one snapshot, if the engine has snapshots, and the figures are computed in a thread.

        Args:
            start: start of the time window, inclusive; naive times are UTC. None: the earliest entry_time or
                closing of the trades.
            end: end of the time window, inclusive. None: the latest closing; an idle bot gives the current time.
            exchange: only trades of this exchange; None: of all exchanges.
            symbol: only trades of this symbol; None: of all.
            side: only long or only short trades; None: both.
            starting_balance: the balance at the start, above 0; None: that of the stored snapshots of balances. Without either,
                figures that need one are None, e.g. the Sharpe ratio; pnl_sharpe is there without it.
            fees: what the stored realized_pnl is: "apart": before fees, and the net result is realized_pnl - fee; "included":
                fees are subtracted already, and realized_pnl is the net result.
            tz: the time zone of the days, weekdays and hours, e.g. ``zoneinfo.ZoneInfo("Europe/Berlin")``.
            currency: the currency of the snapshots to use, e.g. USDT; None: any, if all are of one currency.
            **filters: account, strategy, exit_reason and tag: only trades with these values; see `iftb_store.TradeFilters`.

        Returns:
            The report; without trades the counts and sums are 0, the lists are empty, and all else is None.

        Raises:
            InvalidValueError: start is after end, or an argument has a value that it cannot have.

        Example:
            report = await trades.get_performance(starting_balance=Decimal(100))
            (report.total_trades, report.net_pnl, report.final_balance)  # -> (1, Decimal('0.725'), Decimal('100.725'))
            report.profit_factor is None  # -> True
            (await trades.get_performance(tag="breakout")).by_tag["breakout"].net_pnl  # -> Decimal('0.725')
        """
        from iftb_store.repositories.performance import make_scope, read_performance

        selection = self._filter(filters, symbol, side, exchange)
        given: dict[str, Any] = {**filters, "account": selection.equal.get("account"), "fees": fees, "tz": tz}
        scope = make_scope(
            start, end, exchange, symbol=symbol, side=side, starting_balance=starting_balance, currency=currency, **given
        )

        async def read(stores: Stores) -> PerformanceReport:
            report = await read_performance(stores, scope)
            if not report.total_trades:
                await warn_of_records(self._backend, stores, selection)
            return report

        return await self._read(read, snapshot=True)

    def _log_incomplete(self, trade: Trade) -> None:
        """Log a warning, once for each manager, if a trade is closed without its exit_price or realized_pnl."""
        if trade.action == "open" or None not in (trade.exit_price, trade.realized_pnl) or self._backend in _logged:
            return
        _logged.add(self._backend)
        lacking = " and ".join(name for name in ("exit_price", "realized_pnl") if getattr(trade, name) is None)
        _log.warning(
            "the trade %s is stored as %s without %s, and statistics leave out trades without realized_pnl; update() sets them "
            "later, and `iftb-store doctor` lists such trades. This is logged once",
            show(trade.trade_id),
            trade.action,
            lacking,
        )

    def _stamp(self, trade: Trade) -> Trade:
        return replace(trade, created_at=(now := self._now()), updated_at=now)

    def _check(self, trade: Trade) -> Trade:
        checked = check_fields(trade, Trade, TRADE_CHECKS)
        checks.check_quantity(checked.quantity, "a trade")
        return self._assign_account(checked)

    def _filter(
        self,
        filters: TradeFilters,
        symbol: object = None,
        side: object = None,
        exchange: object = None,
        equal: dict[str, Any] | None = None,
    ) -> RowFilter:
        """Return the filter of a list: the values that the caller gave, checked, and those of the list."""
        for name in (name for name in filters if name not in TradeFilters.__annotations__):
            known = TradeFilters.__annotations__
            raise InvalidValueError(f"there is no filter {show(name)}; {suggest(name, known)}the filters are {', '.join(known)}")
        given = {"symbol": symbol, "side": side, "strategy": filters.get("strategy"), "exit_reason": filters.get("exit_reason")}
        values: dict[str, Any] = {**select_exchange(exchange)}
        values |= {name: TRADE_CHECKS[name](value, name) for name, value in given.items() if value is not None}
        tag = checks.optional(checks.name_text, filters.get("tag"), "tag")
        return RowFilter(TRADES, values | self._choose_account(filters.get("account")) | (equal or {}), tag=tag)


async def _find_realized(stores: Stores, since: datetime, selection: RowFilter) -> str | None:
    """Return words for the other exchanges with selected trades that were realized since a time, None if there are none."""
    equal = {name: value for name, value in selection.equal.items() if name != "exchange"}
    found = await stores.records.get_totals(since, replace(selection, equal=equal))
    return "other exchanges" if found.trades else None
