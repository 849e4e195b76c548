"""Writes the rows of one table, read from a snapshot, to a file or a folder; memory use does not grow with the table."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, get_args

from iftb_store._io.tasks import import_modules, run_to_end
from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError
from iftb_store.files.formats import TEXT_FORMATS, FileFormat, choose_format
from iftb_store.files.outputs import check_target, new_file, new_folder
from iftb_store.registry import get_stores, require_arrow
from iftb_store.repositories.streams import record_batches
from iftb_store.schema.scope import TableScope
from iftb_store.schema.table_spec import BARS, TableSpec
from iftb_store.transfer.access import check_store
from iftb_store.transfer.kept import limit_scope
from iftb_store.transfer.progress import ProgressCallback, StepCallback, report_steps
from iftb_store.values import checks
from iftb_store.values.choices import ReadDecimals
from iftb_store.values.display import type_name

if TYPE_CHECKING:
    import pyarrow as pa

    from iftb_store.files.writers import Writer

# 65,536 bars take a few megabytes, but rows of other tables may contain long texts. The limit is not smaller because DuckDB
# reads 2,048 rows even to return one.
_BARS_AT_ONCE, _ROWS_AT_ONCE, _BYTES_AT_ONCE = 65_536, 2_000, 16 << 20


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of an export.

    Attributes:
        path: the file or the folder; None if the rows were written to a stream.
        table: the table's name.
        format: parquet, feather, csv or jsonl.
        rows: number of rows written.
        files: number of files written; 0 if no row matched and an existing file was left as it was.
    """

    path: Path | None
    table: str
    format: FileFormat
    rows: int
    files: int


class _NoRowsError(Exception):
    """Raised if no row matches and the target is an earlier export, which is then kept."""


async def export_table(
    db: ConnectedStore,
    path: str | os.PathLike[str] | BinaryIO,
    *,
    table: str = BARS.name,
    exchanges: str | Collection[str] = (),
    symbols: str | Collection[str] = (),
    timeframes: str | Collection[str] = (),
    accounts: str | Collection[str] = (),
    start: datetime | None = None,
    end: datetime | None = None,
    format: FileFormat | None = None,
    partitioned: bool = False,
    overwrite: bool = False,
    decimals: ReadDecimals | None = None,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Write the rows of one table with all columns, including ids and times set by the store, in key order, to a file.

    All rows are read from one snapshot. The file appears under its name only when it is complete and on the disk; only its
    owner can read it. Decimals are exact in every format: decimal128(38, 18) in Parquet and Feather, plain digits in CSV, text
    in JSON. Times are UTC; in text formats they are ISO 8601 with microseconds.

    Args:
        db: the connected store, e.g. a DatabaseManager.
        path: the file to write, the folder if ``partitioned``, or a binary stream (only CSV and JSON lines).
        table: the table: ohlcv, trades, positions, system_events, fills, ledger_entries or balance_snapshots.
        exchanges: write only rows of these exchanges. Here and in the next three, one name may be given as text.
        symbols: write only rows of these symbols.
        timeframes: write only bars of these timeframes.
        accounts: write only rows of these accounts; the empty text names the rows without an account.
        start: start of the time window, inclusive; naive times are UTC. It applies to the entry_time of trades and positions,
            the created_at of events, and the timestamp of all other rows.
        end: end of the time window, inclusive.
        format: parquet, feather, csv or jsonl; None for the format of the file's suffix.
        partitioned: write bars to a folder of Parquet files by exchange, symbol, timeframe and month.
        overwrite: replace an existing file or folder, unless no row matches.
        decimals: "float": write decimals as the nearest floats, for plots and models; None: write them exactly.
        progress: called with (table, rows written, total rows).

    Returns:
        The path, the table, the format and the number of rows and files written.

    Raises:
        InvalidValueError: the target already exists or is a database, an argument has an invalid value, or the arguments
            contradict each other; nothing is written.
        SchemaError: the database has no tables of iftb-store, or tables of another revision.
        OperationalError: another export to the target is running; or the database hides rows of the table from this role,
            also rows that are not selected: otherwise the file could lack rows without notice.
        Unsupported: the database does not keep the table.
        NotConnectedError: before connect().
        MissingDriverError: pyarrow is not installed; the message contains the install command.
        OSError: the file cannot be written; the incomplete file is removed.

    Example:
        report = await export_table(db, "bars.parquet", symbols="BTCUSDT", timeframes=["1h", "1d"])
        (report.rows, report.format)  # -> (23, 'parquet')
    """
    check_store(db, "db")
    step = report_steps(progress)
    scope, _ = limit_scope(TableScope([table], exchanges, symbols, timeframes, start, end, accounts), database=db)
    for name, flag in (("partitioned", partitioned), ("overwrite", overwrite)):
        checks.boolean(flag, name)
    as_floats = checks.optional_choice(decimals, "decimals", get_args(ReadDecimals)) is not None
    target = _find_target(path)
    written = _choose_format(target, scope.tables[0], format, partitioned)
    if isinstance(target, Path):
        check_target(target, folder=partitioned, overwrite=overwrite)
    require_arrow()
    await import_modules("pyarrow", "iftb_store.files.writers", "iftb_store.transfer.plan")
    from iftb_store.batches.arrow import to_floats
    from iftb_store.files.writers import describe_schema

    schema = describe_schema(scope.tables[0], as_floats=as_floats)
    file = target if isinstance(target, Path) else None
    try:
        with step(table) as report_progress, _open(target, scope.tables[0], schema, written, partitioned, overwrite) as sink:
            write = (lambda batch: sink.write(to_floats(batch))) if as_floats else sink.write
            rows = await _write_rows(db, scope, write, report_progress if progress is not None else None)
            if not rows and file is not None and file.exists():
                raise _NoRowsError
            await run_to_end(asyncio.to_thread(sink.close))
    except _NoRowsError:
        return ExportReport(file, table, written, 0, 0)
    return ExportReport(file, table, written, rows, sink.files)


def _find_target(path: str | os.PathLike[str] | BinaryIO) -> Path | BinaryIO:
    if isinstance(path, str | os.PathLike):
        return Path(checks.text(os.fspath(path), "path"))
    if not callable(getattr(path, "write", None)):
        raise InvalidValueError(f"path must be a file name or a binary stream, not {type_name(path)}")
    return path


def _choose_format(target: Path | BinaryIO, table: TableSpec, format: str | None, partitioned: bool) -> FileFormat:
    path = target if isinstance(target, Path) else None
    if partitioned:
        if table is not BARS or path is None or format not in (None, "parquet"):
            raise InvalidValueError("only bars can be partitioned, and only as Parquet; leave --partitioned out")
        return "parquet"
    chosen = choose_format(path, format)
    if path is None and chosen not in TEXT_FORMATS:
        raise InvalidValueError(f"{chosen} cannot be written to a stream; give a file, or use {' or '.join(TEXT_FORMATS)}")
    return chosen


async def _write_rows(
    db: ConnectedStore, scope: TableScope, write: Callable[[pa.RecordBatch], None], report_progress: StepCallback | None
) -> int:
    """Read the selected rows from a snapshot, write them, and return their number."""
    from iftb_store.transfer.plan import find_partitions, open_snapshot

    (table,) = scope.tables
    limit, size = (_BARS_AT_ONCE, None) if table is BARS else (_ROWS_AT_ONCE, _BYTES_AT_ONCE)
    rows = 0
    async with open_snapshot(db, scope.tables) as session:
        total = 0 if report_progress is None else sum(count for _, count in await find_partitions(session, scope))
        stores = get_stores(session)
        for selection in scope.list_selections(table):
            async with aclosing(record_batches(stores, replace(selection, limit=limit, size=size))) as batches:
                async for batch in batches:
                    await run_to_end(asyncio.to_thread(write, batch))
                    rows += batch.num_rows
                    if report_progress is not None:
                        report_progress(rows, total)
    return rows


@contextmanager
def _open(
    target: Path | BinaryIO, table: TableSpec, schema: pa.Schema, format: str, partitioned: bool, overwrite: bool
) -> Iterator[Writer]:
    from iftb_store.files.writers import PartitionedWriter, open_writer

    with ExitStack() as streams:
        sink: Writer
        if partitioned and isinstance(target, Path):
            folder = streams.enter_context(new_folder(target, overwrite=overwrite))
            sink = PartitionedWriter(folder, streams.enter_context(ExitStack()), schema)
        else:
            stream = streams.enter_context(new_file(target, overwrite=overwrite)) if isinstance(target, Path) else target
            sink = open_writer(stream, table, schema, format)
        try:
            yield sink
        except BaseException as error:
            # whatever fails, the incomplete file must not appear
            sink.abandon()
            if isinstance(error, OSError) and error.filename is None and isinstance(target, Path):
                # e.g. a full disk: the error does not name the file, but the message must
                raise OSError(error.errno, error.strerror or str(error), str(target)) from error
            raise
