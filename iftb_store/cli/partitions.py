"""The command partitions: list the partitions of the bars, and create the coming ones."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.filesize import decimal

from iftb_store.cli.data import Json, Url, parse_time_window
from iftb_store.cli.output import print_json, print_table, say
from iftb_store.cli.target import explain_stop, format_target, run
from iftb_store.config import resolve_url
from iftb_store.health import Partitioning
from iftb_store.maintenance.partitions import create_partitions, list_partitions
from iftb_store.manager import DatabaseManager

STOPPED_MOVE = "stopped; the bars are in the ordinary table as before, and no bar is lost; the same command continues"
_STOPPED = "stopped; every bar is in one partition, and no bar is lost; run it again"


def partitions(
    url: Url = None,
    ahead: Annotated[
        int | None,
        typer.Option(min=0, max=120, metavar="N", help="Create the partitions of the current and the N coming months or years."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Create also the missing partitions from this time on, e.g. before an import."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the partitions of the bars in PostgreSQL; with --ahead or --start, first create the missing ones.

    Readers and writers continue. It is safe to run this twice, and from several processes at once, e.g. by cron: `iftb-store
    partitions URL --ahead 3`. Bars in the default partition move into the partition of their month or year.
    """
    address = resolve_url(url)
    first, _ = parse_time_window(start, None)
    made: tuple[str, ...] = ()

    async def work(db: DatabaseManager) -> Partitioning:
        nonlocal made
        if ahead is not None or first is not None:
            made = await create_partitions(db, ahead=ahead or 0, start=first)
        return await list_partitions(db)

    with explain_stop(lambda: _STOPPED):
        found = run(address, work)
    if as_json:
        listed = [one._asdict() for one in found.partitions]
        print_json({"database": format_target(address), "by": found.by, "created": made, "partitions": listed})
        return
    _show(found, made)


def _show(found: Partitioning, made: tuple[str, ...]) -> None:
    if found.by is None:
        say("ohlcv is not partitioned; `iftb-store migrate --partition-by month` divides it into partitions")
        return
    say(f"ohlcv is partitioned by {found.by}")
    rows = [
        (
            one.name,
            "other bars" if one.is_default else "" if one.start is None else f"{one.start:%Y-%m-%d}",
            "" if one.end is None else f"{one.end:%Y-%m-%d}",
            decimal(one.bytes),
            "new" if one.name in made else "",
        )
        for one in found.partitions
    ]
    print_table(["partition", "from", "before", "size", ""], rows, right=["size"])
