"""Runs work in a task without a parent: sessions of the test's task are those of another task to it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


async def as_stranger(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in a task without a parent and return its result."""
    return await asyncio.create_task(work, context=Context())
