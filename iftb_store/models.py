"""The records that a bot stores and reads: bars, trades, positions, events and trade statistics, as slotted dataclasses.

In objects that are read, times are aware datetimes in UTC; prices, quantities and money are Decimals. The store sets ``id``
and the times ``created_at``, ``updated_at`` and ``last_updated``: reads return these fields, and writes ignore them, except
the ``id`` of a position, which selects the position to update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

from iftb_store.errors import InvalidValueError
from iftb_store.values.ccxt import CCXT_COLUMNS, read_milliseconds, read_number
from iftb_store.values.choices import Action, FillSide, LedgerKind, Liquidity, PositionStatus, Severity, Side
from iftb_store.values.decimals import CONTEXT
from iftb_store.values.display import type_name
from iftb_store.values.timeframes import Timeframe


@dataclass(slots=True)
class OHLCVBar:
    """One bar (candlestick).

    Attributes:
        symbol: the symbol, as the exchange or the bot writes it, e.g. BTCUSDT.
        exchange: the name of the exchange, as the bot writes it, e.g. binance.
        timeframe: the timeframe, e.g. "1h"; see `iftb_store.values.timeframes`.
        timestamp: the opening time of the bar, UTC.
        open: the first price, in quote currency.
        high: the highest price.
        low: the lowest price.
        close: the last price.
        volume: the traded volume in base currency.
        quote_volume: the traded volume in quote currency; None if unknown.
        trades_count: the number of trades; None if unknown.
        id: the number that the store gave the row; None before the bar is stored.
        created_at: when the store inserted the bar, UTC; None before the bar is stored.
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

    @classmethod
    def from_ccxt(cls, row: Sequence[Any] | Mapping[str, Any], *, symbol: str, timeframe: Timeframe, exchange: str) -> OHLCVBar:
        """Return the bar of one row of ccxt's ``fetch_ohlcv``, or of a dict with the same values by name.

        Args:
            row: [timestamp, open, high, low, close, volume] or a dict with these keys: the opening time in milliseconds since
                1970, then numbers, or numbers as text. A float becomes the shortest decimal that converts back to it, as in
                repr(), rounded half-even to 18 places.
                A volume of None, which ccxt gives for exchanges without volumes, becomes 0.
            symbol: the symbol.
            timeframe: the timeframe, e.g. "1h".
            exchange: the exchange.

        Returns:
            The bar; a write checks its values.

        Raises:
            InvalidValueError: the row has another form, or a value is not a number.

        Example:
            row = [1706745600000, 42580.01, 42650.0, 42510.5, 42600.0, 713.12345678]
            bar = OHLCVBar.from_ccxt(row, symbol="BTC/USDT", timeframe="1h", exchange="binance")
            (str(bar.timestamp), bar.open)  # -> ('2024-02-01 00:00:00+00:00', Decimal('42580.01'))
        """
        if isinstance(row, Mapping):
            missing = next((name for name in CCXT_COLUMNS if name not in row), None)
            if missing is not None:
                raise InvalidValueError(f"the row has no {missing}; a dict of a bar has the keys {', '.join(CCXT_COLUMNS)}")
            values = [row[name] for name in CCXT_COLUMNS]
        elif isinstance(row, Sequence) and not isinstance(row, str | bytes):
            values = list(row)
            if len(values) != len(CCXT_COLUMNS):
                raise InvalidValueError(f"the row has {len(values)} values; a row of a bar is [{', '.join(CCXT_COLUMNS)}]")
        else:
            raise InvalidValueError(
                f"row must be a list [{', '.join(CCXT_COLUMNS)}] or a dict with these keys, not {type_name(row)}"
            )
        moment, *prices, volume = values
        decimals = [
            read_number(value, name)
            for name, value in zip(CCXT_COLUMNS[1:], [*prices, 0 if volume is None else volume], strict=True)
        ]
        open_, high, low, close, amount = decimals
        return cls(symbol, exchange, timeframe, read_milliseconds(moment), open_, high, low, close, amount)


@dataclass(slots=True)
class Trade:
    """One trade of the bot: its entry and, once it is closed, its exit.

    Attributes:
        trade_id: the bot's name for the trade; unique in the store.
        symbol: the symbol.
        exchange: the exchange.
        side: "long" or "short".
        action: "open", "close" or "liquidated".
        entry_price: the price of the entry, in quote currency.
        quantity: the quantity in base currency, above 0.
        entry_time: the time of the entry, UTC.
        leverage: the leverage; 1 without one.
        exit_price: the price of the exit; None while the trade is open or the exchange has not reported it.
        exit_time: the time of the exit, UTC.
        realized_pnl: profit, or loss if negative, in quote currency, before fees; None until it is known.
        realized_pnl_pct: the realized profit in percent, as the bot calculates it.
        fee: the fees of entry and exit together.
        signal_score: the bot's score of the signal. The store does not interpret this value or the next three.
        technical_score: the score of technical indicators.
        llm_score: the score of a language model.
        xgb_confidence: the confidence of a classifier.
        stop_loss: the price of the stop loss; None without one.
        take_profit: the price of the take profit; None without one.
        position_size_pct: the part of the balance that the trade used, in percent, as the bot calculates it.
        decision_reasons: why the bot traded, as a JSON object.
        llm_analysis: what a language model said, as a JSON object.
        id: the number that the store gave the row, for `TradeRepository.update`; None before the trade is stored.
        created_at: when the store inserted the row, UTC.
        updated_at: when the store changed the row last, UTC.
        account: the account that the trade belongs to; the empty text without one.
        strategy: the strategy that opened the trade; None if unknown.
        exit_reason: why the trade was closed, e.g. stop_loss; None if it is open or the reason is unknown.
        tags: words of the bot's own, in its order, by which trades can be found again.
    """

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
    account: str = ""
    strategy: str | None = None
    exit_reason: str | None = None
    tags: list[str] = field(default_factory=list)


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
    account: str
    strategy: str | None
    exit_reason: str | None
    tags: list[str]


class TradeFilters(TypedDict, total=False):
    """The values by which the lists and the statistics of `iftb_store.TradeRepository` can be limited; None means any value.

    Attributes:
        account: only trades of this account; the empty text: those without one.
        strategy: only trades of this strategy.
        exit_reason: only trades that were closed for this reason.
        tag: only trades that have this tag.
    """

    account: str | None
    strategy: str | None
    exit_reason: str | None
    tag: str | None


@dataclass(slots=True)
class Position:
    """One position of the bot; at most one of an exchange, account, symbol and side is open.

    Attributes:
        symbol: the symbol.
        exchange: the exchange.
        side: "long" or "short".
        entry_price: the average price of the entries, in quote currency.
        quantity: the quantity in base currency; above 0 while the position is open.
        margin: the margin in quote currency.
        entry_time: the time of the first entry, UTC.
        current_price: the last price that the bot saw; None if unknown.
        unrealized_pnl: profit, or loss if negative, at ``current_price``, in quote currency.
        status: "open", "closed" or "liquidated".
        leverage: the leverage; 1 without one.
        unrealized_pnl_pct: the unrealized profit in percent, as the bot calculates it.
        liquidation_price: the price at which the exchange liquidates the position.
        stop_loss: the price of the stop loss; None without one.
        take_profit: the price of the take profit; None without one.
        trailing_stop: the price of the trailing stop; None without one.
        trade_id: the `Trade.trade_id` of the position's trade; None if there is none.
        id: the number that the store gave the row; if it is set, `PositionRepository.update_position` updates this row.
        last_updated: when the store changed the row last, UTC.
        created_at: when the store inserted the row, UTC.
        account: the account that the position belongs to; the empty text without one.
    """

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
    account: str = ""


@dataclass(slots=True)
class SystemEvent:
    """One entry of the log of system events.

    Attributes:
        event_type: the kind of event, in the bot's own words, e.g. trade_opened.
        severity: "debug", "info", "warning", "error" or "critical".
        message: the text for people.
        details: more values, as a JSON object.
        symbol: the symbol that the event is about; None without one.
        exchange: the exchange that the event is about.
        trade_id: the `Trade.trade_id` of the trade that the event is about.
        position_id: the id of the position that the event is about.
        stack_trace: the traceback of an error.
        id: the number that the store gave the row.
        created_at: when the event happened, or was logged, UTC.
        account: the account that the event is about; the empty text without one.
    """

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
    account: str = ""


@dataclass(slots=True)
class Fill:
    """One fill: the part of an order that one execution filled. An exchange, account, symbol and fill_id name it.

    Attributes:
        fill_id: the exchange's name of the execution, e.g. the id that ccxt gives for "my trades".
        symbol: the symbol.
        exchange: the exchange.
        side: "buy" or "sell".
        price: the price, in quote currency.
        quantity: the quantity in base currency, above 0.
        timestamp: the time of the execution, UTC.
        trade_id: the `Trade.trade_id` of the trade that the fill belongs to, stored or not; None if it belongs to none.
        order_id: the exchange's name of the order; None if unknown.
        fee: the fee, in fee_currency; negative for a rebate.
        fee_currency: the currency of the fee; None for the quote currency of the symbol.
        liquidity: "maker" or "taker"; None if unknown.
        account: the account that the fill belongs to; the empty text without one.
        id: the store's number of the row; None before the fill is stored.
        created_at: when the store inserted the row, UTC.
    """

    fill_id: str
    symbol: str
    exchange: str
    side: FillSide
    price: Decimal
    quantity: Decimal
    timestamp: datetime
    trade_id: str | None = None
    order_id: str | None = None
    fee: Decimal = Decimal(0)
    fee_currency: str | None = None
    liquidity: Liquidity | None = None
    account: str = ""
    id: int | None = None
    created_at: datetime | None = None


@dataclass(slots=True)
class LedgerEntry:
    """One entry of the ledger: money that an account received or paid. An exchange, account, kind and external_id name it.

    Attributes:
        kind: "deposit", "withdrawal", "funding", "fee", "rebate", "interest", "transfer" or "adjustment".
        currency: the currency of the amount.
        amount: the amount, positive if the account received it and negative if it paid it.
        timestamp: the time of the entry, UTC.
        exchange: the exchange.
        symbol: the symbol that the entry is about, e.g. of a funding payment; None without one.
        trade_id: the `Trade.trade_id` of the trade that the entry is about; None if there is none.
        external_id: the exchange's name of the entry, unique among those of its kind. None: the store makes up a new name when
            the entry is stored, so that an entry stored twice is two entries.
        details: more values, as a JSON object.
        account: the account that the entry belongs to; the empty text without one.
        id: the store's number of the row; None before the entry is stored.
        created_at: when the store inserted the row, UTC.
    """

    kind: LedgerKind
    currency: str
    amount: Decimal
    timestamp: datetime
    exchange: str
    symbol: str | None = None
    trade_id: str | None = None
    external_id: str | None = None
    details: dict[str, Any] | None = None
    account: str = ""
    id: int | None = None
    created_at: datetime | None = None


@dataclass(slots=True)
class BalanceSnapshot:
    """The balance of one currency at one time. An exchange, account, currency and timestamp name it.

    Attributes:
        exchange: the exchange.
        currency: the currency of the amounts.
        timestamp: the time of the balance, UTC.
        total: the whole balance, without unrealized_pnl.
        free: the part that is free for new orders; None if unknown.
        used: the part that orders and positions bind; None if unknown.
        unrealized_pnl: the unrealized profit of the open positions, negative for a loss; None if unknown.
        account: the account that the balance belongs to; the empty text without one.
        id: the store's number of the row; None before the snapshot is stored.
        created_at: when the store inserted the row, UTC.
    """

    exchange: str
    currency: str
    timestamp: datetime
    total: Decimal
    free: Decimal | None = None
    used: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    account: str = ""
    id: int | None = None
    created_at: datetime | None = None


@dataclass(slots=True)
class SeriesSpan:
    """One series of bars, an exchange, a symbol and a timeframe, with the times of its ends.

    Attributes:
        exchange: the exchange.
        symbol: the symbol.
        timeframe: the timeframe.
        first: the opening time of the first bar, UTC.
        last: the opening time of the last bar, UTC.
    """

    exchange: str
    symbol: str
    timeframe: Timeframe
    first: datetime
    last: datetime

    def _repr_html_(self) -> str:
        # only notebooks need it
        from iftb_store.values.readable import describe_in_table

        return describe_in_table({item.name: getattr(self, item.name) for item in fields(self)})


@dataclass(slots=True)
class Series(SeriesSpan):
    """One series of bars with the numbers of its bars; see `SeriesSpan` for the other attributes.

    Attributes:
        count: the number of bars.
        missing: the number of bars that are missing between the first and the last.
    """

    count: int
    missing: int


@dataclass(slots=True)
class UpsertReport:
    """The result of an upsert, counted in distinct bars of the batch.

    Attributes:
        inserted: the number of bars that were not stored before.
        updated: the number of bars that were stored with other values.
        unchanged: the number of bars that were stored with the same values.
    """

    inserted: int
    updated: int
    unchanged: int


@dataclass(slots=True)
class TradeStatistics:
    """Statistics of realized trades, in quote currency; see `iftb_store.analytics.statistics` for the rounding.

    Attributes:
        total_trades: the number of realized trades.
        winning_trades: the number of trades with a profit above 0.
        losing_trades: the number of trades with a loss.
        win_rate: winning_trades / total_trades in percent; 0 without trades.
        gross_profit: the sum of the profits.
        gross_loss: the sum of the losses, never negative.
        net_pnl: gross_profit - gross_loss; fees are not subtracted, see `net_pnl_after_fees`.
        total_fees: the sum of the fees.
        avg_win: gross_profit / winning_trades; 0 without a winning trade.
        avg_loss: gross_loss / losing_trades; 0 without a losing trade.
        largest_win: the greatest profit of a trade; 0 without a winning trade.
        largest_loss: the greatest loss of a trade, never negative; 0 without a losing trade.
        profit_factor: gross_profit / gross_loss; None if there is no loss.
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

    @property
    def net_pnl_after_fees(self) -> Decimal:
        """net_pnl - total_fees: the result, if the stored realized_pnl is before fees."""
        return CONTEXT.subtract(self.net_pnl, self.total_fees)

    def _repr_html_(self) -> str:
        # only notebooks need it
        from iftb_store.values.readable import describe_in_table

        named = {**{item.name: getattr(self, item.name) for item in fields(self)}, "net_pnl_after_fees": self.net_pnl_after_fees}
        return describe_in_table(named)


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
    """What an upsert did: the number of bars that it inserted, and the number of stored bars whose values it changed."""

    inserted: int
    updated: int
