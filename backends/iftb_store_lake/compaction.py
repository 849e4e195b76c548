"""Rewrites many small files of a lake as few large ones, and deletes files that no version in use needs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from iftb_store.batches.bars import KEY
from iftb_store.columnar import WHOLE, Cursor
from iftb_store.health import Compaction, StoreProblem
from iftb_store_lake.connection import Lake, replace_files
from iftb_store_lake.files import CUT_FROM, choose_rows, count_files, write_files
from iftb_store_lake.layout import COLUMNS_SQL, KEY_SQL, PART, ROW_GROUP, quote
from iftb_store_lake.snapshot import Snapshot, read_snapshot
from iftb_store_lake.view import View

# after so many commits without a checkpoint, opening the table takes long
_LONG_LOG = 500
# how often a commit is repeated after others that leave the partition alone
_ATTEMPTS = 10
_HOUR = timedelta(hours=1)


class _Part(NamedTuple):
    name: str
    files: int
    bytes: int


def compact(
    lake: Lake, cursor: Cursor, *, dry_run: bool, keep: timedelta, progress: Callable[[int, int], None], stop: threading.Event
) -> Compaction:
    """Rewrite the partitions with small files, then delete the files that have been out of use for longer than ``keep``."""
    before = lake.latest()
    parts = _find_parts(before, datetime.now(UTC))
    total = sum(part.bytes for part in parts)

    def rewrite(table: DeltaTable) -> int:
        done = rewritten = 0
        for part in parts:
            if stop.is_set():
                break
            rewritten += _rewrite(lake, cursor, table, part)
            done += part.bytes
            progress(done, total)
        return rewritten

    rewritten = 0 if dry_run or not parts else lake.use_table(rewrite)
    deleted = 0 if stop.is_set() else _delete_unused(lake, keep, dry_run=dry_run)
    after = lake.latest()
    return Compaction(
        partitions=len(parts),
        rewritten=rewritten,
        files_before=before.files.num_rows,
        files_after=after.files.num_rows,
        bytes_before=before.bytes,
        bytes_after=after.bytes,
        deleted=deleted,
    )


def find_problems(lake: Lake) -> list[StoreProblem]:
    """Return what makes the lake slow: files without statistics, small files, and a log without checkpoints."""
    snapshot, found = lake.latest(), list[StoreProblem]()
    unknown = reduce(or_, (ds.field(f"max.{name}").is_null() for name in KEY))
    blind = snapshot.files.filter(unknown).num_rows
    remedy = "every read opens them; `iftb-store compact URL` rewrites those of closed periods"
    if blind:
        found.append(StoreProblem("files without statistics", "warning", "", blind, remedy))
    small = _find_parts(snapshot, datetime.now(UTC))
    if small:
        remedy = "reads open more files than necessary; `iftb-store compact URL` merges them into large files"
        where = f"{len(small)} closed periods, e.g. {small[0].name}"
        found.append(StoreProblem("small files", "note", where, sum(part.files for part in small), remedy))
    since = snapshot.version - lake.find_checkpoint()
    if since > _LONG_LOG:
        remedy = "opening the lake reads each commit since the last checkpoint; find the client that writes no checkpoints"
        found.append(StoreProblem("long log", "warning", "", since, remedy))
    return found


def _find_parts(snapshot: Snapshot, now: datetime) -> list[_Part]:
    """Return the partitions of closed periods to rewrite, ordered by name; files without a partition are not rewritten."""
    found = list[_Part]()
    names: Any = snapshot.files[PART].unique()
    for name in sorted(filter(None, names.to_pylist())):
        files = snapshot.files.filter(ds.field(PART) == name)
        if _is_closed(name, now) and _is_scattered(files):
            sizes: Any = pc.sum(files["size_bytes"])
            found.append(_Part(name, files.num_rows, sizes.as_py()))
    return found


def _is_scattered(files: pa.Table) -> bool:
    """Return whether a partition has more files than it needs, or files whose symbols overlap."""
    if files.num_rows < 2:
        return False
    known: Any = files.select(["min.exchange", "max.exchange", "min.symbol", "max.symbol", "num_records"])
    if any(column.null_count for column in known.columns):
        return True
    exchanges, others, *ranges, counts = (column.to_pylist() for column in known.columns)
    if files.num_rows > count_files(sum(counts)):
        return True
    # another program may have put exchanges together
    if len({*exchanges, *others}) > 1:
        return False
    ordered = sorted(zip(*ranges, counts, strict=True))
    return any(end > first or (end == first and count < CUT_FROM) for (_, end, count), (first, *_) in pairwise(ordered))


def _is_closed(part: str, now: datetime) -> bool:
    """Return whether the period of a partition is over; the partition of days and longer timeframes has no end."""
    period = part.rpartition(".")[2]
    return period == "all" or period < now.strftime("%Y-%m" if "-" in period else "%Y")


def _rewrite(lake: Lake, cursor: Cursor, table: DeltaTable, part: _Part) -> bool:
    """Replace the files of a partition; return False if another client changed it meanwhile, for the next run to rewrite it."""

    def list_files() -> pa.Table:
        table.update_incremental()
        return read_snapshot(table).files.filter(ds.field(PART) == part.name).select(["path", "num_records"]).sort_by("path")

    chosen = list_files()
    paths: list[Any] = chosen["path"].to_pylist()
    if chosen["num_records"].null_count:
        with View(lake, cursor).reading(paths, WHOLE, KEY) as stored:
            ((rows,),) = cursor.fetch(f"SELECT count(*) FROM {stored}")
    else:
        rows = sum(count or 0 for count in chosen["num_records"].to_pylist())
    with View(lake, cursor).reading(paths, WHOLE) as stored:
        sql = f"SELECT {COLUMNS_SQL}, {quote(part.name)} AS {PART} FROM {stored} ORDER BY {KEY_SQL}"
        files = write_files(lake.storage, cursor.tables(sql, ROW_GROUP), choose_rows(rows))
    for _ in range(_ATTEMPTS):
        try:
            replace_files(table, files, paths, uuid4().hex, changed=False)
        except CommitFailedError:
            if list_files()["path"].to_pylist() != paths:
                return False
        else:
            return True
    return False


def _delete_unused(lake: Lake, keep: timedelta, *, dry_run: bool) -> int:
    """Delete the files that have been out of use for longer than ``keep``; return their number."""

    def vacuum(table: DeltaTable, *, dry_run: bool) -> int:
        hours = max(1, keep // _HOUR)
        return len(table.vacuum(hours, dry_run=dry_run, enforce_retention_duration=False, full=True))

    def delete(table: DeltaTable) -> int:
        found = vacuum(table, dry_run=True)
        # delta-rs would commit a vacuum of no file, too
        return vacuum(table, dry_run=False) if found and not dry_run else found

    return lake.use_table(delete)
