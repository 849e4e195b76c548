"""The pool of a manager's connections, whose end of patience is an error of ours on every way to a connection."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from iftb_store.errors import operational_error

POOL_IN_USE = "every connection of the pool is in use, and the wait for one is over; close sessions sooner, or raise pool_size"


class StorePool(AsyncAdaptedQueuePool):
    """Waits in line for a connection, for the pool's timeout at most; looks after it before it is given out and when it is back.

    Both are done here, where a place of the pool is given back whatever happens: a cancellation that falls into SQLAlchemy's own
    events at checkout and at checkin takes the place with it for good (2.1.9).
    """

    def _look(self, record: ConnectionPoolEntry) -> None:
        """Raise where a connection is not to be given out any more; a new one takes its place."""

    def _settle(self, record: ConnectionPoolEntry) -> None:
        """Leave nothing of its last use in a connection; where this raises, it is thrown away."""

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            record = super()._do_get()
        except PoolTimeout as error:
            raise operational_error(POOL_IN_USE, error) from error
        try:
            self._cared_for(record, self._look)
        except BaseException:
            super()._do_return_conn(record)
            raise
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        try:
            self._cared_for(record, self._settle)
        finally:
            super()._do_return_conn(record)

    @staticmethod
    def _cared_for(record: ConnectionPoolEntry, care: Callable[[ConnectionPoolEntry], None]) -> None:
        """Throw a connection away where ``care`` fails; its place stays, for a new one."""
        if record.dbapi_connection is None:
            return
        try:
            care(record)
        except BaseException as error:
            record.invalidate(error)
            if not isinstance(error, Exception):
                raise
