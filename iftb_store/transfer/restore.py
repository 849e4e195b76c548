"""Restores a backup into a store of any engine, after it has checked that the file is intact and no rows would be lost."""

from __future__ import annotations

import os
from contextlib import aclosing
from pathlib import Path

from sqlalchemy import URL, text
from sqlalchemy.exc import OperationalError

from iftb_store.abilities import ConnectedStore
from iftb_store.errors import CollisionError, InvalidValueError, SchemaError, StoreError, operational_error
from iftb_store.schema.scope import TableScope
from iftb_store.transfer.access import open_complete_session, require_distinct
from iftb_store.transfer.backup import READ_ONLY
from iftb_store.transfer.copy import Copy, prepare
from iftb_store.transfer.diff import compare_partition
from iftb_store.transfer.kept import Report
from iftb_store.transfer.older import open_older
from iftb_store.transfer.plan import LastCommitted, digest_partition, find_dirty_ranges, find_partitions, open_snapshot
from iftb_store.transfer.planner import Copied
from iftb_store.transfer.progress import ProgressFactory, report_nothing
from iftb_store.transfer.verify import format_key
from iftb_store.url import parse_url
from iftb_store.values.display import show
from iftb_store.values.file_identity import read_engine

# statements that read each table completely: SQLite also checks the indexes, DuckDB compares checksums as it reads
_READ_ALL = {"sqlite": "PRAGMA quick_check({})", "duckdb": "SELECT bit_xor(hash(stored)) FROM {} AS stored"}


def backup_url(path: str | os.PathLike[str]) -> URL:
    """Return a read-only URL for a backup file. The engine is detected from the file's content, not from its name.

    Raises:
        InvalidValueError: the file does not exist, cannot be read, or is not an SQLite or DuckDB database.
    """
    shown = os.fspath(path)
    # raises if the path is not a valid file name
    address = parse_url(URL.create("sqlite", database=os.fspath(Path(shown).absolute())))
    try:
        engine = read_engine(Path(shown))
    except OSError as error:
        raise InvalidValueError(f"the backup cannot be read from the path {show(shown)}: {error.strerror}") from error
    if engine is None:
        raise InvalidValueError(
            f"{shown} is not a backup: it is neither an SQLite nor a DuckDB database; `iftb-store import` reads other files"
        )
    return address.set(drivername=engine, query=READ_ONLY[engine])


async def restore_rows(
    backup: ConnectedStore, destination: ConnectedStore, *, overwrite: bool = False, step: ProgressFactory = report_nothing
) -> Report[Copied]:
    """Restore all rows of a backup, with all ids and times, and verify the result.

    The backup is read once completely before anything is written. Missing tables are created. If the restore is interrupted,
    the rows written so far stay, and it resumes when called again.

    Args:
        backup: a connected manager for the backup file, see `backup_url`.
        destination: the connected manager to restore into.
        overwrite: overwrite rows that differ from the backup, and delete rows that are not in it; otherwise the restore
            fails if there are such rows.
        step: reports the progress of each step, see `iftb_store.transfer.progress`.

    Returns:
        One result for each series of bars, and one for each other table, even if it has no rows; ``left_out`` names the tables
        that one of the stores does not keep.

    Raises:
        InvalidValueError: the backup and the destination are the same database.
        CollisionError: the destination has a row that differs from the backup or is not in it; nothing was written.
        SchemaError: the backup has no tables of iftb-store, or a newer version made it; or the tables of the destination have
            another revision.
        OperationalError: the backup is damaged; or rows of the destination are hidden from its role, or it may not insert.
        StoreError: another client wrote to the destination during the restore.
    """
    await require_distinct(backup, destination)
    await _check(backup, step)
    backup = await open_older(backup)
    await prepare(destination)
    if not overwrite:
        for part in await Copy(backup, destination, delete=True, keep_ids=True, full=True, step=step).run(dry=True):
            if part.updated or part.deleted:
                await _refuse(backup, destination, part)
    done = await Copy(
        backup,
        destination,
        on_conflict="source-wins" if overwrite else "refuse",
        delete=overwrite,
        keep_ids=True,
        full=True,
        step=step,
    ).run()
    if any(part.kept for part in done):
        raise StoreError(
            "the destination was written to during the restore, and has rows that are not in the backup; see `iftb-store verify`"
        )
    return done


async def _check(backup: ConnectedStore, step: ProgressFactory) -> None:
    """Read every table of a backup completely, to find damage before anything is written.

    Raises:
        SchemaError: the backup has no tables of iftb-store.
        OperationalError: the backup cannot be read.
    """
    try:
        state = await backup.status()
        if state.state == "empty":
            raise SchemaError("the backup has no tables of iftb-store")
        with step("check the backup") as report_progress:
            statements = [_READ_ALL[state.engine].format(name) for name in state.tables] if state.engine in _READ_ALL else []
            for number, statement in enumerate(statements):
                report_progress(number, len(statements))
                async with backup.get_session() as session:
                    found = (await session.execute(text(statement))).scalar()
                if state.engine == "sqlite" and found != "ok":
                    raise operational_error(str(found))
    except OperationalError as error:
        raise operational_error(
            f"the backup cannot be read, it may be damaged: {error.orig}; restore an older one", error
        ) from error


async def _refuse(backup: ConnectedStore, destination: ConnectedStore, part: Copied) -> None:
    """Raise a CollisionError for the first row of the destination that the restore would overwrite or delete."""
    remedy = "nothing was written; restore into an empty database, or use --overwrite"
    scope = TableScope([part.table])
    async with open_snapshot(backup, scope.tables) as session, open_complete_session(destination, scope.tables) as other:
        found = [*await find_partitions(session, scope), *await find_partitions(other, scope)]
    partition = next(partition for partition, _ in found if partition.series == part.series)
    backup_reader, destination_reader = LastCommitted(backup), LastCommitted(destination)
    for run in find_dirty_ranges(
        await digest_partition(backup_reader, partition), await digest_partition(destination_reader, partition)
    ):
        async with aclosing(compare_partition(backup_reader, destination_reader, partition, run)) as chunks:
            async for chunk in chunks:
                for rows, what in ((chunk.changed, "has other values in the backup"), (chunk.extra, "is not in the backup")):
                    if rows.num_rows:
                        key = rows.slice(0, 1).select(partition.table.key).to_pylist()[0]
                        raise CollisionError(f"{part.table} {format_key(key)} {what}; {remedy}")
    raise CollisionError(f"{part.table} {part.series} has rows that differ from the backup; {remedy}")
