"""Runs calls of the stores one after the other in a session, with the connection of the session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import InvalidRequestError, UnboundExecutionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession

from iftb_store.errors import Unsupported, operational_error
from iftb_store.relational.pool import POOL_IN_USE
from iftb_store.relational.sessions import (
    FIRST_ERROR,
    JOINED,
    explain_closed,
    get_turns,
    list_transactions,
    lost_transaction_error,
)

T = TypeVar("T")


@asynccontextmanager
async def hold_connection(session: AsyncSession) -> AsyncIterator[Any]:
    """Wait for this call's turn in a session, flush pending ORM objects, and yield the session's pooled connection.

    Use the connection only inside the block. Statements sent through its ``driver_connection`` bypass SQLAlchemy; until the
    block ends, SQLAlchemy's own statements wait.

    Raises:
        OperationalError: the pool had no free connection in time, the session has ended, or an earlier error has ended its
            transaction.
        Unsupported: the session is not bound to an engine.
    """
    async with get_turns(session):
        pooled = await _connection_of(session)
        async with pooled.dbapi_connection._execute_mutex:
            yield pooled


async def run_in_turn(session: AsyncSession, work: Callable[[Connection], T]) -> T:
    """Wait for this call's turn in a session, flush pending ORM objects, and run ``work`` with the session's connection.

    ``work`` may run several statements; the session's other calls wait until it ends. It runs as in `AsyncSession.run_sync`.

    Raises:
        OperationalError, Unsupported: as for `hold_connection`.
    """
    async with get_turns(session):
        with explain_closed(session), _explain_no_connection(session):
            if session.new or session.dirty or session.deleted:
                await AsyncSession.flush(session)
            return await AsyncSession.run_sync(session, lambda own: work(own.connection()))


async def _connection_of(session: AsyncSession) -> Any:
    with _explain_no_connection(session):
        if session.new or session.dirty or session.deleted:
            await AsyncSession.flush(session)
        sync = session.sync_session
        known, pooled = sync.info.get(JOINED, (None, None))
        if known != list_transactions(sync) or known[0] is None or not pooled.is_valid:
            # own.connection() also sends the SAVEPOINT of a nested transaction, which SQLAlchemy defers until then
            pooled = await AsyncSession.run_sync(session, lambda own: own.connection().connection)
            sync.info[JOINED] = list_transactions(sync), pooled
        return pooled


@contextmanager
def _explain_no_connection(session: AsyncSession) -> Iterator[None]:
    """Replace SQLAlchemy's errors by those of iftb-store if a session cannot get a connection."""
    try:
        yield
    except PoolTimeout as error:
        raise operational_error(POOL_IN_USE, error) from error
    except UnboundExecutionError as error:
        raise Unsupported("the session is not bound to an engine; create it as AsyncSession(engine)") from error
    except InvalidRequestError as error:
        raise lost_transaction_error(session.sync_session.info.get(FIRST_ERROR) or error) from error
