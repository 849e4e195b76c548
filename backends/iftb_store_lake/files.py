"""Writes sorted rows as data files of the table: the rows of a series in a partition go into one file, up to `MOST` rows."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from iftb_store.batches.arrow import arrow_schema
from iftb_store.columnar import key_bounds
from iftb_store.schema.table_spec import BARS, SERIES, ColumnKind
from iftb_store_lake.layout import BOUNDED, COLUMNS, LEVEL, PART, ROW_GROUP
from iftb_store_lake.storage import Storage

#: A file has at least so many rows if its partition has them, and at most so many.
LEAST, MOST = 8_192, 1_500_000
#: A file that ends within a series has at least so many rows, as rows come in batches.
CUT_FROM = MOST - ROW_GROUP
# a partition that has many rows has about so many files
_FILES = 32
_SCHEMA = arrow_schema(BARS)
_INTEGERS = [name for name in COLUMNS if BARS.kinds[name] in (ColumnKind.TIME, ColumnKind.INTEGER)]
_ODD = re.compile(r"[^A-Za-z0-9_.-]")


def choose_rows(rows: int) -> int:
    """Return how many rows make a file full, in a partition with ``rows`` rows."""
    return min(max(LEAST, math.ceil(rows / _FILES)), MOST)


def count_files(rows: int) -> int:
    """Return the greatest number of files that `write_files` writes for a partition with ``rows`` rows."""
    return rows // choose_rows(rows) + rows // CUT_FROM + 1


def write_files(storage: Storage, batches: Iterable[pa.Table], full: int) -> list[AddAction]:
    """Write rows, which are sorted by partition and key, as files that a commit can add.

    Each series of a partition is in one file, unless it has more than `MOST` rows.

    Args:
        storage: where the files are written.
        batches: the rows, with a column for the partition.
        full: once a file has this number of rows, the next series begins a new file.

    Raises:
        OSError: a file cannot be written.
    """
    found = list[AddAction]()
    file: _File | None = None
    last: tuple[Any, ...] = ()
    try:
        for batch in batches:
            for rows in _split(batch):
                series = tuple(rows[name][0].as_py() for name in (PART, *SERIES))
                for part in (rows.slice(first, ROW_GROUP) for first in range(0, rows.num_rows, ROW_GROUP)):
                    begins = series != last and file is not None and (file.rows >= full or series[0] != file.part)
                    if file is not None and (begins or file.rows + part.num_rows > MOST):
                        found.append(file.close())
                        file = None
                    file = file or _File(storage, series[0])
                    file.add(part)
                    last = series
        if file is not None:
            found.append(file.close())
            file = None
    finally:
        if file is not None:
            file.abandon()
    return found


def _split(batch: pa.Table) -> Iterator[pa.Table]:
    """Yield the rows of each series as a separate table."""
    changes: Any = None
    for name in (PART, *SERIES):
        column: Any = batch[name].combine_chunks()
        differs = pc.not_equal(column[1:], column[:-1])
        changes = differs if changes is None else pc.or_(changes, differs)
    starts = [0, *(index + 1 for index in pc.indices_nonzero(changes).to_pylist()), batch.num_rows]
    for first, end in pairwise(starts):
        if end > first:
            yield batch.slice(first, end - first)


class _File:
    """A file that is being written."""

    def __init__(self, storage: Storage, part: str) -> None:
        self.part = part
        self.rows = 0
        # a name in the log is a URL, so that an odd one is not used
        self._path = f"{PART}={_ODD.sub('_', part)}/part-00000-{uuid4()}-c000.zstd.parquet"
        self._stream = storage.create(self._path)
        # the type stubs do not accept a list of columns
        names: Any = list(SERIES)
        self._writer = pq.ParquetWriter(
            self._stream,
            _SCHEMA,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=names,
            column_encoding=dict.fromkeys(_INTEGERS, "DELTA_BINARY_PACKED"),
        )
        self._waiting = list[pa.Table]()
        self._count = 0
        self._bounds: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    def add(self, rows: pa.Table) -> None:
        """Add rows that follow the earlier ones."""
        self._waiting.append(rows.select(COLUMNS))
        self._count += rows.num_rows
        self.rows += rows.num_rows
        if self._count >= ROW_GROUP:
            self._flush()

    def close(self) -> AddAction:
        """Complete the file and return its entry for the commit."""
        self._flush()
        self._writer.close()
        size = self._stream.tell()
        self._stream.close()
        least, greatest = ({name: _to_json(value) for name, value in side.items()} for side in self._bounds)
        stats = {"numRecords": self.rows, "minValues": least, "maxValues": greatest, "nullCount": dict.fromkeys(BOUNDED, 0)}
        moment = time.time_ns() // 1_000_000
        return AddAction(self._path, size, {PART: self.part}, moment, True, json.dumps(stats, ensure_ascii=False))

    def abandon(self) -> None:
        """Close the incomplete file, which no version of the table contains."""
        self._stream.close()

    def _flush(self) -> None:
        if not self._count:
            return
        rows = pa.concat_tables(self._waiting).cast(_SCHEMA).combine_chunks()
        self._waiting, self._count = [], 0
        ids: Any = pc.min_max(rows["id"]).as_py()
        found = key_bounds(BARS, rows)
        for bounds, file_bounds, own_id, choose in zip(self._bounds, found, (ids["min"], ids["max"]), (min, max), strict=True):
            for name, value in (file_bounds | {"id": own_id}).items():
                bounds[name] = choose(bounds[name], value) if name in bounds else value
        self._writer.write_table(rows, row_group_size=ROW_GROUP)


def _to_json(value: Any) -> Any:
    # the statistics of Delta have milliseconds
    return f"{value.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z" if isinstance(value, datetime) else value
