"""Converts freqtrade's trades and orders to trades, fills and open positions."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

from iftb_store.errors import InvalidValueError
from iftb_store.foreign.reading import ForeignTables, to_decimal, to_time
from iftb_store.foreign.staging import Staging
from iftb_store.schema.table_spec import FILLS, POSITIONS, TRADES
from iftb_store.transfer.progress import StepCallback
from iftb_store.values.decimals import CONTEXT

_NUMBERS = (
    "fee_open", "fee_close", "open_rate", "close_rate", "close_profit", "close_profit_abs", "stake_amount", "amount", "stop_loss",
    "leverage", "liquidation_price", "funding_fees", "realized_profit",
)  # fmt: skip
_TRADE = (
    "exchange", "pair", "stake_currency", "is_open", "is_short", "open_date", "close_date", "exit_reason", "sell_reason",
    "strategy", "enter_tag", "buy_tag", *_NUMBERS,
)  # fmt: skip
_AMOUNTS = ("price", "average", "filled")
_ORDER = (
    "ft_trade_id", "ft_order_side", "side", "order_id", "order_date", "order_filled_date", "order_update_date", *_AMOUNTS
)  # fmt: skip
#: Tables that are left out, by what they contain.
_LEFT_OUT = {
    "trade_custom_data": "custom data of trades",
    "pairlocks": "locks of pairs",
    "KeyValueStore": "values of the bot",
    "wallet_history": "balances",
}
_ZERO = Decimal(0)


async def convert_freqtrade(tables: ForeignTables, staging: Staging, account: str, tell: StepCallback) -> None:
    """Convert every trade with its orders; the rows belong to ``account``."""
    total, done = await tables.count("trades"), 0
    orders = await _read_orders(tables, staging)
    opened, funding, realized = dict[tuple[Any, ...], int](), 0, 0
    async for rows in tables.stream("trades", _TRADE, set(_NUMBERS)):
        for row in rows:
            number = int(row["id"])
            try:
                values = {name: to_decimal(row[name], name) for name in _NUMBERS}
                times = {name: to_time(row[name], name) for name in ("open_date", "close_date")}
            except InvalidValueError as error:
                staging.refuse("trades", number, str(error))
                continue
            one = row | values | times
            its = orders.pop(number, [])
            fills = [_to_fill(one, order, account) for order in its]
            if not await staging.add(TRADES, _to_trade(one, fills, account), ("trades", number)):
                continue
            for order, fill in zip(its, fills, strict=True):
                await staging.add(FILLS, fill, ("orders", int(order["id"])))
            funding += bool(one["funding_fees"])
            realized += bool(one["is_open"] and one["realized_profit"])
            if one["is_open"]:
                key = one["exchange"], one["pair"], bool(one["is_short"])
                if key in opened:
                    why = f"the trade {opened[key]} already has the open position of {one['exchange']} {one['pair']}"
                    staging.refuse("trades", number, f"its position is left out: {why}")
                    continue
                opened[key] = number
                await staging.add(POSITIONS, _to_position(one, account), ("trades", number))
        staging.count("trades", len(rows))
        done += len(rows)
        tell(done, total)
    if funding:
        staging.notes.append(f"the realized_pnl of {funding:,} trades includes funding, as freqtrade's close_profit_abs does")
    if realized:
        staging.notes.append(
            f"{realized:,} open trades have sold a part; their profit so far is left out, their fills are stored"
        )
    for table, what in _LEFT_OUT.items():
        if rows_left := await tables.count(table):
            staging.notes.append(f"left out: {rows_left:,} rows of {table} ({what})")


async def _read_orders(tables: ForeignTables, staging: Staging) -> dict[int, list[dict[str, Any]]]:
    """Return the orders of each trade of which something was filled."""
    found, unfilled = defaultdict[int, list[dict[str, Any]]](list), 0
    async for rows in tables.stream("orders", _ORDER, set(_AMOUNTS)):
        staging.count("orders", len(rows))
        for row in rows:
            try:
                values = {name: to_decimal(row[name], name) for name in _AMOUNTS}
                moment = to_time(row["order_filled_date"] or row["order_update_date"] or row["order_date"], "order_date")
            except InvalidValueError as error:
                staging.refuse("orders", int(row["id"]), str(error))
                continue
            if not values["filled"]:
                unfilled += 1
                continue
            found[int(row["ft_trade_id"] or 0)].append(row | values | {"moment": moment})
    if unfilled:
        staging.notes.append(f"left out: {unfilled:,} orders of which nothing was filled")
    return dict(found)


def name_trade(row: dict[str, Any]) -> str:
    """Return the trade_id of a trade: freqtrade's ids are numbers, which other bots have too."""
    return f"freqtrade-{row['id']}"


def _to_fill(row: dict[str, Any], order: dict[str, Any], account: str) -> dict[str, Any]:
    entry, exit_ = ("sell", "buy") if row["is_short"] else ("buy", "sell")
    side = order["side"] if order["side"] in ("buy", "sell") else order["ft_order_side"]
    # a stop loss on the exchange closes the trade
    side = side if side in ("buy", "sell") else exit_
    price = order["average"] or order["price"]
    rate = (row["fee_open"] if side == entry else row["fee_close"]) or _ZERO
    return {
        "id": order["id"],
        "fill_id": order["order_id"],
        "order_id": order["order_id"],
        "symbol": row["pair"],
        "exchange": row["exchange"],
        "side": side,
        "price": price,
        "quantity": order["filled"],
        "timestamp": order["moment"],
        "created_at": order["moment"],
        "trade_id": name_trade(row),
        "fee": CONTEXT.multiply(CONTEXT.multiply(order["filled"], price or _ZERO), rate),
        "fee_currency": row["stake_currency"],
        "account": account,
    }


def _to_trade(row: dict[str, Any], fills: list[dict[str, Any]], account: str) -> dict[str, Any]:
    is_open, profit = bool(row["is_open"]), row["close_profit_abs"]
    fee = _ZERO
    for fill in fills:
        fee = CONTEXT.add(fee, fill["fee"])
    if not fills:
        for price, rate in ((row["open_rate"], row["fee_open"]), (row["close_rate"], row["fee_close"])):
            fee = CONTEXT.add(fee, CONTEXT.multiply(CONTEXT.multiply(row["amount"] or _ZERO, price or _ZERO), rate or _ZERO))
    reason = row["exit_reason"] or row["sell_reason"]
    tag = row["enter_tag"] or row["buy_tag"]
    changed = row["open_date"] if is_open else row["close_date"] or row["open_date"]
    ratio = row["close_profit"]
    return {
        "id": row["id"],
        "trade_id": name_trade(row),
        "symbol": row["pair"],
        "exchange": row["exchange"],
        "side": "short" if row["is_short"] else "long",
        "action": "open" if is_open else "liquidated" if reason == "liquidation" else "close",
        "entry_price": row["open_rate"],
        "quantity": row["amount"],
        "entry_time": row["open_date"],
        "leverage": row["leverage"] or Decimal(1),
        "exit_price": None if is_open else row["close_rate"],
        "exit_time": None if is_open else row["close_date"],
        # freqtrade's profit is after fees
        "realized_pnl": None if is_open or profit is None else CONTEXT.add(profit, fee),
        "realized_pnl_pct": None if is_open or ratio is None else CONTEXT.multiply(ratio, Decimal(100)),
        "fee": fee,
        "stop_loss": row["stop_loss"] or None,
        "account": account,
        "strategy": row["strategy"] or None,
        "exit_reason": None if is_open else reason or None,
        "tags": [tag] if tag else [],
        "created_at": row["open_date"],
        "updated_at": changed,
    }


def _to_position(row: dict[str, Any], account: str) -> dict[str, Any]:
    return {
        "id": row["id"],
        "symbol": row["pair"],
        "exchange": row["exchange"],
        "side": "short" if row["is_short"] else "long",
        "entry_price": row["open_rate"],
        "quantity": row["amount"],
        "margin": row["stake_amount"],
        "entry_time": row["open_date"],
        "status": "open",
        "leverage": row["leverage"] or Decimal(1),
        "liquidation_price": row["liquidation_price"],
        "stop_loss": row["stop_loss"] or None,
        "trade_id": name_trade(row),
        "last_updated": row["open_date"],
        "created_at": row["open_date"],
        "account": account,
    }
