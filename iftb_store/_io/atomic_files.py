"""Atomic files: written under a temporary name, locked against other writers, flushed to the disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Whether this system cannot open a folder, lock a file or rename an open one.
WINDOWS = os.name == "nt"
#: Refuses to open a symbolic link.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)

_OTHERS = 0o077


@contextmanager
def open_descriptor(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> Iterator[int]:
    """Open a file or a folder."""
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, path: Path) -> bool:
    """Lock an open file against others until it is closed; return whether it was free and still has this name."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the previous holder may have renamed or removed it
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def fsync(path: Path) -> None:
    """Wait until the changes of a file or a folder are on the disk."""
    if WINDOWS:
        return
    with open_descriptor(path) as descriptor:
        os.fsync(descriptor)


def publish(partial: Path, path: Path) -> None:
    """Rename a file that is on the disk, replacing any file of that name: atomically."""
    partial.replace(path)
    fsync(path.parent)


@contextmanager
def private_files() -> Iterator[None]:
    """Create files that only their owner may open, including those that an engine creates beside a database.

    The umask applies to the whole process, so this is for commands, never for the library.
    """
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)
