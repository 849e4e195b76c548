"""Exact decimals: the values of DECIMAL(38,18), and their encoding as sortable text for SQLite, which has no decimal type."""

from __future__ import annotations

import operator
import re
from decimal import ROUND_HALF_EVEN, Context, Decimal

from iftb_store.errors import InvalidValueError
from iftb_store.values.display import describe_value

PRECISION = 38
SCALE = 18
INTEGER_DIGITS = PRECISION - SCALE

#: The decimal context of every division and rounding in iftb_store, independent of the context of the caller's thread.
CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, capitals=1, clamp=0)

#: Text of a decimal number, NaN and infinity included. Decimal() also accepts underscores (1_000) and other digits than ASCII.
NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,9})?|s?nan|inf(inity)?)", re.ASCII | re.IGNORECASE)

_UNIT = Decimal(1).scaleb(-SCALE)
_PLAIN = re.compile(r"-?\d{1,20}(?:\.\d{1,18})?", re.ASCII)
_COMPLEMENT = str.maketrans("0123456789", "9876543210")
_NON_NEGATIVE_PREFIX = ["", *(chr(ord("a") + digits) for digits in range(INTEGER_DIGITS))]
_NEGATIVE_PREFIX = ["", *(chr(ord("T") - digits) for digits in range(INTEGER_DIGITS))]


def quantize(value: Decimal | int) -> Decimal:
    """Round a decimal half-even to the 18 places that every engine stores.

    Args:
        value: a Decimal or a whole number. A float is refused; Decimal(str(value)) converts it by the digits that Python prints.

    Returns:
        The Decimal, with 18 places.

    Raises:
        InvalidValueError: the value is not a Decimal or int, is NaN or infinite, or has more than 20 digits before the point.

    Example:
        quantize(Decimal(1) / 3)  # -> Decimal('0.333333333333333333')
    """
    return round_decimal(value, "value")


def round_decimal(value: object, name: str) -> Decimal:
    """Round a Decimal or an int as `quantize` does, with the same errors, whose messages contain ``name``."""
    number = decimal(value, name)
    if not is_too_large(number):
        rounded = number.quantize(_UNIT, context=CONTEXT)
        if rounded.adjusted() < INTEGER_DIGITS:
            return rounded
    raise too_large_error(number, name)


def is_too_large(value: Decimal) -> bool:
    """Return whether a finite decimal has more than 20 digits before the point."""
    return bool(value) and value.adjusted() >= INTEGER_DIGITS


def too_large_error(value: Decimal, name: str) -> InvalidValueError:
    """Return the error for a decimal that has, after rounding, more than 20 digits before the point."""
    return InvalidValueError(f"{name} {show_digits(value)} has more than {INTEGER_DIGITS} digits before the point")


def decimal(value: object, name: str) -> Decimal:
    """Return a finite Decimal or a whole number as a Decimal; raise InvalidValueError for any other value, e.g. a float."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise InvalidValueError(f"{name} is {show_digits(value)}, which is not a finite number and cannot be stored")
        return value if type(value) is Decimal else Decimal(value)
    number = to_index(value)
    if number is not None:
        if number.bit_length() > 128:
            raise InvalidValueError(
                f"{name} is a whole number of {number.bit_length()} bits; at most {INTEGER_DIGITS} digits can be stored"
            )
        return Decimal(number)
    remedy = "; Decimal(str(value)) converts a float by the digits that Python prints" if isinstance(value, float) else ""
    raise InvalidValueError(f"{name} must be a Decimal, not {describe_value(value)}{remedy}")


def to_index(value: object) -> int | None:
    """Return a whole number of Python or NumPy as an int; None for any other value, even a boolean."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception:
        # the value has no __index__, or its __index__ fails
        return None


def format_plain(value: Decimal) -> str | None:
    """Return a finite decimal as plain digits without an exponent, or None if DECIMAL(38,18) cannot hold it exactly.

    Zeros at the end of the fraction are removed, and zero is never negative, so that equal values give equal text.
    """
    if not value:
        return "0"
    if value.adjusted() >= INTEGER_DIGITS or value.adjusted() < -SCALE:
        return None
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text if _PLAIN.fullmatch(text) else None


def trim_zeros(value: Decimal) -> Decimal:
    """Return an equal Decimal, of any size, without an exponent and without zeros at the end of the fraction."""
    text = format(value, "f")
    return Decimal(text.rstrip("0").rstrip(".")) if "." in text else Decimal(text)


def show_digits(value: Decimal, limit: int = 50) -> str:
    """Return a decimal as text for an error message; text longer than ``limit`` characters is cut off."""
    text = Decimal.__str__(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def to_sortable(text: str) -> str:
    """Convert plain decimal text to sortable text: the byte order of such texts is the order of the numbers.

    Equal numbers give equal text. The text begins with a letter, a to t, for the number of digits before the point. A negative
    number has a capital letter, T to A, then the nines' complement of its digits and a final tilde: 50000.25 becomes
    ``e50000.25``, and -1.5 becomes ``T8.4~``.
    """
    if text[-1] == "0" and "." in text:
        text = text.rstrip("0").rstrip(".")
    point = text.find(".")
    if text[0] != "-":
        return _NON_NEGATIVE_PREFIX[point if point > 0 else len(text)] + text
    if text == "-0":
        return "a0"
    digits = (point if point > 0 else len(text)) - 1
    return _NEGATIVE_PREFIX[digits] + text[1:].translate(_COMPLEMENT) + "~"


def from_sortable(text: str) -> Decimal:
    """Return the decimal that `to_sortable` encoded as this text."""
    if text[-1] != "~":
        return Decimal(text[1:])
    return Decimal("-" + text[1:-1].translate(_COMPLEMENT))
