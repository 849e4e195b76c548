"""Stores that the tests of transfers share."""

from __future__ import annotations

import asyncio

import json

import os

import re

import signal

from collections.abc import Callable, Iterator

from datetime import timedelta

from decimal import Decimal

from itertools import product

from pathlib import Path

from typing import Any

import pytest

from sqlalchemy import make_url

from iftb_store import DatabaseManager, OHLCVRepository, PositionRepository, StoreError, SystemEventRepository, TradeRepository

from iftb_store.registry import get_stores

from iftb_store.schema.scope import TABLES

from iftb_store.schema.table_spec import RowFilter

from iftb_store.testing import raw

from iftb_store.testing.samples import HOUR, NOW, T0, Clock, bar, hourly, position, trade

from iftb_store.transfer import conflicts as collisions

from iftb_store.transfer import copy as copying

from iftb_store.transfer import diff

from iftb_store.transfer import plan as partitions

from iftb_store.transfer.copy import Copy, prepare

from tests.conftest import Run

from tests.support.filled import ROWS, fill

from tests.transfer.copies import ENGINES, LATER, moved, contents, change, write, grow, own_bars


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

