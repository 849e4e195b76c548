"""Writes the rows of one table, read from a snapshot, to a file or a folder; memory use does not grow with the table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from iftb_store._io.tasks import run_to_end
from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError
from iftb_store.files.formats import TEXT_FORMATS, choose_format
from iftb_store.files.outputs import check_target, new_file, new_folder
from iftb_store.files.writers import PartitionedWriter, Writer, describe_schema, open_writer
from iftb_store.registry import get_stores
from iftb_store.repositories.streams import record_batches
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, TableSpec
from iftb_store.transfer.kept import limit_scope
from iftb_store.transfer.plan import find_partitions, open_snapshot

# 65,536 bars take a few megabytes, but rows of other tables may contain long texts. The limit is not smaller because DuckDB
# reads 2,048 rows even to return one.
_BARS_AT_ONCE, _ROWS_AT_ONCE, _BYTES_AT_ONCE = 65_536, 2_000, 16 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export; ``path`` is None if the rows were written to a stream."""

    path: Path | None
    table: str
    format: str
    rows: int
    files: int


async def export(
    db: ConnectedStore,
    scope: TableScope,
    target: Path | BinaryIO,
    *,
    format: str | None = None,
    partitioned: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Exported:
    """Write the rows of one table with all columns, including ids and times set by the store, in key order.

    All rows are read from one snapshot. The file appears under its name only when it is complete and on the disk; only its
    owner can read it. Decimals are exact in every format: decimal128(38, 18) in Parquet and Feather, plain digits in CSV, text
    in JSON. Times are UTC; in text formats they are ISO 8601 with microseconds.

    Args:
        db: a connected manager whose schema is in place.
        scope: one table, and the selection of its rows.
        target: the file, the folder if ``partitioned``, or a binary stream (only CSV and JSON lines).
        format: parquet, feather, csv or jsonl; None for the format of the file's suffix.
        partitioned: write bars to a folder of Parquet files by exchange, symbol, timeframe and month.
        overwrite: replace an existing file or folder.
        progress: called after each batch with (rows written, total rows).

    Returns:
        The path, the table, the format and the number of rows and files written.

    Raises:
        InvalidValueError: the target already exists or is a database, or the options contradict each other; nothing is
            written.
        OperationalError: another export to the target is running; or rows of the table are hidden from this role, even if
            they are not selected: the user could not see that rows are missing from the file.
        Unsupported: the scope names a table that the database does not keep.
        MissingDriverError: pyarrow is not installed; the message contains the install command.
        OSError: the file cannot be written; the incomplete file is removed.
    """
    scope, _ = limit_scope(scope, database=db)
    if len(scope.tables) != 1:
        raise InvalidValueError("a file contains one table; select one with --table")
    (table,) = scope.tables
    path = target if isinstance(target, Path) else None
    if partitioned:
        if table is not BARS or path is None or format not in (None, "parquet"):
            raise InvalidValueError("only bars can be partitioned, and only as Parquet; leave --partitioned out")
        format = "parquet"
    else:
        format = choose_format(path, format)
    if path is None and format not in TEXT_FORMATS:
        raise InvalidValueError(f"{format} cannot be written to a stream; give a file, or use {' or '.join(TEXT_FORMATS)}")
    if path is not None:
        check_target(path, folder=partitioned, overwrite=overwrite)
    rows = 0
    limit, size = (_BARS_AT_ONCE, None) if table is BARS else (_ROWS_AT_ONCE, _BYTES_AT_ONCE)
    with _open(target, table, format, partitioned, overwrite) as sink:
        async with open_snapshot(db, scope.tables) as session:
            total = 0 if progress is None else sum(count for _, count in await find_partitions(session, scope))
            stores = get_stores(session)
            for selection in scope.selections(table):
                async with aclosing(record_batches(stores, replace(selection, limit=limit, size=size))) as batches:
                    async for batch in batches:
                        await run_to_end(asyncio.to_thread(sink.write, batch))
                        rows += batch.num_rows
                        if progress is not None:
                            progress(rows, total)
        await run_to_end(asyncio.to_thread(sink.close))
    return Exported(path, table.name, format, rows, sink.files)


@contextmanager
def _open(target: Path | BinaryIO, table: TableSpec, format: str, partitioned: bool, overwrite: bool) -> Iterator[Writer]:
    with ExitStack() as streams:
        sink: Writer
        if partitioned and isinstance(target, Path):
            folder = streams.enter_context(new_folder(target, overwrite=overwrite))
            sink = PartitionedWriter(folder, streams.enter_context(ExitStack()), describe_schema(table))
        else:
            stream = streams.enter_context(new_file(target, overwrite=overwrite)) if isinstance(target, Path) else target
            sink = open_writer(stream, table, format)
        try:
            yield sink
        except BaseException as error:
            sink.abandon()
            if isinstance(error, OSError) and error.filename is None and isinstance(target, Path):
                # e.g. a full disk: the error does not name the file, but the message must
                raise OSError(error.errno, error.strerror or str(error), str(target)) from error
            raise
