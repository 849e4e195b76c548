"""Reads CSV batch by batch in bounded memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv

from iftb_store.files.detect import read_header, split_line
from iftb_store.files.formats import LONGEST_ROW
from iftb_store.files.readers.base import Reader
from iftb_store.files.readers.texts import TextFile

_BLOCK = 1 << 20
# seconds until Arrow's thread is no longer waited for
_LONGEST_WAIT = 10


class CsvReader(Reader):
    """Reads CSV. Every column is text; an empty cell without quotes is NULL."""

    def __init__(self, path: Path, names: Sequence[str] = ()) -> None:
        """Open a file; ``names`` are the names of its columns if it has no header."""
        super().__init__(path)
        self._file = TextFile(path)
        if names:
            self.names, self._separator = list(names), split_line(self._file.peek(_BLOCK).split(b"\n", 1)[0])[1]
        else:
            self.names, self._separator = read_header(self._file, path)

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Read the given columns of all rows, and yield them batch by batch."""
        if not self._file.peek(1):
            return
        released, reader = threading.Event(), None
        try:
            with pyarrow.csv.open_csv(
                cast(Any, _Content(self._file, released)),
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
        finally:
            # a thread of Arrow reads ahead; a call of Python during the interpreter's exit would abort the process
            del reader
            released.wait(_LONGEST_WAIT)


class _Content:
    """Passes the content of a file to Arrow, and sets an event when Arrow has released it and every part that was read."""

    closed = False

    def __init__(self, file: TextFile, released: threading.Event) -> None:
        # a weak reference, because the traceback of an error refers to the arguments
        self.read = partial(_read_part, file, weakref.ref(self))
        weakref.finalize(self, released.set)


class _Part(bytes):
    """A part of the content, which keeps the content alive."""

    content: _Content | None


def _read_part(file: TextFile, content: weakref.ref[_Content], size: int) -> _Part:
    part = _Part(file.read(size))
    part.content = content()
    return part
