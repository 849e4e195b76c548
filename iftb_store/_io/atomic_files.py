"""Files that are written under another name first: kept from other writers, brought to the disk, then named at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Where no folder is opened, no file locked and no open one renamed.
WINDOWS = os.name == "nt"
#: To open no file that a link leads to.
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
    """Keep others out of what is open until it is closed; tell whether it is free, and still has this name."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the one before may have given it another name since, or removed it
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def fsync(path: Path) -> None:
    """Wait until what was written to a file, or changed in a folder, is on the disk."""
    if WINDOWS:
        return
    with open_descriptor(path) as descriptor:
        os.fsync(descriptor)


def publish(partial: Path, path: Path) -> None:
    """Give what is on the disk its name, in place of what has it: all of it is there under the name, or nothing."""
    partial.replace(path)
    fsync(path.parent)


@contextmanager
def private_files() -> Iterator[None]:
    """What is created meanwhile is for its owner alone, also what an engine creates beside a database.

    The umask is the whole process's, so this is for commands, never for the library.
    """
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)
