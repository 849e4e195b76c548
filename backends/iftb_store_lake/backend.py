"""LakeBackend: opens one Delta table, local or on S3, and sessions on it."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn, SupportsIndex
from uuid import uuid4

import deltalake
import duckdb
from sqlalchemy import URL
from sqlalchemy.log import InstanceLogger

from iftb_store.columnar import Cursor, SessionPool, SpillFolder, connect_closed, run_in_thread
from iftb_store.errors import operational_error, refuse_pickling
from iftb_store.health import Compaction, StoreProblem, StoreSize
from iftb_store.protocols import Capability, Isolation
from iftb_store.values.file_identity import file_identity
from iftb_store_lake.cluster import Cluster
from iftb_store_lake.compaction import compact, find_problems
from iftb_store_lake.connection import Lake
from iftb_store_lake.errors import map_error
from iftb_store_lake.rows import LakeStores
from iftb_store_lake.session import LakeSession
from iftb_store_lake.storage import Storage
from iftb_store_lake.url import Options, parse_options

_LOGGER = "sqlalchemy.engine.delta"


class LakeBackend:
    """Bars in one Delta table, which any number of clients read and write at the same time.

    DuckDB reads the files in this process; delta-rs commits. At most pool_size + max_overflow sessions are open at a time. SQL
    can read only the files of the lake. No extension is ever downloaded.
    """

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.ISOLATION, Capability.PARALLEL_WRITERS})
    batch_rows: ClassVar[int] = 65_536
    batch_bytes: ClassVar[int] = 64 << 20

    def __init__(self, url: URL, *, pool_size: int, max_overflow: int, echo: bool) -> None:
        self._options: Options = parse_options(url)
        self._pool = SessionPool[LakeSession](pool_size + max_overflow)
        self._spills = SpillFolder(str(Path(tempfile.gettempdir()) / f"{uuid4().hex}.duckdb.tmp"), given=False)
        self._logger = InstanceLogger(echo, _LOGGER) if echo else logging.getLogger(_LOGGER)
        #: The Spark Connect server of the URL's ``engine``; None if there is none.
        self.cluster: Cluster | None = None
        self._lake: Lake | None = None
        self._database: duckdb.DuckDBPyConnection | None = None
        self._executor: ThreadPoolExecutor | None = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        refuse_pickling(self)

    @property
    def in_use(self) -> int:
        """The number of open sessions."""
        return self._pool.in_use

    @property
    def capacity(self) -> int:
        """The largest number of sessions that can be open at a time."""
        return self._pool.size

    @classmethod
    def find_file(cls, url: URL) -> str | None:
        """Return the path of a URL's folder; None for a bucket."""
        return None if parse_options(url).s3 else url.database

    async def connect(self) -> None:
        """Open the table, or create it if the folder or the prefix is empty.

        Raises:
            OperationalError: the table cannot be opened; the message gives the reason, but no credentials.
        """
        # one thread per session, so that no session waits for another's statement
        executor = ThreadPoolExecutor(self._pool.size + 1, thread_name_prefix="iftb-store-lake")
        try:
            await run_in_thread(executor, self._open)
        except BaseException:
            # whatever fails, a cancellation too: no thread and no connection may remain
            self._lake = self._database = None
            self._close_cluster()
            executor.shutdown(wait=False)
            raise
        self._executor = executor
        self._spills.enter()

    def _open(self) -> None:
        storage = Storage(self._options)
        if self._options.engine:
            self.cluster = Cluster(self._options.engine, storage.location)
        self._lake = Lake(storage)
        # SQL reads the files of a folder; those of a bucket come through pyarrow
        folders = [storage.location] if storage.is_local else []
        self._database = connect_closed(":memory:", {"temp_directory": self._spills.path}, folders=folders)

    async def disconnect(self, grace: float) -> None:
        """Wait at most ``grace`` seconds for open sessions, drop and close the remaining ones, then close the table."""
        _, database, executor = self._require_connected()
        try:
            await self._pool.end(grace)
        finally:
            self._close_cluster()
            self._lake = self._database = self._executor = None
            try:
                await run_in_thread(executor, database.close)
            finally:
                self._spills.leave()
                executor.shutdown(wait=False)

    async def identity(self) -> str:
        """Return a text that identifies the table: the folder's device and inode number, or in a bucket the table's own id."""
        lake, _, _ = self._require_connected()
        return file_identity(self._options.location) if lake.storage.is_local else f"delta {lake.id}"

    async def measure(self) -> StoreSize:
        """Return the version of the engine and of the table, and the number and size of the table's files."""
        lake, _, executor = self._require_connected()
        snapshot = await run_in_thread(executor, lake.latest)
        version = f"{deltalake.__version__}, table version {snapshot.version}"
        return StoreSize(version, files=snapshot.files.num_rows, bytes=snapshot.bytes)

    async def prove_writable(self) -> None:
        """Check that the lake can be written: create and remove a file whose name readers of the table ignore."""
        lake, _, executor = self._require_connected()

        def write() -> None:
            path = f"_iftb_store_{uuid4().hex}"
            try:
                with lake.storage.create(path) as stream:
                    stream.write(b"iftb-store")
                lake.storage.remove(path)
            except OSError as error:
                raise map_error(error, "the lake cannot be written to", lake.storage.location) from None

        await run_in_thread(executor, write)

    async def find_problems(self) -> list[StoreProblem]:
        """Return the problems of the files and of the log."""
        lake, _, executor = self._require_connected()
        return await run_in_thread(executor, partial(find_problems, lake))

    async def compact(self, *, dry_run: bool, keep: timedelta, progress: Callable[[int, int], None]) -> Compaction:
        """Rewrite the small files of closed periods; see `iftb_store.abilities.SupportsCompaction`."""
        lake, database, executor = self._require_connected()
        loop, stop = asyncio.get_running_loop(), threading.Event()
        cursor = Cursor(database.cursor(), self._logger)

        def report(done: int, total: int) -> None:
            loop.call_soon_threadsafe(progress, done, total)

        def interrupt() -> None:
            stop.set()
            cursor.interrupt()

        work = partial(compact, lake, cursor, dry_run=dry_run, keep=keep, progress=report, stop=stop)
        try:
            return await run_in_thread(executor, work, interrupt)
        except duckdb.Error as error:
            raise map_error(error, "the compaction failed", self._options.location) from error
        finally:
            cursor.close()

    @asynccontextmanager
    async def session(self, isolation: Isolation | None = None) -> AsyncIterator[LakeSession]:
        """Open a session: commit on a clean exit, roll back on an exception and on cancellation.

        Raises:
            OperationalError: the current task itself holds every session that may be open at a time; or all sessions were in
                use and none was closed within 30 seconds; or, on a clean exit, the commit failed.
            IntegrityError: on a clean exit, another client has inserted a bar that this session inserted.
        """
        self._require_connected()

        def create() -> LakeSession:
            # not before the wait, because the manager may be disconnected during it
            lake, database, executor = self._require_connected()
            cursor = Cursor(database.cursor(), self._logger)
            return LakeSession(lake, cursor, executor, isolation, self._options.busy_timeout)

        async with self._pool.session(self, create) as session:
            yield session

    @classmethod
    def stores(cls, session: Any) -> LakeStores:
        """Return the objects that read and write bars in a session of this backend."""
        return LakeStores(session)

    def _close_cluster(self) -> None:
        if self.cluster is not None:
            self.cluster.close()
        self.cluster = None

    def _require_connected(self) -> tuple[Lake, duckdb.DuckDBPyConnection, ThreadPoolExecutor]:
        if self._lake is None or self._database is None or self._executor is None or self._pool.closing:
            raise operational_error("the lake is not connected; await connect() first")
        return self._lake, self._database, self._executor
