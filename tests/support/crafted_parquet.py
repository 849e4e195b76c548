"""Parquet files built byte by byte, with arbitrary claims in footers and page headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
INT64, BYTE_ARRAY = 2, 6
PLAIN, RLE_DICTIONARY, DELTA_LENGTH, DELTA_TEXT = 0, 8, 6, 7
ZSTD, UNCOMPRESSED = 6, 0
NAMES = ("time", "open", "high", "low", "close", "volume")

Field = tuple[int, int, Any]


def zstd_zeros(count: int, again: int = 0) -> bytes:
    """Return a Zstandard frame of ``count`` bytes, all equal to ``again``: four bytes for each 128 KiB."""
    frame = bytearray(b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", count))
    while count:
        block = min(count, 1 << 17)
        count -= block
        # last, of the type RLE, its size
        frame += (int(not count) | 1 << 1 | block << 3).to_bytes(3, "little") + bytes([again])
    return bytes(frame)


def thrift(*fields: Field) -> bytes:
    """Return a struct in Thrift's compact protocol."""
    data, before = bytearray(), 0
    for number, kind, value in fields:
        step = number - before
        data += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _signed(number)
        data += _value(kind, value)
        before = number
    return bytes(data + b"\0")


@dataclass
class Page:
    """A page: its bytes in the file, and the claims of its header."""

    data: bytes
    unpacked: int
    values: int
    encoding: int = PLAIN
    dictionary: bool = False
    packed: int | None = None

    def whole(self) -> bytes:
        """Return header and bytes."""
        about: list[Field] = [(1, I32, self.values), (2, I32, self.encoding)]
        if not self.dictionary:
            about += [(3, I32, 3), (4, I32, 3)]
        kind, place = (2, 7) if self.dictionary else (0, 5)
        packed = len(self.data) if self.packed is None else self.packed
        header = thrift((1, I32, kind), (2, I32, self.unpacked), (3, I32, packed), (place, STRUCT, thrift(*about)))
        return header + self.data


@dataclass
class Column:
    """A column: its pages, and the footer's claims about them."""

    pages: list[Page]
    type: int = INT64
    codec: int = ZSTD
    values: int | None = None
    size: int | None = None
    offset: int | None = None
    file: bytes | None = None
    more: list[Field] = field(default_factory=list)


def parquet(rows: int, columns: dict[str, Column], *, groups: int = 1, facts: dict[bytes, bytes] | None = None) -> bytes:
    """Return a file whose row groups all have the same columns, at the same places."""
    body, chunks = bytearray(b"PAR1"), []
    for name, column in columns.items():
        start = len(body)
        for page in column.pages:
            body += page.whole()
        chunks.append(_chunk(name, column, start, len(body) - start, rows))
    schema = [thrift((4, BINARY, b"schema"), (5, I32, len(columns)))]
    for name, column in columns.items():
        text: list[Field] = [(6, I32, 0)] if column.type == BYTE_ARRAY else []
        schema.append(thrift((1, I32, column.type), (3, I32, 0), (4, BINARY, name.encode()), *text))
    group = thrift((1, LIST, (STRUCT, chunks)), (2, I64, len(body)), (3, I64, rows))
    pairs = [thrift((1, BINARY, key), (2, BINARY, value)) for key, value in (facts or {}).items()]
    footer = thrift(
        (1, I32, 2),
        (2, LIST, (STRUCT, schema)),
        (3, I64, rows * groups),
        (4, LIST, (STRUCT, [group] * groups)),
        *([(5, LIST, (STRUCT, pairs))] if pairs else []),
    )
    return with_footer(bytes(body), footer)


def with_footer(body: bytes, footer: bytes) -> bytes:
    """Return a file of these parts."""
    return body + footer + struct.pack("<I", len(footer)) + b"PAR1"


def candles(rows: int, column: Column, **others: Column) -> bytes:
    """Return a file of candles whose columns are all alike, except ``others``."""
    return parquet(rows, {name: others.pop(name, column) for name in NAMES} | others)


def _chunk(name: str, column: Column, start: int, size: int, rows: int) -> bytes:
    first = start + (len(column.pages[0].whole()) if column.pages and column.pages[0].dictionary else 0)
    about = thrift(
        (1, I32, column.type),
        (2, LIST, (I32, [0, 8])),
        (3, LIST, (BINARY, [name.encode()])),
        (4, I32, column.codec),
        (5, I64, rows if column.values is None else column.values),
        (6, I64, size),
        (7, I64, size if column.size is None else column.size),
        (9, I64, first if column.offset is None else column.offset),
        *([(11, I64, start)] if first != start else []),
    )
    path: list[Field] = [(1, BINARY, column.file)] if column.file is not None else []
    return thrift(*path, (2, I64, 0), (3, STRUCT, about), *column.more)


def _value(kind: int, value: Any) -> bytes:
    if kind in (I32, I64):
        return _signed(value)
    if kind == BINARY:
        return _varint(len(value)) + bytes(value)
    if kind == STRUCT:
        return bytes(value)
    item, values = value
    head = bytes([len(values) << 4 | item]) if len(values) < 15 else bytes([15 << 4 | item]) + _varint(len(values))
    return head + b"".join(_value(item, one) for one in values)


def _signed(value: int) -> bytes:
    return _varint((value << 1) ^ (value >> 63))


def _varint(value: int) -> bytes:
    data = bytearray()
    value &= (1 << 64) - 1
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
