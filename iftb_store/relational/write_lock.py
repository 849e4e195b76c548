"""Takes the write lock of an engine with one writer at a time before a transaction's first write; reads run in autocommit."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from time import monotonic
from typing import Any, ClassVar, Protocol

from sqlalchemy import Connection
from sqlalchemy.util.concurrency import await_

from iftb_store.errors import TransientError
from iftb_store.relational.open_sessions import blame_parent, check_own_lock
from iftb_store.relational.reads import is_read, may_write
from iftb_store.relational.sessions import (
    StoreSession,
    before_write,
    find_session,
    has_begun,
    is_isolated,
    is_snapshot,
    note_begin,
)

# seconds between two attempts to take the lock
_AGAIN = 0.01


class OneWriter(Protocol):
    """The members of a backend that this module uses; see `iftb_store.relational.SqlBackend`."""

    #: The statement that takes the write lock.
    begin: ClassVar[str]

    @property
    def lock_timeout(self) -> float:
        """Seconds to wait for the write lock."""
        ...

    @property
    def write_lock(self) -> Hashable:
        """The key of the write lock."""
        ...

    def translate(self, error: BaseException, /, *, lost: bool, committing: bool) -> Exception | None:
        """Return the error for a driver's exception."""
        ...


def take_lock_before_writes(
    connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    """Begin a transaction with the write lock before a session's first write, or an isolated session's first statement."""
    session = find_session(connection)
    if session is None:
        return
    only_reads = is_snapshot(connection)
    reads = is_read(statement) or (only_reads and not may_write(statement))
    if reads and not is_isolated(connection):
        return
    if not only_reads and not has_begun(connection):
        check_own_lock(session.iftb_store_backend.write_lock, session)
    if not (reads and only_reads):
        before_write(connection)
    if has_begun(connection):
        return
    backend = session.iftb_store_backend
    if only_reads:
        _execute(connection, backend.begin_snapshot)
    else:
        take_lock(backend, connection, session)
    note_begin(connection)


def take_lock(backend: OneWriter, connection: Connection, session: StoreSession | None) -> None:
    """Begin a transaction with the write lock; wait at most the backend's ``lock_timeout``.

    Raises:
        TransientError: another writer held the lock until the wait timed out.
        OperationalError: a session of the parent task, which may be waiting for this task, holds the lock; or the engine failed.
    """
    deadline = monotonic() + backend.lock_timeout
    while True:
        try:
            _execute(connection, backend.begin)
            return
        except Exception as error:
            # the backend knows the exceptions of its driver
            raised = backend.translate(error.__cause__ or error, lost=False, committing=False) or error
            if not isinstance(raised, TransientError) or monotonic() >= deadline:
                if isinstance(raised, TransientError):
                    raise blame_parent(raised, backend.write_lock, session) from error
                raise raised from error
        # a wait in the driver's thread could not be cancelled
        await_(asyncio.sleep(_AGAIN))


def _execute(connection: Connection, statement: str) -> None:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()
