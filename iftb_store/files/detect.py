"""Detects the format of a file from its content (first bytes or first line), and the series from its name."""

from __future__ import annotations

import csv
import re
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from iftb_store.files.formats import format_by_suffix
from iftb_store.files.readers.binance import DumpError, is_dump_header, name_damage, open_file, series_in_name
from iftb_store.files.readers.texts import PACKING_DAMAGE, TextFile, is_packed
from iftb_store.values.timeframes import MONTH, SECONDS

# maximum bytes of a header, enough for a thousand columns
_HEAD = 1 << 16
_MOST_COLUMNS = 1_000
_BOM = b"\xef\xbb\xbf"
# freqtrade's names, e.g. BTC_USDT-5m.feather or BTC_USDT_USDT-1h-futures.feather: / and : are written _, and M is Mo
_FREQTRADE = re.compile(r"(?P<pair>\w[\w-]*?)-(?P<timeframe>\d+[A-Za-z]{1,2})(?:-(?P<candles>[A-Za-z_]+))?(?:\.\w+)+")
# kinds of candles in freqtrade's file names that are computed from trades; None if the name has no kind
_TRADED = (None, "spot", "futures")


class FileKind(Enum):
    """The format of a file."""

    DUMP = "a kline dump"
    PARQUET = "Parquet"
    FEATHER = "Feather"
    CSV = "CSV"
    JSON = "JSON"
    JSON_LINES = "JSON lines"
    NOTHING = "JSON lines without one"


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
    for magic, kind in binary.items():
        if head.startswith(magic):
            return kind
    refused = {
        b"PARE": "an encrypted Parquet file; decrypt it first",
        b"FEA1": "a Feather file of version 1, which is not supported; convert it with pandas.read_feather and to_feather",
        b"SQLite format 3": "a database; read it with `iftb-store copy`",
    }
    for magic, what in refused.items():
        if head.startswith(magic):
            raise DumpError(f"{path}: is {what}")
    if path.suffix.lower() == ".zip":
        return FileKind.DUMP
    if is_packed(head):
        with TextFile(path) as packed, name_damage(path, PACKING_DAMAGE, "cannot be read ({})"):
            head = packed.read(_HEAD)
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return FileKind.JSON
    if text.startswith(b"{"):
        return FileKind.JSON_LINES
    return FileKind.CSV if _has_names(text) else FileKind.DUMP


def read_header(stream: BinaryIO, path: Path) -> tuple[list[str], str]:
    """Return the column names of a CSV file and the separator; the stream is then positioned after the header.

    Raises:
        DumpError: the first line is not a header.
    """
    line = stream.readline(_HEAD).removeprefix(_BOM)
    names, separator = _split(line)
    if not line.endswith(b"\n") or not names or len(names) > _MOST_COLUMNS or len(set(names)) < len(names):
        raise DumpError(f"{path}, line 1: is not a header with at most {_MOST_COLUMNS:,} different column names")
    return names, separator


def read_series_in_name(path: Path, *, traded: bool = True) -> tuple[str | None, str | None]:
    """Return (symbol, timeframe) from a file's name, each None if the name does not contain it.

    Two forms are recognised: Binance's dumps (FILUSDT-1m-2023-04.zip) and freqtrade's candles. BTC_USDT-5m.feather contains the
    pair BTC/USDT, and BTC_USDT_USDT-1h-futures.feather the pair BTC/USDT:USDT.

    Args:
        path: the file.
        traded: whether to refuse candles that are not computed from trades.

    Raises:
        DumpError: freqtrade's name says that the candles are not computed from trades (mark, index, funding_rate), and
            ``traded`` is True.
    """
    found = series_in_name(path)
    if found != (None, None):
        return found
    match = _FREQTRADE.fullmatch(path.name)
    if match is None:
        return None, None
    timeframe = MONTH if match["timeframe"].lower() == "1mo" else match["timeframe"]
    if timeframe not in SECONDS:
        return None, None
    if traded and match["candles"] not in _TRADED:
        raise DumpError(
            f"{path}: contains {match['candles']} of a future, not candles of its trades; "
            "use --symbol to store them under another name"
        )
    return match["pair"].replace("_", "/", 1).replace("_", ":", 1), timeframe


def _has_names(text: bytes) -> bool:
    names, _ = _split(text.split(b"\n", 1)[0])
    if len(names) < 2 or not all(name.isprintable() for name in names) or is_dump_header(names):
        return False
    return any(name.strip()[:1].isalpha() for name in names)


def _split(line: bytes) -> tuple[list[str], str]:
    """Return the cells of a line and the separator; no cells if the line is not valid CSV."""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    separator = max(",;\t", key=text.count)
    try:
        return next(csv.reader([text], delimiter=separator, strict=True), []), separator
    except csv.Error:
        return [], separator
