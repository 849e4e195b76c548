"""The commands that save a store in a file, and bring it back: backup and restore."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from iftb_store.cli.data import Json, Url
from iftb_store.cli.output import counted, error_line, json_out, say, table
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import Terminated, run, shown, url_and_rest
from iftb_store.cli.transfer import SHORT, Quiet, frugal
from iftb_store.config import resolve_url
from iftb_store.errors import InvalidValueError
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Capability
from iftb_store.registry import require_arrow
from iftb_store.transfer.backup import READ_ONLY, Backup
from iftb_store.transfer.backup import backup as write_backup
from iftb_store.url import parse_url
from iftb_store.values.display import in_one_line

if TYPE_CHECKING:
    from iftb_store.transfer.copy import Copied

File = Annotated[str | None, typer.Argument(metavar="FILE", help="The backup's file; wanted.", show_default=False)]


def backup(
    url: Url = None,
    file: File = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Save everything in one file, as one committed state, while the bot writes.

    SQLite and DuckDB make a database of their own kind, PostgreSQL an SQLite one. `iftb-store restore` brings each into any.
    """
    url, words = url_and_rest(url, file)
    path = _one_file(words)
    progress = Progress(quiet=quiet)

    async def save(db: DatabaseManager) -> Backup:
        unit = "bytes" if Capability.BACKUP in db.capabilities else "rows"
        return await write_backup(db, path, overwrite=overwrite, step=lambda name: progress.step(name, unit))

    try:
        made = run(url, save)
    except (KeyboardInterrupt, Terminated):
        error_line(f"stopped; nothing was written to {path}, and the same command begins again")
        raise
    if as_json:
        json_out({**asdict(made), "path": str(made.path)})
    elif not quiet:
        rows = sum(made.tables.values())
        what = f"{counted(rows, 'row')}, {decimal(made.size)}, a database of {made.engine}"
        say(f"{shown(url)} is saved in {made.path}: {what}")


def restore(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="The backup's file; wanted.", show_default=False)] = None,
    url: Url = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite rows that differ from the backup's, and delete those that it lacks.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring a backup back, of any engine into any: every row with its id and its times, and proved afterwards.

    Tables are made where there are none. A row that is stored with other values, or that the backup lacks, is refused before
    anything is written, unless --overwrite says otherwise. What was broken off is gone on with by the same command.
    """
    words = [word for word in (file, url) if word is not None]
    url, _ = url_and_rest(*words[-1:])
    path = _one_file(words if url is None else words[:-1])
    require_arrow()
    from iftb_store.transfer.restore import backup_url
    from iftb_store.transfer.restore import restore as bring_back

    progress = Progress(quiet=quiet)
    address, target = backup_url(path), parse_url(resolve_url(url))
    # a database of DuckDB's cannot be opened twice, with different rights, to be asked
    database = Path(target.database or "")
    if target.get_backend_name() in READ_ONLY and database.exists() and database.samefile(path):
        raise InvalidValueError(f"{path} is the database itself; name its backup, or another database")

    async def restored(db: DatabaseManager) -> list[Copied]:
        async with DatabaseManager(frugal(address)) as source:
            return await bring_back(source, db, overwrite=overwrite, step=progress.step)

    try:
        done = run(frugal(target), restored, create=True)
    except (KeyboardInterrupt, Terminated):
        error_line("stopped; what was written stays, and the same command goes on with it")
        raise
    if as_json:
        json_out([asdict(part) for part in done])
    elif not quiet:
        figures = ["rows", "inserted", "updated", "deleted"]
        rows = [
            (
                part.table,
                part.series,
                *(f"{count:,}" for count in (part.source.rows, part.inserted, part.updated, part.deleted)),
                part.source.checksum[:SHORT],
            )
            for part in done
        ]
        table(["table", "series", *figures, "checksum"], rows, right=figures)
        total = sum(part.source.rows for part in done)
        say(f"{path} is restored and proved: {counted(total, 'row')} in {shown(url)}")


def _one_file(words: list[str]) -> str:
    if len(words) != 1 or not words[0]:
        given = in_one_line(" ".join(words)) or "none"
        raise InvalidValueError(f"one FILE is wanted, such as bot.backup; given: {given} (a database URL has :// in it)")
    return words[0]
