"""The model's repositories of fills, the ledger and balances, and the figures of a trade from its fills, in fractions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from iftb_store import (
    BalanceConflictError,
    BalanceSnapshot,
    Fill,
    FillConflictError,
    FillSummary,
    InvalidValueError,
    LedgerConflictError,
    LedgerEntry,
    NotFoundError,
    Trade,
)
from iftb_store.testing import model_values as values
from iftb_store.testing.model_state import Key, Repository

_SET_BY_THE_STORE = ("id", "created_at")


class _Recorded(Repository):
    """Rows that are stored once each, by their key."""

    table: str
    noun: str
    key: tuple[str, ...]
    second: str
    error: Any

    def _describe(self, row: Any) -> str:
        raise NotImplementedError

    def _checked(self, row: Any) -> Any:
        return self._assigned(values.checked(row))

    def _key(self, row: Any) -> Key:
        return tuple(getattr(row, name) for name in self.key)

    @property
    def _rows(self) -> dict[Key, Any]:
        rows: dict[Key, Any] = getattr(self._seen, self.table)
        return rows

    def record(self, row: Any) -> bool:
        return self._record([self._checked(row)])[0]

    def record_many(self, rows: Sequence[Any]) -> list[bool]:
        checked: dict[Key, Any] = {}
        keys = []
        for number, row in enumerate(rows):
            try:
                one = self._checked(row)
            except InvalidValueError as error:
                raise InvalidValueError(f"{self.noun}[{number}]: {error}") from None
            first = checked.setdefault(self._key(one), one)
            if differing := _list_differing(first, one):
                raise self.error(
                    f"{self.noun}[{number}]: {self._describe(one)} is a duplicate with another {', '.join(differing)}; nothing "
                    "was stored",
                    differing,
                )
            keys.append(self._key(one))
        new = dict(zip(checked, self._record(list(checked.values())), strict=True))
        return [new.pop(key, False) for key in keys]

    def _record(self, rows: list[Any]) -> list[bool]:
        for row in sorted(rows, key=self._key):
            stored = self._rows.get(self._key(row))
            if stored is not None and (differing := _list_differing(stored, row)):
                raise self.error(
                    f"{self._describe(row)} is already stored with another {', '.join(differing)}; what is stored does not "
                    "change: find out which one is right",
                    differing,
                )
        new = [self._key(row) not in self._rows for row in rows]
        now, written = self._now(), getattr(self._write, self.table)
        # the ids of new rows are in the order of their keys
        for row in sorted((row for row, is_new in zip(rows, new, strict=True) if is_new), key=self._key):
            written[self._key(row)] = replace(row, id=self._model.number(self.table), created_at=now)
        return new

    def get_range(self, start: datetime, end: datetime, *, exchange: str | None = "binance") -> list[Any]:
        found = self._find(exchange=exchange, start=start, end=end)
        return found if exchange else sorted(found, key=lambda row: (row.exchange, getattr(row, self.second) or ""))

    def _find(self, *, start: datetime | None = None, end: datetime | None = None, **equal: Any) -> list[Any]:
        """Return the rows of a window, both ends included, with the values that are not None, by time and id."""
        first = None if start is None else values.moment(start, "start")
        last = None if end is None else values.moment(end, "end")
        self._require_own(equal.get("account"))
        found = [
            row
            for row in self._rows.values()
            if self._is_own(row)
            and all(value is None or getattr(row, name) == value for name, value in equal.items())
            and (first is None or first <= row.timestamp)
            and (last is None or row.timestamp <= last)
        ]
        return sorted(found, key=lambda row: (row.timestamp, row.id))


class Fills(_Recorded):
    """The model's fills."""

    table, noun, second, error = "fills", "fills", "symbol", FillConflictError
    key = ("exchange", "account", "symbol", "fill_id")

    def _checked(self, row: Fill) -> Any:
        checked = super()._checked(row)
        if checked.quantity <= 0:
            raise InvalidValueError(f"quantity {checked.quantity} of a fill is not above 0; side says whether it bought or sold")
        return checked

    def _describe(self, row: Fill) -> str:
        return f"the fill {values.shown(row.fill_id)} of {values.shown(row.symbol)} on {values.shown(row.exchange)}"

    def get_by_trade(self, trade_id: str, *, account: str | None = None) -> list[Fill]:
        return self._find(trade_id=values.name(trade_id, "trade_id"), account=account)


class Ledger(_Recorded):
    """The model's ledger."""

    table, noun, second, error = "ledger", "entries", "symbol", LedgerConflictError
    key = ("exchange", "account", "kind", "external_id")

    def _describe(self, row: LedgerEntry) -> str:
        return f"the {row.kind} {values.shown(row.external_id)} on {values.shown(row.exchange)}"

    def get_sums(self, *, exchange: str | None = "binance", **chosen: Any) -> dict[str, dict[str, Decimal]]:
        sums: dict[str, dict[str, Fraction]] = {}
        for entry in self._find(exchange=exchange, **chosen):
            kinds = sums.setdefault(entry.currency, {})
            kinds[entry.kind] = kinds.get(entry.kind, Fraction(0)) + Fraction(entry.amount)
        return {currency: {kind: _to_decimal(value) for kind, value in kinds.items()} for currency, kinds in sums.items()}


class Balances(_Recorded):
    """The model's snapshots of balances."""

    table, noun, second, error = "balances", "snapshots", "currency", BalanceConflictError
    key = ("exchange", "account", "currency", "timestamp")

    def _describe(self, row: BalanceSnapshot) -> str:
        return f"the balance of {values.shown(row.currency)} on {values.shown(row.exchange)} at {row.timestamp.isoformat()}"

    def get_latest(self, at: datetime | None = None, *, exchange: str | None = "binance") -> list[BalanceSnapshot]:
        newest = {self._key(row)[:3]: row for row in self._find(exchange=exchange, end=at)}
        return [newest[key] for key in sorted(newest)]


class FillApplier(Repository):
    """The part of the model's trades that sets their figures from fills."""

    def apply_fills(self, trade_id: str, *, quote_currency: str | None = None) -> FillSummary:
        values.name(trade_id, "trade_id")
        stored = next((item for item in self._seen.trades.values() if item.trade_id == trade_id and self._is_own(item)), None)
        if stored is None or stored.id is None:
            raise NotFoundError(f"no trade{self._whose} has the trade_id {values.shown(trade_id)}; record() stores one")
        touched = replace(stored, updated_at=self._now())
        if self._session is not None:
            # an error that is caught in a session does not undo this
            self._write.trades[stored.id] = touched
        fills = [fill for fill in self._seen.fills.values() if fill.trade_id == trade_id]
        fills.sort(key=lambda fill: (fill.timestamp, fill.id))
        _check_markets(stored, fills)
        summary = _add_up(fills, stored.side, quote_currency)
        changes = _find_changes(stored, summary) if fills else {}
        for name, value in changes.items():
            if isinstance(value, Decimal):
                values.round_decimal(value, name)
        self._write.trades[stored.id] = replace(touched, **changes)
        return summary


def _check_markets(trade: Trade, fills: list[Fill]) -> None:
    for fill in fills:
        differing = [name for name in ("symbol", "exchange", "account") if getattr(fill, name) != getattr(trade, name)]
        if differing:
            pairs = [
                f"{name} {values.shown(getattr(fill, name))}, not {values.shown(getattr(trade, name))}" for name in differing
            ]
            raise FillConflictError(
                f"the fill {values.shown(fill.fill_id)} of the trade {values.shown(trade.trade_id)} has the {', '.join(pairs)}; "
                "nothing was changed",
                tuple(differing),
            )


def _add_up(fills: list[Fill], side: str, quote_currency: str | None) -> FillSummary:
    way, sign = ("buy", 1) if side == "long" else ("sell", -1)
    net = bought = sold = paid = received = average = profit = Fraction(0)
    found = FillSummary()
    for fill in sorted(fills, key=lambda fill: (fill.timestamp, fill.side != way)):
        price, quantity = Fraction(fill.price), Fraction(fill.quantity)
        held = max(net, Fraction(0))
        if fill.side == way:
            net += quantity
            entered = max(net, Fraction(0)) - held
            if entered:
                average = (average * held + price * entered) / (held + entered)
                bought, paid = bought + entered, paid + price * entered
                found.entry_time = found.entry_time or fill.timestamp
        else:
            net -= quantity
            left = min(held, quantity)
            if left:
                profit += sign * (price - average) * left
                sold, received = sold + left, received + price * left
                found.exit_time = fill.timestamp
    found.quantity, found.open_quantity, found.excess = map(_to_decimal, (bought, max(net, Fraction(0)), max(-net, Fraction(0))))
    found.entry_price = _to_decimal(paid / bought) if bought else None
    found.exit_price = _to_decimal(received / sold) if sold else None
    found.realized_pnl = _to_decimal(profit)
    fees: dict[str, Fraction] = {}
    for fill in fills:
        if fill.fee:
            currency = "" if _is_quote(fill.fee_currency, fill.symbol, quote_currency) else fill.fee_currency or ""
            fees[currency] = fees.get(currency, Fraction(0)) + Fraction(fill.fee)
    found.fee = _to_decimal(fees.pop("", Fraction(0)))
    found.other_fees = {currency: _to_decimal(value) for currency, value in fees.items()}
    return found


def _is_quote(currency: str | None, symbol: str, quote_currency: str | None) -> bool:
    if currency is None or quote_currency is not None:
        return currency in (None, quote_currency)
    parts = re.split("[-_/]", symbol.split(":")[0])
    return currency == parts[1] if len(parts) > 1 else symbol.endswith(currency)


def _find_changes(trade: Trade, found: FillSummary) -> dict[str, Any]:
    changes: dict[str, Any] = {"fee": found.fee}
    if not found.quantity:
        return changes
    changes |= {"entry_price": found.entry_price, "quantity": found.quantity, "entry_time": found.entry_time}
    closed = {"exit_price": found.exit_price, "exit_time": found.exit_time, "realized_pnl": found.realized_pnl}
    if trade.action == "liquidated":
        return changes | (closed if found.exit_time else {})
    if found.open_quantity:
        return changes | {**closed, "action": "open", "exit_time": None, "realized_pnl": None}
    return changes | {**closed, "action": "close"}


def _list_differing(stored: Any, given: Any) -> tuple[str, ...]:
    names = [item.name for item in fields(given) if item.name not in _SET_BY_THE_STORE]
    return tuple(name for name in names if values.unlike(getattr(stored, name), getattr(given, name)))


def _to_decimal(value: Fraction) -> Decimal:
    return values.from_units(round(value * values.UNITS))
