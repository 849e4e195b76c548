"""What an asyncpg connection of ours does otherwise: it waits for nothing without a bound, and works behind a pooler."""

from __future__ import annotations

import functools
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, cast

import asyncpg

from iftb_store_postgres.poolers import set_local

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

# seconds
_FAREWELL = 2.0
_TEMPORARY_LAST = """
    SELECT pg_catalog.set_config('search_path', pg_catalog.concat(pg_catalog.current_setting('search_path'), ', pg_temp'), false)
    WHERE pg_catalog.current_schema() IS NOT NULL
        AND pg_catalog.strpos(pg_catalog.current_setting('search_path'), 'pg_temp') OPERATOR(pg_catalog.=) 0"""


def _counted(operation: F) -> F:
    @functools.wraps(operation)
    async def counted(self: Any, *args: Any, **options: Any) -> Any:
        self._operations += 1
        try:
            return await operation(self, *args, **options)
        finally:
            self._operations -= 1

    return cast("F", counted)


# whose private methods its types do not tell of
_Connection: Any = asyncpg.Connection


class BoundedConnection(asyncpg.Connection):
    """Waits a bounded time for its server's farewell, and knows whether an operation is in progress.

    What a pooler refused at the start is set in each transaction.
    """

    #: Whether reads need a transaction too, for a setting that their meaning depends on.
    begins_reads = False
    _set_local = ""
    _operations = 0
    _stmt_exclusive_section: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # asyncpg counts from 1 in every process: behind a pooler one client would run a statement of another's by its name
        self._name = secrets.token_hex(4)

    def set_in_transactions(self, settings: Mapping[str, str]) -> None:
        """Send these settings with each BEGIN, for its transaction alone."""
        self._set_local = set_local(settings)
        self.begins_reads = "search_path" in settings

    @_counted
    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's signature
        """Execute; a BEGIN takes the transaction's settings along, in the same message."""
        if self._set_local and not args and query.startswith("BEGIN"):
            query += self._set_local
        return await super().execute(query, *args, timeout=timeout)

    def _get_unique_id(self, prefix: str) -> str:
        return f"iftb_store_{self._name}{super()._get_unique_id(prefix)}"  # type: ignore[misc]

    def is_busy(self) -> bool:
        """Tell whether a task is in the middle of an operation, which any other one would get in the way of."""
        return bool(self._operations or self._stmt_exclusive_section._acquired)

    # asyncpg itself tells so of statements with arguments only
    _get_statement = _counted(_Connection._get_statement)
    _copy_in = _counted(_Connection._copy_in)
    _copy_out = _counted(_Connection._copy_out)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        """Close; where the server stays silent, asyncpg has cut the connection then."""
        with suppress(TimeoutError):
            await super().close(timeout=_FAREWELL if timeout is None else timeout)


async def look_in_temporary_tables_last(connection: asyncpg.Connection, timeout: float) -> None:  # noqa: ASYNC109
    """Let no temporary table stand before ours of its name; their schema comes first in a search_path that does not name it.

    The rest of the search_path stays, whether the URL, the role or the database set it. Where it names no schema that is there,
    nothing is changed, or new tables would become temporary ones.
    """
    try:
        await connection.execute(_TEMPORARY_LAST, timeout=timeout)
    except BaseException:
        connection.terminate()
        raise


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
