"""The pool of a manager's connections, whose end of patience is an error of ours on every way to a connection."""

from __future__ import annotations

from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from iftb_store.errors import operational_error

POOL_IN_USE = "every connection of the pool is in use, and the wait for one is over; close sessions sooner, or raise pool_size"


class StorePool(AsyncAdaptedQueuePool):
    """Waits in line for a connection, for the pool's timeout at most."""

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            return super()._do_get()
        except PoolTimeout as error:
            raise operational_error(POOL_IN_USE, error) from error
