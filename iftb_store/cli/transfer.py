"""The commands copy and verify, which work on two databases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.cells import cell_len
from rich.text import Text

from iftb_store.cli.completion import one_of, timeframes
from iftb_store.cli.data import Json, time_window
from iftb_store.cli.foreign import PROGRAMS, complete_program, copy_foreign, show_foreign
from iftb_store.cli.output import console, print_error, print_json, print_table, say
from iftb_store.cli.progress import Progress
from iftb_store.cli.symbols import report_unknown
from iftb_store.cli.target import explain_stop, format_target, require_file, run
from iftb_store.config import resolve_url
from iftb_store.errors import InvalidValueError
from iftb_store.manager import DatabaseManager
from iftb_store.registry import require_arrow
from iftb_store.schema.scope import TABLES, TableScope
from iftb_store.transfer import functions
from iftb_store.transfer.reports import CopyReport, VerifyReport
from iftb_store.url import bound_memory
from iftb_store.values.display import replace_unprintable
from iftb_store.values.readable import format_count
from iftb_store.values.timeframes import TIMEFRAMES
from iftb_store.values.times import find_start

if TYPE_CHECKING:
    from iftb_store.transfer.verify import Difference

T = TypeVar("T")

Source = Annotated[str, typer.Argument(metavar="SRC", help="Source database: URL, or env:NAME.")]
Destination = Annotated[str, typer.Argument(metavar="DST", help="Destination database: URL, or env:NAME.")]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", help=f"Only this table: {', '.join(TABLES)}; repeatable.", autocompletion=one_of(TABLES)),
]
Exchanges = Annotated[list[str] | None, typer.Option("--exchange", help="Only rows of this exchange; repeatable.")]
Symbols = Annotated[list[str] | None, typer.Option("--symbol", help="Only rows of this symbol; repeatable.")]
Timeframes = Annotated[
    list[str] | None,
    typer.Option(
        "--timeframe", help=f"Only bars of this timeframe: {' '.join(TIMEFRAMES)}; repeatable.", autocompletion=timeframes
    ),
]
Accounts = Annotated[
    list[str] | None, typer.Option("--account", help="Only rows of this account, no bars; '' for rows without one; repeatable.")
]
Start = Annotated[str | None, typer.Option(metavar="TIME", help="Start of the time window, inclusive.")]
End = Annotated[str | None, typer.Option(metavar="TIME", help="End of the time window, inclusive.")]
Since = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Only rows of the last DURATION, e.g. 30m, 12h, 7d or 2w, instead of --start."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors.")]

_NOTHING = "neither SRC nor DST has a row that matches the options"
# number of characters of a checksum that are shown
_SHORT = 12
# number of characters between the columns of a table, and before the numbers in a list
_SPACE, _INDENT = 2, "  "


def copy(
    source: Source,
    destination: Destination,
    tables: Tables = None,
    exchanges: Exchanges = None,
    symbols: Symbols = None,
    timeframes: Timeframes = None,
    accounts: Accounts = None,
    start: Start = None,
    end: End = None,
    since: Since = None,
    on_conflict: Annotated[
        Literal["source-wins", "refuse"],
        typer.Option(help="If a row in DST has other values: overwrite it, or fail and write nothing."),
    ] = "source-wins",
    delete: Annotated[bool, typer.Option("--delete", help="Delete rows that only DST has, within the selection.")] = False,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="Fail unless trades, positions and events get the ids of SRC in DST.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Read every selected row of DST.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be done or refused; write nothing.")] = False,
    program: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PROGRAM",
            help=f"SRC is a database of another program: {', '.join(PROGRAMS)}.",
            autocompletion=complete_program,
        ),
    ] = None,
    tz: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Time zone of vnpy's times, e.g. Asia/Shanghai (required for vnpy).")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="With --from: store refused trades and positions with the listed corrections.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Copy the rows of SRC that are missing or different in DST, then verify the copy.

    SRC is read from a snapshot. Days (of bars) and ranges of ids with equal checksums are skipped, so a second copy is quick
    and an interrupted copy resumes when run again. DST stores a checksum of each day of bars: a day whose stored checksum equals
    that of SRC is not read in DST, except one such day in 30, at random; --full reads every day. If SRC is PostgreSQL or
    DuckDB, it computes the checksums itself, and these days are not read in SRC either. Missing tables are created in DST.

    Bars are copied by exchange, symbol, timeframe and time. Rows of other tables keep their ids, unless DST has other rows than
    those of SRC: then they are found by the columns that name a row, e.g. trade_id, and new rows get new ids.

    --start, --end and --since apply to the entry_time of trades and positions, the created_at of events, and the timestamp of
    other rows. TIME is ISO 8601, e.g. 2024-02-29 (midnight) or 2024-02-29T23:59, in UTC unless it has an offset; or now, or -7d
    for 7 days ago (m minutes, h hours, d days, w weeks).

    With --from, SRC is an SQLite or PostgreSQL database of the original storage layer, of freqtrade or of vnpy; nothing is
    changed in it. Rows that are refused are listed, the others copied; the exit code is 1 if rows were refused and not accepted.
    Of freqtrade, --account names the account that the rows get.
    """
    if program is not None:
        given = {
            "--table": tables, "--exchange": exchanges, "--symbol": symbols, "--timeframe": timeframes, "--start": start,
            "--end": end, "--since": since, "--delete": delete, "--keep-ids": keep_ids, "--full": full,
        }  # fmt: skip
        _copy_program(
            source,
            destination,
            program,
            tz=tz,
            accounts=accounts or (),
            accept=accept,
            on_conflict=on_conflict,
            dry_run=dry_run,
            refused_options=[name for name, value in given.items() if value],
            quiet=quiet or as_json,
            as_json=as_json,
        )
        return
    if tz is not None or accept:
        raise InvalidValueError(f"{'--accept' if accept else '--tz'} needs --from, the program whose database SRC is")
    chosen = _Choice(tables, exchanges, symbols, timeframes, accounts, start, end, since)
    progress = Progress(quiet=quiet)

    async def work(ours: DatabaseManager, theirs: DatabaseManager) -> CopyReport:
        return await functions.copy(
            ours,
            theirs,
            **chosen.arguments,
            on_conflict=on_conflict,
            delete=delete,
            keep_ids=keep_ids,
            full=full,
            dry_run=dry_run,
            progress=progress,
        )

    def describe_stop() -> str:
        moved = f"{format_count(progress.done.get('copy', 0), 'row')} {'copied or deleted' if delete else 'copied'}"
        return (
            f"stopped with {moved}, which stay, and perhaps one more batch, whose COMMIT was in progress; "
            "run the same command again to resume"
        )

    with explain_stop(describe_stop), progress:
        done = _run_both(source, destination, work, chosen.scope, create=not dry_run)
    if as_json:
        print_json(done)
    elif not quiet:
        if done.created_tables:
            say(f"{format_target(destination)}: created the tables")
        _show_left_out(done.left_out)
        _show_copied(done, delete)
    if chosen.scope.chosen and not any(item.source.rows or item.deleted or item.kept for item in done.parts):
        report_unknown(source, symbols or [], _NOTHING)
        if not (as_json or quiet):
            say(_NOTHING)


def _copy_program(source: str, destination: str, program: str, *, quiet: bool, as_json: bool, **options: Any) -> None:
    report = copy_foreign(source, destination, program, quiet=quiet, **options)
    if as_json:
        print_json(report)
    else:
        show_foreign(report, quiet=quiet)
        if not quiet:
            _show_left_out(report.copied.left_out)
            _show_copied(report.copied, delete=False)
    if any(not row.accepted for row in report.refused):
        raise typer.Exit(1)


def verify(
    source: Source,
    destination: Destination,
    tables: Tables = None,
    exchanges: Exchanges = None,
    symbols: Symbols = None,
    timeframes: Timeframes = None,
    accounts: Accounts = None,
    start: Start = None,
    end: End = None,
    since: Since = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare the rows of SRC and DST by counts and checksums of their values, and report the first rows that differ.

    Each database is read from a snapshot, and neither is changed. The exit code is 0 if the rows are equal, and 1 if they
    differ or if neither database has a row that matches the options.

    --start, --end and --since apply to the entry_time of trades and positions, the created_at of events, and the timestamp of
    other rows. TIME is ISO 8601, e.g. 2024-02-29 (midnight) or 2024-02-29T23:59, in UTC unless it has an offset; or now, or -7d
    for 7 days ago (m minutes, h hours, d days, w weeks).
    """
    chosen = _Choice(tables, exchanges, symbols, timeframes, accounts, start, end, since)

    async def work(ours: DatabaseManager, theirs: DatabaseManager) -> VerifyReport:
        return await functions.verify(ours, theirs, **chosen.arguments, progress=progress)

    with Progress(quiet=quiet) as progress:
        found = _run_both(source, destination, work, chosen.scope)
    if as_json:
        print_json(found)
    elif not quiet:
        _show_left_out(found.left_out)
        sides = {"SRC": "source", "DST": "destination"}
        columns = {f"{what} {name}": f"{side}.{what}" for what in ("rows", "checksum") for name, side in sides.items()}
        show_parts(found.parts, columns, lambda item: "yes" if item.equal else "NO")
    for item in found.parts:
        for difference in item.differences:
            print_error(_difference(item.table, difference))
    if not found.equal:
        raise typer.Exit(1)
    if chosen.scope.chosen and not any(item.source.rows for item in found.parts):
        # a mistyped name must not look like a successful verification
        report_unknown(source, symbols or [], f"{_NOTHING}; nothing was compared")
        print_error(f"{_NOTHING}; nothing was compared")
        raise typer.Exit(1)
    if not (quiet or as_json):
        say(f"equal: {format_count(sum(item.source.rows for item in found.parts), 'row')} in each")


class _Choice:
    """The rows that the options select, as arguments of copy or verify, and as a scope to check before DST is opened."""

    def __init__(
        self,
        tables: list[str] | None,
        exchanges: list[str] | None,
        symbols: list[str] | None,
        timeframes: list[str] | None,
        accounts: list[str] | None,
        start: str | None,
        end: str | None,
        since: str | None,
    ) -> None:
        first, last = time_window(start, end)
        self.arguments: dict[str, Any] = {
            "tables": tables or (),
            "exchanges": exchanges or (),
            "symbols": symbols or (),
            "timeframes": timeframes or (),
            "accounts": accounts or (),
            "start": find_start(first, since),
            "end": last,
        }
        self.scope = TableScope(**self.arguments)


def _show_copied(done: CopyReport, delete: bool) -> None:
    counts = {name: name for name in ("inserted", "updated", "unchanged", "deleted")}
    columns = {"rows": "source.rows", **counts, "only in DST": "kept", "checksum": "source.checksum"}
    show_parts(done.parts, columns, lambda item: ("all of SRC" if item.kept else "yes") if item.equal else "not yet")
    moved = format_count(sum(item.inserted + item.updated for item in done.parts), "row")
    unread = sum(item.unread for item in done.parts)
    if unread:
        say(f"{format_count(unread, 'row')} of DST were not read: the stored checksums of their days equal those of SRC")
    verified = "the rows that were read are verified" if unread else "the copy is verified"
    say(f"{moved} to be copied; nothing was written" if done.dry_run else f"{moved} copied, and {verified}")
    kept = sum(item.kept for item in done.parts)
    if kept:
        why = "they were written during the copy, and stay" if delete else "they stay; use --delete to delete them"
        say(f"{format_count(kept, 'row')} only in DST; {why}")


def _show_left_out(tables: tuple[str, ...]) -> None:
    if tables:
        say(f"left out: {', '.join(tables)}; SRC or DST does not keep them")


def show_parts(done: Sequence[Any], columns: dict[str, str], verdict: Callable[[Any], str] | None = None) -> None:
    """Print a table with one row for each part of a transfer; on a terminal that is too narrow for it, a list.

    Args:
        done: the results of the parts.
        columns: the attribute of a result for each column: a number, or a checksum.
        verdict: returns the text of a part in the column "equal"; None for a table without this column.
    """
    titles = ["table", "series", *columns, *(["equal"] if verdict else [])]
    rows = []
    for item in done:
        values = [attrgetter(path)(item) for path in columns.values()]
        cells = [f"{value:,}" if isinstance(value, int) else value[:_SHORT] for value in values]
        rows.append([item.table, item.series, *cells, *([verdict(item)] if verdict else [])])
    width = sum(max(map(cell_len, cells)) + _SPACE for cells in zip(titles, *rows, strict=True)) - _SPACE
    if width <= console().width:
        right = [name for name, path in columns.items() if not path.endswith("checksum")]
        print_table(titles, rows, right=right)
        return
    for table, series, *values in rows:
        say(f"{table} {series}".rstrip())
        named = ", ".join(f"{name} {value}" for name, value in zip(titles[2:], values, strict=True) if value not in ("0", ""))
        for line in Text(replace_unprintable(named or "no rows")).wrap(console(), console().width - len(_INDENT)):
            say(f"{_INDENT}{line.plain.rstrip()}")


def _difference(name: str, difference: Difference) -> str:
    from iftb_store.transfer.verify import format_key, format_value

    row = format_key(difference.row)
    if difference.column is None:
        where = "SRC" if difference.source > difference.destination else "DST"
        return f"{name} {row}: {'duplicate' if max(difference.source, difference.destination) > 1 else 'only'} in {where}"
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
    require_arrow()
    import pyarrow as pa

    from iftb_store.transfer.kept import limit_scope
    from iftb_store.transfer.older import open_older
    from iftb_store.transfer.plan import require_schema

    ours, theirs = resolve_url(source), resolve_url(destination)
    # Arrow's default pool keeps memory that was freed
    pa.set_memory_pool(pa.system_memory_pool())
    other = DatabaseManager(bound_memory(theirs))

    async def both(first: DatabaseManager) -> T:
        if not create:
            require_file(theirs)
        # check SRC before anything is created in DST
        readable = await open_older(first)
        limited, _ = limit_scope(scope, source=readable, destination=other)
        await require_schema(readable, limited.tables)
        async with other as second:
            return await work(first, second)

    return run(bound_memory(ours), both)
