"""What a reader of a file has, and an error for whatever is damaged."""

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

# rows in one batch, of bars and of tables whose rows hold long texts
_BARS_AT_ONCE, _ROWS_AT_ONCE = 65_536, 2_000
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


@contextmanager
def name_damage(path: Path) -> Generator[None]:
    """Turn whatever is raised on damage into a DumpError that names the file; an OSError that names a file is no damage."""
    try:
        yield
    except StoreError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        # it may quote the file's content
        reason = show(next(iter(str(error).splitlines()), type(error).__name__), 200)[1:].rstrip("'\"")
        raise DumpError(f"{path}: cannot be read ({reason})") from error


def rows_at_once(names: list[str]) -> int:
    """Return how many rows of these columns one batch may have."""
    return (
        _ROWS_AT_ONCE
        if any(set(names) == set(table.columns) for table in TABLES.values() if table is not BARS)
        else _BARS_AT_ONCE
    )


def validate(batch: pa.RecordBatch) -> pa.Table:
    """Return a batch as a table, checked to its last value.

    Raises:
        ValueError: it is damaged, as is what Arrow raises.
    """
    # offsets, text and decimals of a damaged file would else crash whatever reads them
    batch.validate()
    check_views(batch)
    batch.validate(full=True)
    for field in batch.schema:
        if pa.types.is_decimal(field.type) and abs(field.type.scale) > field.type.precision:
            raise ValueError(f"the column {show(field.name)} has the type {field.type}, which is not a type of decimals")
    return pa.Table.from_batches([batch])
