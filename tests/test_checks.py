"""Checks of single values: normalisation, and messages that hide secrets and stay short."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any

import pytest

from iftb_store import DatabaseManager, InvalidValueError, quantize
from iftb_store.values.checks import choice, exact_decimal, integer, json_object, json_text, round_to_places, text, utc
from iftb_store.values.decimals import decimal
from iftb_store.values.timeframes import check_timeframe, shift


class Side(str, enum.Enum):  # noqa: UP042 - bots written for older Pythons have such
    LONG = "long"


class Timeframe(str, enum.Enum):  # noqa: UP042 - see Side
    HOUR = "1h"


class Broken(tzinfo):
    def utcoffset(self, moment: datetime | None) -> None:
        raise RuntimeError("no offset today")

    tzname = dst = utcoffset


def test_an_enums_member_is_the_text_that_it_is() -> None:
    assert (text(Side.LONG, "side"), choice(Side.LONG, "side", ("long",))) == ("long", "long")
    assert type(choice(Side.LONG, "side", ("long",))) is str
    assert json_object(json_text({"side": Side.LONG}, "details")) == {"side": "long"}


def test_an_enums_member_is_the_timeframe_that_it_is() -> None:
    assert check_timeframe(Timeframe.HOUR) == "1h"
    assert type(check_timeframe(Timeframe.HOUR)) is str


def test_lists_that_double_are_refused_before_they_fill_the_memory() -> None:
    doubled: object = "x"
    for _ in range(60):
        doubled = [doubled, doubled]
    with pytest.raises(InvalidValueError, match="a JSON object may contain"):
        json_text({"details": doubled}, "details")
    with pytest.raises(InvalidValueError, match=r"fee must be a Decimal, not list \(list\)"):
        decimal(doubled, "fee")


def test_a_time_in_json_whose_zone_fails_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"details\['at'\] is a time whose tzinfo fails"):
        json_text({"at": datetime(1, 1, 1, tzinfo=Broken())}, "details")


@pytest.mark.parametrize("value", [1.5, "1", None, True, Decimal("NaN")])
def test_what_is_no_decimal_cannot_be_quantized(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="value"):
        quantize(value)


@pytest.mark.parametrize("changes", [{"pool_size": 0}, {"pool_size": True}, {"max_overflow": "1"}, {"echo": "yes"}])
def test_a_wrong_argument_of_a_manager_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(changes))):
        DatabaseManager("sqlite:///:memory:", **changes)


@pytest.mark.parametrize("given", ["1E+3", "0E+1000000", "0E-1000000", "1." + "0" * 17_000, "-0.0", "1E-18"])
def test_a_decimal_is_kept_in_plain_digits(given: str) -> None:
    kept = exact_decimal(Decimal(given), "fee")
    assert kept == Decimal(given)
    assert len(str(kept)) <= 24


@pytest.mark.parametrize("given", ["1E+1000000", "1E-1000000", "1E+20", "NaN", "sNaN", "Infinity"])
def test_a_decimal_out_of_range_is_refused_in_a_short_message(given: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        exact_decimal(Decimal(given), "fee")
    assert len(str(refused.value)) < 200


def test_a_decimal_of_a_record_is_rounded_half_even() -> None:
    assert round_to_places(Decimal("0.0000000000000000125"), "score") == Decimal("0.000000000000000012")
    assert quantize(Decimal("0.0000000000000000135")) == Decimal("0.000000000000000014")


@pytest.mark.parametrize("value", [True, 1.5, "1", None, 10**400, object()])
def test_what_is_no_decimal_is_refused(value: object) -> None:
    with pytest.raises(InvalidValueError, match="fee"):
        decimal(value, "fee")


@pytest.mark.parametrize("value", [True, 1.5, -1, 2**63, pytest.param(10**5000, id="huge")])
def test_what_is_no_64_bit_count_is_refused(value: object) -> None:
    with pytest.raises(InvalidValueError, match="limit"):
        integer(value, "limit")


@pytest.mark.parametrize("value", [datetime(1, 1, 1, tzinfo=Broken()), "now", datetime(2024, 1, 1, tzinfo=UTC).date(), None])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(InvalidValueError, match="timestamp"):
        utc(value, "timestamp")


def test_steps_past_the_calendar_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="years 1 to 9999"):
        shift(datetime(1, 1, 1, tzinfo=UTC), "1M", -1)


def test_an_unknown_timeframe_lists_the_known_ones() -> None:
    with pytest.raises(InvalidValueError, match=r"'1hr'.* 1s 1m 3m .* 1w 1M"):
        check_timeframe("1hr")


@pytest.mark.parametrize(
    "url", ["postgresql://u:sentinel@h/d", "postgresql://u@h/d?password=sentinel", "postgresql://h/d?sslpassword=sentinel"]
)
def test_a_managers_repr_holds_no_password(url: str) -> None:
    shown = repr(DatabaseManager(url))
    assert "sentinel" not in shown
    assert "***" in shown
