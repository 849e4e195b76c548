"""Backups: all tables in one file, written while sessions continue. The file is checked before it gets its final name."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL

from iftb_store._io.atomic_files import NO_LINK, open_descriptor, publish, try_lock
from iftb_store._io.tasks import import_modules, run_to_end
from iftb_store.abilities import ConnectedStore, SupportsBackup
from iftb_store.errors import InvalidValueError, URLError, operational_error
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Capability
from iftb_store.registry import find_backend, get_stores
from iftb_store.schema.table_spec import RowFilter
from iftb_store.transfer.access import check_store, require_complete_reads
from iftb_store.transfer.kept import find_kept_tables
from iftb_store.transfer.progress import ProgressCallback, ProgressFactory, report_steps
from iftb_store.transfer.reports import BackupReport
from iftb_store.url import parse_url
from iftb_store.values import checks
from iftb_store.values.display import show
from iftb_store.values.file_identity import BESIDE, file_identity, find_database

#: The engine of the backup file if a backend has no backup method; and the URL options that open a backup read-only.
PORTABLE = "sqlite"
READ_ONLY = {"sqlite": {"mode": "ro"}, "duckdb": {"access_mode": "read_only"}}

# maximum number of characters of a path in a message
_LONGEST_NAME = 300
# file name that identifies the temporary folder of a backup
_MARK = ".iftb-store-backup"


async def backup(
    db: ConnectedStore, path: str | os.PathLike[str], *, overwrite: bool = False, progress: ProgressCallback | None = None
) -> BackupReport:
    """Write all tables to a file, as a snapshot, while sessions continue; return the file's size and row counts.

    A backup of SQLite or DuckDB is a database of the same engine, which can be opened instead of the original. The backup of
    DuckDB contains only the tables of iftb-store, and a warning names the tables that it does not contain. A backup of
    PostgreSQL is an SQLite database and needs the extras sqlite and arrow. `restore` restores a backup of one engine into any
    engine, with all ids and times. Only the owner can read the file. The file is first written in the folder ``path``.partial,
    opened as a check, and then renamed to ``path``, so a file of this name is never incomplete.

    Args:
        db: the connected store, e.g. a DatabaseManager.
        path: the file to write; its folder must exist.
        overwrite: replace an existing file.
        progress: called with (step, done, total), in bytes, or in rows for PostgreSQL.

    Returns:
        The file's path, engine and size, and the number of rows of each table.

    Raises:
        InvalidValueError: the file already exists or is in use, its folder does not exist, or an argument has another type.
        SchemaError: the database has no tables of iftb-store, or tables of another schema revision.
        MissingDriverError: an extra is not installed; the message contains the install command.
        OperationalError: the file cannot be written, the database is damaged, another backup to the file is running, or
            rows are hidden from this role.
        NotConnectedError: before connect().
        Unsupported: the backend does not declare MIGRATIONS.

    Example:
        report = await backup(db, "bot.backup")
        (report.path.name, report.tables["trades"])  # -> ('bot.backup', 2)
    """
    check_store(db, "db")
    own_way = Capability.BACKUP in db.capabilities
    engine = db.ability(SupportsBackup).backup_scheme if own_way else PORTABLE
    target = _target(path)
    folder = target.with_name(f"{target.name}.partial")
    partial = folder / target.name
    try:
        address = parse_url(URL.create(engine, database=os.fspath(partial)))
        # import the driver in a thread, because the import would block the event loop
        await asyncio.to_thread(find_backend, engine)
        # raises URLError if the engine cannot open the path
        writer = DatabaseManager(address)
    except URLError as error:
        raise InvalidValueError(f"the path cannot be used for a backup: {error}") from error
    identity = await db.identity()
    _check_target(target, checks.boolean(overwrite, "overwrite"), identity)
    step = report_steps(progress)
    async with db.get_session() as session:
        kept = find_kept_tables(db)
        await require_complete_reads(session, kept)
        # raises SchemaError if there are no tables
        await get_stores(session).read_rows(RowFilter(kept[-1], limit=1))
    with _open_partial(folder):
        if own_way:
            with step("backup") as report_progress:
                await db.ability(SupportsBackup).backup(os.fspath(partial), report_progress)
        else:
            await _copy(db, writer, step)
        query = db.ability(SupportsBackup).backup_query if own_way else {}
        async with DatabaseManager(address.update_query_dict({**READ_ONLY.get(engine, {}), **query})) as written:
            tables = (await written.status()).tables
        size = partial.stat().st_size
        _check_target(target, overwrite, identity)
        # the disk may take longer than the event loop can wait
        await run_to_end(asyncio.to_thread(publish, partial, target))
    return BackupReport(target, engine, size, tables)


async def _copy(source: ConnectedStore, writer: DatabaseManager, step: ProgressFactory) -> None:
    await import_modules("pyarrow", "iftb_store.transfer.copy")
    from iftb_store.transfer.copy import Copy

    async with writer:
        await writer.create_tables()
        await Copy(source, writer, step=step).run()
    # SQLite leaves WAL mode only if no other connection is open; without WAL a file that is only read needs no second file
    async with writer, writer.engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA journal_mode = MEMORY")


@contextmanager
def _open_partial(folder: Path) -> Iterator[None]:
    """Create a private folder for the backup file and the files that the engine adds, and delete it at the end.

    Files that an interrupted backup left in the folder are deleted first.

    Raises:
        InvalidValueError: a file or folder of this name exists and was not created by a backup; it is not changed.
        OperationalError: the folder cannot be created, or another backup is using it.
    """
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with _lock_folder(folder) as place:
            # the mark is created first and deleted last, so that the next backup recognises the folder if this one is killed
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
            f"{_show(error.filename or folder)} cannot be written: {error.strerror or error}", error
        ) from error


@contextmanager
def _lock_folder(folder: Path) -> Iterator[int]:
    """Open and lock a folder that a backup created; yield its file descriptor.

    Raises:
        InvalidValueError: the path is not a folder that a backup of this user created.
        OperationalError: another backup has locked the folder.
    """
    foreign = InvalidValueError(
        f"{_show(folder)} is in the way and was not created by a backup; move it, or give the backup another name"
    )
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise foreign
    with open_descriptor(folder, os.O_RDONLY | os.O_DIRECTORY | NO_LINK) as place:
        with os.scandir(place) as entries:
            names = [entry.name for entry in entries]
        if os.fstat(place).st_uid != os.geteuid() or (names and _MARK not in names):
            raise foreign
        if not try_lock(place, folder):
            raise operational_error(f"another backup to {_show(folder.with_suffix(''))} is running; wait for it")
        yield place


def _empty(place: int) -> None:
    with os.scandir(place) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, dir_fd=place)
            elif entry.name != _MARK:
                os.unlink(entry.name, dir_fd=place)


def _target(path: str | os.PathLike[str]) -> Path:
    given = checks.file_path(path, "path")
    if not given or not (target := Path(given).absolute()).name:
        raise InvalidValueError("the path of the backup is empty; give one, e.g. bot.backup")
    return target


def _check_target(target: Path, overwrite: bool, identity: str) -> None:
    name = _show(target)
    try:
        if not target.parent.is_dir():
            raise InvalidValueError(f"the directory {_show(target.parent)} for the backup does not exist; create it first")
        if target.is_dir():
            raise InvalidValueError(f"{name} is a directory; give a file in it")
        if target.exists() and file_identity(os.fspath(target)) == identity:
            raise InvalidValueError(f"{name} is the database itself; give the backup another name")
        if (database := find_database(target)) is not None:
            raise InvalidValueError(f"{name} belongs to the database {_show(database)}; give another name")
        if target.exists() and not overwrite:
            raise InvalidValueError(f"{name} already exists; give another name, or overwrite it (--overwrite, overwrite=True)")
        for suffix in BESIDE:
            # the engine would apply a journal left by the old file to the new one
            if (beside := target.with_name(target.name + suffix)).exists():
                raise InvalidValueError(f"{_show(beside)} shows that {name} is or was in use; close it, or give another name")
    except OSError as error:
        raise operational_error(f"{name} cannot be written: {error.strerror}", error) from error


def _show(path: str | os.PathLike[str]) -> str:
    return show(os.fspath(path), _LONGEST_NAME)
