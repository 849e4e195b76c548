"""The hostile values, each with a name for failure messages, and `Try`, which describes a call with one of the values."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from iftb_store import DatabaseManager, Trade

_MEGABYTE = 2**20


class Word(str):
    """A subclass of str whose str() returns another text."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another word"


class Member(str, enum.Enum):  # noqa: UP042 - bots written for older Pythons have such
    """An enum whose members are text."""

    HOUR = "1h"
    LONG = "long"
    OPEN = "open"
    INFO = "info"
    NAME = "member"


class Whole(int):
    """A subclass of int whose str() and repr() do not show the number."""

    def __str__(self) -> str:
        return "many"

    __repr__ = __str__


class Count(enum.IntEnum):
    """An enum whose members are whole numbers."""

    SEVEN = 7


class Amount(Decimal):
    """A subclass of Decimal whose str(), format() and repr() show another number."""

    def __str__(self, eng: bool = False, context: Any = None) -> str:
        return "1"

    def __format__(self, specifier: str, context: Any = None) -> str:
        return "1"

    def __repr__(self) -> str:
        return "1"


class Moment(datetime):
    """A subclass of datetime, as pandas and pendulum define them."""


class NoZone(tzinfo):
    """A time zone whose methods raise."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise RuntimeError("no offset today")

    def tzname(self, moment: datetime | None) -> str | None:
        raise RuntimeError("no name today")

    def dst(self, moment: datetime | None) -> timedelta | None:
        raise RuntimeError("no summer today")


class Silent:
    """An object whose repr() and hash() raise."""

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("nothing to show")

    __str__ = __repr__


def _nest(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def _circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = [value]
    return value


def _nest_twice(levels: int) -> dict[str, Any]:
    value: Any = "x"
    for _ in range(levels):
        value = [value, value]
    return {"doubled": value}


TEXTS: dict[str, Any] = {
    "empty text": "",
    "white space": " \t\r\n\u00a0\u2003",
    "a statement": "'; DROP TABLE trades; --",
    "a statement in double quotes": '"; DELETE FROM ohlcv; --',
    "a tautology": "' OR '1'='1' --",
    "a union": "x' UNION SELECT 1, 2, 3 FROM system_events /*",
    "a pattern": "%_[^a]*",
    "quotes": "' '' \" \"\" ` \u2018\u2019 $$ $tag$",
    "placeholders": ":symbol $1 ? %s %(name)s {0} {name} ${x} #{x}",
    "backslashes": "\\ \\' \\n \\x00 \\u0000 \\000 \\N \\.",
    "the end of a COPY": "\\.\n\\N\t\\N\r\n",
    "JSON": '{"a": "\\u0000"}',
    "NUL": "BTC\0USDT",
    "a lone surrogate": "BTC\ud800",
    "surrogates the wrong way round": "\udc00\ud800",
    "an undecodable byte": "BTC\udcff",
    "right to left": "\u202eTDSUCTB\u202c\u2066\u200f",
    "no characters": "\ufdd0\ufffe\uffff\U0010ffff",
    "control characters": "\x01\x1b[31m\x7f\x85\u2028\ufeff",
    "combining marks": "e" + "\u0301" * 200,
    "255 characters": "\U0010ffff" * 255,
    "256 characters": "x" * 256,
    "a megabyte": "x" * _MEGABYTE,
    "a megabyte of quotes": "'" * _MEGABYTE,
    "a megabyte of rockets": "\N{ROCKET}" * (_MEGABYTE // 4),
    "a number's text": "1e400",
    "NaN's text": "NaN",
    "a leap second's text": "2016-12-31T23:59:60Z",
    "NULL": "NULL",
    "text of another class": Word("BTC"),
    **{f"the member {member.name}": member for member in Member},
}

NUMBERS: dict[str, Any] = {
    "True": True,
    "False": False,
    "zero": 0,
    "minus one": -1,
    "a whole number of another class": Whole(11),
    "a negative whole number of another class": Whole(-11),
    "a member that is a whole number": Count.SEVEN,
    "2**31": 2**31,
    "2**63 - 1": 2**63 - 1,
    "2**63": 2**63,
    "-2**63": -(2**63),
    "2**128": 2**128,
    "39 digits": int("9" * 39),
    "5,000 digits": 10**5_000,
    "a float": 1.5,
    "a float that is whole": 2.0,
    "a float's minus zero": -0.0,
    "a float's subnormal": 5e-324,
    "a float's largest": 1.7976931348623157e308,
    "a float's NaN": float("nan"),
    "a float's infinity": float("inf"),
    "a float's negative infinity": float("-inf"),
    "a complex number": 1j,
    "minus zero": Decimal("-0"),
    "minus zero with an exponent": Decimal("-0E+999999"),
    "NaN": Decimal("NaN"),
    "NaN with a payload": Decimal("-NaN123"),
    "sNaN": Decimal("sNaN"),
    "infinity": Decimal("Infinity"),
    "negative infinity": Decimal("-Infinity"),
    "the smallest decimal": Decimal("1E-18"),
    "a decimal too fine": Decimal("1E-19"),
    "a subnormal decimal": Decimal("1E-1000000"),
    "a huge exponent": Decimal("1E+999999"),
    "38 nines": Decimal("99999999999999999999.999999999999999999"),
    "38 negative nines": Decimal("-99999999999999999999.999999999999999999"),
    "39 nines": Decimal("999999999999999999999.999999999999999999"),
    "39 digits after the point": Decimal("0." + "1" * 39),
    "20 digits with an exponent": Decimal("12345E+15"),
    "a decimal with many zeros": Decimal("1." + "0" * 10_000),
    "a decimal of another class": Amount("2.5"),
    "a decimal of another class too fine": Amount("2.5E-30"),
}

TIMES: dict[str, Any] = {
    "datetime.min": datetime.min,
    "datetime.max": datetime.max,
    "datetime.min in UTC": datetime.min.replace(tzinfo=UTC),
    "datetime.max in UTC": datetime.max.replace(tzinfo=UTC),
    "the year 1 east of UTC": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    "the year 1 west of UTC": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=-23, minutes=-59))),
    "the year 9999 west of UTC": datetime(9999, 12, 31, 23, 59, 59, 999_999, timezone(timedelta(hours=-1))),
    "an offset of seconds": datetime(1890, 1, 1, tzinfo=timezone(timedelta(seconds=4772))),
    "a local mean time": datetime(1850, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")),
    "the hour that comes twice": datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
    "the hour that comes twice, again": datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    "the hour that never comes": datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
    "a fold without a zone": datetime(2024, 10, 27, 2, 30, 0, 1, fold=1),
    "before 1970": datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
    "before the calendar's reform": datetime(1500, 2, 28, 12, tzinfo=UTC),
    "a datetime of another class": Moment(2024, 5, 6, 7, 8, 9, 10, UTC),
    "a zone that fails": datetime(2024, 1, 1, tzinfo=NoZone()),
    "a date": date(2024, 1, 1),
    "a time of day": time(12, tzinfo=UTC),
    "a span": timedelta(days=1),
}

OTHERS: dict[str, Any] = {
    "None": None,
    "bytes": b"BTC\xff",
    "a list": ["BTC"],
    "a list of lists": [[]],
    "an empty tuple": (),
    "a set": {1},
    "a function": len,
    "a class": str,
    "an object": object(),
    "an object whose repr fails": Silent(),
    "an empty dict": {},
    "a dict of hostile text": dict(zip(TEXTS, ["'\"\\", "\u202e", "\x01", "x" * 10_000], strict=False)),
    "a dict of hostile numbers": {"a": 5e-324, "b": -0.0, "c": 10**1_000, "d": Decimal("-0E-40"), "e": [True, None]},
    "a dict of times": {"at": datetime.max, "also": (datetime.min.replace(tzinfo=UTC),)},
    "a dict with NaN": {"a": [float("nan")]},
    "a dict with a number of 5,000 digits": {"a": 10**5_000},
    "a dict with NUL": {"a": {"b": "\0"}},
    "a dict with a lone surrogate for a key": {"\ud800": 1},
    "a dict with a number for a key": {1: 2},
    "a dict with an object": {"a": Silent()},
    "a dict in itself": _circular(),
    "a dict of 99 levels": _nest(99),
    "a dict of 10,000 levels": _nest(10_000),
    "a dict that doubles 40 times": _nest_twice(40),
}

#: The hostile values by name; every parameter gets each of them.
HOSTILE: dict[str, Any] = {**TEXTS, **NUMBERS, **TIMES, **OTHERS}


class Try(NamedTuple):
    """One call with a hostile value.

    Attributes:
        db: the manager.
        session: an open session of the manager.
        url: the database URL.
        parameter: the parameter that gets the hostile value; ``parameter.field`` for a field of a model.
        value: the hostile value.
        number: a number that is different in each call, to give each written row its own key.
        last: a list whose last item is the current state of the stored trade that all calls of update change.
    """

    db: DatabaseManager
    session: Any
    url: str
    parameter: str
    value: Any
    number: int
    last: list[Trade]

    @property
    def field(self) -> str:
        """The name of the model's field that gets the value; empty if the whole argument is the hostile value."""
        return self.parameter.partition(".")[2]

    def argument(self, model: Callable[..., Any], **unique: Any) -> Any:
        """Return the argument of the call: the hostile value itself, or a row with the hostile value in one field.

        ``model`` creates the row; ``unique`` are values of other fields, which give the row its own key.
        """
        return model(**{**unique, self.field: self.value}) if self.field else self.value

    def changed(self, **usual: Any) -> dict[str, Any]:
        """Return the usual arguments, with the hostile value as the argument of the parameter under test."""
        return {**usual, self.field or self.parameter: self.value}


#: A function that makes one call, checks the result and the stored rows, and returns the number of rows that the call added.
Attempt = Callable[[Try], Awaitable[int]]
