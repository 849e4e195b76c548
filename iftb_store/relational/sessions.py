"""Sessions of a DatabaseManager, on SQLAlchemy: their calls queue, and a clean exit commits every write or raises."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, ClassVar, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import (
    DBAPIError,
    InvalidRequestError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import Session, SessionTransaction

from iftb_store._io.tasks import run_to_end
from iftb_store._io.turns import Turns
from iftb_store.errors import (
    READS_ONLY,
    CommitOutcomeUnknown,
    EngineFailure,
    NotConnectedError,
    StoreError,
    TransientError,
    operational_error,
)
from iftb_store.protocols import Isolation
from iftb_store.relational.open_sessions import DISCONNECTED, ENDED, OpenSessions
from iftb_store.relational.queued_cursor import QueuedCursor
from iftb_store.relational.reads import may_write, refuse_transaction_control

T = TypeVar("T")

FIRST_ERROR = "iftb_store.first_error"
_BEGUN = "iftb_store.begun"
_LOST = "iftb_store.transaction_lost"
_SENT = "iftb_store.sent_begin"
JOINED = "iftb_store.joined"
_TURNS = "iftb_store.turns"
_SESSION = "iftb_store.session"
_PROBES = "iftb_store.probes"
_ISOLATION = "iftb_store.isolation"
_CONNECTION = "iftb_store.connection"
_CLOSED = "iftb_store.closed"
_OF_TRANSACTION = (FIRST_ERROR, _BEGUN, _LOST, _SENT, JOINED, _CONNECTION)
# seconds that a ROLLBACK may take before the connection is discarded
_ROLLBACK_TIME = 5.0
# seconds between two interrupts of a call that has to stop
_INTERRUPT_EVERY = 0.05
_owners: WeakKeyDictionary[Connection, dict[Any, Any]] = WeakKeyDictionary()
# connections that have sent a COMMIT and begun no transaction since, including connections of the application's own sessions
_committing: WeakSet[Connection] = WeakSet()


class Translate(Protocol):
    """Converts a driver's exception into the error to raise; returns None to leave the conversion to SQLAlchemy."""

    def __call__(self, error: BaseException, /, *, lost: bool, committing: bool) -> Exception | None:
        """Convert a driver's ``error``; ``lost``: the connection is closed; ``committing``: a COMMIT was running."""
        ...


class _SyncSession(Session):
    """The synchronous half of a StoreSession; this module's listeners act on it and not on the application's sessions."""

    def get_bind(self, *args: Any, **options: Any) -> Any:
        """Return the engine for a statement; raise OperationalError if the session is closed."""
        _check_open(self)
        return super().get_bind(*args, **options)


class StoreSession(AsyncSession):
    """An AsyncSession that runs its calls one after the other and records the first error of its transaction."""

    sync_session_class = _SyncSession
    iftb_store_backend: Any = None

    async def stream(self, *args: Any, **options: Any) -> Any:
        """Run a statement and return a stream of its rows; each fetch from the stream waits for its turn in the session."""
        async with get_turns(self) as turns:
            try:
                result = await super().stream(*args, **options)
            except PendingRollbackError as error:
                raise lost_transaction_error(self.sync_session.info.get(FIRST_ERROR) or error) from error
            sync: Any = result._real_result
            # an ORM result fetches rows from the cursor of its raw result
            fetched = getattr(sync, "raw", None) or sync
            if getattr(fetched, "cursor", None) is not None:
                fetched.cursor = QueuedCursor(fetched.cursor, turns)
        return result

    async def close(self) -> None:
        """Roll back the transaction and return the connection to the pool; do nothing if the session has ended."""
        if get_turns(self).end_reason is None:
            async with get_turns(self):
                await super().close()

    def begin(self) -> AsyncSessionTransaction:
        """Begin a transaction; its calls wait for their turn like those of the session. See AsyncSession.begin."""
        return _QueuedTransaction(self)

    def begin_nested(self) -> AsyncSessionTransaction:
        """Begin a savepoint; its calls wait for their turn like those of the session. See AsyncSession.begin_nested."""
        return _QueuedTransaction(self, nested=True)

    @property
    def iftb_store_write_lock(self) -> Hashable | None:
        """The key of the engine's write lock if this session's transaction holds the lock, else None."""
        info = self.sync_session.info
        return self.iftb_store_backend.write_lock if _BEGUN in info and _LOST not in info else None

    def iftb_store_holds_connection_of(self, pool: Any) -> bool:
        """Return whether this session has checked out a connection of ``pool``."""
        return _CONNECTION in self.sync_session.info and self.iftb_store_backend.pool is pool

    @property
    def iftb_store_isolated(self) -> bool:
        """Whether the session's first statement begins a transaction even if it only reads, because of the isolation level."""
        return self.sync_session.info[_ISOLATION] not in (None, "read committed")

    @property
    def iftb_store_snapshot(self) -> bool:
        """Whether the session reads a snapshot and refuses writes."""
        return bool(self.sync_session.info[_ISOLATION] == "snapshot")


def _queue_calls(call: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Wrap a method of a session or of a session's transaction so that each call waits for its turn."""

    @functools.wraps(call)
    async def in_turn(self: Any, *args: Any, **options: Any) -> T:
        session: AsyncSession = self if isinstance(self, AsyncSession) else self.session
        async with get_turns(session):
            with explain_closed(session):
                return await call(self, *args, **options)

    return in_turn


@contextmanager
def explain_closed(session: AsyncSession) -> Iterator[None]:
    """Replace errors in the block by OperationalError, if the cause is a disconnect of the manager or a lost transaction."""
    info = session.sync_session.info
    try:
        yield
    except PendingRollbackError as error:
        raise lost_transaction_error(info.get(FIRST_ERROR) or error) from error
    except Exception as error:
        # a disconnect makes a running call fail in any way
        if _CLOSED not in info or isinstance(error, StoreError) or isinstance(getattr(error, "orig", None), EngineFailure):
            raise
        raise operational_error(info[_CLOSED], error) from error


class _QueuedTransaction(AsyncSessionTransaction):
    __slots__ = ()


#: The methods of AsyncSession that reach the driver directly; the other methods call these.
QUEUED = (
    "commit", "connection", "delete", "delete_all", "execute", "flush", "get", "get_one", "invalidate", "merge", "merge_all",
    "refresh", "reset", "rollback", "run_sync", "scalar",
)  # fmt: skip
for _name in QUEUED:
    setattr(StoreSession, _name, _queue_calls(getattr(AsyncSession, _name)))
for _name in ("__aexit__", "commit", "rollback", "start"):
    setattr(_QueuedTransaction, _name, _queue_calls(getattr(AsyncSessionTransaction, _name)))


def get_turns(session: AsyncSession) -> Turns:
    """Return the queue of a session's calls; an application's own session gets a new queue in each event loop that uses it."""
    info = session.sync_session.info
    turns: Turns | None = info.get(_TURNS)
    if turns is None or (turns.is_foreign() and not isinstance(session, StoreSession)):
        turns = info[_TURNS] = Turns()
    return turns


@event.listens_for(_SyncSession, "after_begin")
def _own(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    _owners[connection] = session.info
    session.info[_CONNECTION] = connection


@event.listens_for(_SyncSession, "after_transaction_end")
def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        for key in _OF_TRANSACTION:
            session.info.pop(key, None)


@event.listens_for(_SyncSession, "before_commit")
def _refuse_empty_commit(session: Session) -> None:
    """Raise an error before a COMMIT if an earlier error has ended the transaction; the COMMIT might not raise one."""
    _check_open(session)
    first = session.info.get(FIRST_ERROR)
    if first is None or session.in_nested_transaction():
        return
    if _LOST in session.info:
        raise lost_transaction_error(first)
    if session.info[_PROBES]:
        try:
            session.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise lost_transaction_error(first) from error


def _blame_first(session: Session, last: OperationalError) -> None:
    """Raise an error that names the first error of a transaction, if that error was transient and ended the transaction.

    ``last``, the error of a later statement, says only that the transaction is aborted.
    """
    if isinstance(session.info.get(FIRST_ERROR), TransientError) and not isinstance(last, TransientError | CommitOutcomeUnknown):
        _refuse_empty_commit(session)


def _check_open(session: Session) -> None:
    if _CLOSED in session.info:
        raise operational_error(session.info[_CLOSED])


def note_error(session: AsyncSession, error: BaseException, *, gone: bool) -> None:
    """Record an error in a session's transaction; the first recorded error explains later why the transaction was lost.

    Args:
        session: the session.
        error: the error that was raised.
        gone: whether the engine no longer has the transaction open.
    """
    _note(session.sync_session.info, error, gone)


def before_write(owner: Connection | AsyncSession) -> None:
    """Record that the transaction of a session is about to write; raise an error if the session must not write.

    Args:
        owner: the session that writes, or the SQLAlchemy connection of a session.

    Raises:
        OperationalError: the session is a read-only snapshot, or an earlier error, which the message names, has ended the
            transaction.
    """
    info = owner.sync_session.info if isinstance(owner, AsyncSession) else _owners.get(owner, {})
    if info.get(_ISOLATION) == "snapshot":
        raise operational_error(READS_ONLY)
    _note_write(info)


def _note_write(info: dict[Any, Any]) -> None:
    if _LOST in info:
        raise lost_transaction_error(info[FIRST_ERROR])
    info[_BEGUN] = True


def note_begin(connection: Connection) -> None:
    """Record, until the transaction ends, that the backend itself has sent a BEGIN on a connection."""
    _owners[connection][_SENT] = True


def has_begun(connection: Connection) -> bool:
    """Return whether the backend itself has sent a BEGIN on a connection, see `note_begin`."""
    return _SENT in _owners.get(connection, {})


def is_isolated(connection: Connection) -> bool:
    """Return whether a connection's session is isolated: its first statement begins a transaction even if it only reads."""
    return _owners.get(connection, {}).get(_ISOLATION) not in (None, "read committed")


def find_session(connection: Connection) -> StoreSession | None:
    """Return the manager's session that uses a connection, or None."""
    reference = _owners.get(connection, {}).get(_SESSION)
    return None if reference is None else reference()


def is_snapshot(connection: Connection) -> bool:
    """Return whether the session of a connection reads a snapshot and refuses writes."""
    return bool(_owners.get(connection, {}).get(_ISOLATION) == "snapshot")


def watch(engine: AsyncEngine, translate: Translate, gone: Callable[[Connection, BaseException], bool]) -> None:
    """Record writes and errors of an engine's connections in their sessions, and raise the errors that ``translate`` returns.

    Args:
        engine: the engine to listen to.
        translate: converts a driver's exception into the error to raise.
        gone: returns whether the session's transaction no longer exists after a driver's error: the connection is
            closed, or the engine rolled the transaction back or began a new one (as MariaDB does after a deadlock).
    """

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def _look_at_raw_sql(
        connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        info = _owners.get(connection)
        if info is None:
            return
        refuse_transaction_control(statement)
        if may_write(statement):
            before_write(connection)

    @event.listens_for(engine.sync_engine, "handle_error", retval=True)
    def _note_error(context: ExceptionContext) -> BaseException | None:
        error = context.original_exception
        info = None if context.connection is None else _owners.get(context.connection)
        state = {"lost": context.is_disconnect, "committing": context.connection in _committing}
        translated = translate(error.__cause__ or error, **state) or translate(error, **state)
        if info is not None and context.connection is not None:
            _note(info, translated or error, gone(context.connection, error.__cause__ or error))
        return translated

    event.listen(engine.sync_engine, "begin", _committing.discard)
    event.listen(engine.sync_engine, "commit", _committing.add)


def list_transactions(session: Session) -> tuple[SessionTransaction | None, SessionTransaction | None]:
    """Return the session's transaction and its innermost nested transaction; None if there is none."""
    return session.get_transaction(), session.get_nested_transaction()


def _note(info: dict[Any, Any], error: BaseException, gone: bool) -> None:
    info.setdefault(FIRST_ERROR, error)
    if gone and _BEGUN in info:
        info[_LOST] = True


class Opener(Protocol):
    """The members of a backend that `open_session` uses."""

    #: Whether to run a query before each COMMIT if an error was caught in the transaction: PostgreSQL silently turns the COMMIT
    #: of an aborted transaction into a ROLLBACK.
    probes: ClassVar[bool]
    sessions: OpenSessions[StoreSession]

    def interrupt(self, driver: Any) -> None:
        """Stop the statement that runs on a driver's connection, for drivers that do not stop it when a task is cancelled."""
        ...


@asynccontextmanager
async def open_session(
    backend: Opener, engine: AsyncEngine | None, *, isolation: Isolation | None
) -> AsyncIterator[StoreSession]:
    """Open a session of a manager: commit on a clean exit, roll back on an exception and on cancellation.

    Args:
        backend: the backend that gives the session its stores.
        engine: the engine of the backend, or None if the backend is not connected.
        isolation: the isolation level; above READ COMMITTED, the first statement begins the transaction even if it only reads.

    Raises:
        NotConnectedError: the backend is not connected.
        OperationalError: on a clean exit, if an earlier error, which the message names, has ended the transaction.
    """
    if engine is None:
        raise NotConnectedError("the manager is disconnected; await connect() before you open a session")
    turns = Turns()
    session = StoreSession(engine, expire_on_commit=False, info={_PROBES: backend.probes, _ISOLATION: isolation, _TURNS: turns})
    session.iftb_store_backend = backend
    session.sync_session.info[_SESSION] = weakref.ref(session)
    with backend.sessions.hold(session):
        try:
            try:
                yield session
            except OperationalError as error:
                if _CLOSED in session.sync_session.info:
                    # the interrupted call raised only because close_now() had closed the session; report that instead
                    raise operational_error(session.sync_session.info[_CLOSED], error) from error
                turns.end(ENDED, undone=True)
                async with turns.take_last():
                    await AsyncSession.run_sync(session, _blame_first, error)
                raise
            turns.end(ENDED)
            async with turns.take_last():
                await _commit(session)
        except BaseException as error:
            # a cancellation too: the transaction must not remain
            turns.end(ENDED, undone=True)
            await run_to_end(_abandon(session, backend if isinstance(error, asyncio.CancelledError) else None))
            raise
        finally:
            # otherwise a later use of the session would check out a connection that nobody returns
            session.sync_session.info.setdefault(_CLOSED, ENDED)
        # the commit has already returned the connection, so the synchronous close sends nothing
        session.sync_session.close()


async def _commit(session: StoreSession) -> None:
    first = session.sync_session.info.get(FIRST_ERROR)
    try:
        await AsyncSession.commit(session)
    except InvalidRequestError as error:
        # an earlier flush or commit failed and its error was caught, so there is nothing to commit
        raise lost_transaction_error(first or error) from error
    except DBAPIError as error:
        if first is None or isinstance(error.orig, EngineFailure):
            raise
        raise lost_transaction_error(first) from error


async def _abandon(session: StoreSession, interrupter: Opener | None) -> None:
    """Roll back a session and return its connection to the pool; if that fails, discard the connection. Raise no error."""
    info = session.sync_session.info
    connection: Connection | None = info.get(_CONNECTION)
    try:
        if interrupter is not None and connection is not None and not (connection.invalidated or connection.closed):
            interrupter.interrupt(connection.connection.driver_connection)
        bounded = asyncio.timeout(None if interrupter is None else _ROLLBACK_TIME)
        async with bounded, info[_TURNS].take_last():
            bounded.reschedule(asyncio.get_running_loop().time() + _ROLLBACK_TIME)
            await AsyncSession.close(session)
    except Exception:
        # the rollback failed in any way: the connection is discarded
        with suppress(Exception):
            # the session may have let go of the connection without returning it to the pool
            if connection is not None and not connection.closed:
                await AsyncSession.run_sync(session, lambda _: connection.invalidate())
            await AsyncSession.invalidate(session)
    finally:
        # a session that could not close still refers to its connection, and would keep the connection alive forever
        for key in _OF_TRANSACTION:
            info.pop(key, None)


async def close_now(session: StoreSession, backend: Opener) -> None:
    """Roll back a session that is still open and discard its connection; a later use of the session raises OperationalError."""
    info = session.sync_session.info
    info[_CLOSED] = DISCONNECTED
    info[_TURNS].end(DISCONNECTED, undone=True)
    connection: Connection | None = info.get(_CONNECTION)
    if connection is None or connection.invalidated:
        return
    # the task that opened the session may be inside a call, so session.close() cannot run here
    with suppress(Exception):
        driver = connection.connection.driver_connection
        closing = asyncio.ensure_future(AsyncSession.run_sync(session, lambda _: connection.invalidate()))
        while not closing.done():
            # one interrupt may come too early: the call may start to wait for a lock only afterwards
            backend.interrupt(driver)
            await asyncio.wait([closing], timeout=_INTERRUPT_EVERY)
        closing.result()


def lost_transaction_error(first: BaseException) -> OperationalError:
    """Return the error to raise instead of a COMMIT that would store nothing, because ``first`` has ended the transaction."""
    reason = (str(getattr(first, "orig", None) or first).splitlines() or [type(first).__name__])[0]
    return operational_error(
        f"none of this session's writes were committed: an earlier error ended its transaction ({reason})",
        first,
        transient=isinstance(first, TransientError),
    )
