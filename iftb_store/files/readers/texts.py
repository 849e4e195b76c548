"""Reads text files, plain or compressed with gzip, in bounded memory."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

from iftb_store.files.readers.binance import open_file

# deflate compresses candles whose prices never change about 25 times, and anything at most 1,032 times
_LARGEST_RATIO, _RATIO_FLOOR = 200, 1 << 20
#: Errors that a damaged gzip file raises.
PACKING_DAMAGE = (EOFError, OSError, ValueError, zlib.error)


def is_packed(head: bytes) -> bool:
    """Return whether a file's first bytes are those of gzip."""
    return head.startswith(b"\x1f\x8b")


class TextFile(io.BufferedReader):
    """A text file, plain or compressed with gzip.

    Attributes:
        size: size of the file on disk in bytes.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_file(path)
        self.size = os.fstat(self._file.fileno()).st_size
        packed = is_packed(self._file.read(2))
        self._file.seek(0)
        super().__init__(_Unpacked(self._file) if packed else self._file, 1 << 16)

    @property
    def bytes_read(self) -> int:
        """The approximate number of bytes of the file on disk that were read so far."""
        return self.size if self._file.closed else self._file.tell()

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._file.close()


class _Unpacked(io.RawIOBase):
    """The decompressed content of a gzip file; refuses content that is too large in relation to the file."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._packed = self._unpacked = 0
        self._rest = b""
        self._decoder = zlib.decompressobj(wbits=31)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and not (self._decoder.eof and not self._rest):
            more = self._rest or self._file.read(1 << 14)
            if not more:
                raise EOFError("the file ends in the middle")
            if not self._rest:
                self._packed += len(more)
            data = self._decoder.decompress(more, len(buffer))
            self._rest = self._decoder.unconsumed_tail
            if self._decoder.eof:
                # a gzip file may consist of several compressed parts, one after the other
                self._rest = self._decoder.unused_data or self._file.read(1 << 14)
                if self._rest:
                    self._decoder = zlib.decompressobj(wbits=31)
        self._unpacked += len(data)
        if self._unpacked > max(_RATIO_FLOOR, self._packed * _LARGEST_RATIO):
            raise ValueError(
                f"the content unpacks to more than {_LARGEST_RATIO} times the size of the file, which no valid file does"
            )
        buffer[: len(data)] = data
        return len(data)
