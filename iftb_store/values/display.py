"""How values that may be hostile are shown in messages: short, in ASCII, whatever their own __repr__ does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal

# of all others the type alone is shown: a repr may be endless, as of lists that hold each other, or raise
_SHOWN = (int, float, Decimal, date, bytes, type(None))


def kind(value: object) -> str:
    """Return the name of a value's type."""
    return "None" if value is None else type(value).__name__


def shown(value: object, limit: int = 60) -> str:
    """Return a value for an error message: ASCII, cut where it is long; of a container or an object its type alone."""
    if isinstance(value, str):
        text = ascii(exactly_str(value)[:limit])
        return text if len(value) <= limit and len(text) <= 2 * limit else f"{text[: 2 * limit]}…"
    if not isinstance(value, _SHOWN):
        return f"({kind(value)})"
    try:
        shown_value = ascii(value)
    except Exception:  # a foreign __repr__, or an int past Python's own limit of digits
        return f"({kind(value)})"
    return shown_value if len(shown_value) <= limit + 2 else f"{shown_value[:limit]}…"


def names(values: Iterable[str]) -> str:
    """Return names side by side, so that they can be told apart: in quotes where one is empty or holds white space."""
    return " ".join(value if value.split() == [value] and value[0] not in "'\"" else repr(value) for value in values)


def exactly_str(value: str) -> str:
    """Return the text that a str is, also where it is an enum's member, whose str() is its name."""
    return value if type(value) is str else str.__str__(value)


def is_text(value: str) -> bool:
    """Tell whether a str is text that can be encoded: it holds no lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
