"""Writes record batches of one table to a stream in one of the formats, or to a folder of Parquet files."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from iftb_store._version import __version__
from iftb_store.batches.arrow import arrow_schema, to_floats
from iftb_store.errors import InvalidValueError
from iftb_store.files.formats import PARTITION, REVISION, TABLE, VERSION
from iftb_store.files.limits import TextSplitter
from iftb_store.files.lines import csv_header, csv_lines, json_lines
from iftb_store.files.outputs import create, make_folder
from iftb_store.schema.revision import HEAD
from iftb_store.schema.table_spec import SERIES, TableSpec
from iftb_store.values.display import show

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

# maximum length of a folder's name that every file system supports
_LONGEST_NAME = 255
# maximum rows and bytes of a row group or record batch, because it is read into memory as a whole
_ROWS, _BYTES = 131_072, 32 << 20


class Writer(ABC):
    """Takes record batches one after the other; call ``close`` after the last one."""

    files = 1

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch."""

    @abstractmethod
    def close(self) -> None:
        """Write the end of the file."""

    def abandon(self) -> None:  # noqa: B027 - a writer that has written all of its rows has nothing to do
        """Write nothing more, because the stream is about to be closed after an error."""


class TextWriter(Writer):
    """Writes CSV or JSON lines."""

    def __init__(self, stream: BinaryIO, head: bytes, lines: Callable[[pa.RecordBatch], bytes]) -> None:
        self._stream = stream
        self._lines = lines
        stream.write(head)

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch."""
        self._stream.write(self._lines(batch))

    def close(self) -> None:
        """Flush the stream; text formats have no footer."""
        self._stream.flush()


class ArrowWriter(Writer):
    """Writes Parquet in row groups of about 131,072 rows, or Feather in record batches of the same size."""

    def __init__(self, stream: Any, made: pa.Schema, format: str) -> None:
        self._schema = made
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._writer: Any = (
            pq.ParquetWriter(stream, made, compression="zstd", write_page_checksum=True)
            if format == "parquet"
            else pa.ipc.new_file(stream, made, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch.

        Raises:
            InvalidValueError: a row is longer than the maximum that can be read back.
        """
        try:
            parts = list(TextSplitter().split(pa.Table.from_batches([batch])))
        except ValueError as error:
            raise InvalidValueError(f"the file cannot be written: {error}") from error
        for rows in parts:
            self._waiting += rows.to_batches()
            self._rows, self._bytes = self._rows + rows.num_rows, self._bytes + rows.nbytes
            if self._rows >= _ROWS or self._bytes >= _BYTES:
                self._flush()

    def close(self) -> None:
        """Write the remaining rows and the end of the file."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Write nothing more."""
        # otherwise the deleted Parquet writer would try to write the footer and report an error
        if isinstance(self._writer, pq.ParquetWriter):
            self._writer.is_open = False

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.Table.from_batches(self._waiting).replace_schema_metadata(self._schema.metadata).combine_chunks()
            self._writer.write_table(rows)
            self._waiting, self._rows, self._bytes = [], 0, 0


class PartitionedWriter(Writer):
    """Writes a folder of Parquet files, one per series and month: exchange=/symbol=/timeframe=/month=2024-02/bars.parquet.

    Folder names are percent-encoded. The files lack the columns that the folder names contain, as readers of partitioned
    folders expect; the values of these columns are in the file's metadata too.
    """

    def __init__(self, folder: Path, streams: ExitStack, made: pa.Schema) -> None:
        self.files = 0
        self._folder, self._streams = folder, streams
        facts: Any = made.metadata
        self._schema = pa.schema([field for field in made if field.name not in SERIES], facts)
        self._place: tuple[str, ...] = ()
        self._writer: ArrowWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch, which must be in the order of series and time."""
        months = pc.strftime(batch.column("timestamp").cast(pa.timestamp("us")), format="%Y-%m")
        keys = zip(*(batch.column(name).to_pylist() for name in SERIES), months.to_pylist(), strict=True)
        first = 0
        for place, rows in groupby(keys):
            count = sum(1 for _ in rows)
            if place != self._place:
                self._begin(place)
            if self._writer is not None:
                self._writer.write(batch.slice(first, count).select(self._schema.names))
            first += count

    def close(self) -> None:
        """Write the end of the last file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._streams.close()

    def abandon(self) -> None:
        """Write nothing more."""
        if self._writer is not None:
            self._writer.abandon()

    def _begin(self, place: tuple[str, ...]) -> None:
        self.close()
        folder = self._folder
        for name, value in zip((*SERIES, "month"), place, strict=True):
            part = f"{name}={quote(value, safe='')}"
            if len(part) > _LONGEST_NAME:
                raise InvalidValueError(f"the {name} {show(value)} is too long for a folder's name; export without --partitioned")
            folder /= part
            make_folder(folder)
        series = json.dumps(dict(zip(SERIES, place, strict=False)))
        stream = self._streams.enter_context(create(folder / "bars.parquet"))
        facts: Any = {**(self._schema.metadata or {}), PARTITION: series.encode()}
        self._writer = ArrowWriter(stream, self._schema.with_metadata(facts), "parquet")
        self._place = place
        self.files += 1


def describe_schema(table: TableSpec, *, as_floats: bool) -> pa.Schema:
    """Return the Arrow schema of a table, with the table's name, the version and the schema revision as metadata."""
    facts: dict[bytes | str, bytes | str] = {TABLE: table.name, VERSION: __version__, REVISION: HEAD}
    schema = arrow_schema(table)
    return (to_floats(schema.empty_table()).schema if as_floats else schema).with_metadata(facts)


def open_writer(stream: BinaryIO, table: TableSpec, schema: pa.Schema, format: str) -> Writer:
    """Return an object that writes a table's rows, which have this schema, to a stream in the given format."""
    if format == "csv":
        return TextWriter(stream, csv_header(table), partial(csv_lines, table))
    if format == "jsonl":
        return TextWriter(stream, b"", partial(json_lines, table))
    return ArrowWriter(stream, schema, format)
