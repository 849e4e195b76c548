"""The formats in which files are written, and the metadata (table, version, revision) that an exported file contains."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from iftb_store.errors import InvalidValueError
from iftb_store.values.display import show

FileFormat: TypeAlias = Literal["parquet", "feather", "csv", "jsonl"]
FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
#: The text formats, which can be written to a stream.
TEXT_FORMATS = ("csv", "jsonl")

#: Metadata keys in the schema of a Parquet or Feather file: the table, the version that wrote it, the schema's revision.
TABLE, VERSION, REVISION = b"iftb_store.table", b"iftb_store.version", b"iftb_store.schema.revision"
#: Metadata key of a file in a partitioned folder: the columns that the file leaves out and their values, as JSON.
PARTITION = b"iftb_store.partition"

#: The values of a candle of ccxt and freqtrade, in this order.
CANDLE = ["timestamp", "open", "high", "low", "close", "volume"]
#: The values of a candle of Binance, in this order.
KLINE = [*CANDLE, "close_time", "quote_volume", "trades_count", "taker_volume", "taker_quote_volume", "ignored"]

#: Maximum bytes of a row in a text format, written or read; a longer row is refused, not held in memory.
LONGEST_ROW = 4 << 20

#: The format of each suffix.
SUFFIXES: dict[str, FileFormat] = {
    ".parquet": "parquet",
    ".feather": "feather",
    ".arrow": "feather",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def format_by_suffix(path: Path) -> FileFormat | None:
    """Return the format for a file's suffix, None if the suffix is unknown."""
    return SUFFIXES.get(path.suffix.lower())


def choose_format(path: Path | None, wanted: str | None) -> FileFormat:
    """Return the requested format, or the format for the file's suffix.

    Raises:
        InvalidValueError: the requested format is unknown; or no format is requested, and ``path`` is None or has another suffix.
    """
    if wanted is not None:
        if wanted not in FORMATS:
            raise InvalidValueError(f"there is no format {show(wanted)}; the formats are {', '.join(FORMATS)}")
        return wanted
    if path is None:
        raise InvalidValueError(f"output to stdout needs --format, one of {', '.join(TEXT_FORMATS)}")
    found = format_by_suffix(path)
    if found is None:
        raise InvalidValueError(
            f"the path {show(str(path))} does not end in {', '.join(SUFFIXES)}; give the format, one of {', '.join(FORMATS)}"
        )
    return found
