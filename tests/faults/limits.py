"""A disk that is full: a small file system where root may mount one, or a limit of a process's file size, everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import io
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

from sqlalchemy.exc import OperationalError

from iftb_store import DatabaseManager
from iftb_store.cli import main
from tests.faults import linked


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[bool]:
    """Mount a file system of this size in a directory; False where this user may not."""
    place.mkdir()
    mounted = _succeeds("mount", "-t", "tmpfs", "-o", f"size={size}", "iftb-store", str(place))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def grow(place: Path, size: str) -> None:
    """Make a mounted disk larger."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def write_until_full(url: str, first: int, limit: int | None, told: Connection) -> None:
    """A child: write linked sessions until the disk, or the limit of a file's size, is full; tell each, then the error."""
    _limit(limit)

    async def write() -> None:
        async with DatabaseManager(url) as db:
            for number in count(first):
                async with db.get_session() as session:
                    await linked.write(session, number)
                told.send(number)

    try:
        asyncio.run(write())
    except OperationalError as error:
        told.send(str(error))
    except BaseException as error:
        told.send(f"not ours: {error!r}")


def import_until_full(url: str, files: list[str], limit: int | None, told: Connection) -> None:
    """A child: run the command import; tell its exit code, and what it printed."""
    _limit(limit)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["import", url, *files])
    told.send((code, out.getvalue(), err.getvalue()))


def _limit(size: int | None) -> None:
    if size is not None:
        # Python ignores SIGXFSZ: a write past the limit is an error as a full disk is
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
