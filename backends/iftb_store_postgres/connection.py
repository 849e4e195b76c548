"""An asyncpg connection that limits the time of every wait and works behind a pooler."""

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

# seconds to wait for the server when a connection is closed
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


# typed as Any because asyncpg's type stubs do not declare its private methods
_Connection: Any = asyncpg.Connection


class BoundedConnection(asyncpg.Connection):
    """A connection that closes within a limited time and records whether an operation is in progress.

    Startup parameters that a pooler refused are set in each transaction.
    """

    #: Whether reads need a transaction too, because a setting that is sent with BEGIN affects their result.
    begins_reads = False
    #: The position up to which the server, a standby, is known to have replayed; see `iftb_store_postgres.standby`.
    replayed = -1
    #: The identifier of the server's cluster in a tuple, or None before it was asked for.
    system: tuple[int | None] | None = None
    _set_local = ""
    _operations = 0
    _stmt_exclusive_section: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # asyncpg numbers statements from 1 in every process: behind a pooler, a client could run another client's statement of
        # the same name
        self._name = secrets.token_hex(4)

    def set_in_transactions(self, settings: Mapping[str, str]) -> None:
        """Send ``settings`` with each BEGIN, so that they apply to that transaction only."""
        self._set_local = set_local(settings)
        self.begins_reads = "search_path" in settings

    @_counted
    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's signature
        """Execute a query; a BEGIN is sent together with the transaction's settings, in one message."""
        if self._set_local and not args and query.startswith("BEGIN"):
            query += self._set_local
        return await super().execute(query, *args, timeout=timeout)

    def _get_unique_id(self, prefix: str) -> str:
        return f"iftb_store_{self._name}{super()._get_unique_id(prefix)}"  # type: ignore[misc]

    def is_busy(self) -> bool:
        """Return whether an operation is in progress on this connection, so that no other may start."""
        return bool(self._operations or self._stmt_exclusive_section._acquired)

    # asyncpg's own lock covers only statements with arguments
    _get_statement = _counted(_Connection._get_statement)
    _copy_in = _counted(_Connection._copy_in)
    _copy_out = _counted(_Connection._copy_out)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        """Close the connection; if the server does not answer in time, asyncpg aborts the connection."""
        with suppress(TimeoutError):
            await super().close(timeout=_FAREWELL if timeout is None else timeout)


async def search_temporary_tables_last(connection: asyncpg.Connection, timeout: float) -> None:  # noqa: ASYNC109
    """Put the schema of temporary tables last in the search_path, so that no temporary table hides a table of iftb-store.

    PostgreSQL searches that schema first unless the search_path names it. The other entries of the search_path are kept, whether
    the URL, the role or the database set them. If none of the schemas in the search_path exists, nothing is changed, because
    PostgreSQL would then create new tables as temporary tables.
    """
    try:
        await connection.execute(_TEMPORARY_LAST, timeout=timeout)
    except BaseException:
        # a cancellation too: the state of the connection is then unknown
        connection.terminate()
        raise


def keep_alive(connection: Any) -> None:
    """Set the socket's keepalive so that the system notices within about a minute that the server's machine is gone.

    This also covers the long statements of a migration.
    """
    end = connection._transport.get_extra_info("socket")
    if end.family not in (socket.AF_INET, socket.AF_INET6):
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        # each operating system has only some of these options
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
