"""A full disk: a small file system if root may mount one, otherwise a limit of a process's file size."""

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
    """Mount a file system of this size in a directory; False if this user may not."""
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


def write_until_full(url: str, first: int, limit: int | None, answers: Connection) -> None:
    """A child: write linked sessions until the disk or the file size limit is full; send each number, then the error."""
    _limit(limit)

    async def write() -> None:
        async with DatabaseManager(url) as db:
            for number in count(first):
                async with db.get_session() as session:
                    await linked.write(session, number)
                answers.send(number)

    try:
        asyncio.run(write())
    except OperationalError as error:
        answers.send(str(error))
    except BaseException as error:
        # any other error is a failure, which the parent process reports
        answers.send(f"not ours: {error!r}")


def import_until_full(url: str, files: list[str], limit: int | None, answers: Connection) -> None:
    """A child: run the command import; send its exit code and output."""
    _limit(limit)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["import", url, *files])
    answers.send((code, out.getvalue(), err.getvalue()))


def _limit(size: int | None) -> None:
    if size is not None:
        # Python ignores SIGXFSZ: a write past the limit fails like one to a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
