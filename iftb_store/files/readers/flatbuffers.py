"""Reads FlatBuffers tables by field number; Arrow files store their metadata in this format."""

from __future__ import annotations

import struct
from collections.abc import Iterator


class FlatTable:
    """A table within a buffer of bytes; every offset is checked against the buffer's length.

    Raises:
        ValueError: the bytes are not a valid table.
    """

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        vtable = at - self._number("<i", at)
        self._fields = self._number("<H", vtable)
        self._vtable = vtable

    @classmethod
    def root(cls, data: bytes) -> FlatTable:
        """Return the root table of a buffer."""
        return cls(data, struct.unpack_from("<I", data)[0] if len(data) >= 4 else -1)

    def integer(self, field: int, code: str, default: int = 0) -> int:
        """Return an integer field; ``code`` is its format in `struct`."""
        at = self._place(field)
        return default if at is None else self._number(f"<{code}", at)

    def table(self, field: int) -> FlatTable | None:
        """Return a field that is a table, or None if the field is missing."""
        at = self._place(field)
        return None if at is None else FlatTable(self._data, self._follow(at))

    def text_length(self, field: int) -> int:
        """Return the number of bytes of a text field, 0 if the field is missing."""
        return self._vector(field)[1]

    def tables(self, field: int) -> Iterator[FlatTable]:
        """Yield the tables of a field that is a vector of tables."""
        start, count = self._vector(field)
        for index in range(count):
            yield FlatTable(self._data, self._follow(start + 4 * index))

    def structs(self, field: int, code: str) -> Iterator[tuple[int, ...]]:
        """Yield the structs of a field that is a vector of structs; ``code`` is their format in `struct`."""
        start, count = self._vector(field)
        size = struct.calcsize(f"<{code}")
        if start + count * size > len(self._data):
            raise ValueError("the metadata is damaged")
        for index in range(count):
            yield struct.unpack_from(f"<{code}", self._data, start + index * size)

    def _vector(self, field: int) -> tuple[int, int]:
        at = self._place(field)
        if at is None:
            return 0, 0
        start = self._follow(at)
        return start + 4, self._number("<I", start)

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._fields:
            return None
        offset = self._number("<H", self._vtable + entry)
        return self._at + offset if offset else None

    def _follow(self, at: int) -> int:
        return at + self._number("<I", at)

    def _number(self, code: str, at: int) -> int:
        if not 0 <= at <= len(self._data) - struct.calcsize(code):
            raise ValueError("the metadata is damaged")
        number: int = struct.unpack_from(code, self._data, at)[0]
        return number
