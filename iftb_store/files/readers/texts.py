"""Files of text, packed by gzip or not, read in bounded memory."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

from iftb_store.files.readers.binance import open_file

# deflate reaches about 25 on candles that never move, and 1,032 at most
_LARGEST_RATIO, _RATIO_FLOOR = 200, 1 << 20
#: What a damaged archive raises.
PACKING_DAMAGE = (EOFError, OSError, ValueError, zlib.error)


def is_packed(head: bytes) -> bool:
    """Tell whether bytes begin as gzip's do."""
    return head.startswith(b"\x1f\x8b")


class TextFile(io.BufferedReader):
    """A file of text, packed by gzip or not.

    Attributes:
        size: bytes of the file as it stands.
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, open_file(path)
        self.size = os.fstat(self._file.fileno()).st_size
        packed = is_packed(self._file.read(2))
        self._file.seek(0)
        super().__init__(_Unpacked(self._file) if packed else self._file, 1 << 16)

    @property
    def bytes_read(self) -> int:
        """About how many bytes of the file were read."""
        return self.size if self._file.closed else self._file.tell()

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._file.close()


class _Unpacked(io.RawIOBase):
    """What gzip packed, as long as it is not many times as much as the file."""

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
                raise EOFError("it ends in the middle")
            if not self._rest:
                self._packed += len(more)
            data = self._decoder.decompress(more, len(buffer))
            self._rest = self._decoder.unconsumed_tail
            if self._decoder.eof:
                # more than one file may stand one after the other
                self._rest = self._decoder.unused_data or self._file.read(1 << 14)
                if self._rest:
                    self._decoder = zlib.decompressobj(wbits=31)
        self._unpacked += len(data)
        if self._unpacked > max(_RATIO_FLOOR, self._packed * _LARGEST_RATIO):
            raise ValueError(f"it unpacks to more than {_LARGEST_RATIO} times its size, which no valid file does")
        buffer[: len(data)] = data
        return len(data)
