"""Checks the memory that decoding a Feather file needs, from its footer and buffer lengths, before Arrow decodes it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from iftb_store.files.limits import LONGEST_FACTS, MOST_COLUMNS, check_at_once, check_ratio
from iftb_store.files.readers.binance import open_file
from iftb_store.files.readers.flatbuffers import FlatTable

_MAGIC = b"ARROW1"
_CONTINUED = b"\xff\xff\xff\xff"
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_TIMESTAMP, _UNION = 10, 14
# maximum number of batches and of dictionaries, and maximum bytes of all dictionaries, which stay in memory
_MOST_BLOCKS, _MOST_DICTIONARIES, _DICTIONARY_BYTES = 100_000, 1_000, 32 << 20
# maximum bytes of a batch's metadata: it describes three buffers per column, and more for columns of views
_LONGEST_DESCRIPTION = 4 << 20
_DEEPEST = 64
# struct format of Block in Arrow's File.fbs: offset, length of the metadata, length of the body
_BLOCK = "qi4xq"


class ArrowBounds:
    """Reads the footer of a Feather file, and raises an error if the schema in it needs too much memory.

    Raises:
        ValueError: the file is damaged, or describes more than any valid file contains.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, path.stat().st_size
        with open_file(path) as file:
            self._file: Any = file
            self._footer = self._read_footer()
        _check_schema(self._footer.table(1), self._footer)

    def check_batches(self, width: int) -> None:
        """Raise an error if a batch needs too much memory; ``width`` is the minimum number of bytes of a decoded row.

        Raises:
            ValueError: a batch needs too much memory, or all batches together are larger than a file of this size can contain.
        """
        self._seen: dict[int, tuple[int, int, int]] = {}
        with open_file(self._path) as self._file:
            kept = rows = 0
            for number, block in enumerate(self._footer.structs(2, _BLOCK)):
                kept += self._block(block, _DICTIONARY_BATCH)[0]
                if number == _MOST_DICTIONARIES or kept > _DICTIONARY_BYTES:
                    raise ValueError(f"the dictionaries take more than {_DICTIONARY_BYTES:,} bytes, which no valid file does")
            total = kept
            for number, block in enumerate(self._footer.structs(3, _BLOCK)):
                if number == _MOST_BLOCKS:
                    raise ValueError(f"the file holds more than {_MOST_BLOCKS:,} batches, which no valid file does")
                unpacked, packed, count = self._block(block, _RECORD_BATCH)
                total += unpacked
                rows += count
                check_ratio(width * rows, self._size, texts=False)
                check_ratio(total, self._size, texts=True)
                check_at_once(unpacked + packed, "record batch")

    def _read_footer(self) -> FlatTable:
        end = self._read(max(0, self._size - 10), 10)
        length = int.from_bytes(end[:4], "little", signed=True)
        if end[4:] != _MAGIC or not 0 < length <= self._size - 18:
            raise ValueError("the file ends without an Arrow footer")
        if length > LONGEST_FACTS:
            raise ValueError(f"the footer has {length:,} bytes, more than the limit of {LONGEST_FACTS:,}")
        return FlatTable.root(self._read(self._size - 10 - length, length))

    def _block(self, block: tuple[int, ...], expected: int) -> tuple[int, int, int]:
        """Return (decompressed bytes, compressed bytes or 0 if not compressed, number of rows) of a batch."""
        offset, length, _ = block
        if offset in self._seen:
            return self._seen[offset]
        if not 0 <= offset <= self._size or not 8 <= length <= _LONGEST_DESCRIPTION:
            raise ValueError("a record batch reaches past the end of the file")
        message = _message(self._read(offset, length))
        header = message.table(2)
        if message.integer(1, "B") != expected or header is None:
            raise ValueError("a record batch is not of the kind that the footer says")
        _check_facts(message, 4, 0)
        batch = header if expected == _RECORD_BATCH else header.table(1)
        body = message.integer(3, "q")
        if batch is None or not 0 <= body <= self._size - offset - length:
            raise ValueError("a record batch reaches past the end of the file")
        rows = batch.integer(0, "q")
        if rows < 0:
            raise ValueError("a record batch claims a negative number of rows")
        unpacked = packed = 0
        compressed = batch.table(3) is not None
        for start, size in batch.structs(2, "qq"):
            if start < 0 or size < 0 or start + size > body:
                raise ValueError("a buffer reaches past the end of its record batch")
            packed += size
            unpacked += self._read_unpacked_size(offset + length + start, size) if compressed and size else size
        found = unpacked, packed if compressed else 0, rows
        self._seen[offset] = found
        return found

    def _read_unpacked_size(self, at: int, size: int) -> int:
        # a length of -1 means that the bytes are not compressed
        length = int.from_bytes(self._read(at, 8), "little", signed=True)
        if size < 8 or length < -1:
            raise ValueError("a buffer is damaged")
        return size - 8 if length == -1 else length

    def _read(self, at: int, count: int) -> bytes:
        self._file.seek(at)
        data: Any = self._file.read(count)
        if len(data) < count:
            raise ValueError("the file ends in the middle")
        return bytes(data)


def check_schema_message(data: bytes) -> None:
    """Raise an error if an Arrow schema message describes more columns or text than any valid file contains.

    Raises:
        ValueError: the schema is too large or damaged.
    """
    _check_schema(_message(data).table(2))


def _message(data: bytes) -> FlatTable:
    first = 8 if data[:4] == _CONTINUED else 4
    length = int.from_bytes(data[first - 4 : first], "little", signed=True)
    if not 0 < length <= len(data) - first:
        raise ValueError("the metadata is damaged")
    return FlatTable.root(data[first : first + length])


def _check_schema(made: FlatTable | None, footer: FlatTable | None = None) -> None:
    """Raise an error if a schema has too many columns or too much text.

    A file may refer many times to a part that it contains once. Every reference is counted, because Arrow makes a copy of the
    part for each reference.
    """
    if made is None:
        raise ValueError("the schema is missing")
    text = _check_facts(made, 2, 0)
    if footer is not None:
        text = _check_facts(footer, 4, text)
    waiting = [(field, 1) for field in islice(made.tables(1), MOST_COLUMNS + 1)]
    columns = 0
    while waiting:
        field, depth = waiting.pop()
        columns += 1
        text = _check_facts(field, 6, text + field.text_length(0))
        kind, described = field.integer(2, "B"), field.table(3)
        if described is not None and kind in (_TIMESTAMP, _UNION):
            text += 4 * described.text_length(1)
        if columns > MOST_COLUMNS or depth > _DEEPEST or len(waiting) > MOST_COLUMNS:
            raise ValueError(f"the schema has more than {MOST_COLUMNS:,} columns, which no valid file does")
        if text > LONGEST_FACTS:
            raise ValueError(f"the schema holds more than {LONGEST_FACTS:,} bytes of text, which no valid file does")
        waiting += [(child, depth + 1) for child in islice(field.tables(5), MOST_COLUMNS + 1)]


def _check_facts(table: FlatTable, field: int, before: int) -> int:
    """Add the bytes that the metadata (names and values) of a FlatBuffers table needs to ``before``, and return the sum.

    Raises:
        ValueError: the sum is greater than in any valid file.
    """
    text = before
    for fact in table.tables(field):
        text += 64 + fact.text_length(0) + fact.text_length(1)
        if text > LONGEST_FACTS:
            raise ValueError(f"the schema holds more than {LONGEST_FACTS:,} bytes of text, which no valid file does")
    return text
