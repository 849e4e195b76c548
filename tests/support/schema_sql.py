"""Migrates a database and runs SQL in it, each in a new manager; for the tests of the schema's history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, text

from iftb_store import DatabaseManager
from iftb_store.abilities import SupportsMigrations

T = TypeVar("T")

#: A row as every revision stores it.
ROW = "INSERT INTO system_events (event_type, severity, message) VALUES ('start', 'info', 'kept')"


async def run(url: str, work: Callable[[Connection], T]) -> T:
    async with DatabaseManager(url) as db:
        return await db.ability(SupportsMigrations).with_connection(work)


async def sql(url: str, *statements: str) -> None:
    await run(url, lambda conn: [conn.execute(text(statement)) for statement in statements] and None)


async def scalars(url: str, query: str) -> list[Any]:
    return await run(url, lambda conn: list(conn.execute(text(query)).scalars()))
