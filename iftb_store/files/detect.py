"""Detects the format of a file from its content: its first bytes or its first line."""

from __future__ import annotations

import csv
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from iftb_store.files.formats import format_by_suffix
from iftb_store.files.readers.binance import COLUMNS, DumpError, is_dump_header, name_damage, open_file
from iftb_store.files.readers.texts import PACKING_DAMAGE, TextFile, is_packed

# maximum bytes of a header, enough for a thousand columns
_HEAD = 1 << 16
_MOST_COLUMNS = 1_000
_BOM = b"\xef\xbb\xbf"


class FileKind(Enum):
    """The format of a file."""

    DUMP = "a kline dump"
    PARQUET = "Parquet"
    FEATHER = "Feather"
    CSV = "CSV"
    HEADLESS = "CSV without a header"
    JSON = "JSON"
    JSON_LINES = "JSON lines"
    DATABASE = "an SQLite database"
    NOTHING = "an empty file of JSON lines"


def detect_format(path: Path) -> FileKind:
    """Return the format of a file.

    Raises:
        DumpError: the format is not supported, the file is empty, or the path is a pipe, a device or a directory.
        OSError: the file cannot be read.
    """
    with open_file(path) as stream:
        head = stream.read(_HEAD)
    if not head:
        if format_by_suffix(path) == "jsonl":
            # an export without rows
            return FileKind.NOTHING
        raise DumpError(f"{path}: is empty")
    binary = {b"PAR1": FileKind.PARQUET, b"ARROW1": FileKind.FEATHER, b"PK\3\4": FileKind.DUMP, b"PK\5\6": FileKind.DUMP}
    binary[b"SQLite format 3\0"] = FileKind.DATABASE
    for magic, kind in binary.items():
        if head.startswith(magic):
            return kind
    refused = {
        b"PARE": "an encrypted Parquet file; decrypt it first",
        b"FEA1": "a Feather file of version 1, which is not supported; convert it with pandas.read_feather and to_feather",
    }
    for magic, what in refused.items():
        if head.startswith(magic):
            raise DumpError(f"{path}: is {what}")
    if path.suffix.lower() == ".zip":
        return FileKind.DUMP
    if is_packed(head):
        with TextFile(path) as packed, name_damage(path, PACKING_DAMAGE, "cannot be read ({})"):
            head = packed.read(_HEAD)
        if head.startswith((*binary, *refused)):
            raise DumpError(f"{path}: is packed with gzip, which is supported only for CSV and JSON; unpack it first")
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return FileKind.JSON
    if text.startswith(b"{"):
        return FileKind.JSON_LINES
    names, _ = split_line(text.split(b"\n", 1)[0])
    if _has_names(names):
        return FileKind.CSV
    return FileKind.DUMP if is_dump_header(names) or len(names) in (0, 1, len(COLUMNS)) else FileKind.HEADLESS


def read_header(stream: BinaryIO, path: Path) -> tuple[list[str], str]:
    """Return the column names of a CSV file and the separator; the stream is then positioned after the header.

    Raises:
        DumpError: the first line is not a header.
    """
    line = stream.readline(_HEAD).removeprefix(_BOM)
    names, separator = split_line(line)
    if not line.endswith(b"\n") or not names or len(names) > _MOST_COLUMNS or len(set(names)) < len(names):
        raise DumpError(f"{path}, line 1: is not a header with at most {_MOST_COLUMNS:,} different column names")
    return names, separator


def read_cells(path: Path) -> list[str]:
    """Return the cells of the first line of a text file, plain or packed with gzip."""
    with TextFile(path) as stream:
        return split_line(stream.readline(_HEAD).removeprefix(_BOM))[0]


def _has_names(names: list[str]) -> bool:
    if len(names) < 2 or not all(name.isprintable() for name in names) or is_dump_header(names):
        return False
    return any(name.strip()[:1].isalpha() for name in names)


def split_line(line: bytes) -> tuple[list[str], str]:
    """Return the cells of a line and the separator; no cells if the line is not valid CSV."""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    separator = max(",;\t", key=text.count)
    try:
        return next(csv.reader([text], delimiter=separator, strict=True), []), separator
    except csv.Error:
        return [], separator
