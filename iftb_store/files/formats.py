"""The formats of files that are written, and what a file says of itself."""

from __future__ import annotations

from pathlib import Path

from iftb_store.errors import InvalidValueError
from iftb_store.values.display import show

FORMATS = ("parquet", "feather", "csv", "jsonl")
#: Those that are text, and can be written to a stream.
TEXT_FORMATS = ("csv", "jsonl")

#: What the schema of a Parquet or Feather file says: its table, the version that wrote it and the revision of the schema.
TABLE, VERSION, REVISION = b"iftb_store.table", b"iftb_store.version", b"iftb_store.schema.revision"
#: The columns that are left out of a file of a partitioned folder, and their values, as JSON.
PARTITION = b"iftb_store.partition"

#: Bytes of the longest row of text that is written or read; what would be longer is refused, not held in memory.
LONGEST_ROW = 4 << 20

_SUFFIXES = {
    ".parquet": "parquet",
    ".feather": "feather",
    ".arrow": "feather",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def format_by_suffix(path: Path) -> str | None:
    """Return the format that a file's suffix tells."""
    return _SUFFIXES.get(path.suffix.lower())


def choose_format(path: Path | None, wanted: str | None) -> str:
    """Return the format that is asked for, or that of a file's suffix.

    Raises:
        InvalidValueError: an unknown one, or none that could be told.
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
            f"{show(str(path))} does not end in {', '.join(_SUFFIXES)}; give the format, one of {', '.join(FORMATS)}"
        )
    return found
