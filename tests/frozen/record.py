"""Rows as the JSON of a frozen record: decimals and times as text, so that two rows are equal if their records are."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any


def record_of(row: Any) -> dict[str, Any]:
    """Return a row by column: decimals with 18 places, times in UTC with microseconds, JSON objects as they are read."""
    columns = row if isinstance(row, dict) else asdict(row)
    return {name: _record(value) for name, value in columns.items()}


def exact_text(record: dict[str, Any]) -> str:
    """Return the text by which records are compared: to Python 1 is 1.0 and True, and 0.0 is -0.0."""
    return json.dumps(record, sort_keys=True)


def _record(value: Any) -> Any:
    if isinstance(value, Decimal):
        # text needs no decimal context; adding 18 places would round to the default context's 28 digits
        digits = format(value, "f") if value else "0"
        whole, _, places = digits.partition(".")
        return f"{whole}.{places:0<18}"
    if isinstance(value, datetime):
        assert value.tzinfo is not None, f"{value!r} names no zone"
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, dict):
        # Decimals and times in it become text, tuples arrays
        return json.loads(json.dumps(value, default=lambda item: item.isoformat() if isinstance(item, datetime) else str(item)))
    return value
