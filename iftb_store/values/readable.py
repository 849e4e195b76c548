"""Formats values for people: decimals as plain digits, times in UTC, durations, counts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from iftb_store.values.decimals import CONTEXT, format_plain
from iftb_store.values.markup import Markup, table


def format_count(count: int, noun: str) -> str:
    """Return a number and its noun: ``1 bar``, ``43,200 bars``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_number(value: Decimal | None, places: int | None = None) -> str:
    """Return plain digits, rounded half-even to ``places`` if given; an empty text for None."""
    if value is None:
        return ""
    if places is not None and -value.as_tuple().exponent > places:  # type: ignore[operator]
        value = value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN, context=CONTEXT)
    return format_plain(value) or format(value, "f")


def format_moment(value: datetime) -> str:
    """Return a time in UTC for people, with seconds only if it has any: ``2024-02-29 23:59``."""
    utc = value.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(" ", "auto" if utc.second or utc.microsecond else "minutes")


def format_duration(value: timedelta) -> str:
    """Return a duration in its two greatest units, rounded down: ``8d 23h``, ``2h 30m``, ``1m 5s``, ``12s``, ``0.25s``."""
    sign, seconds = ("-", -value) if value < timedelta(0) else ("", value)
    left = seconds // timedelta(seconds=1)
    if not left:
        return f"{sign}{format_number(Decimal(seconds // timedelta(microseconds=1)).scaleb(-6))}s"
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount or parts:
            parts.append(f"{amount}{unit}")
    return sign + " ".join(part for part in parts[:2] if part[0] != "0" or len(parts) == 1)


def describe_in_table(values: Mapping[str, object]) -> Markup:
    """Return an HTML table of named values, as a notebook shows it."""
    return table(["name", "value"], [[name.replace("_", " "), _format_value(value)] for name, value in values.items()])


def _format_value(value: object) -> str:
    if isinstance(value, Decimal):
        return format_number(value)
    if isinstance(value, datetime):
        return f"{format_moment(value)} UTC"
    if isinstance(value, timedelta):
        return format_duration(value)
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
