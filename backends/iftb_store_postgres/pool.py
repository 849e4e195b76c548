"""The connection pool of PostgreSQL: checks that a connection works at checkout, and that no transaction is open at checkin."""

from __future__ import annotations

import select
from time import monotonic
from typing import Any

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from iftb_store.errors import operational_error
from iftb_store.relational import StorePool
from iftb_store_postgres.errors import translate

FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

# a connection that was used within this many seconds is handed out without a ping
_FRESH = 1.0
_PING_TIMEOUT = 5.0
_USED = "iftb_store.used"
_NOT_OWN = (
    "the transaction was ended by something other than its session, e.g. a COMMIT in SQL; whether its writes are stored is "
    "unknown"
)


class PostgresPool(StorePool):
    """A pool that pings a connection at checkout only if it was idle or has received data; SQLAlchemy's own ping takes longer."""

    def _check_connection(self, record: ConnectionPoolEntry) -> None:
        adapter: Any = record.dbapi_connection
        driver = adapter.driver_connection
        if driver.is_closed():
            raise DisconnectionError
        idle = monotonic() - record.info.get(_USED, monotonic())
        if idle < _FRESH and not _has_unread_data(driver):
            return
        adapter.run_async(_ping)

    def _reset_connection(self, record: ConnectionPoolEntry) -> None:
        record.info[_USED] = monotonic()
        adapter: Any = record.dbapi_connection
        if (driver := adapter.driver_connection).is_closed():
            return
        if driver._cancellations and not driver.is_busy():
            # a statement was cancelled while it ran, perhaps a COMMIT
            adapter.run_async(_end_transaction)
        if driver.is_busy() or driver.is_in_transaction() or driver._top_xact is not None:
            # another task still uses the connection, or a BEGIN was cancelled: the server or asyncpg may then have a transaction
            # open that SQLAlchemy does not know of
            record.invalidate()


def check_before_commit(connection: Connection) -> None:
    """Raise before a COMMIT if the server has ended the connection: afterwards the outcome of the COMMIT would be unknown.

    Also raise if the session's own transaction has ended, or if the COMMIT would not end it: PostgreSQL reports success even
    for a COMMIT outside a transaction.

    Raises:
        OperationalError: the connection does not answer, or the session's own transaction has ended.
    """
    adapter: Any = connection.connection.dbapi_connection
    driver = adapter.driver_connection
    own = adapter._transaction
    if own is not None and not driver.is_closed() and (own._nested or not driver.is_in_transaction()):
        raise operational_error(_NOT_OWN)
    if not driver.is_closed() and not _has_unread_data(driver):
        return
    try:
        adapter.run_async(_ping)
    except FAILURES as error:
        raise translate(error, lost=driver.is_closed()) or error from error


def _has_unread_data(driver: Any) -> bool:
    """Return whether unread data has arrived, as when the server ends a connection; True on systems without poll()."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(driver._transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _end_transaction(connection: asyncpg.Connection) -> None:
    # asyncpg first waits until the cancelled statement has ended
    await connection.execute("ROLLBACK", timeout=_PING_TIMEOUT)


async def _ping(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT 1", timeout=_PING_TIMEOUT)
