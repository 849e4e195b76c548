"""Reads a file as batches of rows that are converted and checked, ready to be stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from iftb_store.errors import InvalidValueError
from iftb_store.files.detect import FileKind
from iftb_store.files.readers.binance import DumpError
from iftb_store.files.source import Source
from iftb_store.schema.table_spec import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from iftb_store.files.readers.base import Reader


class Batches:
    """Iterates over the rows of a file as batches that are converted and checked, ready to be stored.

    Attributes:
        reader: the reader of the file.
        converter: converts the rows and counts the values that it changes; its notes are complete after the last batch.
    """

    def __init__(self, source: Source) -> None:
        self._path = source.path
        self.reader = source.open()
        self.converter = _find_converter(source, self.reader)
        self._tables = self.reader.tables(self.converter.names)
        # number of rows of the file that came before the last batch, and up to its end
        self._before = self._read = 0

    def __iter__(self) -> Iterator[pa.Table]:
        return self

    def __next__(self) -> pa.Table:
        from iftb_store.files.readers.base import name_any_damage

        with _name_row(self._path, self._read, []), name_any_damage(self._path):
            batch = next(self._tables, None)
            rows = None if batch is None else self.converter.convert(batch)
        if batch is None or rows is None:
            raise StopIteration
        self._before, self._read = self._read, self._read + batch.num_rows
        return rows

    def name_row(self) -> AbstractContextManager[None]:
        """Add the file's path and the row's number to an error in the block about a row of the last batch.

        Raises:
            DumpError: in place of any InvalidValueError that is raised in the block.
        """
        return _name_row(self._path, self._before, self.converter.places)

    def close(self) -> None:
        """Close the file."""
        self._tables.close()
        self.reader.close()


class Converter(Protocol):
    """Converts the batches of one file to rows that can be stored."""

    @property
    def names(self) -> list[str]:
        """The columns of the file to read."""
        ...

    @property
    def rounded(self) -> int:
        """The number of values that were rounded so far."""
        ...

    @property
    def skipped(self) -> int:
        """The number of rows that were skipped so far."""
        ...

    @property
    def places(self) -> list[int]:
        """For each row of the last result, the row's index in the batch; empty if no row was skipped."""
        ...

    @property
    def notes(self) -> list[str]:
        """Remarks for the user on how the file was read."""
        ...

    def convert(self, batch: pa.Table) -> pa.Table:
        """Convert a batch to rows that can be stored; an error names the index of the row in the batch."""
        ...


class _CompleteRows:
    """A `Converter` for an export of iftb-store."""

    def __init__(self, table: TableSpec, source: Source, names: list[str]) -> None:
        self._table, self._fixed, self._from_float = table, source.fixed, source.hints.from_float
        self.names, self.places = [name for name in table.columns if name in names], list[int]()
        self.rounded = self.skipped = 0
        self.notes: list[str] = []

    def convert(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        from iftb_store.files.rows import check_complete_rows, round_decimals

        for name, value in self._fixed.items():
            if name not in batch.column_names:
                batch = batch.append_column(name, pa.repeat(pa.scalar(value, pa.string()), batch.num_rows))
        if self._from_float:
            batch, rounded = round_decimals(self._table, batch)
            self.rounded += rounded
        return check_complete_rows(self._table, batch)


def _find_converter(source: Source, reader: Reader) -> Converter:
    from iftb_store.files.candles import Candles, has_floats

    if source.table is not None:
        return _CompleteRows(source.table, source, reader.names)
    binary = source.kind in (FileKind.PARQUET, FileKind.FEATHER)
    floats = source.hints.from_float or (binary and has_floats(reader.names))
    return Candles(source.hints, source.columns, source.series, floats=floats, arrays=reader.arrays)


@contextmanager
def _name_row(path: Path, before: int, places: list[int]) -> Iterator[None]:
    """Add the file's path and the row's number to an error in the block; ``before`` is the number of rows in earlier batches."""
    from iftb_store.batches.arrow_input import RowError

    try:
        yield
    except RowError as error:
        index = places[error.index] if places else error.index
        raise DumpError(f"{path}, row {before + index + 1}: {error.why}") from error
    except InvalidValueError as error:
        raise DumpError(f"{path}: {error}") from error
