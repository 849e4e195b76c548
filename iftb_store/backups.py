"""Backups: a store in one file, written while sessions go on, opened again and only then given its name."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL

from iftb_store import checks
from iftb_store.claims import NO_LINK, claimed, named, on_disk, opened
from iftb_store.errors import InvalidValueError, URLError, operational_error
from iftb_store.identity import BESIDE, database_of
from iftb_store.messages import kind, shown
from iftb_store.protocols import Backend, Capability
from iftb_store.registry import backend_for, parse_url, stores_of
from iftb_store.selections import BARS, EVENTS, POSITIONS, TRADES, Selection
from iftb_store.threads import import_modules
from iftb_store.wholeness import require_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iftb_store.manager import DatabaseManager

#: Is told how much is done, of how much; None where nobody knows.
Tell = Callable[[int, int | None], None]
#: Begins a step of the work by its name, as `iftb_store.cli.progress.Progress.step` does.
Step = Callable[[str], AbstractContextManager[Tell]]

#: The engine of backups of an engine that has no way of its own, and how each is opened to be read alone.
PORTABLE = "sqlite"
READ_ONLY = {"sqlite": {"mode": "ro"}, "duckdb": {"access_mode": "read_only"}}

# characters of a path in a message
_LONGEST_NAME = 300
# in a folder of ours, where a database is written
_MARK = ".iftb-store-backup"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was written.

    Attributes:
        path: the file.
        engine: the scheme of the URL that opens it, such as sqlite.
        size: its bytes.
        tables: the rows of each table.
    """

    path: Path
    engine: str
    size: int
    tables: dict[str, int]


async def write_backup(
    source: DatabaseManager,
    backend: Backend,
    url: URL,
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    step: Step | None,
) -> Backup:
    """Write a backup of a connected manager; see `iftb_store.DatabaseManager.backup`."""
    from iftb_store.manager import DatabaseManager

    own_way = Capability.BACKUP in backend.capabilities
    engine = url.get_backend_name() if own_way else PORTABLE
    target = _target(path)
    folder = target.with_name(f"{target.name}.partial")
    partial = folder / target.name
    try:
        address = parse_url(URL.create(engine, database=os.fspath(partial)))
        # its driver may not be imported yet, which would hold up the event loop
        await asyncio.to_thread(backend_for, engine)
        # refuses what its engine cannot open
        writer = DatabaseManager(address)
    except URLError as error:
        raise InvalidValueError(f"the path cannot be that of a backup: {error}") from error
    _check_target(target, checks.boolean(overwrite, "overwrite"), url.database if own_way else None)
    if step is not None and not callable(step):
        raise InvalidValueError(f"step must be a function that begins a step of the work, not {kind(step)}")
    step = step or (lambda name: nullcontext(lambda done, total: None))
    async with source.get_session() as session:
        await require_whole(session, (BARS, TRADES, POSITIONS, EVENTS))
        # raises where there are no tables
        await stores_of(session).scan(Selection(EVENTS, limit=1))
    with _folder(folder):
        if own_way:
            with step("backup") as tell:
                await backend.backup(os.fspath(partial), tell)
        else:
            await _copied(source, writer, step)
        # of a source that its URL trusts the copy is as trustworthy
        trusted = {"trusted": url.query["trusted"]} if own_way and engine in READ_ONLY and "trusted" in url.query else {}
        async with DatabaseManager(address.update_query_dict({**READ_ONLY.get(engine, {}), **trusted})) as written:
            tables = (await written.status()).tables
        size = partial.stat().st_size
        _check_target(target, overwrite)
        on_disk(partial)
        named(partial, target)
    return Backup(target, engine, size, tables)


async def _copied(source: DatabaseManager, writer: DatabaseManager, step: Step) -> None:
    await import_modules("iftb_store.copying")
    from iftb_store.copying import Copy

    async with writer:
        await writer.create_tables()
        await Copy(source, writer, step=step).run()
    # alone, as a log is not given up while another connection is open; a file that is only read should need none beside it
    async with writer, writer.engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA journal_mode = MEMORY")


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make a folder that is ours alone for a file and what its engine puts beside it; what a killed run has left there goes.

    Raises:
        InvalidValueError: what is there is not of a backup; it stays as it is.
        OperationalError: it cannot be made, or another backup works in it.
    """
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with _own(folder) as place:
            # first of all and until the end, so that what a killed run leaves is known for ours
            os.close(os.open(_MARK, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=place))
            try:
                _empty(place)
                yield
            finally:
                _empty(place)
                os.unlink(_MARK, dir_fd=place)
                folder.rmdir()
    except OSError as error:
        raise operational_error(
            f"{_shown(error.filename or folder)} cannot be written: {error.strerror or error}", error
        ) from error


@contextmanager
def _own(folder: Path) -> Iterator[int]:
    """Open a folder that a backup has made, and keep others out."""
    foreign = InvalidValueError(f"{_shown(folder)} is in the way and no backup's own; move it, or give the backup another name")
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise foreign
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY | NO_LINK) as place:
        with os.scandir(place) as entries:
            names = [entry.name for entry in entries]
        if os.fstat(place).st_uid != os.geteuid() or (names and _MARK not in names):
            raise foreign
        if not claimed(place, folder):
            raise operational_error(f"another backup to {_shown(folder.with_suffix(''))} is under way; wait for it")
        yield place


def _empty(place: int) -> None:
    with os.scandir(place) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, dir_fd=place)
            elif entry.name != _MARK:
                os.unlink(entry.name, dir_fd=place)


def _target(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise InvalidValueError(f"path must be the name of a file, not {kind(path)}")
    given = checks.text(os.fspath(path), "path")
    if not given or not (target := Path(given).absolute()).name:
        raise InvalidValueError("the path of the backup is empty; give one such as bot.backup")
    return target


def _check_target(target: Path, overwrite: bool, itself: str | None = None) -> None:
    name = _shown(target)
    try:
        if not target.parent.is_dir():
            raise InvalidValueError(f"there is no directory {_shown(target.parent)} for the backup; make it first")
        if target.is_dir():
            raise InvalidValueError(f"{name} is a directory; name a file in it")
        if itself and target.exists() and Path(itself).exists() and target.samefile(itself):
            raise InvalidValueError(f"{name} is the database itself; give its backup a name of its own")
        if (database := database_of(target)) is not None:
            raise InvalidValueError(f"{name} is the name of a file of the database {_shown(database)}; give another name")
        if target.exists() and not overwrite:
            raise InvalidValueError(f"{name} is there already; give another name, or overwrite it (--overwrite, overwrite=True)")
        for suffix in BESIDE:
            # its log would be taken for the new file's
            if (beside := target.with_name(target.name + suffix)).exists():
                raise InvalidValueError(f"{_shown(beside)} shows that {name} is in use, or was; close it, or give another name")
    except OSError as error:
        raise operational_error(f"{name} cannot be written: {error.strerror}", error) from error


def _shown(path: str | os.PathLike[str]) -> str:
    return shown(os.fspath(path), _LONGEST_NAME)
