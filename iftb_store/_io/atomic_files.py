"""Atomic files: written under a temporary name, locked against other writers, flushed to disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Whether this is Windows, where a program cannot open a folder, lock a file with fcntl or rename an open file.
WINDOWS = os.name == "nt"
#: The flag of os.open that refuses a symbolic link; 0 if the system has none.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)

_OTHERS = 0o077


@contextmanager
def open_descriptor(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> Iterator[int]:
    """Open a file or a folder for the duration of the block and yield its descriptor."""
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, path: Path) -> bool:
    """Lock an open file against other processes until it is closed.

    Returns:
        Whether the lock was free and ``path`` still names this file.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the previous holder of the lock may have renamed or removed the file
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def fsync(path: Path) -> None:
    """Wait until the changes to a file or a folder are on disk; do nothing on Windows."""
    if WINDOWS:
        return
    with open_descriptor(path) as descriptor:
        os.fsync(descriptor)


def publish(partial: Path, path: Path) -> None:
    """Flush a file to disk, then rename it to ``path`` in one step; an existing file of that name is replaced."""
    fsync(partial)
    partial.replace(path)
    fsync(path.parent)


@contextmanager
def create_private_files() -> Iterator[None]:
    """Make files that are created in the block readable only by their owner, also those that an engine adds to a database.

    This sets the umask of the whole process, so only commands may use it, never the library.
    """
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)
