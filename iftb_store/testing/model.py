"""A model of the repositories in plain Python, without SQL: every engine must return and refuse the same as the model.

The model is written from the contract only and shares no code with the code under test: it computes sums with Fractions, and
a session is a copy of dicts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

from iftb_store import (
    AmbiguousPositionError,
    InvalidValueError,
    NotFoundError,
    OHLCVBar,
    Position,
    PositionClosedError,
    PositionConflictError,
    Series,
    Severity,
    SystemEvent,
    Timeframe,
    Trade,
    TradeConflictError,
    TradeStatistics,
    UpsertReport,
)
from iftb_store.testing import model_bars
from iftb_store.testing import model_figures as figures
from iftb_store.testing import model_money as money
from iftb_store.testing import model_values as values
from iftb_store.testing.model_state import BarKey, Database, Duplicate, Repository


class Model(Database):
    """A database with its repositories."""

    def at(self, session: str | None, account: str | None = None) -> ModelSession:
        """Return the repositories for a session; for None, repositories that run each call in its own transaction.

        Those of records are the repositories of an account, or of all (None).
        """
        return ModelSession(self, session, account)


class ModelSession:
    """The model's repositories in one session; their methods have the same names as those of `iftb_store`."""

    def __init__(self, model: Model, session: str | None, account: str | None) -> None:
        self.bars = _Bars(model, session)
        self.trades = _Trades(model, session, account)
        self.positions = _Positions(model, session, account)
        self.events = _Events(model, session, account)
        self.fills = money.Fills(model, session, account)
        self.ledger = money.Ledger(model, session, account)
        self.balances = money.Balances(model, session, account)


class _Bars(Repository):
    def insert_many(self, bars: Sequence[OHLCVBar]) -> int:
        checked = values.checked_bars(bars)
        keys = [_key(bar) for bar in checked]
        if len({*keys}) < len(keys) or any(key in self._seen.bars for key in keys):
            raise Duplicate
        self._store(checked)
        return len(checked)

    def upsert_many(self, bars: Sequence[OHLCVBar], *, report: bool = False) -> int | UpsertReport:
        checked = values.checked_bars(bars)
        final = {_key(bar): bar for bar in checked}
        stored = {key: self._seen.bars[key] for key in final if key in self._seen.bars}
        updated = sum(replace(bar, id=None, created_at=None) != final[key] for key, bar in stored.items())
        self._store(checked)
        return UpsertReport(len(final) - len(stored), updated, len(stored) - updated) if report else len(final)

    def delete_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str = "binance") -> int:
        found = self.get_range(symbol, timeframe, start, end, exchange)
        for bar in found:
            del self._write.bars[_key(bar)]
        return len(found)

    def list_series(self) -> list[Series]:
        return model_bars.list_series(list(self._seen.bars.values()))

    def resample(
        self,
        symbol: str,
        source: str,
        target: Timeframe,
        start: datetime,
        end: datetime,
        exchange: str = "binance",
        *,
        partial: bool = False,
    ) -> list[OHLCVBar]:
        values.timeframe(source, "source")
        values.timeframe(target, "target")
        found = self.get_range(symbol, source, start, end, exchange)
        model_bars.check_target(source, target)
        return model_bars.resample(found, source, target, partial=partial)

    def stream_range(
        self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str = "binance", *, batch_size: int = 10_000
    ) -> list[list[OHLCVBar]]:
        found = self.get_range(symbol, timeframe, start, end, exchange)
        values.whole(batch_size, "batch_size", 1)
        return [found[first : first + batch_size] for first in range(0, len(found), batch_size)]

    def stream_arrow(self, *, batch_size: int = 65_536, **selection: Any) -> list[OHLCVBar]:
        """Return all bars of the stream: a batch may have fewer rows than batch_size."""
        found = self.read_arrow(**selection)
        values.whole(batch_size, "batch_size", 1)
        return found

    def _store(self, bars: Sequence[OHLCVBar]) -> None:
        for bar in bars:
            stored = self._seen.bars.get(_key(bar))
            kept = (self._model.number("bars"), self._now()) if stored is None else (stored.id, stored.created_at)
            self._write.bars[_key(bar)] = replace(bar, id=kept[0], created_at=kept[1])

    def get_range(self, symbol: str, timeframe: str, start: datetime, end: datetime, exchange: str = "binance") -> list[OHLCVBar]:
        first, last = _window(start, end)
        assert first is not None
        assert last is not None
        return [bar for bar in self._series(symbol, timeframe, exchange) if first <= bar.timestamp <= last]

    def get_latest(self, symbol: str, timeframe: str, limit: int = 100, exchange: str = "binance") -> list[OHLCVBar]:
        values.whole(limit, "limit", 1)
        return self._series(symbol, timeframe, exchange)[::-1][:limit]

    def read_arrow(
        self,
        symbol: str | None = None,
        timeframe: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        exchange: str | None = None,
    ) -> list[OHLCVBar]:
        first, last = _window(start, end)
        found = [
            bar
            for bar in self._seen.bars.values()
            if symbol in (None, bar.symbol)
            and timeframe in (None, bar.timeframe)
            and exchange in (None, bar.exchange)
            and (first is None or first <= bar.timestamp)
            and (last is None or bar.timestamp <= last)
        ]
        return sorted(found, key=_key)

    def get_gaps(
        self,
        symbol: str,
        timeframe: str,
        exchange: str = "binance",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[tuple[datetime, datetime]]:
        first, last = _window(start, end)
        moments = [
            bar.timestamp
            for bar in self._series(symbol, timeframe, exchange)
            if (first is None or first <= bar.timestamp) and (last is None or bar.timestamp <= last)
        ]
        before = [] if first is None else [_beyond(first, timeframe, -1, "start")]
        after = [] if last is None else [_beyond(last, timeframe, 1, "end")]
        line = before + moments + after
        pairs = pairwise(line)
        return [(earlier, later) for earlier, later in pairs if values.apart(earlier, later, timeframe)]

    def _series(self, symbol: str, timeframe: str, exchange: str) -> list[OHLCVBar]:
        series = values.name(exchange, "exchange"), values.name(symbol, "symbol"), values.timeframe(timeframe)
        found = [bar for key, bar in self._seen.bars.items() if key[:3] == series]
        return sorted(found, key=lambda bar: bar.timestamp)


class _Trades(money.FillApplier):
    def insert(self, trade: Trade) -> int:
        checked = self._assigned(values.checked(trade))
        if any(stored.trade_id == checked.trade_id for stored in self._seen.trades.values()):
            raise Duplicate
        number, now = self._model.number("trades"), self._now()
        self._write.trades[number] = replace(checked, id=number, created_at=now, updated_at=now)
        return number

    def record(self, trade: Trade) -> int:
        checked = self._assigned(values.checked(trade))
        stored = next((item for item in self._seen.trades.values() if item.trade_id == checked.trade_id), None)
        if stored is None:
            return self.insert(trade)
        differing = [name for name in values.SETTABLE if values.unlike(getattr(stored, name), getattr(checked, name))]
        if differing:
            raise TradeConflictError(
                f"a trade with trade_id {values.shown(checked.trade_id)} is already stored (id {stored.id}) with another "
                f"{', '.join(differing)}; use update({stored.id}, …) to change it, or another trade_id for another trade",
                tuple(differing),
            )
        assert stored.id is not None
        return stored.id

    def update(self, trade_id: int, **changes: Any) -> None:
        values.whole(trade_id, "trade_id (the id that insert returned)")
        checked = values.checked_changes(changes)
        self._require_own(checked.get("account"))
        if self.get_by_id(trade_id) is None:
            raise NotFoundError(
                f"no trade{self._whose} has the id {trade_id}; insert() returns ids, get_by_symbol() finds trades"
            )
        self._write.trades[trade_id] = replace(self._seen.trades[trade_id], **checked, updated_at=self._now())

    def get_by_id(self, trade_id: int) -> Trade | None:
        values.whole(trade_id, "trade_id (the id that insert returned)")
        found = self._seen.trades.get(trade_id)
        return found if found is not None and self._is_own(found) else None

    def get_by_trade_id(self, trade_id: str) -> Trade | None:
        values.name(trade_id, "trade_id")
        return next((item for item in self._seen.trades.values() if item.trade_id == trade_id and self._is_own(item)), None)

    def get_recent(self, limit: int = 100, **filters: Any) -> list[Trade]:
        values.whole(limit, "limit", 1)
        return _newest(self._chosen(**filters), limit)

    def get_by_symbol(self, symbol: str, limit: int = 100, exchange: str = "binance", **filters: Any) -> list[Trade]:
        key = values.name(symbol, "symbol"), values.name(exchange, "exchange")
        values.whole(limit, "limit", 1)
        return _newest([trade for trade in self._chosen(**filters) if (trade.symbol, trade.exchange) == key], limit)

    def _chosen(
        self,
        account: str | None = None,
        strategy: str | None = None,
        exit_reason: str | None = None,
        tag: str | None = None,
    ) -> list[Trade]:
        """Return the trades of the repository's account that pass the filters."""
        self._require_own(account)
        return [
            trade
            for trade in self._seen.trades.values()
            if self._is_own(trade)
            and account in (None, trade.account)
            and strategy in (None, trade.strategy)
            and exit_reason in (None, trade.exit_reason)
            and tag in (None, *trade.tags)
        ]

    def get_statistics(self, days: int = 30, exchange: str = "binance", **filters: Any) -> TradeStatistics:
        values.whole(days, "days", 1)
        values.name(exchange, "exchange")
        try:
            since = self._now() - timedelta(days=days)
        except OverflowError:
            raise InvalidValueError(f"{days} days before now is outside the years 1 to 9999") from None
        counted = [
            trade
            for trade in self._chosen(**filters)
            if trade.exchange == exchange and trade.realized_pnl is not None and (trade.exit_time or trade.updated_at) >= since  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand]
        ]
        pnls, fees = ([Fraction(getattr(trade, name) or 0) for trade in counted] for name in ("realized_pnl", "fee"))
        return figures.statistics(pnls, fees)


class _Positions(Repository):
    def get_open_positions(self, exchange: str = "binance", *, account: str | None = None) -> list[Position]:
        values.name(exchange, "exchange")
        self._require_own(account)
        found = [item for item in self._seen.positions.values() if item.status == "open" and item.exchange == exchange]
        found = [item for item in found if self._is_own(item) and account in (None, item.account)]
        return sorted(found, key=lambda item: (item.entry_time, item.id))

    def get_position(
        self, symbol: str, exchange: str = "binance", *, side: str | None = None, account: str | None = None
    ) -> Position | None:
        values.name(symbol, "symbol")
        if side is not None:
            values.one_of(side, "side", values.SIDES)
        found = self.get_open_positions(exchange, account=account)
        found = [item for item in found if item.symbol == symbol and side in (None, item.side)]
        if len(found) < 2:
            return found[0] if found else None
        if len({item.account for item in found}) == 1:
            raise AmbiguousPositionError(
                f"both a long and a short position of {symbol} on {exchange} are open; select one with side="
            )
        places = [f"a {item.side} one on {exchange} of the account {values.shown(item.account)}" for item in found]
        listed = " and ".join([*places[:4], *([f"{len(places) - 4} more"] if len(places) > 4 else [])])
        choices = "account= and side=" if len({item.side for item in found}) > 1 else "account="
        raise AmbiguousPositionError(f"positions of {symbol} are open: {listed}; select one with {choices}")

    def update_position(self, position: Position, *, replace: bool = False) -> None:
        checked = self._assigned(values.checked(position))
        number = position.id
        holder = self._open(checked)
        if number is None and holder is None:
            created = dataclasses.replace(checked, id=self._model.number("positions"), created_at=self._now())
            self._put(created)
            return
        if number is None:
            assert holder is not None
            if not replace and None not in (holder.trade_id, checked.trade_id) and holder.trade_id != checked.trade_id:
                raise PositionConflictError(
                    f"the open {checked.side} position of {checked.symbol} on {checked.exchange} has the trade_id "
                    f"{values.shown(holder.trade_id)}, and the position to store has {values.shown(checked.trade_id)}; close the "
                    "open one first, or pass replace=True to take it over",
                    holder.trade_id or "",
                )
            number = holder.id
        stored = self._still_open(number)
        if holder is not None and holder.id != number and checked.status == "open":
            raise Duplicate
        self._put(dataclasses.replace(checked, id=stored.id, created_at=stored.created_at))

    def close_position(self, position_id: int) -> None:
        values.whole(position_id, "position_id")
        self._put(replace(self._still_open(position_id), status="closed"))

    def _put(self, position: Position) -> None:
        assert position.id is not None
        self._write.positions[position.id] = replace(position, last_updated=self._now())

    def _open(self, position: Position) -> Position | None:
        """Return the open position with the same key."""
        alike = ("exchange", "account", "symbol", "side")
        found = [item for item in self._seen.positions.values() if item.status == "open"]
        return next((item for item in found if all(getattr(item, name) == getattr(position, name) for name in alike)), None)

    def _still_open(self, number: int | None) -> Position:
        stored = None if number is None else self._seen.positions.get(number)
        if stored is None or not self._is_own(stored):
            raise NotFoundError(f"no position{self._whose} has the id {number}; get_open_positions() lists the open positions")
        if stored.status != "open":
            raise PositionClosedError(
                f"position {number} is no longer open and cannot be changed; to store a new position, leave id None"
            )
        return stored


class _Events(Repository):
    def log_event(self, event_type: str, severity: Severity, message: str, **rest: Any) -> None:
        checked = self._assigned(values.checked(SystemEvent(event_type, severity, message, **rest)))
        self._write.events.append(replace(checked, id=self._model.number("events"), created_at=self._now()))

    def get_recent_events(
        self, severity: str | None = None, limit: int = 100, *, account: str | None = None
    ) -> list[SystemEvent]:
        if severity is not None:
            values.one_of(severity, "severity", values.SEVERITIES)
        values.whole(limit, "limit", 1)
        self._require_own(account)
        found = [event for event in self._seen.events if self._is_own(event) and account in (None, event.account)]
        found = [event for event in found if severity in (None, event.severity)]
        return sorted(found, key=lambda event: (event.created_at, event.id), reverse=True)[:limit]


def _key(bar: OHLCVBar) -> BarKey:
    return bar.exchange, bar.symbol, bar.timeframe, bar.timestamp


def _window(start: datetime | None, end: datetime | None) -> tuple[datetime | None, datetime | None]:
    first = None if start is None else values.moment(start, "start")
    last = None if end is None else values.moment(end, "end")
    if first is not None and last is not None and first > last:
        raise InvalidValueError(f"start {first.isoformat()} is after end {last.isoformat()}")
    return first, last


def _beyond(edge: datetime, timeframe: str, steps: int, name: str) -> datetime:
    try:
        return values.shifted(edge, timeframe, steps)
    except InvalidValueError as error:
        raise InvalidValueError(f"{name} is at the end of the calendar: {error}") from None


def _newest(trades: Any, limit: int) -> list[Trade]:
    return sorted(trades, key=lambda trade: (trade.entry_time, trade.id), reverse=True)[:limit]
