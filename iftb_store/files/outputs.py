"""The target of an export: a file or folder that appears under its name only when complete, readable only by its owner."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from iftb_store._io.atomic_files import NO_LINK, WINDOWS, fsync, open_descriptor, publish, try_lock
from iftb_store.errors import InvalidValueError, operational_error
from iftb_store.schema.table_spec import SERIES
from iftb_store.values.display import show
from iftb_store.values.file_identity import find_database, read_engine

PARTIAL = ".partial"

_OWNER_FILE, _OWNER_FOLDER = 0o600, 0o700
_TOP = f"{SERIES[0]}="


def check_target(path: Path, *, folder: bool, overwrite: bool) -> None:
    """Check that an export may write to a path.

    Raises:
        InvalidValueError: its folder does not exist; or the path exists and ``overwrite`` is False; or it exists and is not a
            file (or, with ``folder``, not the folder of an export); or it is a database, or a file that belongs to a database.
    """
    name = show(str(path), 200)
    if not path.name or "\0" in str(path):
        raise InvalidValueError(f"{name} is not a file name")
    if (database := find_database(path)) is not None:
        raise InvalidValueError(f"{name} belongs to the database {show(str(database), 200)}; give another name")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise InvalidValueError(f"the folder {show(str(path.parent), 200)} does not exist; create it first") from None
        return
    if not overwrite:
        raise InvalidValueError(f"{name} already exists; give another name, or use --overwrite")
    if folder and not _is_export(path):
        raise InvalidValueError(f"{name} is not a folder of an export, so it is not overwritten; give another name")
    if not folder and not stat.S_ISREG(mode):
        raise InvalidValueError(f"{name} is not a regular file, so it is not overwritten; use -o - for stdout")
    if not folder and read_engine(path):
        raise InvalidValueError(f"{name} is a database, so it is not overwritten; give another name")


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a temporary file; rename it to ``path`` if the block ends without an error, otherwise delete it.

    Raises:
        InvalidValueError: a file of that name was created meanwhile, and ``overwrite`` is False.
        OperationalError: another export to the file is running.
    """
    partial = path.with_name(path.name + PARTIAL)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    with _lock_partial(partial, path, flags) as descriptor, open(descriptor, "wb", closefd=False) as stream:
        try:
            # remove the content that an interrupted export left
            os.ftruncate(descriptor, 0)
            yield stream
            stream.flush()
            os.fsync(descriptor)
            check_target(path, folder=False, overwrite=overwrite)
            if not WINDOWS:
                publish(partial, path)
        except BaseException:
            # whatever fails, no incomplete file may remain
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
    if WINDOWS:
        # Windows cannot rename an open file
        partial.replace(path)


@contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Create a temporary folder; rename it to ``path`` if the block ends without an error, otherwise delete it.

    Raises:
        InvalidValueError: as in `new_file`, or a folder of that name was not created by an export.
        OperationalError: another export to the folder is running.
    """
    partial, old = (path.with_name(path.name + suffix) for suffix in (PARTIAL, ".old"))
    for left in (partial, old):
        if left.exists() and not _is_export(left):
            raise InvalidValueError(f"{show(str(left), 200)} is in the way and was not created by an export; move it away")
    make_folder(partial)
    with nullcontext() if WINDOWS else _lock_partial(partial, path, os.O_RDONLY | os.O_DIRECTORY):
        try:
            for left in partial.iterdir():
                shutil.rmtree(left)
            yield partial
            for file in partial.rglob("*"):
                fsync(file)
            check_target(path, folder=True, overwrite=overwrite)
            if path.exists():
                if old.exists():
                    shutil.rmtree(old)
                path.rename(old)
            publish(partial, path)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            # whatever fails, no incomplete folder may remain
            shutil.rmtree(partial, ignore_errors=True)
            # restores the old folder too if an earlier run was killed between the two renames
            if old.exists() and not path.exists():
                old.rename(path)
            raise


@contextmanager
def _lock_partial(partial: Path, path: Path, flags: int) -> Iterator[int]:
    """Open and lock the file or folder with the temporary name; yield its descriptor."""
    with open_descriptor(partial, flags | NO_LINK, _OWNER_FILE) as descriptor:
        if not WINDOWS:
            _claim(descriptor, partial, path)
        yield descriptor


def _claim(descriptor: int, partial: Path, path: Path) -> None:
    found = os.fstat(descriptor)
    is_file, is_folder = stat.S_ISREG(found.st_mode) and found.st_nlink == 1, stat.S_ISDIR(found.st_mode)
    if found.st_uid != os.geteuid() or not (is_file or is_folder):
        raise InvalidValueError(f"{show(str(partial), 200)} is in the way and was not created by an export; move it away")
    if not try_lock(descriptor, partial):
        raise operational_error(f"another export to {show(str(path), 200)} is running; wait for it")
    if is_file:
        os.fchmod(descriptor, _OWNER_FILE)


def create(path: Path) -> BinaryIO:
    """Create a file that only its owner can read, and open it for writing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), _OWNER_FILE), "wb")


def make_folder(path: Path) -> None:
    """Create a folder that only its owner can read, unless it exists."""
    with suppress(FileExistsError):
        path.mkdir(_OWNER_FOLDER)


def _is_export(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and all(item.name.startswith(_TOP) for item in path.iterdir())
