"""SQL for decimals that SQLite stores as sortable text: conditions that find invalid values, expressions that convert text.

`iftb_store.values.decimals.to_sortable` defines the text.
"""

from __future__ import annotations

from iftb_store.schema.views import complement_digits
from iftb_store.values.decimals import INTEGER_DIGITS, SCALE


def _malformed(digits: str, end: str, zero: str) -> str:
    """Return the SQL condition that a sortable text is malformed: what follows the first letter is not a well-formed number.

    A well-formed number has exactly the number of digits that the letter stands for, then optionally a point and up to 18 more
    digits. One pass of GLOB is cheap, but cutting text is not, and this condition runs over every decimal of a database.

    Args:
        digits: an SQL expression for the number of digits before the point.
        end: the character that ends a negative number; empty for others.
        zero: the digit that stands for a zero, which must not begin a longer number or end a fraction.
    """
    closing = len(end)
    return (
        f"{{0}} GLOB '?*[^0-9.]*{'?' * closing}' OR ({{0}} GLOB '?{zero}*' AND {digits} > 1)"
        f" OR CASE instr({{0}}, '.') WHEN 0 THEN length({{0}}) <> {digits} + {1 + closing}"
        f" WHEN {digits} + 2 THEN length({{0}}) - {digits} NOT BETWEEN {3 + closing} AND {SCALE + 2 + closing}"
        f" OR {{0}} GLOB '*{zero}{end}' OR {{0}} GLOB '*.*.*' ELSE 1 END"
    )


_LETTER = "unicode({0})"
_NON_NEGATIVE = _malformed(f"({_LETTER} - 96)", "", "0")
_NEGATIVE = _malformed(f"(85 - {_LETTER})", "~", "9")

#: The condition that a value (not NULL) is not a valid sortable text.
UNSORTABLE = (
    f"(typeof({{0}}) <> 'text' OR CASE WHEN {_LETTER} BETWEEN 97 AND {96 + INTEGER_DIGITS} THEN {_NON_NEGATIVE}"
    f" WHEN {_LETTER} BETWEEN {85 - INTEGER_DIGITS} AND 84 THEN {{0}} NOT GLOB '*~' OR {{0}} = 'T9~' OR {_NEGATIVE}"
    " ELSE 1 END)"
)


_BODY = "ltrim({0}, '-')"
_POINT = f"instr({_BODY} || '.', '.')"
# the digits before and after the point, without leading and trailing zeros
_WHOLE = f"ltrim(substr({_BODY}, 1, {_POINT} - 1), '0')"
_FRACTION = f"rtrim(substr({_BODY}, {_POINT} + 1), '0')"
_IS_PLAIN = (
    "typeof({0}) = 'text' AND {0} GLOB '*[0-9]*' AND {0} NOT GLOB '*[^0-9.-]*' AND {0} NOT GLOB '?*-*' AND {0} NOT GLOB '*.*.*'"
    f" AND length({_WHOLE}) <= {INTEGER_DIGITS} AND length({_FRACTION}) <= {SCALE}"
)

_DIGITS = f"max(length({_WHOLE}), 1)"
_NUMBER = f"substr('0' || {_WHOLE}, -{_DIGITS}) || rtrim('.' || {_FRACTION}, '.')"

#: For decimals in plain digits, e.g. 1.5, that are within the limits: the condition, and the expression for `to_sortable`.
PLAIN = f"({_IS_PLAIN} AND {{0}} NOT GLOB '-*[1-9]*')"
AS_SORTABLE = f"char(96 + {_DIGITS}) || {_NUMBER}"
PLAIN_NEGATIVE = f"({_IS_PLAIN} AND {{0}} GLOB '-*[1-9]*')"
AS_SORTABLE_NEGATIVE = f"char(85 - {_DIGITS}) || {complement_digits(_NUMBER)} || '~'"
