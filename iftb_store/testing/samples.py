"""Sample bars and records for tests, and a clock that only moves when a test moves it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, TypeVar

from iftb_store import BalanceSnapshot, Fill, LedgerEntry, OHLCVBar, Position, SystemEvent, Trade
from iftb_store.schema.table_spec import BALANCES, EVENTS, FILLS, LEDGER, POSITIONS, TRADES, TableSpec

_Row = TypeVar("_Row", OHLCVBar, Trade, Position, SystemEvent, Fill, LedgerEntry, BalanceSnapshot)

NOW = datetime(2024, 3, 15, 12, 30, 45, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
T0 = datetime(2024, 1, 1, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))

#: The largest value of DECIMAL(38,18).
LARGEST = Decimal("99999999999999999999.999999999999999999")
SMALLEST = Decimal("0.000000000000000001")


class Clock:
    """A clock that shows the same time until a test moves it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        """Move the clock forward by a duration."""
        self.now += by


# dataclasses.replace would take most of the time of a test that makes thousands of bars
_BAR: dict[str, Any] = {
    "symbol": "BTCUSDT",
    "exchange": "binance",
    "timeframe": "1h",
    "open": Decimal("50000.1"),
    "high": Decimal("51000.2"),
    "low": Decimal("49500.3"),
    "close": Decimal("50500.4"),
    "volume": Decimal("100.5"),
}


def bar(timestamp: datetime = T0, **changes: Any) -> OHLCVBar:
    """Return a bar of BTCUSDT on binance with the timeframe 1h; ``changes`` override its fields."""
    return OHLCVBar(**{**_BAR, "timestamp": timestamp, **changes})


def hourly(count: int, **changes: Any) -> list[OHLCVBar]:
    """Return ``count`` bars one hour apart from T0 on, each with a different close; ``changes`` override other fields."""
    return [bar(T0 + index * HOUR, close=Decimal(50_000 + index) / 4, **changes) for index in range(count)]


def full_bar(timestamp: datetime = T0) -> OHLCVBar:
    """Return a bar in which every optional field is set."""
    return bar(timestamp, quote_volume=Decimal("5050000.123456789012345678"), trades_count=2**40)


def trade(trade_id: str = "TRD-001", **changes: Any) -> Trade:
    """Return an open long trade without optional values; ``changes`` override its fields."""
    plain = Trade(
        trade_id=trade_id,
        symbol="BTCUSDT",
        exchange="binance",
        side="long",
        action="open",
        entry_price=Decimal("50000.25"),
        quantity=Decimal("0.01"),
        entry_time=T0,
    )
    return replace(plain, **changes)


def full_trade(trade_id: str = "TRD-001") -> Trade:
    """Return a trade in which every field is set to a different value, except the fields that the store sets."""
    return Trade(
        trade_id=trade_id,
        symbol="ETHUSDT",
        exchange="kraken",
        side="short",
        action="liquidated",
        entry_price=Decimal("3000.5"),
        quantity=Decimal("2.25"),
        entry_time=T0,
        leverage=Decimal("12.5"),
        exit_price=Decimal("3100.75"),
        exit_time=T0 + HOUR,
        realized_pnl=Decimal("-225.5625"),
        realized_pnl_pct=Decimal("-3.341388888888888889"),
        fee=Decimal("1.350225"),
        signal_score=Decimal("0.85"),
        technical_score=Decimal("0.7"),
        llm_score=Decimal("-0.4"),
        xgb_confidence=Decimal("0.999999999999999999"),
        stop_loss=Decimal("3050.125"),
        take_profit=Decimal("2800.875"),
        position_size_pct=Decimal("2.5"),
        decision_reasons={"signals": ["macd", "rsi"], "weights": {"macd": 0.6, "rsi": 0.4}, "note": None},
        llm_analysis={"model": "m-1", "text": "Ünïcode \N{CHART WITH DOWNWARDS TREND}", "ok": True, "votes": 3},
        account="bot-a",
        strategy="breakout 4h",
        exit_reason="liquidation",
        tags=["night", 'a "quoted", comma', "Ünïcode"],
    )


def position(**changes: Any) -> Position:
    """Return an open long position without optional values; ``changes`` override its fields."""
    plain = Position(
        symbol="BTCUSDT",
        exchange="binance",
        side="long",
        entry_price=Decimal("50000.25"),
        quantity=Decimal("0.01"),
        margin=Decimal("100"),
        entry_time=T0,
    )
    return replace(plain, **changes)


def full_position() -> Position:
    """Return a position in which every field is set to a different value, except the fields that the store sets."""
    return Position(
        symbol="ETHUSDT",
        exchange="kraken",
        side="short",
        entry_price=Decimal("3000.5"),
        quantity=Decimal("2.25"),
        margin=Decimal("540.09"),
        entry_time=T0,
        current_price=Decimal("2990.125"),
        unrealized_pnl=Decimal("23.34375"),
        status="open",
        leverage=Decimal("12.5"),
        unrealized_pnl_pct=Decimal("4.322200000000000001"),
        liquidation_price=Decimal("3240.54"),
        stop_loss=Decimal("3050.75"),
        take_profit=Decimal("2800.875"),
        trailing_stop=Decimal("15.0625"),
        trade_id="TRD-ETH-1",
        account="bot-a",
    )


def fill(fill_id: str = "F-1", **changes: Any) -> Fill:
    """Return a fill that bought, without optional values; ``changes`` override its fields."""
    plain = Fill(
        fill_id=fill_id,
        symbol="BTCUSDT",
        exchange="binance",
        side="buy",
        price=Decimal("50000.25"),
        quantity=Decimal("0.01"),
        timestamp=T0,
    )
    return replace(plain, **changes)


def full_fill(fill_id: str = "F-1") -> Fill:
    """Return a fill in which every field is set to a different value, except the fields that the store sets."""
    return Fill(
        fill_id=fill_id,
        symbol="ETHUSDT",
        exchange="kraken",
        side="sell",
        price=Decimal("3000.5"),
        quantity=Decimal("2.25"),
        timestamp=T0 + HOUR,
        trade_id="TRD-ETH-1",
        order_id="O-7",
        fee=Decimal("0.000000000000000001"),
        fee_currency="BNB",
        liquidity="maker",
        account="bot-a",
    )


def ledger_entry(external_id: str | None = "L-1", **changes: Any) -> LedgerEntry:
    """Return a deposit without optional values; ``changes`` override its fields."""
    plain = LedgerEntry(
        kind="deposit", currency="USDT", amount=Decimal("1000.5"), timestamp=T0, exchange="binance", external_id=external_id
    )
    return replace(plain, **changes)


def full_ledger_entry(external_id: str = "L-1") -> LedgerEntry:
    """Return an entry in which every field is set to a different value, except the fields that the store sets."""
    return LedgerEntry(
        kind="funding",
        currency="USDC",
        amount=Decimal("-0.123456789123456789"),
        timestamp=T0 + HOUR,
        exchange="kraken",
        symbol="ETHUSDT",
        trade_id="TRD-ETH-1",
        external_id=external_id,
        details={"rate": "0.0001", "interval": 8},
        account="bot-a",
    )


def balance(**changes: Any) -> BalanceSnapshot:
    """Return a snapshot of a balance without optional values; ``changes`` override its fields."""
    return replace(BalanceSnapshot(exchange="binance", currency="USDT", timestamp=T0, total=Decimal("1000.5")), **changes)


def full_balance() -> BalanceSnapshot:
    """Return a snapshot in which every field is set to a different value, except the fields that the store sets."""
    return BalanceSnapshot(
        exchange="kraken",
        currency="USDC",
        timestamp=T0 + HOUR,
        total=Decimal("1000.123456789123456789"),
        free=Decimal("900.25"),
        used=Decimal("99.873456789123456789"),
        unrealized_pnl=Decimal("-12.5"),
        account="bot-a",
    )


def every_record() -> list[tuple[TableSpec, Any]]:
    """Return a complete row of each table of records, with every field set; for `iftb_store.protocols.Stores.write_rows`."""
    rows: list[tuple[TableSpec, Any]] = [
        (TRADES, full_trade()),
        (POSITIONS, full_position()),
        (EVENTS, SystemEvent("x", "info", "m", {"a": [1, "é"]}, "S", "X", "T", 7, "trace", account="bot-a")),
        (FILLS, full_fill()),
        (LEDGER, full_ledger_entry()),
        (BALANCES, full_balance()),
    ]
    kept = {"id": 3, "created_at": NOW, "updated_at": NOW, "last_updated": NOW}
    return [(table, replace(row, **{name: kept[name] for name in kept.keys() & {*table.columns}})) for table, row in rows]


def as_given(row: _Row) -> _Row:
    """Return a copy of a row that was read, for comparison with the row that was written: fields that the store sets are None."""
    kept: dict[str, Any] = dict.fromkeys({"id", "created_at", "updated_at", "last_updated"} & set(row.__slots__))
    return replace(row, **kept)
