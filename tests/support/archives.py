"""Malicious dumps: archives built byte by byte that lie, explode or point to other files, and endless lines."""

from __future__ import annotations

import stat
import struct
import zlib
from pathlib import Path

FIRST = "1706745600000,2.8210,2.8350,2.8190,2.8350,124314,1706745659999,351525.3510,986,76178,215424.4960,0\n"
_STORED, _DEFLATED = 0, 8
_GIBIBYTE = 1 << 30


class Entry:
    """One entry of an archive, with arbitrary claims in its headers."""

    def __init__(self, name: str | bytes, content: bytes = FIRST.encode(), **claims: int | bytes) -> None:
        self.name = name.encode() if isinstance(name, str) else name
        method = int(claims.get("method", _DEFLATED))
        packed = claims.get("packed")
        self.packed = packed if isinstance(packed, bytes) else _deflate(content) if method == _DEFLATED else content
        self.flags = int(claims.get("flags", 0))
        self.method = method
        self.crc = int(claims.get("crc", zlib.crc32(content)))
        self.packed_size = int(claims.get("packed_size", len(self.packed)))
        self.size = int(claims.get("size", len(content)))
        self.mode = int(claims.get("mode", stat.S_IFREG | 0o644))
        local_name = claims.get("local_name", self.name)
        self.local_name = local_name if isinstance(local_name, bytes) else self.name

    def local(self) -> bytes:
        """Return the entry before the directory."""
        return struct.pack("<4s5H3I2H", b"PK\3\4", 20, *self._common(), len(self.local_name), 0) + self.local_name + self.packed

    def central(self, offset: int) -> bytes:
        """Return the entry of the directory."""
        head = struct.pack("<4s6H3I", b"PK\1\2", 0x0314, 20, *self._common())
        return head + struct.pack("<5H2I", len(self.name), 0, 0, 0, 0, self.mode << 16, offset) + self.name

    def _common(self) -> tuple[int, ...]:
        return self.flags, self.method, 0, 0x5841, self.crc, self.packed_size, self.size


def archive(
    *entries: Entry, overlapping: bool = False, more: bytes = b"", directory_size: int | None = None, offset: int | None = None
) -> bytes:
    """Return an archive; overlapping entries share the first one's bytes, ``more`` precedes them in the directory."""
    body, directory = b"", more
    for entry in entries:
        directory += entry.central(0 if overlapping else len(body))
        body += b"" if overlapping and body else entry.local()
    size = len(directory) if directory_size is None else directory_size
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *[len(entries)] * 2, size, len(body) if offset is None else offset, 0)
    return body + directory + end


def bomb(line: bytes, total: int = 3 * _GIBIBYTE) -> bytes:
    """Return a deflate stream of ``total`` bytes of one repeated line, without unpacking it here."""
    count = (1 << 20) // len(line)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(line * count) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(line * count) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * (total // (len(line) * count)) + packer.flush()


def write_hostile_dumps(folder: Path) -> dict[str, str]:
    """Write the dumps; return a pattern of each outcome: an error, or the number of bars."""
    zeros, lines = bomb(b"\0"), bomb(FIRST.encode())
    csv = Entry("x.csv")
    many = (Entry("x.txt", b"", method=_STORED).central(0)) * 400_000
    contents: dict[str, tuple[bytes, str]] = {
        "bomb": (archive(Entry("x.csv", packed=zeros, size=3 * _GIBIBYTE)), "decompression bomb"),
        "bomb of candles": (archive(Entry("x.csv", packed=lines, size=3 * _GIBIBYTE)), "decompression bomb"),
        "bomb that claims little": (archive(Entry("x.csv", packed=zeros, size=1_000)), "archive is damaged|longer than 1000"),
        "bomb that claims what is likely": (
            archive(Entry("x.csv", packed=zeros, size=len(zeros) * 199)),
            "line 1: longer than 1000 bytes",
        ),
        "candles that claim little": (archive(Entry("x.csv", packed=lines, size=len(FIRST) * 7)), "archive is damaged"),
        "nested": (archive(Entry("x.zip", archive(csv))), "contains no .csv files"),
        "nested under a false name": (archive(Entry("x.csv", archive(csv))), "line 1: "),
        "two on one place": (archive(csv, Entry("y.csv"), overlapping=True), "contains 2 .csv files"),
        "one name twice": (archive(csv, csv, overlapping=True), "contains 2 .csv files"),
        "text on the same place": (archive(csv, Entry("x.txt"), overlapping=True), "archive is damaged|^1 bar"),
        "encrypted": (archive(Entry("x.csv", flags=1)), "is encrypted"),
        "wrong sum": (archive(Entry("x.csv", crc=1)), "archive is damaged .*CRC"),
        "LZMA": (archive(Entry("x.csv", method=14)), "other than deflate"),
        "AES": (archive(Entry("x.csv", method=99, flags=1)), "is encrypted"),
        "another name inside": (archive(Entry("x.csv", local_name=b"y\x1b[31m.csv")), "archive is damaged"),
        "no text for a name": (archive(Entry(b"\xff\xfe.csv", flags=0x800)), "archive is damaged"),
        "longer than it is": (archive(Entry("x.csv", packed_size=1 << 28, size=1 << 30)), "archive is damaged|longer than 1000"),
        "larger than any": (archive(Entry("x.csv", packed_size=0xFFFFFFFF, size=0xFFFFFFFF)), "archive is damaged"),
        "directory that lies": (archive(csv, directory_size=0xFFFFFFF0), "archive is damaged"),
        "directory elsewhere": (archive(csv, offset=0xFFFFFFF0), "archive is damaged"),
        "directory without end": (archive(csv, more=many), "central directory of the archive is longer than in any kline dump"),
        "absolute": (archive(Entry("/etc/x.csv")), "^1 bar"),
        "parent": (archive(Entry("../../x.csv")), "^1 bar"),
        "backslashes": (archive(Entry("..\\..\\x.csv")), "^1 bar"),
        "drive": (archive(Entry("C:\\x.csv")), "^1 bar"),
        "NUL": (archive(Entry(b"x.csv\0.txt")), "^1 bar|archive is damaged|contains no"),
        "NUL before": (archive(Entry(b"x.txt\0.csv")), "contains no .csv|archive is damaged"),
        "long name": (archive(Entry("x" * 65_531 + ".csv")), "^1 bar"),
        "link": (archive(Entry("x.csv", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)), "line 1: 1 columns instead of 12"),
        "folder": (archive(Entry("x.csv/", b"")), "contains no .csv files"),
        "nothing": (b"", "archive is damaged"),
    }
    expected = {}
    for name, (content, said) in contents.items():
        path = folder / f"BTCUSDT-1m-2024-02 {name}.zip"
        path.write_bytes(content)
        expected[path.name] = said
    endless = folder / "BTCUSDT-1m-2024-02 endless line.csv"
    with endless.open("wb") as file:
        file.truncate(_GIBIBYTE)
    expected[endless.name] = "line 1: longer than 1000 bytes"
    return expected


def _deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()
