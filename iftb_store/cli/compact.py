"""The command compact: rewrite many small files as few large ones."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.filesize import decimal

from iftb_store.abilities import SupportsCompaction
from iftb_store.cli.data import Json, Url
from iftb_store.cli.output import print_json, say
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import explain_stop, format_target, run
from iftb_store.cli.transfer import Quiet
from iftb_store.config import resolve_url
from iftb_store.health import Compaction
from iftb_store.manager import DatabaseManager
from iftb_store.values.readable import format_count

_STOPPED = (
    "stopped; every partition has either its old or its new files, and no bar is lost; run the same command again to continue"
)


def compact(
    url: Url = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print what would be done.")] = False,
    keep_days: Annotated[
        int,
        typer.Option(min=1, max=36_500, metavar="DAYS", help="Delete files that have been out of use for more than DAYS days."),
    ] = 7,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rewrite the small files of a lake's past months and years as few large ones, and delete files out of use.

    Other clients may read and write during the command; it skips the months and years that they change.
    """
    address = resolve_url(url)
    with Progress(quiet=quiet or as_json, unit="bytes") as progress, explain_stop(lambda: _STOPPED):

        async def work(db: DatabaseManager) -> Compaction:
            return await db.ability(SupportsCompaction).compact(
                dry_run=dry_run, keep=timedelta(days=keep_days), progress=lambda done, total: progress("compacting", done, total)
            )

        found = run(address, work)
    if as_json:
        print_json({"database": format_target(address), "dry_run": dry_run, **found._asdict()})
    elif not quiet:
        _show(found, dry_run)


def _show(found: Compaction, dry_run: bool) -> None:
    partitions, files = format_count(found.partitions, "partition"), format_count(found.files_before, "file")
    if dry_run:
        say(f"{partitions} with several small files, of {files} ({decimal(found.bytes_before)}); nothing was changed")
        say(f"{format_count(found.deleted, 'file')} out of use would be deleted")
        return
    say(f"{found.rewritten} of {partitions} rewritten; {format_count(found.deleted, 'file')} out of use deleted")
    after = format_count(found.files_after, "file")
    say(f"before: {files}, {decimal(found.bytes_before)}; after: {after}, {decimal(found.bytes_after)}")
    if found.rewritten < found.partitions:
        say("other clients changed the others during the command; run it again")
