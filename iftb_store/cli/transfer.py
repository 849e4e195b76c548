"""The commands that work on two databases: copy and verify."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from sqlalchemy import URL

from iftb_store.cli.completion import one_of, timeframes
from iftb_store.cli.data import Json, time_option
from iftb_store.cli.output import counted, error_line, json_out, say, table
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import Terminated, require_file, run, shown
from iftb_store.config import resolve_url
from iftb_store.manager import DatabaseManager
from iftb_store.registry import require_arrow
from iftb_store.schema.scope import TABLES, TableScope
from iftb_store.transfer.verify import format_value
from iftb_store.url import parse_url
from iftb_store.values.timeframes import TIMEFRAMES

if TYPE_CHECKING:
    from iftb_store.transfer.verify import Difference

T = TypeVar("T")

Source = Annotated[str, typer.Argument(metavar="SRC", help="The database to read: its URL, or env:NAME.")]
Destination = Annotated[str, typer.Argument(metavar="DST", help="The other database: its URL, or env:NAME.")]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", help=f"Only this one of {', '.join(TABLES)}; repeatable.", autocompletion=one_of(TABLES)),
]
Exchanges = Annotated[list[str] | None, typer.Option("--exchange", help="Only rows of this exchange; repeatable.")]
Symbols = Annotated[list[str] | None, typer.Option("--symbol", help="Only rows of this symbol; repeatable.")]
Timeframes = Annotated[
    list[str] | None,
    typer.Option("--timeframe", help=f"Only bars of this one of {' '.join(TIMEFRAMES)}; repeatable.", autocompletion=timeframes),
]
Start = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only rows from here on: a bar's timestamp, an entry_time, an event's created_at."),
]
End = Annotated[str | None, typer.Option(metavar="TIME", help="Only rows up to here, counted in.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]

# of each side: what a batch, an index of trades and a checkpoint need; more is cache
_BOUNDS = {"duckdb": {"threads": "1", "memory_limit": "64MiB"}, "sqlite": {"cache_size": "8192"}}
_NOTHING = "neither SRC nor DST has a row that was chosen by these options"
#: Characters of a checksum, for people.
SHORT = 12


def copy(
    source: Source,
    destination: Destination,
    tables: Tables = None,
    exchanges: Exchanges = None,
    symbols: Symbols = None,
    timeframes: Timeframes = None,
    start: Start = None,
    end: End = None,
    on_conflict: Annotated[
        Literal["source-wins", "refuse"],
        typer.Option(help="What becomes of a row that DST has with other values: overwrite it, or write nothing at all."),
    ] = "source-wins",
    delete: Annotated[bool, typer.Option("--delete", help="Delete those of the chosen rows that only DST has.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, or refused, and write nothing.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Copy what SRC has and DST has not, or has with other values; prove the copy.

    SRC is read in one state. Days, and ranges of ids, of equal checksums are not moved, so a second copy is quick; one that was
    broken off goes on. Ids and created_at are kept. A row of SRC with an id that another row has in DST is refused before
    anything is written. Tables are created where DST has none. TIME is ISO 8601, in UTC unless it says otherwise.
    """
    require_arrow()
    from iftb_store.transfer.copy import Copied, Copy, prepare

    scope = _scope(tables, exchanges, symbols, timeframes, start, end)
    progress = Progress(quiet=quiet)
    under_way: list[Copy] = []

    async def work(ours: DatabaseManager, theirs: DatabaseManager) -> list[Copied]:
        if not dry_run and await prepare(theirs, scope) and not (quiet or as_json):
            say(f"{shown(destination)}: the tables are created")
        copying = Copy(ours, theirs, scope, on_conflict=on_conflict, delete=delete, step=progress.step)
        under_way.append(copying)
        return await copying.run(dry=dry_run)

    try:
        done = _run_both(source, destination, work, scope, create=not dry_run)
    except (KeyboardInterrupt, Terminated):
        moved = counted(under_way[0].moved if under_way else 0, "row")
        error_line(
            f"stopped with {moved} moved, which stay; so does a batch whose COMMIT was under way, if it went through; "
            "running the same command again goes on from there"
        )
        raise
    if as_json:
        json_out([asdict(item) | {"unchanged": item.unchanged} for item in done])
    elif not quiet:
        _show_copied(done, dry_run, delete)
        if scope.chosen and not any(item.source.rows or item.deleted or item.kept for item in done):
            say(_NOTHING)


def verify(
    source: Source,
    destination: Destination,
    tables: Tables = None,
    exchanges: Exchanges = None,
    symbols: Symbols = None,
    timeframes: Timeframes = None,
    start: Start = None,
    end: End = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare what SRC and DST have, by counts and checksums of the values; name the first rows that differ.

    Both are read in one state each, and neither is changed. The exit code is 0 where they are equal, and 1 where not or where
    neither has a row of those chosen. TIME is ISO 8601, in UTC unless it says otherwise.
    """
    require_arrow()
    from iftb_store.transfer.verify import verify as compare

    scope = _scope(tables, exchanges, symbols, timeframes, start, end)
    progress = Progress(quiet=quiet)
    found = _run_both(source, destination, lambda ours, theirs: compare(ours, theirs, scope, step=progress.step), scope)
    equal = all(item.equal for item in found)
    if as_json:
        json_out([asdict(item) | {"equal": item.equal} for item in found])
    elif not quiet:
        rows = [
            (
                item.table,
                item.series,
                f"{item.source.rows:,}",
                f"{item.destination.rows:,}",
                item.source.checksum[:SHORT],
                item.destination.checksum[:SHORT],
                "yes" if item.equal else "NO",
            )
            for item in found
        ]
        table(
            ["table", "series", "rows SRC", "rows DST", "checksum SRC", "checksum DST", "equal"],
            rows,
            right=["rows SRC", "rows DST"],
        )
    for item in found:
        for difference in item.differences:
            error_line(_difference(item.table, difference))
    if not equal:
        raise typer.Exit(1)
    if scope.chosen and not any(item.source.rows for item in found):
        # a name that was mistyped must not pass for a proof
        error_line(f"{_NOTHING}; nothing was compared")
        raise typer.Exit(1)
    if not (quiet or as_json):
        say(f"equal: {counted(sum(item.source.rows for item in found), 'row')} in each")


def _show_copied(done: list[Any], dry: bool, delete: bool) -> None:
    columns = ["rows", "inserted", "updated", "unchanged", "deleted", "only in DST"]
    rows = [
        (
            item.table,
            item.series,
            *(f"{count:,}" for count in (item.source.rows, item.inserted, item.updated, item.unchanged, item.deleted, item.kept)),
            item.source.checksum[:SHORT],
            _verdict(item),
        )
        for item in done
    ]
    table(["table", "series", *columns, "checksum", "equal"], rows, right=columns)
    moved = counted(sum(item.inserted + item.updated for item in done), "row")
    say(f"{moved} to be moved; nothing was written" if dry else f"{moved} moved, and the copy is proved")
    kept = sum(item.kept for item in done)
    if kept:
        why = "as they came meanwhile" if delete else "and --delete deletes them"
        say(f"{counted(kept, 'row')} only in DST; they stay, {why}")


def _verdict(item: Any) -> str:
    if not item.equal:
        return "not yet"
    return "all of SRC" if item.kept else "yes"


def _difference(name: str, difference: Difference) -> str:
    from iftb_store.transfer.verify import format_key

    row = format_key(difference.row)
    if difference.column is None:
        where = "SRC" if difference.source > difference.destination else "DST"
        return f"{name} {row}: {'stands twice' if max(difference.source, difference.destination) > 1 else 'only'} in {where}"
    values = f"{format_value(difference.source)} in SRC and {format_value(difference.destination)} in DST"
    return f"{name} {row}: {difference.column} is {values}"


def _run_both(
    source: str,
    destination: str,
    work: Callable[[DatabaseManager, DatabaseManager], Awaitable[T]],
    scope: TableScope,
    *,
    create: bool = False,
) -> T:
    import pyarrow as pa

    from iftb_store.transfer.plan import require_schema

    ours, theirs = resolve_url(source), resolve_url(destination)
    # Arrow's own keeps what was freed
    pa.set_memory_pool(pa.system_memory_pool())
    other = DatabaseManager(frugal(theirs))

    async def both(first: DatabaseManager) -> T:
        if not create:
            require_file(theirs)
        # before anything is created
        await require_schema(first, scope.tables)
        async with other as second:
            return await work(first, second)

    return run(frugal(ours), both)


def frugal(address: str | URL) -> URL:
    """Return the URL with bounds to what the engine keeps in this process's memory, where it has none.

    DuckDB's own bound is most of the machine's memory, SQLite's cache is for each connection.
    """
    url = parse_url(address)
    bounds = _BOUNDS.get(url.get_backend_name(), {})
    return url if bounds.keys() & url.query.keys() - {"threads"} else url.update_query_dict({**bounds, **url.query})


def _scope(
    tables: list[str] | None,
    exchanges: list[str] | None,
    symbols: list[str] | None,
    timeframes: list[str] | None,
    start: str | None,
    end: str | None,
) -> TableScope:
    window: list[datetime | None] = [time_option(start, "--start"), time_option(end, "--end")]
    return TableScope(tables or (), exchanges or (), symbols or (), timeframes or (), *window)
