"""The open table: its newest version, which all sessions share; new ids; and commits that must follow a given version."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction
from sqlalchemy.exc import OperationalError

from iftb_store.errors import TransientError, operational_error
from iftb_store_lake.errors import DELTA_ERRORS, map_error
from iftb_store_lake.layout import PART, PROPERTIES, SCHEMA
from iftb_store_lake.snapshot import Snapshot, read_snapshot
from iftb_store_lake.storage import Storage

T = TypeVar("T")

_NAME = "iftb-store ohlcv"
#: The key of the commit's metadata that names the transaction; by it a commit whose answer was lost is found.
TRANSACTION = "iftb_store"
_READS = "the lake cannot be read"


class Lake:
    """One open Delta table; its methods block, and threads may call them at the same time."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._options = storage.delta_options()
        self._table = self._open()
        self._refreshing = threading.Lock()
        self._refreshed = 0.0
        self._failure: OperationalError | None = None
        self._snapshot = read_snapshot(self._table)
        self._writer: DeltaTable | None = None
        self._numbering = threading.Lock()
        self._last_id = 0
        self.id = str(self._table.metadata().id)

    def latest(self) -> Snapshot:
        """Return the newest version.

        Raises:
            OperationalError: the table cannot be read.
        """
        asked = time.monotonic()
        with self._refreshing:
            return self._refresh(asked)

    def _refresh(self, asked: float) -> Snapshot:
        # a look that began after this call serves it, too: of many waiting calls one asks the server
        if self._refreshed < asked:
            self._refreshed, self._failure = time.monotonic(), None
            try:
                if not self.storage.is_newest(self._snapshot.version):
                    self._table.update_incremental()
                    if self._table.version() != self._snapshot.version:
                        self._snapshot = read_snapshot(self._table)
            except DELTA_ERRORS as error:
                self._failure = map_error(error, _READS, self.storage.location)
            except OperationalError as error:
                self._failure = error
        if self._failure is not None:
            raise operational_error(str(self._failure), transient=isinstance(self._failure, TransientError))
        return self._snapshot

    def next_ids(self, count: int) -> int:
        """Return the first of ``count`` consecutive new ids, greater than all ids that this process knows."""
        with self._numbering:
            first = max(time.time_ns() // 1_000 * 1_024, self._snapshot.greatest_id, self._last_id) + 1
            self._last_id = first + count - 1
            return first

    def latest_to_commit(self) -> Snapshot:
        """Return the newest version, which the next `commit` follows; only one thread may commit at a time.

        Raises:
            OperationalError: the table cannot be read.
        """
        with self._refreshing:
            snapshot = self._refresh(time.monotonic())
            try:
                if self._writer is None or self._writer.version() != snapshot.version:
                    # reads continue with the other handle, which stays behind until there is a newer version
                    self._writer, self._table = self._table, self._writer or self._new_handle()
                if self._writer.version() != snapshot.version:
                    self._writer.update_incremental()
                    self._snapshot = snapshot = read_snapshot(self._writer)
            except DELTA_ERRORS as error:
                raise map_error(error, _READS, self.storage.location) from None
            return snapshot

    def commit(self, files: Sequence[AddAction], replaced: Sequence[str], token: str) -> None:
        """Add files and remove others in a commit that directly follows the version that `latest_to_commit` returned."""
        if self._writer is None:
            raise operational_error("the lake has no version to follow; call latest_to_commit() first")
        try:
            replace_files(self._writer, files, replaced, token, changed=True)
        except CommitFailedError:
            raise
        except BaseException:
            # the state of the handle is not specified
            self._writer = None
            raise

    def has_commit(self, token: str, after: int) -> bool | None:
        """Return whether the version ``after`` + 1 is the commit with this token; None if there is no such version yet.

        Raises:
            OSError: the log cannot be read.
        """
        try:
            return token.encode() in self.storage.read(f"_delta_log/{after + 1:020}.json")
        except FileNotFoundError:
            return None

    def find_checkpoint(self) -> int:
        """Return the version of the last checkpoint; 0 if there is none.

        Raises:
            OperationalError: the checkpoint's name cannot be read.
        """
        try:
            return int(json.loads(self.storage.read("_delta_log/_last_checkpoint"))["version"])
        except FileNotFoundError:
            return 0
        except (KeyError, TypeError, ValueError):
            raise operational_error("the lake's file _delta_log/_last_checkpoint is damaged") from None
        except OSError as error:
            raise map_error(error, _READS, self.storage.location) from None

    def use_table(self, work: Callable[[DeltaTable], T]) -> T:
        """Run ``work`` with a new handle of the table.

        Raises:
            OperationalError: the table cannot be read.
        """
        try:
            return work(self._new_handle())
        except DELTA_ERRORS as error:
            raise map_error(error, _READS, self.storage.location) from None

    def _open(self) -> DeltaTable:
        """Open the table, or create it if there is none."""
        try:
            return self._load()
        except TableNotFoundError:
            pass
        except DELTA_ERRORS as error:
            raise map_error(error, "the lake cannot be opened", self.storage.location) from None
        try:
            return self._create()
        except OperationalError as error:
            failure = error
        except DELTA_ERRORS as error:
            failure = map_error(error, "the lake cannot be created", self.storage.location)
        try:
            # another client may have created it meanwhile
            return self._load()
        except DELTA_ERRORS:
            raise failure from None

    def _load(self) -> DeltaTable:
        return self._check_table(self._new_handle())

    def _new_handle(self) -> DeltaTable:
        return DeltaTable(self.storage.location, storage_options=self._options)

    def _create(self) -> DeltaTable:
        self.storage.prepare()
        DeltaTable.create(
            self.storage.location,
            schema=SCHEMA,
            mode="ignore",
            partition_by=[PART],
            name=_NAME,
            configuration=PROPERTIES,
            storage_options=self._options,
        )
        return self._load()

    def _check_table(self, table: DeltaTable) -> DeltaTable:
        found: Any = pa.table(table.schema().to_arrow().empty_table()).schema
        kinds = {field.name: str(field.type) for field in SCHEMA}
        if {field.name: str(field.type) for field in found} != kinds or table.metadata().partition_columns != [PART]:
            raise operational_error(
                "the lake cannot be opened: its folder holds another Delta table, whose columns are not those of bars; "
                "name another folder in the URL"
            )
        return table


def replace_files(table: DeltaTable, files: Sequence[AddAction], replaced: Sequence[str], token: str, *, changed: bool) -> None:
    """Add files and remove others in a commit that directly follows the version of the handle.

    Args:
        table: the handle.
        files: the files to add.
        replaced: the paths of the files to remove.
        token: names the transaction.
        changed: whether the table has other rows afterwards; else the same rows are in other files.
    """
    now = time.time_ns() // 1_000_000
    removed = [RemoveAction(path, changed, now) for path in replaced]
    added = [replace(file, data_change=changed) for file in files]
    table.create_write_transaction([*added, *removed], "append", SCHEMA, [PART], commit_properties=_commit_properties(token))


def _commit_properties(token: str) -> CommitProperties:
    # a commit that does not follow the version that was read is computed anew, never moved behind another
    return CommitProperties(custom_metadata={TRANSACTION: token}, max_commit_retries=0)
