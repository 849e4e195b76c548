"""Writes one table of a store, or a part of it, to a file or a folder: in constant memory, from one state of the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from iftb_store.errors import InvalidValueError
from iftb_store.files.formats import TEXT_FORMATS, format_of
from iftb_store.files.targets import check_target, new_file, new_folder
from iftb_store.files.writers import PartitionedWriter, Writer, described, writer
from iftb_store.manager import DatabaseManager
from iftb_store.registry import stores_of
from iftb_store.scope import Scope
from iftb_store.selections import BARS, ScannedTable
from iftb_store.streams import record_batches
from iftb_store.stretches import snapshot, stretches
from iftb_store.threads import finished

# of bars a few megabytes; the rows of other tables may hold long texts, so few that DuckDB, which reads those of 2,048 rows to
# give one, need not do so often
_BARS_AT_ONCE, _ROWS_AT_ONCE, _BYTES_AT_ONCE = 65_536, 2_000, 16 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: ``path`` is None where it went to a stream."""

    path: Path | None
    table: str
    format: str
    rows: int
    files: int


async def export(
    db: DatabaseManager,
    scope: Scope,
    target: Path | BinaryIO,
    *,
    format: str | None = None,
    partitioned: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Exported:
    """Write the rows of one table: whole rows, ids and kept times included, in the order of its key.

    All rows are of one state of the database. A file takes its name only once it is whole and on the disk; it is its
    owner's alone. Decimals are exact in every format: decimal128(38, 18) in Parquet and Feather, plain digits in CSV, text in
    JSON; times are UTC, in text ISO 8601 with microseconds.

    Args:
        db: a connected manager whose schema is in place.
        scope: one table, and of it the rows that are wanted.
        target: the file, the folder where ``partitioned``, or a binary stream (CSV and JSON lines only).
        format: parquet, feather, csv or jsonl; None for that of the file's suffix.
        partitioned: write bars as a folder of Parquet files by exchange, symbol, timeframe and month.
        overwrite: write over what is there.
        progress: called after each batch with (rows written, rows in all).

    Raises:
        InvalidValueError: the target is there already, or is a database, or options that do not go together; nothing is
            written.
        OperationalError: another export to the target is under way; or rows of the table are hidden from this role, be they
            chosen or not: a file that silently lacks some would be taken for the whole.
        MissingDriverError: pyarrow is not installed; the message is the install line.
        OSError: the file cannot be written; nothing of it is left.
    """
    if len(scope.tables) != 1:
        raise InvalidValueError("a file holds one table; name it")
    (table,) = scope.tables
    path = target if isinstance(target, Path) else None
    if partitioned:
        if table is not BARS or path is None or format not in (None, "parquet"):
            raise InvalidValueError("only bars are partitioned, as a folder of Parquet files; leave --partitioned out")
        format = "parquet"
    else:
        format = format_of(path, format)
    if path is None and format not in TEXT_FORMATS:
        raise InvalidValueError(f"{format} is not written to a stream; name a file, or take {' or '.join(TEXT_FORMATS)}")
    if path is not None:
        check_target(path, folder=partitioned, overwrite=overwrite)
    rows = 0
    limit, size = (_BARS_AT_ONCE, None) if table is BARS else (_ROWS_AT_ONCE, _BYTES_AT_ONCE)
    with _open(target, table, format, partitioned, overwrite) as sink:
        async with snapshot(db, scope.tables) as session:
            total = 0 if progress is None else sum(count for _, count in await stretches(session, scope))
            stores = stores_of(session)
            for selection in scope.selections(table):
                async with aclosing(record_batches(stores, replace(selection, limit=limit, size=size))) as batches:
                    async for batch in batches:
                        await finished(sink.write, batch)
                        rows += batch.num_rows
                        if progress is not None:
                            progress(rows, total)
        await finished(sink.close)
    return Exported(path, table.name, format, rows, sink.files)


@contextmanager
def _open(target: Path | BinaryIO, table: ScannedTable, format: str, partitioned: bool, overwrite: bool) -> Iterator[Writer]:
    with ExitStack() as streams:
        sink: Writer
        if partitioned and isinstance(target, Path):
            folder = streams.enter_context(new_folder(target, overwrite=overwrite))
            sink = PartitionedWriter(folder, streams.enter_context(ExitStack()), described(table))
        else:
            stream = streams.enter_context(new_file(target, overwrite=overwrite)) if isinstance(target, Path) else target
            sink = writer(stream, table, format)
        try:
            yield sink
        except BaseException as error:
            sink.abandon()
            if isinstance(error, OSError) and error.filename is None and isinstance(target, Path):
                # a full disk, say; the message is to name the file
                raise OSError(error.errno, error.strerror or str(error), str(target)) from error
            raise
