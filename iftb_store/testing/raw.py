"""Helpers that read and write by raw SQL, bypassing the code under test, and decode what the engine returns."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from iftb_store import DatabaseManager

_COMPLEMENT = str.maketrans("0123456789", "9876543210")


async def fetch(db: DatabaseManager, sql: str, **params: Any) -> list[tuple[Any, ...]]:
    """Run one statement in a new session and return its rows."""
    async with db.get_session() as session:
        return [tuple(row) for row in (await session.execute(text(sql), params)).all()]


async def value(db: DatabaseManager, sql: str, **params: Any) -> Any:
    """Run one statement in a new session and return the first column of the first row."""
    return (await fetch(db, sql, **params))[0][0]


async def run(db: DatabaseManager, sql: str, **params: Any) -> None:
    """Run one statement in a new session and commit."""
    async with db.get_session() as session:
        await session.execute(text(sql), params)


async def count(db: DatabaseManager, table: str) -> int:
    """Return the number of committed rows of a table."""
    return int(await value(db, f"SELECT count(*) FROM {table}"))


def moment(stored: Any) -> datetime:
    """Decode a stored time: an aware datetime, a naive one in UTC, or a number of whole microseconds since 1970-01-01 UTC."""
    if isinstance(stored, int):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=stored)
    assert isinstance(stored, datetime), f"a time is stored as {type(stored).__name__}"
    return stored if stored.tzinfo is not None else stored.replace(tzinfo=UTC)


def number(stored: Any) -> Decimal:
    """Decode a stored decimal, which is a Decimal, plain decimal text or sortable text.

    Sortable text begins with a letter for the number of digits. A tilde at the end marks a negative number, whose digits are
    written as their nines' complement.
    """
    if isinstance(stored, Decimal):
        return stored
    assert isinstance(stored, str), f"a decimal is stored as {type(stored).__name__}"
    digits = stored[1:] if stored[0].isalpha() else stored
    return Decimal("-" + digits[:-1].translate(_COMPLEMENT)) if digits.endswith("~") else Decimal(digits)


def json_value(stored: Any) -> Any:
    """Decode stored JSON, which the driver returns as text or already parsed."""
    return json.loads(stored) if isinstance(stored, str) else stored
