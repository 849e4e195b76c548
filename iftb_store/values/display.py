"""How values that may be hostile are shown in messages: short, in ASCII, whatever their own __repr__ does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from decimal import Decimal

# of all others the type alone is shown: a repr may be endless, as of lists that hold each other, or raise
_SHOWN = (int, float, Decimal, date, bytes, type(None))
# also of a URL that was mistyped, such as postgresql:/user:pass word@host
_BEFORE_CREDENTIALS = re.compile(r"://|:(?=\S)")
# up to the next option or the line's end, as an & or a space that should have been percent-encoded is the password's
_PASSWORD_OPTION = re.compile(r"(?:password|passwd|pwd)=", re.IGNORECASE)
_NEXT_OPTION = re.compile(r"&\w+=")
_HALF_A_LINE = 500


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


def in_one_line(words: str) -> str:
    """Return what somebody typed in one line, without what may be user and password, be there line breaks in them."""
    return without_password(" ".join(words.split()))


def without_password(message: str) -> str:
    """Cut user and password from a text that repeats what somebody typed, wherever in a line a URL may stand.

    All from a line's first colon to its last @ may be one. Each line is gone through once, as a server's may be long.
    """
    return "\n".join(map(_line_without_password, message.split("\n")))


def _line_without_password(line: str) -> str:
    spans: list[tuple[int, int]] = []
    place = 0
    while option := _PASSWORD_OPTION.search(line, place):
        following = _NEXT_OPTION.search(line, option.end())
        place = following.start() if following else len(line)
        spans.append((option.end(), place))
    end = line.rfind("@")
    if begin := _BEFORE_CREDENTIALS.search(line, 0, max(end, 0)):
        spans.append((begin.end(), end))
    pieces, done = list[str](), 0
    for first, last in sorted(spans):
        # one may begin within another
        if first >= done:
            pieces += line[done:first], "***"
        done = max(done, last)
    return "".join(pieces) + line[done:]


def printable(text: str) -> str:
    """Replace what would steer a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def error_line(message: str) -> str:
    """Return ``error: …`` in one line, without what may be a password, nor its middle where it is too long."""
    line = printable(in_one_line(message))
    if len(line) > 2 * _HALF_A_LINE:
        line = f"{line[:_HALF_A_LINE]} … {line[-_HALF_A_LINE:]}"
    return f"error: {line}"
