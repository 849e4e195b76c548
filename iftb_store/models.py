"""The records that a bot stores and reads: bars, trades, positions, events and trade statistics, as slotted dataclasses.

In objects that are read, times are aware datetimes in UTC; prices, quantities and money are Decimals. The store sets ``id``
and the times ``created_at``, ``updated_at`` and ``last_updated``: reads return these fields, and writes ignore them, except
the ``id`` of a position, which selects the position to update.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

from iftb_store.values.choices import Action, PositionStatus, Severity, Side
from iftb_store.values.timeframes import Timeframe


@dataclass(slots=True)
class OHLCVBar:
    """One bar (candlestick).

    ``timestamp`` is the opening time of the bar; ``volume`` is in base currency, ``quote_volume`` in quote currency.
    """

    symbol: str
    exchange: str
    timeframe: Timeframe
    timestamp: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal | None = None
    trades_count: int | None = None
    id: int | None = None
    created_at: datetime | None = None


@dataclass(slots=True)
class Trade:
    """One trade. ``side`` is long or short; ``action`` is open, close or liquidated; ``trade_id`` is unique."""

    trade_id: str
    symbol: str
    exchange: str
    side: Side
    action: Action
    entry_price: Decimal
    quantity: Decimal
    entry_time: datetime
    leverage: Decimal = Decimal("1.0")
    exit_price: Decimal | None = None
    exit_time: datetime | None = None
    realized_pnl: Decimal | None = None
    realized_pnl_pct: Decimal | None = None
    fee: Decimal = Decimal(0)
    signal_score: Decimal | None = None
    technical_score: Decimal | None = None
    llm_score: Decimal | None = None
    xgb_confidence: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    position_size_pct: Decimal | None = None
    decision_reasons: dict[str, Any] | None = None
    llm_analysis: dict[str, Any] | None = None
    id: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


class TradeChanges(TypedDict, total=False):
    """The fields of a trade that `iftb_store.TradeRepository.update` can set: all but those that the store sets and trade_id."""

    symbol: str
    exchange: str
    side: Side
    action: Action
    entry_price: Decimal
    quantity: Decimal
    entry_time: datetime
    leverage: Decimal
    exit_price: Decimal | None
    exit_time: datetime | None
    realized_pnl: Decimal | None
    realized_pnl_pct: Decimal | None
    fee: Decimal
    signal_score: Decimal | None
    technical_score: Decimal | None
    llm_score: Decimal | None
    xgb_confidence: Decimal | None
    stop_loss: Decimal | None
    take_profit: Decimal | None
    position_size_pct: Decimal | None
    decision_reasons: dict[str, Any] | None
    llm_analysis: dict[str, Any] | None


@dataclass(slots=True)
class Position:
    """One position. ``side`` is long or short; ``status`` is open, closed or liquidated."""

    symbol: str
    exchange: str
    side: Side
    entry_price: Decimal
    quantity: Decimal
    margin: Decimal
    entry_time: datetime
    current_price: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    status: PositionStatus = "open"
    leverage: Decimal = Decimal("1.0")
    unrealized_pnl_pct: Decimal | None = None
    liquidation_price: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trailing_stop: Decimal | None = None
    trade_id: str | None = None
    id: int | None = None
    last_updated: datetime | None = None
    created_at: datetime | None = None


@dataclass(slots=True)
class SystemEvent:
    """One entry of the log of system events. ``severity`` is debug, info, warning, error or critical."""

    event_type: str
    severity: Severity
    message: str
    details: dict[str, Any] | None = None
    symbol: str | None = None
    exchange: str | None = None
    trade_id: str | None = None
    position_id: int | None = None
    stack_trace: str | None = None
    id: int | None = None
    created_at: datetime | None = None


@dataclass(slots=True)
class Series:
    """One series of bars: first and last timestamp, the number of bars, and the number of bars missing between these times."""

    exchange: str
    symbol: str
    timeframe: Timeframe
    first: datetime
    last: datetime
    count: int
    missing: int


@dataclass(slots=True)
class UpsertReport:
    """The result of an upsert: how many distinct bars of the batch were inserted, updated and unchanged."""

    inserted: int
    updated: int
    unchanged: int


@dataclass(slots=True)
class TradeStatistics:
    """Statistics of realized trades; ``win_rate`` is in percent, losses are absolute values (never negative).

    ``profit_factor`` is gross_profit / gross_loss, or None if there is no loss. Fees are not subtracted from ``net_pnl``.
    """

    total_trades: int
    winning_trades: int
    losing_trades: int
    win_rate: Decimal
    gross_profit: Decimal
    gross_loss: Decimal
    net_pnl: Decimal
    total_fees: Decimal
    avg_win: Decimal
    avg_loss: Decimal
    largest_win: Decimal
    largest_loss: Decimal
    profit_factor: Decimal | None = None


class TradeTotals(NamedTuple):
    """Exact totals of realized trades, 0 without trades; `iftb_store.analytics.statistics` computes statistics from them."""

    trades: int
    wins: int
    losses: int
    profit: Decimal
    loss: Decimal
    fees: Decimal
    largest_win: Decimal
    largest_loss: Decimal


class WriteCounts(NamedTuple):
    """What an upsert did: the number of inserted bars, and the number of stored bars of which a value changed."""

    inserted: int
    updated: int
