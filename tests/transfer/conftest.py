"""Stores that the tests of transfers share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVRepository
from iftb_store.testing.samples import T0, bar, hourly
from tests.support.filled import fill
from tests.transfer.copies import write


@pytest.fixture
def second(
    tmp_path: Path, postgres_server: str, postgres_connection: Callable[[str], Callable[[str], None]]
) -> Iterator[Callable[[str], str]]:
    """Return the URL of a new destination on an engine; if the source is on PostgreSQL too, it is another database."""
    made: list[str] = []

    def fresh(engine: str) -> str:
        if engine != "postgres":
            return f"{engine}:///{tmp_path / f'destination.{engine}'}"
        name = f"iftb_copy_{os.getpid()}_{len(made)}"
        postgres_connection(postgres_server)(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        made.append(name)
        return make_url(postgres_server).set(database=name).render_as_string(hide_password=False)

    yield fresh
    for name in made:
        postgres_connection(postgres_server)(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def source(tmp_path: Path) -> str:
    """URL of a SQLite file that holds what `fill` writes."""
    url = f"sqlite:///{tmp_path / 'source.db'}"
    asyncio.run(fill(url))
    return url


@pytest.fixture
def bars(tmp_path: Path) -> str:
    """URL of a SQLite file with five days of bars of a series, and one bar of another."""
    url = f"sqlite:///{tmp_path / 'bars.db'}"

    async def fill_bars(db: DatabaseManager, clock: Any) -> None:
        await OHLCVRepository(db).insert_many(hourly(24 * 5))
        await OHLCVRepository(db).insert_many([bar(T0, symbol="ETHUSDT")])

    write(url, fill_bars)
    return url
