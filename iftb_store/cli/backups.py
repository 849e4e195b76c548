"""The commands backup and restore: save a database to a file, and restore it from that file."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.filesize import decimal

from iftb_store.cli.data import Argument, Json, Url
from iftb_store.cli.output import print_json, say
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import explain_stop, format_target, run, split_url_and_rest
from iftb_store.cli.transfer import Quiet, show_parts
from iftb_store.config import resolve_url
from iftb_store.errors import InvalidValueError
from iftb_store.manager import DatabaseManager
from iftb_store.protocols import Capability
from iftb_store.registry import require_arrow
from iftb_store.transfer import functions
from iftb_store.transfer.backup import backup as write_backup
from iftb_store.transfer.reports import BackupReport
from iftb_store.url import limit_memory
from iftb_store.values.display import to_one_line
from iftb_store.values.readable import format_count

File = Annotated[str | None, Argument(metavar="FILE", help="The backup file (required).")]


def backup(
    url: Url = None,
    file: File = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Save all tables to one file, as a snapshot; the bot can keep writing.

    A backup of SQLite or DuckDB is a database of the same engine, a backup of PostgreSQL is an SQLite database. `iftb-store
    restore` restores it into a database of any engine.
    """
    url, words = split_url_and_rest(url, file)
    path = _one_file(words)
    progress = Progress(quiet=quiet)

    async def save(db: DatabaseManager) -> BackupReport:
        progress.unit = "bytes" if Capability.BACKUP in db.capabilities else "rows"
        return await write_backup(db, path, overwrite=overwrite, progress=progress)

    with explain_stop(lambda: f"stopped; nothing was written to {path}; run the same command again to start over"), progress:
        made = run(url, save)
    if as_json:
        print_json(made)
    elif not quiet:
        rows = sum(made.tables.values())
        what = f"{format_count(rows, 'row')}, {decimal(made.size)}, a database of {made.engine}"
        say(f"saved {format_target(url)} to {made.path}: {what}")


def restore(
    file: File = None,
    url: Url = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite rows that differ from the backup, and delete rows that are not in it.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore a backup into a database of any engine, with all ids and times, and verify the result.

    Missing tables are created. If the database has rows that differ from the backup or are not in it, the command fails
    before it writes anything, unless --overwrite is given. An interrupted restore resumes when run again.
    """
    words = [word for word in (file, url) if word is not None]
    url, _ = split_url_and_rest(*words[-1:])
    path = _one_file(words if url is None else words[:-1])
    require_arrow()
    from iftb_store.transfer.restore import backup_url

    # a file that is no backup is refused before the database is created
    backup_url(path)
    target = limit_memory(resolve_url(url))
    stopped = "stopped; the rows written so far stay; run the same command again to resume"
    with explain_stop(lambda: stopped), Progress(quiet=quiet) as progress:
        done = run(target, lambda db: functions.restore(path, db, overwrite=overwrite, progress=progress), create=True)
    if as_json:
        print_json(done)
    elif not quiet:
        if done.left_out:
            say(f"left out: {', '.join(done.left_out)}; the database or the backup keeps only bars")
        counts = {name: name for name in ("inserted", "updated", "deleted")}
        show_parts(done.parts, {"rows": "source.rows", **counts, "checksum": "source.checksum"})
        total = sum(part.source.rows for part in done.parts)
        say(f"restored and verified {path}: {format_count(total, 'row')} in {format_target(url)}")


def _one_file(words: list[str]) -> str:
    if len(words) != 1 or not words[0]:
        given = to_one_line(" ".join(words)) or "none"
        raise InvalidValueError(f"exactly one FILE is required, e.g. bot.backup; given: {given} (a database URL contains ://)")
    return words[0]
