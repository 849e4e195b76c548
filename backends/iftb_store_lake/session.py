"""A session on a lake: it reads the newest or one fixed version, and keeps its writes private until one commit stores them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
from sqlalchemy import Executable, Result
from sqlalchemy.exc import IntegrityError, OperationalError

from iftb_store.batches.bars import KEY
from iftb_store.columnar import (
    WHOLE,
    Bounds,
    Cursor,
    PooledSession,
    compile_statement,
    fetch_result,
    lost_writes_error,
    parse_statement,
    read_newest,
    run_in_thread,
    select_recent,
    write_lock,
)
from iftb_store.errors import (
    NO_RAW_WRITES,
    READS_ONLY,
    CommitOutcomeUnknown,
    Unsupported,
    operational_error,
    outcome_unknown,
)
from iftb_store.models import OHLCVBar
from iftb_store.protocols import Isolation
from iftb_store.relational import FairSemaphore
from iftb_store.schema.table_spec import RowFilter
from iftb_store_lake.cluster_reads import ClusterReads
from iftb_store_lake.commit import Commit
from iftb_store_lake.connection import Lake
from iftb_store_lake.errors import map_error
from iftb_store_lake.layout import COLUMNS
from iftb_store_lake.pending import Fresh, clear_pending, complete, create_pending
from iftb_store_lake.snapshot import Snapshot, find_bounds
from iftb_store_lake.view import View

T = TypeVar("T")

_ANALYZE = re.compile(r"\banaly[sz]e\b", re.IGNORECASE)


class LakeSession(PooledSession):
    """The session that `DatabaseManager.get_session` yields on a lake; ``session.execute`` only reads.

    Before the first write, each read sees everything that is committed. The first write that reads, the first read after a write,
    or the first statement of an isolated session, fixes the version that the session reads. The commit stores all writes at once.
    If other clients have committed first, it is tried again, or fails if they changed what this session depends on. An isolated
    session depends on the whole version that it reads; another session depends on the bars that it writes, if it has read since
    its first write.
    """

    #: Two sessions can hold uncommitted writes at the same time.
    iftb_store_write_lock: None = None

    def __init__(self, lake: Lake, cursor: Cursor, executor: Executor, isolation: Isolation | None, busy_timeout: float) -> None:
        super().__init__(cursor, executor, isolation, busy_timeout)
        self._lake = lake
        self._view = View(lake, cursor)
        # set when a commit shall not be repeated any more
        self._stop = threading.Event()
        self._base: Snapshot | None = None
        # of the pending rows; None if they are not known
        self._bounds: Bounds | None = None
        self._ready = self._stale = self._written = self._careful = False

    async def execute(self, statement: Executable, params: Any = None, /) -> Result[Any]:
        """Run one statement that reads, in DuckDB's SQL, with a dict of parameters; the only table is ``ohlcv``.

        Raises:
            OperationalError: the statement fails; the session stays usable.
            Unsupported: the statement may write, or the text has several statements, or one that begins or ends a transaction.
        """
        wanted = compile_statement(statement, params)

        def work(cursor: Cursor) -> Result[Any]:
            parsed, reads = parse_statement(cursor, wanted.sql)
            # to analyze a statement runs it, and it may write a file
            if not reads or (parsed.type == duckdb.StatementType.EXPLAIN and _ANALYZE.search(wanted.sql)):
                raise Unsupported(NO_RAW_WRITES)
            return fetch_result(cursor, parsed, wanted)

        return await self._run(WHOLE, work)

    async def read(self, selection: RowFilter, work: Callable[[Cursor], T], columns: Sequence[str] = COLUMNS) -> T:
        """Run ``work`` in a thread and return its result; the table ``ohlcv`` has the selected rows and the given columns."""
        return await self._run(find_bounds(selection), work, columns)

    async def read_newest(self, series: RowFilter) -> list[OHLCVBar]:
        """Return the last ``series.limit`` bars of a series, newest first; read only the files that can contain them."""

        def job(cursor: Cursor) -> list[OHLCVBar]:
            snapshot = self._find_snapshot()
            newest = None if self._written else snapshot.find_newest(find_bounds(series))
            recent = series if newest is None else select_recent(series, newest)
            for selection in (recent, series):
                self._show(snapshot, find_bounds(selection))
                bars = read_newest(cursor, selection)
                if selection is series or len(bars) == series.limit:
                    return bars
            return []

        return await self._read(job)

    async def on_cluster(self) -> ClusterReads | None:
        """Return an object that reads, on the cluster, the version that this session reads now.

        Returns:
            None if the lake has no cluster, or if the session has writes that are not committed, which no cluster sees.
        """
        cluster = self.iftb_store_backend.cluster
        if cluster is None:
            return None
        snapshot = await self._read(lambda cursor: None if self._written else self._find_snapshot())
        return None if snapshot is None else ClusterReads(cluster, self._executor, snapshot.version)

    async def write(
        self,
        table: pa.Table,
        created_at: Any,
        work: Callable[[Cursor, Fresh, bool], T],
        *,
        careful: bool = False,
        columns: Sequence[str] = (),
    ) -> T:
        """Run ``work`` in a thread with a cursor, the completed rows of ``table``, and whether the session has written before.

        Args:
            table: the rows to write.
            created_at: the created_at of all rows; None if the table has the column.
            work: writes to the table of pending writes; ``ohlcv`` holds what the session sees within the bounds of the rows.
            careful: whether the result depends on the bars that are stored, so that they must not change until the commit.
            columns: which columns of ``ohlcv`` ``work`` needs, the key among them; empty if it does not read.
        """

        def job(cursor: Cursor) -> T:
            fresh = complete(table, self._lake.next_ids(table.num_rows), created_at)
            self._bounds = None if self._written else fresh.bounds
            if columns:
                self._show(self._find_snapshot(), fresh.bounds, columns)
            return work(cursor, fresh, self._written)

        return await self._write(job, reads=bool(columns), careful=careful)

    async def delete(self, selection: Bounds, work: Callable[[Cursor], int]) -> int:
        """Run ``work``, which deletes rows within bounds, in a thread and return its result; ``ohlcv`` has the key of each."""

        def job(cursor: Cursor) -> int:
            self._bounds = None
            self._show(self._find_snapshot(), selection, KEY)
            return work(cursor)

        return await self._write(job, reads=True, careful=True)

    async def rollback(self) -> None:
        """Undo all writes since the last commit; the session continues in a new transaction."""
        async with self._turns:
            self._lost = None
            self._drop()

    def _interrupt(self) -> None:
        self._stop.set()
        super()._interrupt()

    async def _discard(self, reason: str) -> None:
        if self._written:
            self._lost = operational_error(reason)
            self._written = False
        await run_in_thread(self._executor, self._close)

    async def _run(self, bounds: Bounds, work: Callable[[Cursor], T], columns: Sequence[str] = COLUMNS) -> T:
        def job(cursor: Cursor) -> T:
            self._show(self._find_snapshot(), bounds, columns)
            return work(cursor)

        return await self._read(job)

    async def _read(self, job: Callable[[Cursor], T]) -> T:
        async with self._turns:
            self._check_usable()
            self._careful = self._careful or self._written
            return await self._driver(job)

    async def _write(self, work: Callable[[Cursor], T], *, reads: bool, careful: bool) -> T:
        def job(cursor: Cursor) -> T:
            base = self._base
            try:
                if reads or self._isolated:
                    self._base = self._find_snapshot()
                if not self._ready:
                    create_pending(cursor)
                    self._ready = True
                cursor.begin()
                result = work(cursor)
                cursor.commit()
            except BaseException:
                # whatever fails, the transaction is rolled back; a panic of delta-rs is no Exception
                if not self._isolated:
                    self._base = base
                self._view.forget()
                cursor.rollback()
                raise
            self._written = True
            self._careful = self._careful or careful
            return result

        async with self._turns:
            self._check_usable()
            if self._only_reads:
                raise operational_error(READS_ONLY)
            return await self._driver(job)

    async def _commit(self) -> None:
        self._check_usable()
        base = self._base
        if not self._written:
            self._base = None
            return
        lock = write_lock(self._lake.storage.location)
        deadline = time.monotonic() + self._busy_timeout
        try:
            await self._await_turn(lock)
        except BaseException as error:
            # a cancellation too: the session ends
            self._lose(error)
            raise
        try:
            await run_in_thread(self._executor, lambda: self._store(base, deadline), self._stop.set)
        finally:
            self._stop.clear()
            lock.release()
        # a close() that came meanwhile undoes nothing of this
        self._turns.undone = False

    async def _await_turn(self, lock: FairSemaphore) -> None:
        """Wait for the table's lock: commits at the same time in one process would only make each other fail."""
        granted = await self._wait_for(lock)
        if self._turns.undone:
            raise operational_error(
                "the session was closed while its commit waited for the commits of other sessions; none of its writes were stored"
            )
        if not granted:
            raise operational_error(
                f"other sessions of this process did not finish their commits within {self._busy_timeout:g} s; "
                "commit less often, or raise the URL's busy_timeout",
                transient=True,
            )

    def _store(self, base: Snapshot | None, deadline: float) -> None:
        def work(cursor: Cursor) -> None:
            commit = Commit(self._lake, cursor, self._view, base, self._bounds, strict=self._isolated, careful=self._careful)
            commit.run(deadline, self._stop)

        # the state changes in this thread, because the task that waits for it may be cancelled
        try:
            self._call(work)
        except BaseException as error:
            # a panic of delta-rs is no Exception
            self._lose(error)
            raise
        self._drop()

    def _lose(self, error: BaseException) -> None:
        if isinstance(error, CommitOutcomeUnknown):
            self._lost = error
        else:
            reason = error.orig if isinstance(error, IntegrityError | OperationalError) else type(error).__name__
            self._lost = lost_writes_error(reason, error)
        self._drop()

    def _drop(self) -> None:
        """Begin a new transaction: forget the writes and the version."""
        # the next call clears the table: an interrupt that comes now must not make a commit fail that is stored
        self._stale = self._stale or self._written
        self._base, self._careful, self._written = None, False, False

    def _show(self, snapshot: Snapshot, bounds: Bounds, columns: Sequence[str] = COLUMNS) -> None:
        self._view.show(snapshot, bounds, columns, written=self._written)

    def _find_snapshot(self) -> Snapshot:
        """Return the version that the next read sees."""
        snapshot = self._lake.latest() if self._base is None else self._base
        if self._isolated or self._only_reads or self._written:
            self._base = snapshot
        return snapshot

    async def _driver(self, work: Callable[[Cursor], T]) -> T:
        return await run_in_thread(self._executor, lambda: self._call(work), self._cursor.interrupt)

    def _call(self, work: Callable[[Cursor], T]) -> T:
        try:
            if self._stale:
                clear_pending(self._cursor)
                self._stale = False
            return work(self._cursor)
        except duckdb.Error as error:
            raise map_error(error, "the statement failed", self._lake.storage.location) from error
        except OSError as error:
            raise map_error(error, "the lake cannot be read", self._lake.storage.location) from None

    def _close(self) -> None:
        self._view.forget()
        self._cursor.close()

    def _check_usable(self) -> None:
        if isinstance(self._lost, CommitOutcomeUnknown):
            raise outcome_unknown(self._lost)
        super()._check_usable()
