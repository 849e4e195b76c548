"""A session on DuckDB: reads run in autocommit until the first write; then one transaction holds the write lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any, TypeVar

import duckdb
from sqlalchemy import Executable, Result
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store.columnar import (
    Compiled,
    Cursor,
    PooledSession,
    compile_statement,
    fetch_result,
    lost_writes_error,
    parse_statement,
    run_in_thread,
)
from iftb_store.errors import READS_ONLY, SchemaError, StoreError, operational_error
from iftb_store.protocols import Isolation
from iftb_store.relational import ENDED, FairSemaphore, blame_parent, check_own_lock
from iftb_store_duckdb.connection import Database
from iftb_store_duckdb.errors import map_error

T = TypeVar("T")


class DuckDBSession(PooledSession):
    """The session that `DatabaseManager.get_session` yields on DuckDB; it is used like an AsyncSession.

    Before the first write, each read sees everything that is committed. The first write waits for the write lock, which all
    sessions of this process on the file share, and holds it until commit, rollback or the end of the session. An isolated session
    takes the lock for its first statement, even for a read, so that nothing that it has read changes before it commits.
    """

    def __init__(
        self,
        database: Database,
        cursor: Cursor,
        executor: Executor,
        isolation: Isolation | None,
    ) -> None:
        super().__init__(cursor, executor, isolation, database.options.busy_timeout)
        self._database = database
        self._lock = database.lock
        self._reading = self._writing = False

    async def execute(self, statement: Executable, params: Any = None, /) -> Result[Any]:
        """Run one statement, e.g. ``text("SELECT … WHERE symbol = :symbol")`` with a dict of parameters.

        A statement that might write takes the write lock first. Times are returned as aware UTC datetimes, decimals as Decimals.

        Raises:
            IntegrityError: the statement violates a constraint; the transaction is rolled back.
            OperationalError: the statement fails for another reason. An open transaction is rolled back; before the first write
                there is none, so the session stays usable.
            Unsupported: the text contains several statements, or one that begins or ends a transaction.
        """
        wanted = compile_statement(statement, params)
        async with self._turns:
            self._check_usable()
            await self._begin_if_isolated()
            inside = self._writing or self._reading
            done = await self._driver(lambda cursor: _read(cursor, wanted, inside=inside))
            if isinstance(done, Result):
                return done
            await self._begin()
            return await self._driver(lambda cursor: fetch_result(cursor, done, wanted))

    async def _commit(self) -> None:
        self._check_usable()
        await self._end_reading()
        if not self._writing:
            return
        try:
            await run_in_thread(self._executor, self._cursor.commit)
        except duckdb.Error as error:
            raise await self._lose(map_error(error)) from error
        except asyncio.CancelledError:
            await self._end()
            raise
        self._release()

    async def rollback(self) -> None:
        """Undo all writes since the last commit; the session continues in a new transaction."""
        async with self._turns:
            self._lost = None
            await self._end_reading()
            if self._writing:
                await self._end()

    async def run(self, work: Callable[[Cursor], T], *, write: bool = False) -> T:
        """Run ``work`` in a thread with the session's cursor, and return its result.

        With ``write``, first take the write lock and begin a transaction, unless the session has done so already.

        Raises:
            SchemaError: the tables are missing or are at another revision.
        """
        async with self._turns:
            self._check_usable()
            if not self._database.schema_checked:
                context, check = copy_context(), self._database.check_schema
                is_current = await self._driver(lambda cursor: context.run(check, cursor))
                # a schema that is not committed yet proves nothing to the next session
                self._database.schema_checked = is_current and not self._writing
            await self._begin_if_isolated()
            if write:
                await self._begin()
            try:
                return await self._driver(work)
            except OperationalError as error:
                if isinstance(error.__cause__, duckdb.CatalogException):
                    url = self._database.shown_url
                    raise SchemaError(
                        f"a table of iftb-store is missing; run `iftb-store migrate {url}` or await db.migrate()"
                    ) from error
                raise

    async def _discard(self, reason: str) -> None:
        try:
            if self._writing:
                self._lost = operational_error(reason)
                await self._end()
        finally:
            await run_in_thread(self._executor, self._cursor.close)

    @property
    def writing(self) -> bool:
        """Whether a transaction that may write is open; an error in it ends the transaction."""
        return self._writing

    @property
    def iftb_store_write_lock(self) -> FairSemaphore | None:
        """The write lock of the database if this session holds it, else None."""
        return self._lock if self._writing else None

    async def _begin_if_isolated(self) -> None:
        """Begin the transaction of an isolated or a snapshot session before its first statement, even if that only reads.

        An isolated session's transaction takes the write lock; a snapshot session's transaction can only read.
        """
        if self._isolated:
            await self._begin()
        if self._only_reads and not self._reading:
            await self._driver(Cursor.begin_reading)
            self._reading = True

    async def _end_reading(self) -> None:
        if self._reading:
            self._reading = False
            await run_in_thread(self._executor, self._cursor.rollback)

    async def _begin(self) -> None:
        if self._only_reads:
            raise operational_error(READS_ONLY)
        if self._writing:
            return
        check_own_lock(self._lock, self)
        granted = await self._wait_for(self._lock)
        if self._turns.undone:
            raise operational_error(self._turns.end_reason or ENDED)
        if not granted:
            late = operational_error(
                f"another session of this process is writing and did not finish within {self._busy_timeout:g} s; "
                "keep transactions short, or raise the URL's busy_timeout",
                transient=True,
            )
            raise blame_parent(late, self._lock, self)
        self._writing = True
        # a transaction that began before the lock was granted would not see what the last writer committed
        await self._driver(self._database.begin)

    async def _driver(self, work: Callable[[Cursor], T]) -> T:
        try:
            return await run_in_thread(self._executor, lambda: work(self._cursor), self._cursor.interrupt)
        except duckdb.Error as error:
            raise await self._lose(map_error(error)) from error
        except (IntegrityError, StoreError):
            raise
        except BaseException as error:
            # a cancellation too: the state of the transaction is then unknown
            await self._lose(operational_error(f"a statement was interrupted ({type(error).__name__})", error))
            raise

    async def _lose(self, failure: IntegrityError | OperationalError) -> IntegrityError | OperationalError:
        if self._writing:
            # set before the rollback, because this task may be cancelled during it
            self._lost = lost_writes_error(failure.orig, failure)
            await self._end()
        return failure

    async def _end(self) -> None:
        try:
            await run_in_thread(self._executor, self._cursor.rollback)
        finally:
            self._release()

    def _release(self) -> None:
        self._writing = False
        self._lock.release()


def _read(cursor: Cursor, wanted: Compiled, *, inside: bool) -> Result[Any] | duckdb.Statement:
    """Run a statement if it only reads, and return its result; otherwise return the parsed statement without running it.

    If ``inside`` is true, the statement runs in the open transaction. Otherwise it runs in a read-only transaction, because in
    autocommit a write would take effect.
    """
    statement, reads = parse_statement(cursor, wanted.sql)
    if not reads:
        return statement
    try:
        if inside:
            return fetch_result(cursor, statement, wanted)
        cursor.begin_reading()
        try:
            return fetch_result(cursor, statement, wanted)
        finally:
            cursor.rollback()
    except duckdb.Error as error:
        if not cursor.would_write(error):
            raise
        return statement
