"""FillApplier, the part of the repository of trades that sets the figures of a trade from its fills."""

from __future__ import annotations

import asyncio
from typing import Any

from iftb_store.analytics.fills import FillSummary, add_up_stored
from iftb_store.errors import FillConflictError, NotFoundError
from iftb_store.models import Fill, Trade
from iftb_store.protocols import Stores
from iftb_store.repositories.base import RecordRepository
from iftb_store.schema.row_checks import TRADE_CHECKS
from iftb_store.schema.table_spec import FILLS, TRADES, RowFilter
from iftb_store.values import checks
from iftb_store.values.display import show

# columns that a trade and its fills share
_MARKET = ("symbol", "exchange", "account")
# more fills are added up in a thread
_MANY = 1_000


class FillApplier(RecordRepository):
    """Sets the figures of trades from their fills."""

    async def apply_fills(self, trade_id: str, *, quote_currency: str | None = None) -> FillSummary:
        """Set the figures of a trade from all its fills, which `FillRepository.record` stored, and return what they add up to.

        The fills of a trade are those with its trade_id. All of them are read and added up again by each call, so the call may
        be repeated, and a fill may arrive late. The call is one transaction, which locks the trade's row first: any number of
        tasks and processes may record fills and apply them at once, and none is lost. To record a fill and apply it together,
        call both in one session, and apply the trades of one session in the order of their trade_id, to avoid deadlocks.

        `iftb_store.add_up_fills` defines the figures. They are set as follows:

        - entry_price and exit_price: the average price of the entries and of the exits; exit_price is None before an exit.
        - quantity: the sum of the entries, also of what is closed; `FillSummary.open_quantity` is the part that is open.
        - fee: the fees in quote currency. Fees in other currencies are not added: `FillSummary.other_fees` has their sums.
        - entry_time: that of the first entry.
        - While a part is open, action is open, and exit_time and realized_pnl are None, so that get_open returns the trade;
          `FillSummary.realized_pnl` is the profit of partial exits.
        - Once the exits close all of it, action is close, exit_time is that of the last exit, and realized_pnl, before fees, is
          (exit_price - entry_price) * quantity, unrounded averages taken, with the opposite sign for a short trade. If the exits
          exceed the entries, `FillSummary.excess` is the rest: the entry of another trade, on the other side.
        - A liquidated trade stays liquidated; its exit_time and realized_pnl are those of the exits, if there are any.
        - updated_at: the current time.

        All decimals are rounded half-even to 18 places, each once. If there is no entry among the fills, only the fee is set;
        without a fill, only updated_at.

        Args:
            trade_id: the bot's own trade_id of the trade, as in `get_by_trade_id`.
            quote_currency: the currency in which the symbol's price is; None: as the symbol says, see `add_up_fills`.

        Returns:
            What the fills add up to; without fills 0, None and an empty dict.

        Raises:
            NotFoundError: no trade of the repository's account has the trade_id.
            FillConflictError: a fill with this trade_id is of another symbol, exchange or account than the trade; nothing is
                changed but, in a session that is committed all the same, updated_at.
            InvalidValueError: the trade_id is one that no trade can have, or a sum has more than 20 digits before the point.

        Example:
            fills = FillRepository(db)
            for number, price, quantity in (("F-3", "42600", "0.006"), ("F-4", "42610", "0.004")):
                bought = Fill(number, "BTCUSDT", "binance", "buy", Decimal(price), Decimal(quantity), start, trade_id="T-2")
                await fills.record(bought)
            summary = await trades.apply_fills("T-2")
            (summary.quantity, summary.entry_price)  # -> (Decimal('0.01'), Decimal('42604'))
            (await trades.get_by_trade_id("T-2")).entry_price  # -> Decimal('42604')
        """
        name = checks.name_text(trade_id, "trade_id")
        quote = checks.optional(checks.name_text, quote_currency, "quote_currency")
        selected = {"trade_id": name, **self._choose_account()}

        async def work(stores: Stores) -> FillSummary:
            # An update locks the row, or on engines with one writer the database, until the transaction ends. So the fills that
            # are read after it include those of every transaction that has applied this trade before
            if not await stores.records.update(TRADES, selected, {"updated_at": self._now()}):
                raise NotFoundError(f"no trade{self._name_scope()} has the trade_id {show(name)}; record() stores one")
            (trade,) = await stores.records.select(RowFilter(TRADES, selected))
            fills: list[Fill] = await stores.records.select(RowFilter(FILLS, {"trade_id": name}))
            _check_markets(trade, fills)
            if len(fills) > _MANY:
                summary = await asyncio.to_thread(add_up_stored, fills, trade.side, quote)
            else:
                summary = add_up_stored(fills, trade.side, quote)
            if fills:
                changes = _find_changes(trade, summary)
                checked = {field: TRADE_CHECKS[field](value, field) for field, value in changes.items()}
                await stores.records.update(TRADES, selected, checked)
            return summary

        return await self._count(work)


def _find_changes(trade: Trade, summary: FillSummary) -> dict[str, Any]:
    changes: dict[str, Any] = {"fee": summary.fee}
    if not summary.quantity:
        return changes
    changes |= {
        "entry_price": summary.entry_price,
        "quantity": summary.quantity,
        "entry_time": summary.entry_time,
        "exit_price": summary.exit_price,
    }
    if trade.action == "liquidated":
        if summary.exit_time is None:
            del changes["exit_price"]
        else:
            changes |= {"exit_time": summary.exit_time, "realized_pnl": summary.realized_pnl}
    elif summary.open_quantity:
        changes |= {"action": "open", "exit_time": None, "realized_pnl": None}
    else:
        changes |= {"action": "close", "exit_time": summary.exit_time, "realized_pnl": summary.realized_pnl}
    return changes


def _check_markets(trade: Trade, fills: list[Fill]) -> None:
    """Raise FillConflictError if a fill that names the trade is of another symbol, exchange or account."""
    for fill in fills:
        differing = tuple(name for name in _MARKET if getattr(fill, name) != getattr(trade, name))
        if differing:
            values = ", ".join(f"{name} {show(getattr(fill, name))}, not {show(getattr(trade, name))}" for name in differing)
            raise FillConflictError(
                f"the fill {show(fill.fill_id)} of the trade {show(trade.trade_id)} has the {values}; nothing was changed",
                differing,
            )
