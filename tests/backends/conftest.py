"""What the tests of the backends share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Any]:
    """A connection of asyncpg to the test's database, beside the store's."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()
