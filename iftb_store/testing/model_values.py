"""The model's checks: each returns a value as the store should return it, or raises the error that a store should raise."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from json import dumps
from typing import Any, TypeVar

from iftb_store import BalanceSnapshot, Fill, InvalidValueError, LedgerEntry, OHLCVBar, Position, SystemEvent, Trade

_Row = TypeVar("_Row", OHLCVBar, Trade, Position, SystemEvent, Fill, LedgerEntry, BalanceSnapshot)

#: The number of units of the 18th decimal place in 1.
UNITS = 10**18

SIDES = ("long", "short")
SEVERITIES = ("debug", "info", "warning", "error", "critical")
_CHOICES = {
    "side": SIDES,
    "action": ("open", "close", "liquidated"),
    "status": ("open", "closed", "liquidated"),
    "severity": SEVERITIES,
    "liquidity": ("maker", "taker"),
    "kind": ("deposit", "withdrawal", "funding", "fee", "rebate", "interest", "transfer", "adjustment"),
}
_NAMES = ("symbol", "exchange", "trade_id", "event_type", "strategy", "exit_reason", "order_id", "currency", "fee_currency")
_SHORT = ("fill_id", "external_id")
_KEPT = ("id", "created_at", "updated_at", "last_updated")
#: The fields of a trade that TradeRepository.update can set.
SETTABLE = tuple(item.name for item in fields(Trade) if item.name not in (*_KEPT, "trade_id"))
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
#: The known timeframes, shortest first.
TIMEFRAMES = ["1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"]


def checked(row: _Row) -> _Row:
    """Check a row and return it as the store should return it, with each value normalised.

    The fields that the store assigns are None.

    Raises:
        InvalidValueError: a value cannot be stored.
    """
    if isinstance(row, Position) and row.id is not None:
        whole(row.id, "id")
    exact = isinstance(row, OHLCVBar)
    stored: dict[str, Any] = {
        item.name: None if item.name in _KEPT else _field(item.name, item.type, getattr(row, item.name), exact=exact)
        for item in fields(row)
    }
    found = type(row)(**stored)
    if isinstance(found, Trade) or (isinstance(found, Position) and found.status == "open"):
        _check_quantity(found.quantity, "a trade" if isinstance(found, Trade) else "an open position")
    return found


def checked_bars(bars: Sequence[OHLCVBar]) -> list[OHLCVBar]:
    """Check bars and return them as the store should return them; see `checked`.

    Raises:
        InvalidValueError: a bar cannot be stored; the message names the first such bar and its number in the batch.
    """
    found = []
    for index, bar in enumerate(bars):
        try:
            found.append(_check_bar(bar))
        except InvalidValueError as error:
            label = " ".join(shown(part) for part in (bar.exchange, bar.symbol, bar.timeframe, bar.timestamp))
            raise InvalidValueError(f"bar {index + 1} of {len(bars)} ({label}): {error}") from None
    return found


def checked_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Check the new values of a trade's fields and return them as the store should return them.

    Raises:
        InvalidValueError: a trade has no such field, the store assigns the field, or a value cannot be stored.
    """
    kinds = {item.name: item.type for item in fields(Trade)}
    for field in changes:
        if field in _KEPT:
            raise InvalidValueError(f"{field} is set by the store and cannot be changed")
        if field not in kinds:
            raise InvalidValueError(f"a trade has no field {field!r}; the fields that can be set are {', '.join(SETTABLE)}")
    found = {field: _field(field, kinds[field], value, exact=False) for field, value in changes.items()}
    if "quantity" in found:
        _check_quantity(found["quantity"], "a trade")
    return found


def _check_quantity(quantity: Decimal, subject: str) -> None:
    if quantity <= 0:
        raise InvalidValueError(f"quantity {quantity} of {subject} is not above 0; side says whether it is long or short")


def _check_bar(bar: OHLCVBar) -> OHLCVBar:
    found = checked(bar)
    if found.high < found.low:
        raise InvalidValueError(f"high {found.high} is below low {found.low}")
    for field in ("volume", "quote_volume"):
        if (getattr(found, field) or 0) < 0:
            raise InvalidValueError(f"{field} {getattr(found, field)} is negative")
    return found


def _field(field: str, kind: Any, value: Any, *, exact: bool) -> Any:
    if value is None and kind.endswith("| None"):
        return None
    if field == "timeframe":
        return timeframe(value)
    if kind == "FillSide":
        return one_of(value, field, ("buy", "sell"))
    if field in _CHOICES:
        return one_of(value, field, _CHOICES[field])
    if field in _NAMES:
        return name(value, field)
    if field in _SHORT:
        return short(value, field)
    if field == "account":
        return account(value)
    number = decimal if exact else round_decimal
    checks: dict[str, Any] = {
        "Decimal": number,
        "datetime": moment,
        "int": whole,
        "dict[str, Any]": json,
        "str": text,
        "list[str]": texts,
    }
    return checks[kind.removesuffix(" | None")](value, field)


def decimal(value: object, field: str) -> Decimal:
    """Return the value as a Decimal if it has at most 20 digits before the point and 18 after it."""
    number = _number(value, field)
    units = Fraction(number) * UNITS
    if abs(units) >= 10**38:
        raise InvalidValueError(f"{field} {number} has more than 20 digits before the point")
    if units.denominator != 1:
        raise InvalidValueError(
            f"{field} {number} has more than 18 digits after the point; iftb_store.quantize(value) rounds it to 18 places"
        )
    return from_units(int(units))


def round_decimal(value: object, field: str) -> Decimal:
    """Return the value as a Decimal, rounded half-even to 18 places."""
    number = _number(value, field)
    units = round(Fraction(number) * UNITS)
    if abs(units) >= 10**38:
        raise InvalidValueError(f"{field} {number} has more than 20 digits before the point")
    return from_units(units)


def from_units(units: int) -> Decimal:
    """Return the Decimal for a number of units of the 18th decimal place, without trailing zeros."""
    digits = f"{abs(units):019}"
    return Decimal("-" * (units < 0) + f"{digits[:-18]}.{digits[-18:]}".rstrip("0").rstrip("."))


def _number(value: object, field: str) -> Decimal:
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if not isinstance(value, Decimal):
        remedy = "; Decimal(str(value)) converts a float by the digits that Python prints" if isinstance(value, float) else ""
        raise InvalidValueError(f"{field} must be a Decimal, not {_describe(value)}{remedy}")
    if not value.is_finite():
        raise InvalidValueError(f"{field} is {value}, which is not a finite number and cannot be stored")
    return value


def moment(value: object, field: str) -> datetime:
    """Return a time as an aware datetime in UTC; naive times are UTC."""
    if not isinstance(value, datetime):
        remedy = "; datetime(y, m, d, tzinfo=UTC) gives midnight" if isinstance(value, date) else ""
        raise InvalidValueError(f"{field} must be a datetime, not {_describe(value)}{remedy}")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise InvalidValueError(f"{field} {shown(value)} lies outside the years 1 to 9999 in UTC, or its tzinfo fails") from None


def text(value: object, field: str) -> str:
    """Return the value if it is text without NUL and lone surrogates."""
    if not isinstance(value, str):
        raise InvalidValueError(f"{field} must be text, not {_kind(value)}")
    if "\0" in value:
        raise InvalidValueError(f"{field} {shown(value)} contains a NUL character, which no engine stores; remove it")
    if re.search("[\ud800-\udfff]", value):
        raise InvalidValueError(f"{field} {shown(value)} contains a lone surrogate, which is not text; decode it correctly first")
    return value


def name(value: object, field: str) -> str:
    """Return the value if it is text of 1 to 255 characters, not only white space."""
    given = text(value, field)
    if not given.strip():
        raise InvalidValueError(f"{field} is empty; give a name")
    if len(given) > 255:
        raise InvalidValueError(f"{field} {shown(given)} is {len(given)} characters long; at most 255 are allowed")
    return given


def account(value: object) -> str:
    """Return the value if it is the empty text or a name of at most 255 bytes."""
    return "" if value == "" else short(value, "account")


def short(value: object, field: str) -> str:
    """Return the value if it is a name of at most 255 bytes."""
    given = name(value, field)
    if len(given.encode()) > 255:
        raise InvalidValueError(f"{field} {shown(given)} has {len(given.encode())} bytes in UTF-8; at most 255 are allowed")
    return given


def texts(value: object, field: str) -> list[str]:
    """Return a list or tuple of at most 1,000 names as a list."""
    if not isinstance(value, list | tuple):
        raise InvalidValueError(f"{field} must be a list of texts, not {_kind(value)}")
    if len(value) > 1_000:
        raise InvalidValueError(f"{field} has {len(value):,} texts; at most 1,000 are allowed")
    return [name(item, f"{field}[{index}]") for index, item in enumerate(value)]


def one_of(value: object, field: str, choices: Collection[str]) -> str:
    """Return the value if it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidValueError(f"{field} must be one of {', '.join(choices)}, not {shown(value)}")
    return value


def timeframe(value: object, field: str = "") -> str:
    """Return the value if it is a known timeframe; an error names the argument ``field``, if there are several timeframes."""
    if value not in TIMEFRAMES:
        label = field and f"{field}: "
        near = "did you mean 1h? " if value == "1H" else ""
        raise InvalidValueError(f"{label}unknown timeframe {shown(value)}; {near}the known ones are {' '.join(TIMEFRAMES)}")
    return str(value)


def whole(value: object, field: str, least: int = 0) -> int:
    """Return the value if it is a whole number from ``least`` to 2**63 - 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValueError(f"{field} must be a whole number, not {_describe(value)}")
    if not least <= value < 2**63:
        raise InvalidValueError(f"{field} must lie between {least} and {2**63 - 1}, not {value}")
    return value


def json(value: object, field: str) -> Any:
    """Return the JSON object that must be read back: Decimals and times become text, tuples become lists."""
    if not isinstance(value, dict):
        raise InvalidValueError(f"{field} must be a dict (a JSON object), not {_kind(value)}")
    return _json(value, field)


def _json(value: object, path: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError(f"{path} is {value}, which JSON cannot hold; use None or a string")
    if isinstance(value, dict):
        return {key: _json(item, f"{path}[{shown(key)}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def unlike(stored: Any, given: Any) -> bool:
    """Return whether two values differ; in JSON objects, true, 1 and 1.0 are different values."""
    if isinstance(stored, dict) and isinstance(given, dict):
        # sums in decimals are compared by their digits
        return dumps(stored, sort_keys=True, default=repr) != dumps(given, sort_keys=True, default=repr)
    return bool(stored != given)


def shifted(start: datetime, frame: str, steps: int) -> datetime:
    """Return the time that is ``steps`` bars of a timeframe after ``start``; before it if ``steps`` is negative."""
    try:
        if frame != "1M":
            return start + steps * step(frame)
        months = start.year * 12 + start.month - 1 + steps
        first = datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
        following = datetime((months + 1) // 12, (months + 1) % 12 + 1, 1, tzinfo=UTC) if months < 9999 * 12 + 11 else None
        days = 31 if following is None else (following - first).days
        return start.replace(year=first.year, month=first.month, day=min(start.day, days))
    except (OverflowError, ValueError):
        raise InvalidValueError(f"{steps} steps of {frame} from {start.isoformat()} are outside the years 1 to 9999") from None


def apart(earlier: datetime, later: datetime, frame: str) -> bool:
    """Return whether at least one bar of a timeframe is missing between two times."""
    if frame == "1M":
        return (later.year - earlier.year) * 12 + later.month - earlier.month > 1
    return later - earlier > step(frame)


def step(frame: str) -> timedelta:
    """Return the length of a bar of a timeframe other than 1M."""
    return int(frame[:-1]) * timedelta(seconds=_SECONDS[frame[-1]])


def shown(value: object) -> str:
    """Return a value as error messages show it: as ASCII text, cut after 60 characters."""
    if isinstance(value, str):
        given = ascii(value[:60])
        return given if len(value) <= 60 and len(given) <= 120 else f"{given[:120]}…"
    given = ascii(value)
    return given if len(given) <= 62 else f"{given[:60]}…"


def _describe(value: object) -> str:
    return "None" if value is None else f"{_kind(value)} {shown(value)}"


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
