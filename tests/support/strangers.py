"""Work in a task that descends from no other: what is open in the test's own task is another's to it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


async def as_stranger(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in such a task and return its result."""
    return await asyncio.create_task(work, context=Context())
