"""The rows of the frozen databases: 50 per table, every column set and not set, the same in every run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, TypeVar

from iftb_store import TIMEFRAMES, BalanceSnapshot, Fill, LedgerEntry, OHLCVBar, Position, SystemEvent, Trade
from iftb_store.schema.table_spec import AskedRange, BarDigest
from iftb_store.values.choices import LEDGER_KINDS

Row = TypeVar("Row", Trade, Position)

COUNT = 50
#: The last rows of each table but that of bars have these ids, the others count from 1.
BIG_IDS = (2**40, 2**53 + 1, 2**62)

_NUMBERED = COUNT - len(BIG_IDS)
_ORDINARY = 12
_START = datetime(2024, 2, 28, 20, tzinfo=UTC)
_LARGEST = Decimal("99999999999999999999.999999999999999999")
_SMALLEST = Decimal("0.000000000000000001")

_MOMENTS = (
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(1582, 10, 4, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1677, 9, 21, 0, 12, 43, 145_224, tzinfo=UTC),
    datetime(1900, 2, 28, 12, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 12, 30, 45, 123_456, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
    datetime(2262, 4, 11, 23, 47, 16, 854_776, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
)
_AMOUNTS = (
    Decimal(0),
    _SMALLEST,
    _LARGEST,
    Decimal("0.1"),
    Decimal("50000.25"),
    Decimal("1e19"),
    Decimal("12345678901234567890.123456789012345678"),
    Decimal("0.999999999999999999"),
    Decimal("1.000000000000000001"),
)
# the quantity of a trade or an open position is above 0
_QUANTITIES = _AMOUNTS[1:]
_SIGNED = (*_AMOUNTS, *(amount.copy_negate() for amount in _AMOUNTS if amount))
_COUNTS = (None, 0, 1, 2**31, 2**53 + 1, 2**63 - 1)

_NAMES = (
    "BTCUSDT",
    "BTC/USDT:USDT",
    " x ",
    "NULL",
    "..",
    "%2E%2E",
    "\\N",
    "=1+1",
    'a,"b"\r\nc\'',
    "$1; --",
    "Ünïcode",
    "U\N{COMBINING DIAERESIS}ni\N{COMBINING DIAERESIS}code",
    "币安人生",
    "\N{ROCKET}",
    "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}\N{EMOJI MODIFIER FITZPATRICK TYPE-3}",
    "\N{RIGHT-TO-LEFT OVERRIDE}TDSU",
    "שלום",
    "\ufeffbom",
    "line\u2028para\u2029",
    "\x01\x1f\x7f\x85",
    "\uffff\U0010ffff",
)
_LONG_NAMES = ("x" * 255, "\U0001f4c8" * 255)
_TEXTS = (*_NAMES, "", " ", "\n", "\r\n", "\t", "'", '"', "\\", "\\n", "{}", "null", "long " * 1_000, "\U0001f9ea" * 1_000)

_ACCOUNTS = ("", "bot-a", "币安", "x" * 255, "\N{ROCKET}" * 63)
_TAGS: tuple[list[str], ...] = (
    [],
    ["a"],
    ["night", "a,b", '"', "\\u002c"],
    ["币安人生", "x" * 255],
    ["same", "same"],
    [f"tag {number}" for number in range(100)],
)

_OBJECTS: tuple[dict[str, Any] | None, ...] = (
    None,
    {},
    {"": ""},
    {"signals": ["macd", "rsi"], "weights": {"macd": 0.6, "rsi": 0.4}, "note": None},
    {"constants": [True, False, None], "empty": [{}, [], ""]},
    {"whole": [0, -1, 2**53 + 1, 2**63, -(2**63) - 1, 10**400]},
    {"broken": [0.1, -0.0, 1.0, 1e-7, 1e16, 1e308, 5e-324, -2.5]},
    {"texts": list(_NAMES)},
    {name: name for name in reversed(_NAMES)},
    {"deep": [[[[[[{"deeper": {"still": {"deeper": [[[["end"]]]]}}}]]]]]]},
    {"decimal": Decimal("1.10"), "least": _SMALLEST, "time": _MOMENTS[1], "tuple": (1, "a")},
    {f"key {number}": number for number in range(100)},
)


def _pick(choices: tuple[Any, ...], number: int) -> Any:
    return choices[number % len(choices)]


def _optional(choices: tuple[Any, ...], number: int) -> Any:
    """Return None for every third number."""
    return None if number % 3 == 2 else _pick(choices, number)


def _id(number: int) -> int:
    return number + 1 if number < _NUMBERED else BIG_IDS[number - _NUMBERED]


def _kept_at(number: int) -> datetime:
    """Return a row's created_at: the calendar's edges for some rows, otherwise a microsecond apart."""
    if number % 10 == 9:
        return _MOMENTS[number // 10]
    return datetime(2024, 3, 1, 12, tzinfo=UTC) + number * timedelta(hours=1, microseconds=1)


def _changed_at(number: int) -> datetime:
    """Return when a row is changed: every fourth row some time after it was written."""
    written = _kept_at(number)
    return written + timedelta(days=1, microseconds=7) if number % 4 == 0 else written


def bars() -> list[OHLCVBar]:
    """Return an ordinary series with a gap, then odd bars, each in a separate series."""
    return [_ordinary_bar(number) if number < _ORDINARY else _odd_bar(number) for number in range(COUNT)]


def _ordinary_bar(number: int) -> OHLCVBar:
    price = Decimal(50_000) + Decimal(number * number) / 8
    return OHLCVBar(
        symbol="BTCUSDT",
        exchange="binance",
        timeframe="1h",
        timestamp=_START + (number if number < 8 else number + 3) * timedelta(hours=1),
        open=price,
        high=price + Decimal("10.5"),
        low=price - Decimal("0.000000000000000001"),
        close=price + Decimal("0.25"),
        volume=Decimal("100.123456789") * number,
        quote_volume=price * number,
        trades_count=number,
        id=number + 1,
        created_at=_kept_at(number),
    )


def _odd_bar(number: int) -> OHLCVBar:
    low, open, close, high = sorted(_pick(_SIGNED, number * step) for step in (1, 2, 3, 5))
    return OHLCVBar(
        symbol=_pick((*_NAMES, *_LONG_NAMES), number),
        exchange=_pick((*_NAMES, *_LONG_NAMES), number + 1),
        timeframe=_pick(tuple(TIMEFRAMES), number),
        timestamp=_pick(_MOMENTS, number),
        open=open,
        high=high,
        low=low,
        close=close,
        volume=_pick(_AMOUNTS, number),
        quote_volume=_optional(_AMOUNTS, number),
        trades_count=_pick(_COUNTS, number),
        id=number + 1,
        created_at=_kept_at(number),
    )


def trades() -> list[Trade]:
    """Return trades of each side and action."""
    return [
        Trade(
            trade_id=f"{number} {_pick(_NAMES, number)}",
            symbol=_pick((*_NAMES, *_LONG_NAMES), number),
            exchange="binance" if number < _ORDINARY else _pick(_NAMES, number * 5 + 2),
            side=_pick(("long", "short"), number),
            action=_pick(("open", "close", "liquidated"), number),
            entry_price=_pick(_SIGNED, number),
            quantity=_pick(_QUANTITIES, number),
            entry_time=_pick(_MOMENTS, number),
            leverage=_pick(_SIGNED, number + 2),
            exit_price=_optional(_SIGNED, number + 1),
            exit_time=_optional(_MOMENTS, number + 2),
            realized_pnl=_optional(_SIGNED, number + 4),
            realized_pnl_pct=_optional(_SIGNED, number + 5),
            fee=_pick(_SIGNED, number + 6),
            signal_score=_optional(_SIGNED, number + 7),
            technical_score=_optional(_SIGNED, number + 8),
            llm_score=_optional(_SIGNED, number + 9),
            xgb_confidence=_optional(_SIGNED, number + 10),
            stop_loss=_optional(_SIGNED, number + 11),
            take_profit=_optional(_SIGNED, number + 12),
            position_size_pct=_optional(_SIGNED, number + 13),
            decision_reasons=_pick(_OBJECTS, number),
            llm_analysis=_pick(_OBJECTS, number * 5 + 1),
            id=_id(number),
            created_at=_kept_at(number),
            updated_at=_changed_at(number),
            account=_pick(_ACCOUNTS, number),
            strategy=_optional(_NAMES, number + 2),
            exit_reason=_optional(_NAMES, number + 3),
            tags=_pick(_TAGS, number),
        )
        for number in range(COUNT)
    ]


def positions() -> list[Position]:
    """Return positions of each side and status; at most one per symbol is open."""
    return [
        Position(
            symbol=f"{number} {_pick(_NAMES, number)}",
            exchange="binance" if number < _ORDINARY else _pick(_NAMES, number * 5 + 2),
            side=_pick(("long", "short"), number),
            entry_price=_pick(_SIGNED, number),
            quantity=_pick(_QUANTITIES, number),
            margin=_pick(_SIGNED, number + 2),
            entry_time=_pick(_MOMENTS, number),
            current_price=_optional(_SIGNED, number + 1),
            unrealized_pnl=_optional(_SIGNED, number + 2),
            status="closed" if number % 4 == 0 else _pick(("open", "closed", "liquidated"), number),
            leverage=_pick(_SIGNED, number + 3),
            unrealized_pnl_pct=_optional(_SIGNED, number + 5),
            liquidation_price=_optional(_SIGNED, number + 6),
            stop_loss=_optional(_SIGNED, number + 7),
            take_profit=_optional(_SIGNED, number + 8),
            trailing_stop=_optional(_SIGNED, number + 9),
            trade_id=_optional(tuple(trade.trade_id for trade in trades()), number),
            id=_id(number),
            last_updated=_changed_at(number),
            created_at=_kept_at(number),
            account=_pick(_ACCOUNTS, number),
        )
        for number in range(COUNT)
    ]


def events() -> list[SystemEvent]:
    """Return events of each severity."""
    return [
        SystemEvent(
            event_type=_pick(_NAMES, number),
            severity=_pick(("debug", "info", "warning", "error", "critical"), number),
            message=_pick(_TEXTS, number),
            details=_pick(_OBJECTS, number),
            symbol=_optional(_NAMES, number),
            exchange=_optional(_NAMES, number + 1),
            trade_id=_optional(_NAMES, number + 2),
            position_id=_pick(_COUNTS, number),
            stack_trace=_optional(_TEXTS, number + 5),
            id=_id(number),
            created_at=_kept_at(number),
            account=_pick(_ACCOUNTS, number),
        )
        for number in range(COUNT)
    ]


def fills() -> list[Fill]:
    """Return fills of each side."""
    return [
        Fill(
            fill_id=f"{number} {_pick(_NAMES, number)}",
            symbol=_pick((*_NAMES, *_LONG_NAMES), number),
            exchange="binance" if number < _ORDINARY else _pick(_NAMES, number * 5 + 2),
            side=_pick(("buy", "sell"), number),
            price=_pick(_SIGNED, number),
            quantity=_pick(_QUANTITIES, number),
            timestamp=_pick(_MOMENTS, number),
            trade_id=_optional(tuple(trade.trade_id for trade in trades()), number),
            order_id=_optional(_NAMES, number + 1),
            fee=_pick(_SIGNED, number + 3),
            fee_currency=_optional(_NAMES, number + 2),
            liquidity=_optional(("maker", "taker"), number + 4),
            account=_pick(_ACCOUNTS, number),
            id=_id(number),
            created_at=_kept_at(number),
        )
        for number in range(COUNT)
    ]


def entries() -> list[LedgerEntry]:
    """Return entries of each kind."""
    return [
        LedgerEntry(
            kind=_pick(LEDGER_KINDS, number),
            currency=_pick((*_NAMES, *_LONG_NAMES), number),
            amount=_pick(_SIGNED, number),
            timestamp=_pick(_MOMENTS, number),
            exchange="binance" if number < _ORDINARY else _pick(_NAMES, number * 5 + 2),
            symbol=_optional(_NAMES, number),
            trade_id=_optional(tuple(trade.trade_id for trade in trades()), number + 1),
            external_id=f"{number} {_pick(_NAMES, number)}",
            details=_pick(_OBJECTS, number),
            account=_pick(_ACCOUNTS, number),
            id=_id(number),
            created_at=_kept_at(number),
        )
        for number in range(COUNT)
    ]


def balances() -> list[BalanceSnapshot]:
    """Return snapshots, each of a currency of its own."""
    return [
        BalanceSnapshot(
            exchange="binance" if number < _ORDINARY else _pick(_NAMES, number * 5 + 2),
            currency=f"{number} {_pick(_NAMES, number)}",
            timestamp=_pick(_MOMENTS, number),
            total=_pick(_SIGNED, number),
            free=_optional(_SIGNED, number + 1),
            used=_optional(_SIGNED, number + 2),
            unrealized_pnl=_optional(_SIGNED, number + 3),
            account=_pick(_ACCOUNTS, number),
            id=_id(number),
            created_at=_kept_at(number),
        )
        for number in range(COUNT)
    ]


def digests() -> list[BarDigest]:
    """Return digests of days of odd series."""
    return [
        BarDigest(
            exchange=_pick((*_NAMES, *_LONG_NAMES), number + 1),
            symbol=_pick((*_NAMES, *_LONG_NAMES), number),
            timeframe=_pick(tuple(TIMEFRAMES), number),
            day=_pick(_MOMENTS[3:], number).replace(hour=0, minute=0, second=0, microsecond=0),
            bar_count=_pick(_COUNTS[1:], number),
            digest=blake2b(str(number).encode(), digest_size=16).hexdigest(),
            checked_at=_pick(_MOMENTS[2:], number + 1),
        )
        for number in range(COUNT)
    ]


def asked_ranges() -> list[AskedRange]:
    """Return ranges of bars that were asked for, of odd series."""
    days = (_START.replace(hour=0) + timedelta(days=number) for number in range(COUNT))
    return [
        AskedRange(
            exchange=_pick((*_NAMES, *_LONG_NAMES), number + 1),
            symbol=_pick((*_NAMES, *_LONG_NAMES), number),
            timeframe=_pick(tuple(TIMEFRAMES), number),
            first=day,
            last=day + timedelta(hours=number),
            asked_at=_pick(_MOMENTS[2:], number + 1),
            source=("fetch", "stream", f"file:{number}.csv")[number % 3],
        )
        for number, day in enumerate(days)
    ]


def is_changed(row: Trade | Position) -> bool:
    """Return whether a row was changed after it was written."""
    return row.created_at != (row.updated_at if isinstance(row, Trade) else row.last_updated)


def unchanged(row: Row) -> Row:
    """Return a row as it was first written: open, if it was closed later."""
    if not is_changed(row):
        return row
    if isinstance(row, Trade):
        return replace(row, action="open", exit_price=None, exit_time=None, realized_pnl=None)
    return replace(row, status="open")
