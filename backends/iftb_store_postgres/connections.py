"""What an asyncpg connection of ours does otherwise: it waits for nothing without a bound."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import asyncpg

# seconds
_FAREWELL = 2.0
_TEMPORARY_LAST = """
    SELECT pg_catalog.set_config('search_path', pg_catalog.concat(pg_catalog.current_setting('search_path'), ', pg_temp'), false)
    WHERE pg_catalog.current_schema() IS NOT NULL
        AND pg_catalog.strpos(pg_catalog.current_setting('search_path'), 'pg_temp') OPERATOR(pg_catalog.=) 0"""


class BoundedConnection(asyncpg.Connection):
    """Waits a bounded time for its server's farewell."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        """Close; where the server stays silent, asyncpg has cut the connection then."""
        with suppress(TimeoutError):
            await super().close(timeout=_FAREWELL if timeout is None else timeout)


async def look_in_temporary_tables_last(connection: asyncpg.Connection, timeout: float) -> None:  # noqa: ASYNC109
    """Let no temporary table stand before ours of its name; their schema comes first in a search_path that does not name it.

    The rest of the search_path stays, be it the URL's, the role's or the database's. Where it names no schema that is there,
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
