"""The interface of all readers, and the conversion of errors on damaged files."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa

from iftb_store.files.limits import check_views
from iftb_store.files.readers.binance import name_damage
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import BARS
from iftb_store.values.display import show

# maximum rows in one batch: of bars, and of tables whose rows may contain long texts
_BARS_AT_ONCE, _ROWS_AT_ONCE = 65_536, 2_000
# errors that Arrow, zlib and other libraries raise on damage; all errors of Arrow are among them
_DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, EOFError, zlib.error)


class Reader(ABC):
    """Reads the rows of a file.

    Attributes:
        names: the names of the columns.
        facts: the metadata of the file's schema.
        size: the size of the file in bytes.
        bytes_read: the approximate number of bytes of the file that were read so far.
        arrays: whether each row is a JSON array, without column names; the volume may then be missing.
    """

    names: list[str]

    def __init__(self, path: Path) -> None:
        self.size, self.bytes_read = path.stat().st_size, 0
        self.facts: dict[bytes, bytes] = {}
        self.arrays = False
        self._file: Any

    @abstractmethod
    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Read the given columns of all rows, and yield them batch by batch."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def name_any_damage(path: Path) -> AbstractContextManager[None]:
    """Convert any error on a damaged file to a DumpError that names the file; an OSError with a file name is kept."""
    return name_damage(path, _DAMAGE, "cannot be read ({})")


def count_rows_at_once(names: list[str]) -> int:
    """Return the maximum number of rows in a batch with these columns."""
    may_be_long = any(table.has_columns({*names}) for table in TABLES.values() if table is not BARS)
    return _ROWS_AT_ONCE if may_be_long else _BARS_AT_ONCE


def validate(batch: pa.RecordBatch) -> pa.Table:
    """Check that the values of a batch are valid Arrow data, and return the batch as a table.

    Raises:
        ValueError: the batch is damaged; Arrow's own ArrowInvalid is a ValueError too.
    """
    # invalid offsets, text or decimals of a damaged file would crash the code that reads them later
    batch.validate()
    check_views(batch)
    batch.validate(full=True)
    for field in batch.schema:
        if pa.types.is_decimal(field.type) and abs(field.type.scale) > field.type.precision:
            raise ValueError(f"the column {show(field.name)} has the type {field.type}, which is not a type of decimals")
    return pa.Table.from_batches([batch])
