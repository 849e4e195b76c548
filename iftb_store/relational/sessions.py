"""Sessions of a manager on SQLAlchemy: an AsyncSession that never commits nothing in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from iftb_store.errors import operational_error

_FIRST_ERROR = "iftb_store.first_error"
_BEGUN = "iftb_store.begun"
_LOST = "iftb_store.transaction_lost"
_owners: WeakKeyDictionary[Connection, dict[Any, Any]] = WeakKeyDictionary()

#: Turns a driver's exception into the error to raise instead, or None to leave it to SQLAlchemy.
Translate = Callable[[BaseException], Exception | None]


class _SyncSession(Session):
    """The synchronous half of a StoreSession; the listeners below watch no session of the app's."""


class StoreSession(AsyncSession):
    """An AsyncSession that knows its backend and remembers the first error of its transaction."""

    sync_session_class = _SyncSession
    iftb_store_backend: Any = None


@event.listens_for(_SyncSession, "after_begin")
def _own(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    _owners[connection] = session.info


@event.listens_for(_SyncSession, "after_commit")
@event.listens_for(_SyncSession, "after_rollback")
def _forget(session: Session) -> None:
    for key in (_FIRST_ERROR, _BEGUN, _LOST):
        session.info.pop(key, None)


def note_error(session: AsyncSession, error: BaseException, *, gone: bool) -> None:
    """Remember the first error of a session's transaction; ``gone``: the engine has no transaction open any more."""
    _note(session.sync_session.info, error, gone)


def before_write(owner: Connection | AsyncSession) -> None:
    """Note that a transaction begins or goes on with a write; let none follow where an error took the transaction.

    Raises:
        OperationalError: naming the error that took the transaction.
    """
    info = owner.sync_session.info if isinstance(owner, AsyncSession) else _owners.get(owner, {})
    if _LOST in info:
        raise _lost_transaction(info[_FIRST_ERROR])
    info[_BEGUN] = True


def watch(engine: AsyncEngine, translate: Translate, gone: Callable[[Connection], bool]) -> None:
    """Note errors of an engine's connections with their sessions, and raise what the backend's table says instead.

    ``gone`` tells of a connection whether the engine has no transaction open on it.
    """

    @event.listens_for(engine.sync_engine, "handle_error", retval=True)
    def _noted(context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        translated = translate(error.__cause__ or error) or translate(error)
        if context.connection is not None and context.connection in _owners:
            _note(_owners[context.connection], translated or error, gone(context.connection))
        return translated


def _note(info: dict[Any, Any], error: BaseException, gone: bool) -> None:
    info.setdefault(_FIRST_ERROR, error)
    if gone and _BEGUN in info:
        info[_LOST] = True


async def finish(session: AsyncSession, *, probe: bool) -> None:
    """Commit; where an error was caught before and the transaction went with it, roll back and say so.

    Args:
        session: the session of a clean exit.
        probe: ask the engine whether the transaction still stands (PostgreSQL turns the COMMIT of an aborted one into a
            ROLLBACK without a word).

    Raises:
        OperationalError: the transaction was lost to an earlier error, which it names.
    """
    info = session.sync_session.info
    first = info.get(_FIRST_ERROR)
    if first is None:
        await session.commit()
        return
    try:
        if _LOST in info:
            raise _lost_transaction(first)
        await session.flush()
        if probe:
            await session.execute(text("SELECT 1"))
        await session.commit()
    except (DBAPIError, PendingRollbackError) as error:
        await session.rollback()
        raise _lost_transaction(first) from (first if isinstance(first, Exception) else error)


def _lost_transaction(first: BaseException) -> OperationalError:
    reason = (str(getattr(first, "orig", None) or first).splitlines() or [""])[0]
    return operational_error(f"nothing of this session was committed: its transaction was lost to an earlier error ({reason})")
