"""Adds up the fills of a trade, exactly: average prices, quantities, profit and fees; each result is rounded once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import get_args

from iftb_store.errors import InvalidValueError
from iftb_store.models import Fill
from iftb_store.schema.row_checks import FILL_CHECKS
from iftb_store.values import checks
from iftb_store.values.choices import Side
from iftb_store.values.decimals import CONTEXT, SCALE, round_decimal, trim_zeros
from iftb_store.values.display import type_name

_UNIT = 10**SCALE
_SEPARATORS = re.compile("[-_/]")


@dataclass(slots=True)
class FillSummary:
    """What the fills of one trade add up to; `iftb_store.analytics.fills.add_up_fills` defines the figures.

    Attributes:
        quantity: the sum of the entries; 0 without one.
        open_quantity: the part of it that no exit has closed.
        excess: the quantity by which the exits exceed the entries, e.g. of an order that turned a long position into a short
            one; it is not part of the trade.
        entry_price: the average price of the entries; None without one.
        exit_price: the average price of the exits; None without one.
        realized_pnl: the profit of the exits, before fees, in quote currency; 0 without one.
        fee: the sum of the fees in quote currency.
        other_fees: the sums of the fees in other currencies, by currency; empty if there are none.
        entry_time: the time of the first entry, UTC; None without one.
        exit_time: the time of the last exit, UTC; None without one.
    """

    quantity: Decimal = Decimal(0)
    open_quantity: Decimal = Decimal(0)
    excess: Decimal = Decimal(0)
    entry_price: Decimal | None = None
    exit_price: Decimal | None = None
    realized_pnl: Decimal = Decimal(0)
    fee: Decimal = Decimal(0)
    other_fees: dict[str, Decimal] = field(default_factory=dict)
    entry_time: datetime | None = None
    exit_time: datetime | None = None


def add_up_fills(fills: Iterable[Fill], side: Side, *, quote_currency: str | None = None) -> FillSummary:
    """Return what the fills of one trade add up to, for linear contracts: profit in quote currency.

    The buys of a long trade and the sells of a short one are its entries, the other fills its exits. They are taken in the order
    of time; at the same time, entries come before exits.

    - ``entry_price`` is the sum of price * quantity of all entries, divided by the sum of their quantities; ``exit_price`` is
      the same of the exits.
    - An exit realizes (its price - the average price of what is open) * its quantity; of a short trade with the opposite sign.
      An entry changes the average price of what is open, an exit does not. So an entry after a partial exit does not change
      what the exit has realized, and of a closed trade the profit is (exit_price - entry_price) * quantity.
    - An exit of more than what is open closes the trade. The rest is ``excess``: no part of the exit's price or profit. A later
      entry reduces the excess first; only what remains of it is an entry.
    - ``fee`` is the sum of the fees in quote currency, whole even if a part of the fill is excess. Fees in other currencies are
      never converted or added to it, but summed by currency. The quote currency is that of ``quote_currency``; if it is None,
      the second part of a symbol with separators, e.g. USDT in BTC/USDT:USDT or BTC-USDT-SWAP, and otherwise any currency with
      which the symbol ends. A fill without fee_currency paid in quote currency.

    All sums and quotients are exact, and each figure is rounded once, half-even to 18 places.

    Args:
        fills: the fills of one trade, in any order.
        side: the side of the trade, long or short.
        quote_currency: the currency in which the symbol's price is; None: as the symbol says.

    Returns:
        The figures; without fills 0, None and an empty dict.

    Raises:
        InvalidValueError: a fill is one that cannot be stored, or another argument has a wrong value.

    Example:
        from iftb_store.analytics.fills import add_up_fills

        moments = [start + timedelta(hours=hour) for hour in range(3)]
        orders = [("buy", "100", "2"), ("buy", "91", "1"), ("sell", "103", "1")]
        filled = [
            Fill(f"F-{number}", "BTCUSDT", "binance", way, Decimal(price), Decimal(quantity), moment)
            for number, (moment, (way, price, quantity)) in enumerate(zip(moments, orders, strict=True))
        ]
        summary = add_up_fills(filled, "long")
        (summary.entry_price, summary.open_quantity, summary.realized_pnl)  # -> (Decimal('97'), Decimal('2'), Decimal('6'))
    """
    long_or_short = checks.choice(side, "side", get_args(Side))
    quote = checks.optional(checks.name_text, quote_currency, "quote_currency")
    return add_up_stored(_check_fills(fills), long_or_short, quote)


def add_up_stored(fills: Iterable[Fill], side: Side, quote_currency: str | None) -> FillSummary:
    """Return what fills add up to whose values are those of stored fills; see `add_up_fills`."""
    way = "buy" if side == "long" else "sell"
    ordered = sorted(fills, key=lambda fill: (fill.timestamp, fill.side != way))
    entries, exits, position, summary = _Sums(), _Sums(), _Position(), FillSummary()
    net = 0
    for fill in ordered:
        price, quantity = _to_units(fill.price, "price"), _to_units(fill.quantity, "quantity")
        change = quantity if fill.side == way else -quantity
        # only the part above 0 belongs to the trade
        counted = max(net + change, 0) - max(net, 0)
        net += change
        if counted > 0:
            entries.add(price, counted)
            position.add(price, counted)
            summary.entry_time = summary.entry_time or fill.timestamp
        elif counted < 0:
            exits.add(price, -counted)
            position.remove(-counted)
            summary.exit_time = fill.timestamp
    # what the exits received, minus what they had cost: the cost of the entries without that of what is open
    closed = (exits.value - entries.value) * position.divisor + position.cost
    summary.realized_pnl = _to_decimal(closed if side == "long" else -closed, position.divisor * _UNIT * _UNIT)
    summary.quantity, summary.entry_price = _to_decimal(entries.quantity, _UNIT), entries.average
    summary.open_quantity, summary.excess = _to_decimal(max(net, 0), _UNIT), _to_decimal(max(-net, 0), _UNIT)
    summary.exit_price = exits.average
    _add_fees(summary, ordered, quote_currency)
    return summary


def check_fill_quantity(fill: Fill) -> None:
    """Raise InvalidValueError unless the quantity of a fill is above 0."""
    if fill.quantity <= 0:
        raise InvalidValueError(f"quantity {fill.quantity} of a fill is not above 0; side says whether it bought or sold")


def _check_fills(fills: Iterable[Fill]) -> list[Fill]:
    """Return copies of the fills with normalised values."""
    if not isinstance(fills, Iterable) or isinstance(fills, Mapping | str | bytes):
        raise InvalidValueError(f"fills must be a list of Fill, not {type_name(fills)}")
    checked = list[Fill]()
    for number, fill in enumerate(fills):
        if not isinstance(fill, Fill):
            raise InvalidValueError(f"fills[{number}] must be a Fill, not {type_name(fill)}")
        try:
            checked.append(Fill(**{name: check(getattr(fill, name), name) for name, check in FILL_CHECKS.items()}))
            check_fill_quantity(checked[-1])
        except InvalidValueError as error:
            raise InvalidValueError(f"fills[{number}]: {error}") from error
    return checked


class _Sums:
    """The sums of quantities, in units of 1E-18, and of prices * quantities, in units of 1E-36."""

    def __init__(self) -> None:
        self.quantity = self.value = 0

    def add(self, price: int, quantity: int) -> None:
        self.quantity += quantity
        self.value += price * quantity

    @property
    def average(self) -> Decimal | None:
        return _to_decimal(self.value, self.quantity * _UNIT) if self.quantity else None


class _Position:
    """The open quantity of a trade and its exact cost, as a fraction of whole numbers."""

    def __init__(self) -> None:
        self._open = 0
        # the cost of the quantity _whole, from which exits take without a change of the average
        self._whole, self._cost, self._divisor = 0, 0, 1

    def add(self, price: int, quantity: int) -> None:
        self._cost, self._divisor = self.cost, self.divisor
        self._cost += price * quantity * self._divisor
        self._open += quantity
        self._whole = self._open

    def remove(self, quantity: int) -> None:
        self._open -= quantity
        if not self._open:
            # a closed trade has no fraction left
            self._whole, self._cost, self._divisor = 0, 0, 1

    @property
    def cost(self) -> int:
        """The cost of the open quantity, multiplied by `divisor`, in units of 1E-36."""
        return self._cost if self._open == self._whole else self._cost * self._open

    @property
    def divisor(self) -> int:
        return self._divisor if self._open == self._whole else self._divisor * self._whole


def _add_fees(summary: FillSummary, fills: list[Fill], quote_currency: str | None) -> None:
    # the empty text stands for the quote currency
    sums: dict[str, int] = {"": 0}
    for fill in (fill for fill in fills if fill.fee):
        currency = fill.fee_currency or ""
        if _is_quote(currency, fill.symbol, quote_currency):
            currency = ""
        sums[currency] = sums.get(currency, 0) + _to_units(fill.fee, "fee")
    summary.fee = _to_decimal(sums.pop(""), _UNIT)
    summary.other_fees = {currency: _to_decimal(sums[currency], _UNIT) for currency in sorted(sums)}


def _is_quote(currency: str, symbol: str, quote_currency: str | None) -> bool:
    if currency in ("", quote_currency):
        return True
    if quote_currency is not None:
        return False
    parts = _SEPARATORS.split(symbol.partition(":")[0])
    return currency == parts[1] if len(parts) > 1 else symbol.endswith(currency)


def _to_units(value: Decimal, name: str) -> int:
    """Return a decimal, rounded half-even to 18 places, as a whole number of 1E-18."""
    return int(round_decimal(value, name).scaleb(SCALE, CONTEXT))


def _to_decimal(numerator: int, denominator: int) -> Decimal:
    """Return a quotient of whole numbers, rounded half-even to 18 places."""
    whole, rest = divmod(numerator * _UNIT, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and whole % 2):
        whole += 1
    return trim_zeros(Decimal(f"{whole}E-{SCALE}"))
