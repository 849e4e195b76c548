"""Strategies for the arguments in random programmes.

They draw extreme values, and few different symbols, times and ids, so that calls conflict with each other.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from iftb_store.testing import samples
from iftb_store.testing.samples import HOUR, INDIA, LARGEST, SMALLEST, T0

Changes = st.SearchStrategy[dict[str, Any]]

_AWKWARD = "₿'\"; -- \\\t\u202e"
# copy_negate is exact; the minus operator would round to the 28 digits of the default decimal context
_LOWEST = LARGEST.copy_negate()
_DAY = timedelta(days=1)
_BEHIND = timezone(-timedelta(hours=12))

symbols = st.sampled_from(["BTCUSDT", "BTCUSDT", "BTCUSDT", "ETHUSDT", _AWKWARD])
exchanges = st.sampled_from(["binance", "binance", "binance", "kraken"])
#: Strategy of the accounts of rows and filters, and of repositories, of which most are those of all accounts.
accounts = st.sampled_from(["", "a", "b"])
owners = st.sampled_from([None, None, None, None, "a", ""])
timeframes = st.sampled_from(["1h", "1h", "1h", "1d", "1d", "1M"])
#: Strategy of (source, target) of resample; one pair in six cannot be resampled.
resamplings = st.sampled_from(
    [
        *(("1h", target) for target in ("4h", "1d", "3d", "1w", "1M")),
        *(("1d", target) for target in ("1w", "1w", "3d", "1M", "1h")),
        ("1M", "1w"),
    ]
)
#: Strategy of batch sizes of streams.
sizes = st.sampled_from([1, 2, 3, 1_000])
sides = st.sampled_from(["long", "short"])
severities = st.sampled_from(["info", "warning", "critical"])
limits = st.sampled_from([100, 1, 2, 3, 2**63 - 1])
days = st.sampled_from([1, 30, 400])
steps_of_time = st.sampled_from(
    [timedelta(0), timedelta(microseconds=1), HOUR, timedelta(days=1), timedelta(days=30), timedelta(hours=-2)]
)

_near = [
    T0,
    T0 + HOUR,
    (T0 + HOUR).replace(tzinfo=None),
    T0 + 2 * HOUR,
    (T0 + 2 * HOUR).astimezone(INDIA),
    T0 + 3 * HOUR + timedelta(microseconds=1),
    T0 + 5 * HOUR,
    T0 + timedelta(days=1),
    datetime(2024, 2, 29, 23, 59, 59, 999_999, UTC),
    datetime(2024, 3, 31, tzinfo=INDIA),
    datetime(2024, 5, 1),
]
_far = [
    datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999),
]
#: Strategy of times; about one time in eight is far away from all other times.
times = st.sampled_from(_near + _near + _far)
#: A window that holds every time.
ALWAYS = (_far[1], _far[2])
windows = st.tuples(st.sampled_from([T0, _far[1], *_near]), st.sampled_from([_far[2], *_near]))
selections = st.fixed_dictionaries(
    {}, optional={"symbol": symbols, "timeframe": timeframes, "exchange": exchanges, "start": times, "end": times}
)

_decimals: st.SearchStrategy[Any] = st.sampled_from(
    [
        Decimal(1),
        Decimal("50000.25"),
        Decimal("-2.50"),
        Decimal("-0"),
        Decimal("1E+3"),
        Decimal("0.123456789123456789"),
        7,
        SMALLEST,
        -SMALLEST,
        LARGEST,
        _LOWEST,
    ]
)
_volumes: st.SearchStrategy[Any] = st.sampled_from([Decimal(0), Decimal("-0.0"), Decimal("1.10"), 3, SMALLEST, LARGEST])
# the three values added here are rounded: two ties, which go down and up to the even neighbour, and a value that becomes zero
_rounded = _decimals | st.sampled_from([Decimal("2.5E-18"), Decimal("3.5E-18"), Decimal("-1E-40")])
_counts = st.sampled_from([0, 1, 2**63 - 1])
_texts = st.sampled_from(["", "m", "two\nlines", "\N{CHART WITH DOWNWARDS TREND} " + _AWKWARD])
_json = st.sampled_from(
    [
        {},
        {"signals": ["macd", ("rsi", 1.5)], "ok": True, "votes": 1, "ratio": 1.0, "note": None},
        {"ü\N{BITCOIN SIGN}": {"price": Decimal("1.10"), "at": T0}, "big": 2**70, "small": 5e-324},
    ]
)

_TIMES: list[Any] = [date(2024, 1, 1), datetime(9999, 12, 31, 23, tzinfo=_BEHIND), "2024-01-01"]
_DECIMALS: list[Any] = [
    1.5,
    True,
    None,
    "1",
    Decimal("NaN"),
    Decimal("-Infinity"),
    Decimal("1E-19"),
    Decimal("99999999999999999999.9999999999999999999"),
    Decimal("123456789012345678901"),
]
_UNROUNDABLE: list[Any] = [value for value in _DECIMALS if value != Decimal("1E-19")]
_NAMES: list[Any] = ["", " \t", "n\0l", "half \ud83d", "n" * 256, None, b"bytes"]
_COUNTS: list[Any] = [-1, 2**63, True, 1.0]
_JSON: list[Any] = ["{}", [], {"deep": [1.0, float("nan")]}]

#: Strategy of calls, mostly reads, that every engine must refuse because of one invalid argument.
nonsense = st.sampled_from(
    [("bars", "get_latest", (name, "1h", 1)) for name in _NAMES]
    + [("bars", "get_gaps", ("BTCUSDT", frame)) for frame in ("1H", "", 60, None)]
    + [("bars", "get_range", ("BTCUSDT", "1h", T0, moment)) for moment in (*_TIMES, T0 - HOUR)]
    + [("bars", "resample", ("BTCUSDT", *frames, *ALWAYS)) for frames in (("1H", "1d"), ("1h", ""), ("1h", None), ("1h", "1h"))]
    + [("bars", "delete_range", ("BTCUSDT", "1h", T0, moment)) for moment in (*_TIMES, T0 - HOUR)]
    + [("bars", "stream_range", ("BTCUSDT", "1h", T0, moment)) for moment in _TIMES]
    + [("trades", "get_recent", (limit,)) for limit in (0, -1, 2**63, True, 1.0, "1", None)]
    + [("trades", "get_by_symbol", ("BTCUSDT", 1, name)) for name in _NAMES if name is not None]
    + [("trades", "get_statistics", (count,)) for count in (0, 10**6, 10**12, 1.5)]
    + [("trades", "get_by_id", (number,)) for number in _COUNTS]
    + [("trades", "update", (number,)) for number in _COUNTS]
    + [("positions", "get_position", ("BTCUSDT", name)) for name in _NAMES if name is not None]
    + [("positions", "close_position", (number,)) for number in _COUNTS]
    + [("events", "get_recent_events", (severity, 1)) for severity in ("INFO", "", 1)]
)


def _changes(always: dict[str, Any], sometimes: dict[str, Any], bad: dict[str, list[Any]]) -> Changes:
    """Return a strategy of field values for a row; in one of eight draws, one of the values cannot be stored.

    Args:
        always: strategies of the fields that are always set.
        sometimes: strategies of the fields that are set in some draws.
        bad: values that cannot be stored, by field.
    """
    good = st.fixed_dictionaries(always, optional=sometimes)
    faults = [{name: value} for name, values in bad.items() for value in values]
    spoiled = st.tuples(good, st.sampled_from(faults)).map(lambda pair: pair[0] | pair[1])
    return st.integers(0, 7).flatmap(lambda chance: spoiled if chance == 7 else good)


bars = _changes(
    {"timestamp": times},
    {
        "symbol": symbols,
        "exchange": exchanges,
        "timeframe": timeframes,
        "open": _decimals,
        "high": st.sampled_from([LARGEST, Decimal("51000.20")]),
        "low": st.sampled_from([_LOWEST, Decimal("-0"), Decimal("1E-18")]),
        "close": _decimals,
        "volume": _volumes,
        "quote_volume": _volumes,
        "trades_count": _counts,
    },
    {
        "symbol": _NAMES,
        "exchange": _NAMES,
        "timeframe": ["1H", "", 60, None],
        "timestamp": _TIMES,
        "close": _DECIMALS,
        "high": [_LOWEST, Decimal("NaN")],
        "volume": [-SMALLEST],
        "quote_volume": [-1, 1.5],
        "trades_count": _COUNTS,
    },
)
_hours = st.integers(2, 8).map(lambda count: [{"timestamp": T0 + index * HOUR, "open": index} for index in range(count)])
# up to two weeks and a half, of which the first day is a Monday, and each volume says which days are in a sum
_days = st.integers(2, 18).map(
    lambda count: [
        {"timeframe": "1d", "timestamp": T0 + index * _DAY, "open": index, "close": -index, "volume": 2**index}
        for index in range(count)
    ]
)
_runs = _hours | _days
_KEY = ("exchange", "symbol", "timeframe", "timestamp")


def _twice(given: tuple[list[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    first, last = given
    rest = {name: value for name, value in last.items() if name not in _KEY}
    return [*first, {name: value for name, value in first[0].items() if name in _KEY} | rest]


batches = st.lists(bars, max_size=5) | _runs | st.tuples(st.lists(bars, min_size=1, max_size=3), bars).map(_twice)

_strategies, _reasons = st.sampled_from(["breakout", _AWKWARD]), st.sampled_from(["stop", _AWKWARD])
# texts that a search for one of them must not mistake for another one
_tags = st.sampled_from(["a", "b", "A", "a,b", '"', '","', "]", "a\\", "\\u002c", _AWKWARD])
# mostly what a trade or an open position can have
_quantities = _volumes.map(lambda value: value or Decimal("0.01")) | st.sampled_from([Decimal(0), Decimal("-0"), -SMALLEST])
_trade_values: dict[str, Any] = {
    "symbol": symbols,
    "exchange": exchanges,
    "side": sides,
    "action": st.sampled_from(["open", "close", "liquidated"]),
    "entry_price": _rounded,
    "quantity": _quantities,
    "entry_time": times,
    "leverage": _rounded,
    "exit_price": _rounded | st.none(),
    "exit_time": times | st.none(),
    "realized_pnl": _rounded,
    "realized_pnl_pct": _rounded | st.none(),
    "fee": _rounded,
    "llm_score": _rounded,
    "stop_loss": _rounded,
    "decision_reasons": _json | st.none(),
    "llm_analysis": _json,
    "account": accounts,
    "strategy": _strategies | st.none(),
    "exit_reason": _reasons | st.none(),
    "tags": st.lists(_tags, max_size=4),
}
#: Strategy of the filters of lists and statistics of trades.
trade_filters: Changes = st.just({}) | st.fixed_dictionaries(
    {}, optional={"account": accounts, "strategy": _strategies, "exit_reason": _reasons, "tag": _tags}
)
_bad_trade_values = {
    "trade_id": _NAMES,
    "symbol": _NAMES,
    "side": ["LONG", "", None, 1],
    "action": ["opened"],
    "entry_price": _UNROUNDABLE,
    "realized_pnl": _UNROUNDABLE[:2],
    "leverage": _UNROUNDABLE,
    "entry_time": _TIMES,
    "exit_time": _TIMES,
    "decision_reasons": _JSON,
    "account": [*_NAMES[1:], "\N{ROCKET}" * 64],
    "exit_reason": _NAMES[:4],
    "tags": ["a", None, {"a"}, ["a", ""], [1], ["a"] * 1_001],
}
trades = _changes({"trade_id": st.sampled_from(["T1", "T2", "T3", "T4", _AWKWARD])}, _trade_values, _bad_trade_values)
trade_changes = _changes(
    {},
    _trade_values,
    {name: values for name, values in _bad_trade_values.items() if name != "trade_id"}
    | {"id": [1], "updated_at": [T0], "colour": ["red"]},
)

positions = _changes(
    {},
    {
        "symbol": symbols,
        "exchange": exchanges,
        "side": sides,
        "entry_price": _rounded,
        "quantity": _quantities,
        "margin": _rounded,
        "entry_time": times,
        "current_price": _rounded,
        "unrealized_pnl": _rounded | st.none(),
        "status": st.sampled_from(["open", "closed", "liquidated"]),
        "leverage": _rounded,
        "unrealized_pnl_pct": _rounded,
        "trailing_stop": _rounded,
        "trade_id": st.sampled_from(["T1", _AWKWARD]),
        "account": accounts,
    },
    {
        "symbol": _NAMES,
        "account": _NAMES[1:5],
        "side": ["LONG"],
        "margin": _UNROUNDABLE,
        "entry_time": _TIMES,
        "status": ["gone", None],
        "leverage": _UNROUNDABLE,
        "trade_id": _NAMES[:5],
        "id": _COUNTS,
    },
)

events = _changes(
    {"event_type": st.sampled_from(["signal", _AWKWARD]), "severity": severities, "message": _texts},
    {
        "details": _json,
        "symbol": symbols,
        "exchange": exchanges,
        "trade_id": st.sampled_from(["T1", _AWKWARD]),
        "position_id": _counts,
        "stack_trace": _texts,
    },
    {
        "event_type": _NAMES,
        "severity": ["INFO", None],
        "message": ["n\0l", "half \ud83d", None],
        "details": _JSON,
        "symbol": _NAMES[:5],
        "position_id": _COUNTS,
    },
)


#: Strategy of the names of trades, as trades and fills have them.
trade_ids = st.sampled_from(["T1", "T1", "T2", "T3", _AWKWARD])
_currencies = st.sampled_from(["USDT", "USDT", "BNB", _AWKWARD])
quotes = st.none() | _currencies
fills = _changes(
    {"fill_id": st.sampled_from(["F1", "F2", "F3", "F4", _AWKWARD])},
    {
        "symbol": symbols,
        "exchange": exchanges,
        "side": st.sampled_from(["buy", "sell"]),
        "price": _rounded,
        "quantity": _quantities,
        "timestamp": times,
        "trade_id": st.sampled_from(["T1", "T1", "T2", None]),
        "order_id": st.none() | st.just(_AWKWARD),
        "fee": _rounded,
        "fee_currency": quotes,
        "liquidity": st.sampled_from(["maker", "taker", None]),
        "account": accounts,
    },
    {
        "fill_id": [*_NAMES, "\N{ROCKET}" * 64],
        "symbol": _NAMES,
        "side": ["long", None],
        "price": _UNROUNDABLE,
        "quantity": _UNROUNDABLE,
        "timestamp": _TIMES,
        "trade_id": _NAMES[:5],
        "fee_currency": _NAMES[:5],
        "liquidity": ["none"],
        "account": _NAMES[1:5],
    },
)
entries = _changes(
    {"external_id": st.sampled_from(["L1", "L2", "L3", _AWKWARD])},
    {
        "kind": st.sampled_from(["deposit", "funding", "fee"]),
        "currency": _currencies,
        "amount": _rounded,
        "timestamp": times,
        "exchange": exchanges,
        "symbol": symbols | st.none(),
        "trade_id": st.sampled_from(["T1", None]),
        "details": _json | st.none(),
        "account": accounts,
    },
    {
        "external_id": ["", " ", "n\0l", "\N{ROCKET}" * 64],
        "kind": ["gift", None],
        "currency": _NAMES,
        "amount": _UNROUNDABLE,
        "timestamp": _TIMES,
        "details": _JSON,
    },
)
entry_filters: Changes = st.fixed_dictionaries(
    {}, optional={"currency": _currencies, "symbol": symbols, "start": times, "exchange": st.none() | exchanges}
)
balances = _changes(
    {"timestamp": times},
    {
        "exchange": exchanges,
        "currency": _currencies,
        "total": _rounded,
        "free": _rounded | st.none(),
        "unrealized_pnl": _rounded | st.none(),
        "account": accounts,
    },
    {"currency": _NAMES, "total": _UNROUNDABLE, "used": _UNROUNDABLE[:2], "timestamp": _TIMES, "account": _NAMES[1:5]},
)


def seedlings() -> list[tuple[str, str, tuple[Any, ...], dict[str, Any]]]:
    """Return calls, as (repository, method, arguments, named arguments), that store rows of every table.

    The bars are hours and months with gaps, and days of more than two weeks, of which the last two are deleted again; an upsert
    with a report stores an hour again, unchanged. Two trades are realized, three positions open, one of them of another account;
    the first trade has two fills, which are not applied.
    """
    hours = [samples.bar(T0 + index * HOUR) for index in (0, 1, 2, 5)]
    months = [samples.bar(datetime(2024, month, 1, tzinfo=UTC), timeframe="1M") for month in (1, 2, 5)]
    days = [samples.bar(T0 + index * _DAY, timeframe="1d", open=Decimal(index), volume=Decimal(2**index)) for index in range(18)]
    bought = samples.fill("F1", trade_id="T1", quantity=Decimal(3))
    sold = samples.fill("F2", trade_id="T1", side="sell", timestamp=T0 + HOUR, fee=SMALLEST, fee_currency="BNB")
    rows: list[tuple[str, str, Any]] = [
        ("bars", "insert_many", hours + days + months),
        ("trades", "insert", samples.trade("T1", realized_pnl=LARGEST, fee=LARGEST)),
        ("trades", "insert", samples.trade("T2", realized_pnl=Decimal("-2.50"), exit_time=T0 + HOUR, account="a", tags=["a"])),
        ("positions", "update_position", samples.position()),
        ("positions", "update_position", samples.position(symbol="ETHUSDT", side="short")),
        ("positions", "update_position", samples.position(account="a")),
        ("fills", "record_many", [bought, sold]),
        ("ledger", "record", samples.ledger_entry()),
        ("balances", "record", samples.balance()),
    ]
    return [
        *((repository, method, (row,), {}) for repository, method, row in rows),
        ("bars", "upsert_many", (hours[:1],), {"report": True}),
        ("bars", "delete_range", ("BTCUSDT", "1d", T0 + 16 * _DAY, T0 + 17 * _DAY), {}),
    ]
