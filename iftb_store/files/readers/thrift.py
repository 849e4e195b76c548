"""Reads Thrift's compact protocol, which Parquet uses in footers and page headers; fields that are not needed are skipped."""

from __future__ import annotations

from collections.abc import Generator

STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)

_INTEGERS = (I16, I32, I64)
_DEEPEST = 32


class CompactReader:
    """Reads values from bytes, one after the other.

    Attributes:
        at: the position of the next byte to read.
        elements: number of structs and list elements that were read or skipped.

    Raises:
        EOFError: the bytes end too early.
        ValueError: the bytes are not a valid message.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = self.elements = 0

    def fields(self) -> Generator[tuple[int, int]]:
        """Yield (number, type) of each field of a struct; the caller must read or skip each value before the next."""
        number, seen = 0, set[int]()
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._read_signed()
            if number in seen:
                raise ValueError("a field occurs twice")
            seen.add(number)
            yield number, head & 15

    def items(self) -> Generator[int]:
        """Yield the type of each element of a list; the caller must read or skip each element before the next."""
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        for _ in range(count):
            self.elements += 1
            yield head & 15

    def integer(self, kind: int) -> int:
        """Read an integer."""
        if kind not in _INTEGERS:
            raise ValueError("a field is not a whole number")
        return self._read_signed()

    def binary(self) -> bytes:
        """Read a byte string."""
        return self._take(self._varint())

    def skip(self, kind: int, depth: int = 0) -> None:
        """Skip a value."""
        if kind in _INTEGERS:
            self._varint()
        elif kind == BINARY:
            self._take(self._varint())
        elif kind == STRUCT:
            self._skip_struct(depth)
        elif kind in (LIST, SET):
            for item in self.items():
                # a boolean takes one byte in a list, but no byte in a struct, where the field's type is its value
                self.skip(BYTE if item in (TRUE, FALSE) else item, depth + 1)
        elif kind in (BYTE, DOUBLE):
            self._take(1 if kind == BYTE else 8)
        elif kind not in (TRUE, FALSE):
            raise ValueError("a field has a type that Parquet does not use")

    def _skip_struct(self, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("the metadata is nested too deeply")
        self.elements += 1
        while head := self._byte():
            if not head >> 4:
                self._varint()
            self.skip(head & 15, depth + 1)

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        found = self._data[self.at : self.at + count]
        if len(found) < count:
            raise EOFError("the file ends in the middle")
        self.at += count
        return found

    def _varint(self) -> int:
        byte = self._byte()
        value, shift = byte & 127, 7
        while byte > 127:
            if shift > 63:
                raise ValueError("a number has too many bytes")
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
        return value

    def _read_signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
