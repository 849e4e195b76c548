"""Tells whether two managers work on the same tables, by whatever URLs they were opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iftb_store.errors import InvalidValueError, operational_error

if TYPE_CHECKING:
    from iftb_store.manager import DatabaseManager


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


async def require_two(source: DatabaseManager, destination: DatabaseManager) -> None:
    """Refuse to copy or compare tables with themselves.

    Raises:
        InvalidValueError: the two work on the same tables.
    """
    if await source.identity() == await destination.identity():
        raise InvalidValueError("the source and the destination are the same database; name another one")
