"""Reads Feather, which is the Arrow IPC file format, batch by batch in bounded memory."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pyarrow as pa

from iftb_store.files.limits import TextSplitter, check_types
from iftb_store.files.readers.arrow_bounds import ArrowBounds
from iftb_store.files.readers.base import Reader, count_rows_at_once, validate


class FeatherReader(Reader):
    """Reads Feather, which is the Arrow IPC file format."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._bounds = ArrowBounds(path)
        self._file = pa.OSFile(str(path), "rb")
        self._schema = made = pa.ipc.open_file(self._file).schema
        self.names, self.facts = list(made.names), dict(made.metadata or {})

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Read the given columns of all rows, and yield them batch by batch."""
        self._bounds.check_batches(check_types(self._schema, columns))
        places, rows = [self.names.index(name) for name in columns], count_rows_at_once(self.names)
        texts = TextSplitter(self.size)
        reader = pa.ipc.open_file(self._file, options=pa.ipc.IpcReadOptions(included_fields=places, use_threads=False))
        for number in range(reader.num_record_batches):
            batch = validate(reader.get_batch(number))
            for first in range(0, batch.num_rows, rows):
                yield from texts.split(batch.slice(first, rows))
            self.bytes_read = self.size * (number + 1) // reader.num_record_batches
