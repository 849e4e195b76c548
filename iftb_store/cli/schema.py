"""The commands migrate and status: update the schema, and report the state of the database."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.filesize import decimal
from sqlalchemy.exc import DBAPIError

from iftb_store.cli.data import Json, Url
from iftb_store.cli.output import name_given_url, print_error, print_json, print_table, say
from iftb_store.cli.partitions import STOPPED_MOVE
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import explain_stop, format_target, run, supports_migrations
from iftb_store.cli.transfer import Quiet
from iftb_store.config import resolve_url
from iftb_store.errors import SchemaError
from iftb_store.health import Health, describe_unreachable
from iftb_store.maintenance.partitions import check_method, partition_bars
from iftb_store.manager import DatabaseManager
from iftb_store.schema.revision import HEAD
from iftb_store.url import fill_url, parse_url, quote_url
from iftb_store.values.readable import format_count

_STOPPED = (
    "stopped; the schema is at either the old or the new revision, never in between; `iftb-store status` shows which; "
    "migrating again is safe"
)
_UNSTAMPED = "the tables have no revision; if iftb-store created them they can be used, and `iftb-store migrate URL` adds it"


def migrate(
    url: Url = None,
    partition_by: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Divide the bars into partitions: month, year or hash:N (PostgreSQL)."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Create the tables, or update an older schema to the revision of this version; with --partition-by, partition the bars.

    It is safe to run this twice, and from several processes at once: one migrates, the others wait for a limited time. A table
    that has bars already is partitioned while others read and write it; if this is stopped, the next run continues.
    """
    address = resolve_url(url)
    method = None if partition_by is None else check_method(partition_by, "--partition-by")
    with explain_stop(lambda: _STOPPED):
        run(address, DatabaseManager.migrate, create=supports_migrations(address))
    say(f"{format_target(address)}: the schema is at revision {HEAD}")
    if method is None:
        return
    with Progress(quiet=quiet) as progress, explain_stop(lambda: STOPPED_MOVE):
        found = run(address, lambda db: partition_bars(db, method, progress=progress))
    say(f"ohlcv is partitioned by {found.by}: {format_count(len(found.partitions), 'partition')}")


def status(url: Url = None, as_json: Json = False) -> None:
    """Show whether the database answers, accepts writes and has a usable schema, and count the rows of each table.

    The check leaves nothing in the database. The exit code is 0 if there is no problem, otherwise 1.
    """
    address = resolve_url(url)
    try:
        found = run(address, lambda db: db.health())
    except DBAPIError as error:
        found = describe_unreachable(str(error.orig))
    except SchemaError as error:
        # the file does not exist
        if not as_json:
            raise
        found = describe_unreachable(str(error))
    if as_json:
        print_json({"database": format_target(address), **asdict(found)})
    else:
        _show(address, found)
    if not found.healthy:
        raise typer.Exit(1)


def _show(address: str, found: Health) -> None:
    state, pool = found.schema, found.pool
    facts = [
        ("database", format_target(address)),
        ("reachable", "no" if found.round_trip is None else f"yes, in {found.round_trip * 1_000:.1f} ms"),
    ]
    known = {"encrypted": found.encrypted, "verified": found.verified}
    facts += [(name, "yes" if is_so else "no") for name, is_so in known.items() if is_so is not None]
    if state is not None:
        facts += [
            ("engine", f"{state.engine} {state.version}".strip()),
            *([("encoding", state.encoding)] if state.encoding else []),
            *([("revision", state.revision or "none"), ("head", f"{state.head} ({state.state})")] if state.head else []),
            ("writable", "yes" if found.writable else "no"),
            *((name, f"{count:,}") for name, count in (("series", state.series), ("files", state.files)) if count is not None),
            *([("size", decimal(state.bytes))] if state.bytes is not None else []),
        ]
    if pool is not None:
        facts.append(("pool", f"{pool.in_use} of {format_count(pool.capacity, 'connection')} in use"))
    for name, value in facts:
        say(f"{name:<9} {value}")
    if state is not None and state.tables:
        say()
        print_table(["table", "rows"], [(name, f"{rows:,}") for name, rows in state.tables.items()], right=["rows"])
    if state is not None and state.policies:
        say(f"{', '.join(state.policies)}: row-level security; the counts include only the rows that this role can see")
    for problem in found.problems:
        print_error(problem)
    for warning in found.warnings:
        say(f"warning: {warning}", stderr=True)
    if state is not None and state.state == "unstamped":
        say(name_given_url(fill_url(_UNSTAMPED, quote_url(parse_url(address)))))
