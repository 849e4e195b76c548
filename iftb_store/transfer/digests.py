"""Computes checksums of rows that are the same on every engine, because they cover the values, not the storage format.

A row is encoded as the bytes of its columns, one after the other, in the order of `TableSpec.compared`: the fields of Trade
and the other records, including ids and the times set by the store; the fields of OHLCVBar without id and created_at, which
each store sets itself. NULL is encoded as one byte 0; any other value as one byte 1 followed by

- an integer as 8 bytes, signed; a time as the integer of its microseconds since 1970-01-01 UTC;
- a decimal as 16 bytes, signed: the integer of its value times 10**18;
- text as the number of its UTF-8 bytes, in 8 bytes, followed by these bytes;
- a JSON object as text in canonical form: the result of `json.loads`, written by `json.dumps` with sorted keys, without
  white space, in ASCII. Text that is not valid JSON is encoded unchanged;
- a list of texts as `iftb_store.values.tags` writes it.

All integers are little-endian. A chunk is the bars of one series on one day in UTC, or the rows of another table whose
``id // 10_000`` is the same. The digest of a chunk is BLAKE2b with 16 bytes over its rows in key order. The checksum of a
series, or of a table without series, is BLAKE2b with 16 bytes, in hexadecimal, over its chunks in their order. Each chunk
contributes its number (days since 1970-01-01, or id // 10_000) and its number of rows, 8 bytes each, and its digest.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from iftb_store.schema.table_spec import BARS, ColumnKind, TableSpec

#: Size of a chunk: microseconds of time, or number of ids.
DAY = 86_400_000_000
IDS = 10_000

_SIZE = 16
_ABSENT, _PRESENT = (pa.scalar(mark, pa.large_binary()) for mark in (b"\0", b"\1"))
_NOTHING = pa.scalar(b"", pa.large_binary())
_WIDTHS = {ColumnKind.INTEGER: 8, ColumnKind.TIME: 8, ColumnKind.DECIMAL: 16}


class Chunk(NamedTuple):
    """The number of a chunk (one day of a series, or 10,000 ids of a table), the number of its rows, and their digest."""

    number: int
    rows: int
    digest: bytes


def get_part_size(table: TableSpec) -> int:
    """Return the size of a chunk (the rows that have one digest): microseconds for bars, a number of ids for other tables."""
    return DAY if table is BARS else IDS


def read_positions(rows: pa.Table, table: TableSpec) -> Any:
    """Return the sort keys of the rows as int64: for bars microseconds since 1970-01-01 UTC, for other tables ids."""
    column: Any = rows[table.key[-1]]
    return column.cast(pa.int64()).combine_chunks()


def encode_rows(
    rows: pa.Table, table: TableSpec, columns: Sequence[str] | None = None, fixed: Mapping[str, str] | None = None
) -> Any:
    """Encode each row as bytes, as the docstring of this module defines.

    Args:
        rows: the rows.
        table: their table.
        columns: the columns to encode; None for `TableSpec.compared`.
        fixed: text columns with the same value in every row: name -> value. The value is encoded only once.
    """
    if sys.byteorder != "little":  # pragma: no cover - Arrow's buffers have the machine's byte order
        raise NotImplementedError("checksums are computed on little-endian machines only")
    pieces: list[Any] = []
    for name in table.compared if columns is None else columns:
        if fixed and name in fixed:
            pieces.append(_encode_text(fixed[name]))
        else:
            column: Any = rows[name].combine_chunks()
            pieces += _pieces(column, table.kinds[name])
    return pc.binary_join_element_wise(*pieces, _NOTHING, null_handling="replace", null_replacement="")


def compute_checksum(parts: Iterable[Chunk]) -> str:
    """Return the checksum of a series or table from its chunks, which must be in the order of their numbers."""
    over = blake2b(digest_size=_SIZE)
    for part in parts:
        over.update(b"".join(number.to_bytes(8, "little", signed=True) for number in part[:2]))
        over.update(part.digest)
    return over.hexdigest()


class Digester:
    """Splits the rows of one series (or of a table without series) into chunks and computes the digest of each.

    The rows are taken in batches, in key order.

    Args:
        table: the table.
        fixed: text columns with the same value in every row: name -> value.
    """

    def __init__(self, table: TableSpec, fixed: Mapping[str, str] | None = None) -> None:
        self._table = table
        self._fixed = fixed
        self._size = get_part_size(table)
        self._parts: list[Chunk] = []
        self._number: int | None = None
        self._rows = 0
        self._over = blake2b(digest_size=_SIZE)

    def take(self, rows: pa.Table) -> None:
        """Add the next rows in key order."""
        if not rows.num_rows:
            return
        joined = encode_rows(rows, self._table, fixed=self._fixed)
        _, offsets, data = joined.buffers()
        ends = memoryview(offsets).cast("q")[joined.offset :]
        content = memoryview(data)
        for number, first, last in self._ranges(rows):
            if number != self._number:
                self._end()
                self._number = number
            self._over.update(content[ends[first] : ends[last]])
            self._rows += last - first

    def parts(self) -> list[Chunk]:
        """Return the chunks with their digests; call this method after the last batch."""
        self._end()
        return self._parts

    def _end(self) -> None:
        if self._number is not None:
            self._parts.append(Chunk(self._number, self._rows, self._over.digest()))
        self._number, self._rows, self._over = None, 0, blake2b(digest_size=_SIZE)

    def _ranges(self, rows: pa.Table) -> Iterator[tuple[int, int, int]]:
        """Yield for each chunk in ``rows``: (number of the chunk, index of its first row, index after its last row)."""
        where = read_positions(rows, self._table)
        numbers = memoryview(where.buffers()[1]).cast("q")[where.offset : where.offset + len(where)]
        first = 0
        while first < len(numbers):
            number = numbers[first] // self._size
            last = bisect_left(numbers, (number + 1) * self._size, first)
            yield number, first, last
            first = last


def _pieces(column: Any, kind: ColumnKind) -> list[Any]:
    mark = _PRESENT
    if column.null_count:
        mark = pc.if_else(pc.is_valid(column), _PRESENT, _ABSENT)
    if kind in _WIDTHS:
        return [mark, _as_bytes(column, _WIDTHS[kind])]
    text: Any = column.cast(pa.large_binary())
    if kind == ColumnKind.JSON:
        text = pa.array([None if value is None else normalise_json(value) for value in column.to_pylist()], pa.large_binary())
    return [mark, _as_bytes(pc.binary_length(text).cast(pa.int64()), 8), text]


def _encode_text(text: str) -> Any:
    content = text.encode()
    return pa.scalar(b"\1" + len(content).to_bytes(8, "little") + content, pa.large_binary())


def _as_bytes(column: Any, width: int) -> Any:
    fixed = pa.Array.from_buffers(pa.binary(width), len(column), column.buffers(), offset=column.offset)
    return fixed.cast(pa.large_binary())


def find_invalid_json(rows: pa.Table, table: TableSpec) -> tuple[str, Any, Any] | None:
    """Return (column, id, text) of the first value in a JSON column that is not valid JSON; None if all values are valid."""
    for name in (name for name, kind in table.kinds.items() if kind == ColumnKind.JSON):
        for number, text in zip(rows["id"].to_pylist(), rows[name].to_pylist(), strict=True):
            try:
                json.loads(text or "{}")
            except (ValueError, RecursionError):
                return name, number, text
    return None


def normalise_json(text: str) -> bytes:
    """Return the canonical form of a JSON object, in bytes; text that is not valid JSON is returned unchanged."""
    try:
        return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError):
        # raw SQL can have stored text that is not valid JSON
        return text.encode()
