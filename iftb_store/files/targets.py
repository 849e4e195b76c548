"""Where an export goes: a file or a folder that stands under its name only once it is whole, for its owner alone."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from iftb_store.errors import InvalidValueError
from iftb_store.files.formats import SERIES
from iftb_store.messages import shown

PARTIAL = ".partial"

_OWNER_FILE, _OWNER_FOLDER = 0o600, 0o700
_TOP = f"{SERIES[0]}="


def check_target(path: Path, *, folder: bool, overwrite: bool) -> None:
    """Refuse a path that may not be written.

    Raises:
        InvalidValueError: it is there and ``overwrite`` is not set, or is of another kind than what would be written.
    """
    name = shown(str(path), 200)
    if not path.name or "\0" in str(path):
        raise InvalidValueError(f"{name} is no name of a file")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not overwrite:
        raise InvalidValueError(f"{name} is there already; give another name, or --overwrite")
    if folder and not _is_export(path):
        raise InvalidValueError(f"{name} is no folder that an export made, so it is not overwritten; give another name")
    if not folder and not stat.S_ISREG(mode):
        raise InvalidValueError(f"{name} is no regular file, so it is not overwritten; -o - writes to stdout")


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name at a clean end, and is gone after an error."""
    partial = path.with_name(path.name + PARTIAL)
    # one that was left behind, by a lost machine say
    partial.unlink(missing_ok=True)
    try:
        with create(partial) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder that takes its name at a clean end, and is gone after an error."""
    partial, old = (path.with_name(path.name + suffix) for suffix in (PARTIAL, ".old"))
    for left in (partial, old):
        if left.exists():
            if not _is_export(left):
                raise InvalidValueError(f"{shown(str(left), 200)} is in the way, and no export made it; move it away")
            shutil.rmtree(left)
    make_folder(partial)
    try:
        yield partial
        if path.exists():
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise


def create(path: Path) -> BinaryIO:
    """Open a new file for its owner alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), _OWNER_FILE), "wb")


def make_folder(path: Path) -> None:
    """Make a folder for its owner alone, unless it is there."""
    with suppress(FileExistsError):
        path.mkdir(_OWNER_FOLDER)


def _is_export(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and all(item.name.startswith(_TOP) for item in path.iterdir())
