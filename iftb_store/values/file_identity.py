"""What tells a file from all others, and which files are a database's."""

from __future__ import annotations

from pathlib import Path

from iftb_store.errors import operational_error

#: What engines put beside a database while it is open, and leave there when they die.
BESIDE = ("-wal", "-shm", "-journal", ".wal")

# the first bytes of a database, and where they stand
_MAGIC = {"sqlite": (0, b"SQLite format 3\0"), "duckdb": (8, b"DUCK")}


def read_engine(path: Path) -> str | None:
    """Return the engine whose database a file is by its first bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(32)
    return next((engine for engine, (place, magic) in _MAGIC.items() if start.startswith(magic, place)), None)


def database_of(path: Path) -> Path | None:
    """Return the database of which a path names a file that its engine keeps beside it, such as its log."""
    for suffix in BESIDE:
        stem = path.name.removesuffix(suffix)
        if stem not in ("", path.name) and (database := path.with_name(stem)).exists():
            return database
    return None


def file_identity(path: str) -> str:
    """Return what tells a file from all others of this machine, be it called by whatever name.

    Raises:
        OperationalError: it is not there any more.
    """
    try:
        found = Path(path).stat()
    except OSError as error:
        raise operational_error(f"{path} cannot be looked at: {error.strerror}", error) from error
    return f"file {found.st_dev} {found.st_ino}"
