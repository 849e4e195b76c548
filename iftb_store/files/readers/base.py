"""The interface of all readers, and the conversion of errors on damaged files."""

from __future__ import annotations

import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from iftb_store.errors import StoreError
from iftb_store.files.limits import check_views
from iftb_store.files.readers.binance import DumpError
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import BARS
from iftb_store.values.display import show

# maximum rows in one batch: of bars, and of tables whose rows may contain long texts
_BARS_AT_ONCE, _ROWS_AT_ONCE = 65_536, 2_000
# errors that Arrow, zlib and other libraries raise on damage; all errors of Arrow are among them
_DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, EOFError, zlib.error)


class Reader(Protocol):
    """Reads the rows of a file.

    Attributes:
        names: the names of the columns.
        facts: the metadata of the file's schema.
    """

    names: list[str]
    facts: dict[bytes, bytes]

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        ...

    @property
    def bytes_read(self) -> int:
        """The approximate number of bytes of the file that were read so far."""
        ...

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Yield these columns of the rows, batch by batch."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@contextmanager
def name_damage(path: Path) -> Generator[None]:
    """Convert errors that a damaged file causes in the block to a DumpError; an OSError that names a file is not converted."""
    try:
        yield
    except StoreError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        # the error may contain text from the file, so it is escaped
        reason = show(next(iter(str(error).splitlines()), type(error).__name__), 200)[1:].rstrip("'\"")
        raise DumpError(f"{path}: cannot be read ({reason})") from error


def rows_at_once(names: list[str]) -> int:
    """Return the maximum number of rows in a batch with these columns."""
    return (
        _ROWS_AT_ONCE
        if any(set(names) == set(table.columns) for table in TABLES.values() if table is not BARS)
        else _BARS_AT_ONCE
    )


def validate(batch: pa.RecordBatch) -> pa.Table:
    """Return a batch as a table after all of its values were validated.

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
