"""Formats values for messages: as short ASCII text, even if a value is hostile, e.g. has a failing __repr__."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from decimal import Decimal

# the types whose values are shown. For all other types messages show only the type: a repr may raise, or be very long, e.g.
# that of lists that contain each other
_SHOWN = (int, float, Decimal, date, bytes, type(None))
# credentials may follow; the pattern matches also in a mistyped URL, e.g. postgresql:/user:pass word@host
_BEFORE_CREDENTIALS = re.compile(r"://|:(?=\S)")
# the password reaches up to the next option or the end of the line, as it may contain an & or a space that is not
# percent-encoded
_PASSWORD_OPTION = re.compile(r"(?:password|passwd|pwd)=", re.IGNORECASE)
_NEXT_OPTION = re.compile(r"&\w+=")
_HALF_A_LINE = 500


def type_name(value: object) -> str:
    """Return the name of a value's type."""
    return "None" if value is None else type(value).__name__


def show(value: object, limit: int = 60) -> str:
    """Return a value as ASCII text for an error message: long text is cut; for containers and objects only the type is shown."""
    if isinstance(value, str):
        text = ascii(exactly_str(value)[:limit])
        return text if len(value) <= limit and len(text) <= 2 * limit else f"{text[: 2 * limit]}…"
    if not isinstance(value, _SHOWN):
        return f"({type_name(value)})"
    try:
        shown_value = ascii(value)
    except Exception:  # a foreign __repr__ may raise any exception, and Python refuses to convert ints with too many digits
        return f"({type_name(value)})"
    return shown_value if len(shown_value) <= limit + 2 else f"{shown_value[:limit]}…"


def describe_value(value: object) -> str:
    """Return the type and the value for an error message, e.g. ``str 'x'``; None and pandas' missing values by their names."""
    name = type_name(value)
    if value is None:
        return name
    missing = {"NaTType": "NaT", "NAType": "NA"}.get(name)
    return f"{name} {show(value)}" if missing is None else f"{missing}, the missing value of pandas"


def join_names(values: Iterable[str]) -> str:
    """Return names separated by spaces; a name that is empty, contains white space or begins with a quote is quoted."""
    return " ".join(value if value.split() == [value] and value[0] not in "'\"" else repr(value) for value in values)


def exactly_str(value: str) -> str:
    """Return the value as a plain str; of a member of a str enum, this is its value, but str() may return its name."""
    return value if type(value) is str else str.__str__(value)


def is_text(value: str) -> bool:
    """Return whether a str can be encoded as UTF-8, i.e. contains no lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_one_line(words: str) -> str:
    """Return a user's input on one line, with possible credentials hidden, even credentials that contain line breaks."""
    return hide_password(" ".join(words.split()))


def hide_password(message: str) -> str:
    """Replace possible credentials with asterisks in a text that quotes a user's input, e.g. a URL anywhere in a line.

    Everything from a line's first colon to its last @ may be credentials, and so may the value of a password option. Each
    line is scanned once, as it may be long.
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
        # a span that begins inside an earlier span is already replaced
        if first >= done:
            pieces += line[done:first], "***"
        done = max(done, last)
    return "".join(pieces) + line[done:]


def replace_unprintable(text: str) -> str:
    """Replace each unprintable character, e.g. a terminal control character, with U+FFFD (REPLACEMENT CHARACTER)."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def error_line(message: str) -> str:
    """Return ``error: …`` on one line, with possible passwords hidden; a long line is cut in the middle."""
    line = replace_unprintable(to_one_line(message))
    if len(line) > 2 * _HALF_A_LINE:
        line = f"{line[:_HALF_A_LINE]} … {line[-_HALF_A_LINE:]}"
    return f"error: {line}"
