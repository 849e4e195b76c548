"""Readers of Parquet, Feather, CSV and JSON: batch after batch in bounded memory, and an error for whatever is damaged."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from iftb_store.errors import StoreError
from iftb_store.files.detect import FileKind, header
from iftb_store.files.formats import LONGEST_ROW
from iftb_store.files.limits import TextSplitter, check_types, check_views
from iftb_store.files.readers.arrow_bounds import ArrowBounds
from iftb_store.files.readers.binance import DumpError
from iftb_store.files.readers.parquet_bounds import check_footer, groups_within_bounds
from iftb_store.files.readers.texts import TextFile
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import BARS
from iftb_store.values.display import shown

# rows in one batch, of bars and of tables whose rows hold long texts
_BARS_AT_ONCE, _ROWS_AT_ONCE = 65_536, 2_000
# of a footer of Parquet: text, and the columns, row groups and facts it lists
_LONGEST_FACT, _MOST_FACTS = 16 << 20, 200_000
_BLOCK = 1 << 20
# what Arrow, zlib and their kind raise on damage; Arrow's own errors are among them
_DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, EOFError, zlib.error)


class Reader(Protocol):
    """A file's rows.

    Attributes:
        names: its columns.
        facts: what its schema says of itself.
    """

    names: list[str]
    facts: dict[bytes, bytes]

    @property
    def size(self) -> int:
        """The file's bytes."""
        ...

    @property
    def bytes_read(self) -> int:
        """About how many of them were read."""
        ...

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Yield these columns of the rows, batch after batch."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class ParquetReader:
    """Parquet, read page by page."""

    def __init__(self, path: Path) -> None:
        self.size, self.bytes_read = path.stat().st_size, 0
        self._path = path
        check_footer(path)
        with self._opened() as file:
            self._schema = made = file.schema_arrow
            self.names, self.facts = list(made.names), dict(made.metadata or {})
            # a text that stands in many rows is kept once, or a small file would fill the memory
            texts = [field.name for field in made if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
        self._file = self._opened(texts)

    def _opened(self, texts: list[str] | None = None) -> pq.ParquetFile:
        return pq.ParquetFile(
            self._path,
            read_dictionary=texts,
            buffer_size=1 << 16,
            pre_buffer=False,
            page_checksum_verification=True,
            thrift_string_size_limit=_LONGEST_FACT,
            thrift_container_size_limit=_MOST_FACTS,
        )

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Yield these columns of the rows, batch after batch."""
        metadata, rows = self._file.metadata, 0
        total, texts = metadata.num_rows, TextSplitter(self.size)
        for groups, most in groups_within_bounds(self._path, metadata, self._schema, columns, _rows_at_once(self.names)):
            for batch in self._file.iter_batches(most, row_groups=groups, columns=columns, use_threads=False):
                rows += batch.num_rows
                self.bytes_read = self.size * rows // (total or 1)
                yield from texts.split(_validated(batch))
        if rows != total:
            raise ValueError(f"it contains {rows:,} rows and claims {total:,}")

    def close(self) -> None:
        """Close the file."""
        self._file.close(force=True)


class FeatherReader:
    """Feather, which is Arrow's own file."""

    def __init__(self, path: Path) -> None:
        self.size, self.bytes_read = path.stat().st_size, 0
        self._bounds = ArrowBounds(path)
        self._stream = pa.OSFile(str(path), "rb")
        self._schema = made = pa.ipc.open_file(self._stream).schema
        self.names, self.facts = list(made.names), dict(made.metadata or {})

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Yield these columns of the rows, batch after batch."""
        self._bounds.check_batches(check_types(self._schema, columns))
        places, rows = [self.names.index(name) for name in columns], _rows_at_once(self.names)
        texts = TextSplitter(self.size)
        reader = pa.ipc.open_file(self._stream, options=pa.ipc.IpcReadOptions(included_fields=places, use_threads=False))
        for number in range(reader.num_record_batches):
            batch = _validated(reader.get_batch(number))
            for first in range(0, batch.num_rows, rows):
                yield from texts.split(batch.slice(first, rows))
            self.bytes_read = self.size * (number + 1) // reader.num_record_batches

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class CsvReader:
    """CSV with a header; every column is text, and NULL where a cell is empty and has no quotes."""

    def __init__(self, path: Path) -> None:
        self._text = TextFile(path)
        self.size = self._text.size
        self.facts: dict[bytes, bytes] = {}
        self.names, self._separator = header(self._text, path)

    @property
    def bytes_read(self) -> int:
        """About how many bytes of the file were read."""
        return self._text.bytes_read

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Yield these columns of the rows, batch after batch."""
        if not self._text.peek(1):
            return
        texts = dict.fromkeys(columns, pa.string())
        try:
            with pyarrow.csv.open_csv(
                self._text,
                pyarrow.csv.ReadOptions(
                    column_names=self.names, block_size=_BLOCK if self.size <= _BLOCK else LONGEST_ROW, use_threads=False
                ),
                pyarrow.csv.ParseOptions(delimiter=self._separator, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    include_columns=columns,
                    column_types=texts,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            ) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as error:
            if "straddling" in str(error):
                raise ValueError(f"a row is longer than {LONGEST_ROW:,} bytes") from error
            raise

    def close(self) -> None:
        """Close the file."""
        self._text.close()


@contextmanager
def damage_named(path: Path) -> Generator[None]:
    """Turn whatever is raised on damage into a DumpError that names the file; an OSError that names a file is no damage."""
    try:
        yield
    except StoreError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        # it may quote the file's content
        reason = shown(next(iter(str(error).splitlines()), type(error).__name__), 200)[1:].rstrip("'\"")
        raise DumpError(f"{path}: cannot be read ({reason})") from error


def reader_of(path: Path, kind: FileKind) -> Reader:
    """Open a file that is no dump.

    Raises:
        DumpError: it is damaged.
        OSError: it cannot be read.
    """
    from iftb_store.files.readers.json import JsonReader

    made: dict[FileKind, Callable[[Path], Reader]] = {
        FileKind.PARQUET: ParquetReader,
        FileKind.FEATHER: FeatherReader,
        FileKind.CSV: CsvReader,
        FileKind.JSON: JsonReader,
        FileKind.JSON_LINES: JsonReader,
    }
    with damage_named(path):
        reader = made[kind](path)
        if len(set(reader.names)) < len(reader.names):
            reader.close()
            raise DumpError(f"{path}: has two columns with the same name")
        return reader


def _rows_at_once(names: list[str]) -> int:
    return (
        _ROWS_AT_ONCE
        if any(set(names) == set(table.columns) for table in TABLES.values() if table is not BARS)
        else _BARS_AT_ONCE
    )


def _validated(batch: pa.RecordBatch) -> pa.Table:
    # offsets, text and decimals of a damaged file would else crash whatever reads them
    batch.validate()
    check_views(batch)
    batch.validate(full=True)
    for field in batch.schema:
        if pa.types.is_decimal(field.type) and abs(field.type.scale) > field.type.precision:
            raise ValueError(f"the column {shown(field.name)} has the type {field.type}, which is not a type of decimals")
    return pa.Table.from_batches([batch])
