"""What an asyncpg connection of ours does otherwise: it waits for nothing without a bound."""

from __future__ import annotations

import functools
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

# seconds
_FAREWELL = 2.0


def _counted(operation: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(operation)
    async def counted(self: Any, *args: Any, **options: Any) -> Any:
        self._operations += 1
        try:
            return await operation(self, *args, **options)
        finally:
            self._operations -= 1

    return counted


# whose private methods its types do not tell of
_Connection: Any = asyncpg.Connection


class BoundedConnection(asyncpg.Connection):
    """Waits a bounded time for its server's farewell, and knows whether an operation is in progress."""

    _operations = 0
    _stmt_exclusive_section: Any

    def is_busy(self) -> bool:
        """Tell whether a task is in the middle of an operation, which any other one would get in the way of."""
        return bool(self._operations or self._stmt_exclusive_section._acquired)

    # asyncpg itself tells so of statements with arguments only
    execute: Any = _counted(_Connection.execute)
    _get_statement = _counted(_Connection._get_statement)
    _copy_in = _counted(_Connection._copy_in)
    _copy_out = _counted(_Connection._copy_out)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        """Close; where the server stays silent, asyncpg has cut the connection then."""
        with suppress(TimeoutError):
            await super().close(timeout=_FAREWELL if timeout is None else timeout)


def keep_alive(connection: Any) -> None:
    """Have the system notice within about a minute that a server's machine is gone, also in a migration's long statement."""
    end = connection._transport.get_extra_info("socket")
    if end.family not in (socket.AF_INET, socket.AF_INET6):
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        # each system has its own
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
