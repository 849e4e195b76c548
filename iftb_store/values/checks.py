"""Checks of single values: each returns the value in the form that every backend accepts, or raises InvalidValueError."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeVar, cast

from iftb_store.errors import InvalidValueError
from iftb_store.values.decimals import (
    SCALE,
    decimal,
    format_plain,
    is_too_large,
    round_decimal,
    show_digits,
    to_index,
    too_large_error,
)
from iftb_store.values.display import describe_value, exactly_str, is_text, show, type_name

T = TypeVar("T")
Word = TypeVar("Word", bound=str)

#: Maximum length of a name: names are parts of index keys, whose size PostgreSQL limits.
LONGEST_NAME = 255

#: The remedy for a decimal with too many places, in Python.
QUANTIZE = "iftb_store.quantize(value) rounds it to 18 places"

_INT64_MAX = 2**63 - 1
_LONGEST_WAIT = 1_000_000
#: The least number that is taken for milliseconds since 1970: as seconds it is after the year 5000.
LEAST_MILLISECONDS = 100_000_000_000
_DEEPEST_JSON = 100
_LONGEST_JSON_INT = 4000
_LONGEST_PATH = 100
#: Maximum number of values in one JSON object. Small objects can be huge as JSON: if each list contains the next list twice,
#: the number of values doubles at each level.
_MOST_JSON_VALUES = 250_000


def text(value: object, name: str) -> str:
    """Return the value if every engine can store it as text: any Unicode except NUL and lone surrogates; otherwise raise."""
    if not isinstance(value, str):
        raise InvalidValueError(f"{name} must be text, not {type_name(value)}")
    if "\0" in value:
        raise InvalidValueError(f"{name} {show(value)} contains a NUL character, which no engine stores; remove it")
    if not is_text(value):
        raise InvalidValueError(f"{name} {show(value)} contains a lone surrogate, which is not text; decode it correctly first")
    return exactly_str(value)


def name_text(value: object, name: str) -> str:
    """Return the value if it is a name: text of 1 to 255 characters that are not all white space; otherwise raise."""
    checked = text(value, name)
    if not checked or checked.isspace():
        raise InvalidValueError(f"{name} is empty; give a name")
    if len(checked) > LONGEST_NAME:
        raise InvalidValueError(f"{name} {show(checked)} is {len(checked)} characters long; at most {LONGEST_NAME} are allowed")
    return checked


def short_name(value: object, name: str) -> str:
    """Return the value if it is a name of at most 255 bytes in UTF-8; otherwise raise InvalidValueError."""
    checked = name_text(value, name)
    if (size := len(checked.encode())) > LONGEST_NAME:
        raise InvalidValueError(f"{name} {show(checked)} has {size} bytes in UTF-8; at most {LONGEST_NAME} are allowed")
    return checked


def name_or_empty(check: Callable[[object, str], str], value: object, name: str) -> str:
    """Return the empty text if the value is empty, which means none, otherwise the result of ``check``."""
    return "" if isinstance(value, str) and not value else check(value, name)


def account(value: object, name: str) -> str:
    """Return the value if it is the name of an account, or the empty text for none; otherwise raise InvalidValueError."""
    return name_or_empty(short_name, value, name)


def check_quantity(value: Decimal, subject: str) -> None:
    """Raise InvalidValueError if the quantity of a trade or an open position, long or short, is not above 0."""
    if value <= 0:
        raise InvalidValueError(f"quantity {value} of {subject} is not above 0; side says whether it is long or short")


def optional(check: Callable[[object, str], T], value: object, name: str) -> T | None:
    """Return None if the value is None, otherwise the result of ``check``."""
    return None if value is None else check(value, name)


def choice(value: object, name: str, choices: Collection[Word]) -> Word:
    """Return the value if it is one of the choices; otherwise raise InvalidValueError."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidValueError(f"{name} must be one of {', '.join(choices)}, not {show(value)}")
    return cast("Word", exactly_str(value))


def optional_choice(value: object, name: str, choices: Collection[Word]) -> Word | None:
    """Return None if the value is None, otherwise the value if it is one of the choices; otherwise raise InvalidValueError."""
    return None if value is None else choice(value, name, choices)


def exact_decimal(value: object, name: str, remedy: str = QUANTIZE) -> Decimal:
    """Return a value of a bar as a Decimal; raise unless DECIMAL(38,18) holds the value exactly.

    Args:
        value: the value.
        name: the name of the value in the error message.
        remedy: the advice in the message about a value with too many places.
    """
    number = decimal(value, name)
    digits = format_plain(number)
    if digits is not None:
        return Decimal(digits)
    if is_too_large(number):
        raise too_large_error(number, name)
    raise InvalidValueError(f"{name} {show_digits(number)} has more than {SCALE} digits after the point; {remedy}")


def round_to_places(value: object, name: str) -> Decimal:
    """Return a value of a trade or a position as a Decimal, rounded half-even to 18 places, as bots compute it by division."""
    number = decimal(value, name)
    digits = format_plain(number)
    return round_decimal(number, name) if digits is None else Decimal(digits)


def file_path(value: object, name: str) -> str:
    """Return the path of a file as text; raise InvalidValueError if it is not a path, e.g. bytes."""
    if not isinstance(value, str | os.PathLike):
        raise InvalidValueError(f"{name} must be a file name, not {type_name(value)}")
    return text(os.fspath(value), name)


def integer(value: object, name: str, least: int = 0) -> int:
    """Return the value if it is a whole number from ``least`` to 2**63 - 1; otherwise raise InvalidValueError."""
    number = to_index(value)
    if number is None:
        raise InvalidValueError(f"{name} must be a whole number, not {describe_value(value)}")
    if not least <= number <= _INT64_MAX:
        shown_value = number if number.bit_length() <= 128 else f"a number of {number.bit_length()} bits"
        raise InvalidValueError(f"{name} must lie between {least} and {_INT64_MAX}, not {shown_value}")
    return number


def boolean(value: object, name: str) -> bool:
    """Return the value if it is True or False; otherwise, e.g. for 1, raise InvalidValueError."""
    truth = _to_bool(value)
    if truth is None:
        raise InvalidValueError(f"{name} must be True or False, not {describe_value(value)}")
    return truth


def _to_bool(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    # NumPy is not imported for this
    kind = type(value)
    return bool(value) if kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_") else None


def seconds(value: object, name: str) -> float:
    """Return a number of seconds as a float; raise InvalidValueError unless it is from 0 to 1,000,000."""
    number = value if isinstance(value, float) else to_index(value)
    if number is None or not 0 <= number <= _LONGEST_WAIT:
        raise InvalidValueError(f"{name} must be a number of seconds, 0 or more, at most {_LONGEST_WAIT:,}, not {show(value)}")
    return float(number)


def utc(value: object, name: str) -> datetime:
    """Return a time as an aware datetime in UTC; naive times are UTC."""
    # NaT of pandas is a datetime
    if not isinstance(value, datetime) or type_name(value) == "NaTType":
        raise InvalidValueError(f"{name} must be a datetime, not {describe_value(value)}{_time_remedy(value)}")
    if getattr(value, "nanosecond", 0):
        raise InvalidValueError(f"{name} {value} is more precise than microseconds; round it first")
    try:
        moment = value.astimezone(UTC) if value.utcoffset() is not None else value.replace(tzinfo=UTC)
        if type(moment) is datetime and not moment.fold:
            return moment
        return datetime(moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, moment.microsecond, UTC)
    except Exception as error:
        # the methods of a foreign tzinfo may raise any exception
        raise InvalidValueError(f"{name} {show(value)} lies outside the years 1 to 9999 in UTC, or its tzinfo fails") from error


def _time_remedy(value: object) -> str:
    if isinstance(value, date) and not isinstance(value, datetime):
        return "; datetime(y, m, d, tzinfo=UTC) gives midnight"
    number = int(value) if isinstance(value, float) and math.isfinite(value) else to_index(value)
    if number is not None and abs(number) >= LEAST_MILLISECONDS:
        return "; datetime.fromtimestamp(value / 1000, UTC) converts milliseconds since 1970"
    return "" if number is None else "; datetime.fromtimestamp(value, UTC) converts seconds since 1970"


def json_text(value: object, name: str) -> str:
    """Return a dict as JSON text; Decimals and datetimes in the dict become strings, tuples become arrays."""
    if not isinstance(value, dict):
        raise InvalidValueError(f"{name} must be a dict (a JSON object), not {type_name(value)}")
    return json.dumps(_json_value(value, name, 0, iter(range(_MOST_JSON_VALUES))), allow_nan=False)


def json_object(stored: str | None) -> dict[str, Any] | None:
    """Convert JSON text that `json_text` created back to a dict; None stays None."""
    if stored is None:
        return None
    loaded: dict[str, Any] = json.loads(stored)
    return loaded


def _json_value(value: object, path: str, depth: int, places: Iterator[int]) -> object:
    if depth > _DEEPEST_JSON:
        raise InvalidValueError(f"{path[:80]}… is nested deeper than {_DEEPEST_JSON} levels")
    if next(places, None) is None:
        raise InvalidValueError(f"{path} is too large: a JSON object may contain {_MOST_JSON_VALUES:,} values in all")
    if value is None:
        return value
    if isinstance(value, str):
        return text(value, path)
    truth = _to_bool(value)
    if truth is not None:
        return truth
    number = to_index(value)
    if number is not None:
        if number.bit_length() > _LONGEST_JSON_INT:
            raise InvalidValueError(
                f"{path} is a whole number of {number.bit_length()} bits; at most {_LONGEST_JSON_INT} bits can be read back"
            )
        return number
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValueError(f"{path} is {value}, which JSON cannot hold; use None or a string")
        return float(value)
    if isinstance(value, Decimal):
        return Decimal.__str__(value)
    if isinstance(value, datetime):
        return _json_time(value, path)
    if isinstance(value, dict):
        return {
            _json_key(key, path): _json_value(item, _deeper(path, show(key, 20)), depth + 1, places)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_json_value(item, _deeper(path, index), depth + 1, places) for index, item in enumerate(value)]
    raise InvalidValueError(
        f"{path} is {type_name(value)}, which JSON cannot hold; use text, numbers, lists, dicts, None, Decimal or datetime"
    )


def _json_key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidValueError(f"{path} has the key {show(key)}, {type_name(key)}; the keys of JSON objects must be text")
    return text(key, f"a key of {path}")


def _json_time(value: datetime, path: str) -> str:
    try:
        return value.isoformat()
    except Exception as error:
        # the methods of a foreign tzinfo may raise any exception
        raise InvalidValueError(f"{path} is a time whose tzinfo fails; convert it to UTC") from error


def _deeper(path: str, step: object) -> str:
    return path if len(path) > _LONGEST_PATH else f"{path}[{step}]"
