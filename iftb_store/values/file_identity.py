"""Identifies a file, detects the engine of a database file, and finds the database to which an auxiliary file belongs."""

from __future__ import annotations

from pathlib import Path

from iftb_store.errors import operational_error

#: Suffixes of the files that engines create beside an open database, and leave behind after a crash.
BESIDE = ("-wal", "-shm", "-journal", ".wal")

# the magic bytes of a database file, and their offset
_MAGIC = {"sqlite": (0, b"SQLite format 3\0"), "duckdb": (8, b"DUCK")}


def read_engine(path: Path) -> str | None:
    """Return the engine of a database file, detected from its first bytes, or None if the file has no known format.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(32)
    return next((engine for engine, (place, magic) in _MAGIC.items() if start.startswith(magic, place)), None)


def find_database(path: Path) -> Path | None:
    """Return the database file to which an engine's auxiliary file, e.g. bot.db-wal, belongs; None if there is no such file."""
    for suffix in BESIDE:
        stem = path.name.removesuffix(suffix)
        if stem not in ("", path.name) and (database := path.with_name(stem)).exists():
            return database
    return None


def file_identity(path: str) -> str:
    """Return a text that identifies a file on this machine; different paths of the same file give the same text.

    Raises:
        OperationalError: the file cannot be accessed, e.g. because it no longer exists.
    """
    try:
        found = Path(path).stat()
    except OSError as error:
        raise operational_error(f"{path} cannot be accessed: {error.strerror}", error) from error
    return f"file {found.st_dev} {found.st_ino}"
