"""The dataclasses of rows: what a row of ccxt may be."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import InvalidValueError, OHLCVBar, PositionConflictError, TradeConflictError


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a row", r"row must be a list \[timestamp, open, high, low, close, volume\]"),
        ([1, 2, 3], r"the row has 3 values; a row of a bar is \[timestamp, open, high, low, close, volume\]"),
        ([1706745600, 1, 1, 1, 1, 1], "timestamp 1706745600 is in seconds since 1970"),
        ([0, 1, 1, 1, 1, ""], "volume '' is not a decimal number"),
        ([0, 1, 1, 1, 1, False], "volume must be a Decimal, not"),
        ([0, "1_000", 1, 1, 1, 1], "open '1_000' is not a decimal number"),
        ({"open": 1}, "the row has no timestamp"),
        ([datetime(2024, 1, 1), 1, 1, 1, 1, 1], "timestamp must be a whole number of milliseconds"),
        ([10**20, 1, 1, 1, 1, 1], "outside the years"),
        ([0, float("nan"), 1, 1, 1, 1], "open is NaN"),
        ([0, "one", 1, 1, 1, 1], "open 'one' is not a decimal number"),
        ([0, None, 1, 1, 1, 1], "open must be a Decimal, not None"),
    ],
)
def test_another_row_is_no_bar_of_ccxt(row: Any, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        OHLCVBar.from_ccxt(row, symbol="A", timeframe="1h", exchange="binance")


def test_a_row_of_ccxt_without_a_volume_has_the_volume_0() -> None:
    bar = OHLCVBar.from_ccxt([0, "1.10", 2, Decimal(1), 1.5, None], symbol="A", timeframe="1h", exchange="binance")
    assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == (
        Decimal("1.10"),
        Decimal(2),
        Decimal(1),
        Decimal("1.5"),
        Decimal(0),
    )


def test_a_row_of_a_data_frame_may_have_its_milliseconds_as_a_float() -> None:
    bar = OHLCVBar.from_ccxt([1706745600000.0, 1.0, 1.0, 1.0, 1.0, 1.0], symbol="A", timeframe="1h", exchange="binance")
    assert bar.timestamp == datetime(2024, 2, 1, tzinfo=UTC)


def test_an_error_with_attributes_goes_to_another_process() -> None:
    conflicts = [PositionConflictError("the open position", "A"), TradeConflictError("the trade", ("fee",))]
    for error, copied in zip(conflicts, pickle.loads(pickle.dumps(conflicts)), strict=True):
        assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))
