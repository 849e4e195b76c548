"""The connection pool of a manager; a timeout of the wait for a connection raises iftb_store's OperationalError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util.concurrency import await_

from iftb_store._io.semaphore import FairSemaphore
from iftb_store.errors import operational_error
from iftb_store.relational.open_sessions import own_sessions

POOL_IN_USE = (
    "every connection of the pool is in use, and the wait for one has timed out; close sessions sooner, or raise pool_size"
)
_ALL_OWN = (
    "this task's own open sessions hold every connection of the pool, so that none would ever become free for another call; "
    "use one of the open sessions, or raise pool_size"
)


class StorePool(AsyncAdaptedQueuePool):
    """Hands out connections in order of arrival, checks each at checkout, and resets each at checkin.

    A caller waits at most the pool's timeout, in any event loop. The check and the reset run in this class, which always releases
    the slot of the pool. A cancellation during SQLAlchemy's own checkout and checkin events loses the slot for good (SQLAlchemy
    2.1.9).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._capacity = self.size() + self._max_overflow
        self._places = FairSemaphore(self._capacity)

    def _check_connection(self, record: ConnectionPoolEntry) -> None:
        """Check a connection at checkout; if this method raises, the pool replaces the connection by a new one."""

    def _reset_connection(self, record: ConnectionPoolEntry) -> None:
        """Reset a connection at checkin; if this method raises, the pool discards the connection."""

    def _do_get(self) -> ConnectionPoolEntry:
        own = sum(session.iftb_store_holds_connection_of(self) for session in own_sessions() if hasattr(session, "sync_session"))
        if own >= self._capacity:
            raise operational_error(_ALL_OWN)
        if not await_(self._places.acquire(self._timeout)):
            raise operational_error(POOL_IN_USE)
        try:
            record = super()._do_get()
        except BaseException:
            # a cancellation too: the slot of the pool must not be lost
            self._places.release()
            raise
        try:
            self._discard_on_error(record, self._check_connection)
        except BaseException:
            # a cancellation too: the slot of the pool must not be lost
            self._put_back(record)
            raise
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        try:
            self._discard_on_error(record, self._reset_connection)
        finally:
            self._put_back(record)

    def _put_back(self, record: ConnectionPoolEntry) -> None:
        try:
            super()._do_return_conn(record)
        finally:
            self._places.release()

    @staticmethod
    def _discard_on_error(record: ConnectionPoolEntry, care: Callable[[ConnectionPoolEntry], None]) -> None:
        """Run ``care`` on a connection; if ``care`` raises, discard the connection, so that a new one may take its place."""
        if record.dbapi_connection is None:
            return
        try:
            care(record)
        except BaseException as error:
            # whatever fails, the state of the connection is unknown
            record.invalidate(error)
            if not isinstance(error, Exception):
                raise
