"""Reads Parquet batch by batch in bounded memory."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from iftb_store.files.limits import TextSplitter
from iftb_store.files.readers.base import Reader, count_rows_at_once, validate
from iftb_store.files.readers.parquet_bounds import check_footer, list_groups_within_bounds

# limits while a footer is parsed: bytes of one text, and number of columns, row groups and metadata entries in one list
_LONGEST_FACT, _MOST_FACTS = 16 << 20, 200_000


class ParquetReader(Reader):
    """Reads Parquet, page by page."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path
        check_footer(path)
        with self._open() as file:
            self._schema = made = file.schema_arrow
            self.names, self.facts = list(made.names), dict(made.metadata or {})
            # read text columns as dictionaries: a text that is repeated in many rows is kept in memory once
            texts = [field.name for field in made if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
        self._file = self._open(texts)

    def _open(self, texts: list[str] | None = None) -> pq.ParquetFile:
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
        """Read the given columns of all rows, and yield them batch by batch."""
        metadata, rows = self._file.metadata, 0
        total, texts = metadata.num_rows, TextSplitter(self.size)
        for groups, most in list_groups_within_bounds(
            self._path, metadata, self._schema, columns, count_rows_at_once(self.names)
        ):
            for batch in self._file.iter_batches(most, row_groups=groups, columns=columns, use_threads=False):
                rows += batch.num_rows
                self.bytes_read = self.size * rows // (total or 1)
                yield from texts.split(validate(batch))
        if rows != total:
            raise ValueError(f"the file contains {rows:,} rows, but its footer claims {total:,}")
