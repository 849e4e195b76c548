"""Reads CSV batch by batch in bounded memory."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from iftb_store.files.detect import read_header
from iftb_store.files.formats import LONGEST_ROW
from iftb_store.files.readers.base import Reader
from iftb_store.files.readers.texts import TextFile

_BLOCK = 1 << 20


class CsvReader(Reader):
    """Reads CSV with a header. Every column is text; an empty cell without quotes is NULL."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = TextFile(path)
        self.names, self._separator = read_header(self._file, path)

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Yield these columns of the rows, batch by batch."""
        if not self._file.peek(1):
            return
        try:
            with pyarrow.csv.open_csv(
                self._file,
                pyarrow.csv.ReadOptions(
                    column_names=self.names, block_size=_BLOCK if self.size <= _BLOCK else LONGEST_ROW, use_threads=False
                ),
                pyarrow.csv.ParseOptions(delimiter=self._separator, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            ) as reader:
                for batch in reader:
                    self.bytes_read = self._file.bytes_read
                    yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as error:
            if "straddling" in str(error):
                raise ValueError(f"a row is longer than {LONGEST_ROW:,} bytes") from error
            raise
