"""The commands export and import: write tables to files, and store the rows of files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import typer

from iftb_store.batches.bars import BarColumns
from iftb_store.cli.completion import one_of, timeframes
from iftb_store.cli.data import Argument, Json, Option, Url, time_window
from iftb_store.cli.output import print_error, print_json, say
from iftb_store.cli.progress import Progress
from iftb_store.cli.symbols import report_unknown
from iftb_store.cli.target import explain_stop, run, supports_migrations, url_and_rest
from iftb_store.cli.transfer import Accounts, End, Exchanges, Quiet, Start, Symbols
from iftb_store.config import resolve_url
from iftb_store.errors import InvalidValueError
from iftb_store.files.export import ExportReport, export_table
from iftb_store.files.formats import FORMATS
from iftb_store.files.import_files import (
    FileImport,
    ImportReport,
    RefusedFile,
    RefusedFilesError,
    check_header,
    format_path,
)
from iftb_store.files.imported import ImportedFile
from iftb_store.files.options import Hints
from iftb_store.manager import DatabaseManager
from iftb_store.registry import require_arrow
from iftb_store.schema.scope import TABLES, TableScope
from iftb_store.schema.table_spec import BARS
from iftb_store.transfer.progress import report_steps
from iftb_store.url import bound_memory
from iftb_store.values import checks
from iftb_store.values.choices import Conflict, ReadDecimals
from iftb_store.values.display import show
from iftb_store.values.readable import format_count, format_moment
from iftb_store.values.times import find_zone

_FILE_HELP = "Files, patterns, e.g. '*.zip', folders, or - for stdin (required)."


def export(
    url: Url = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="The file to write, or - for stdout (required).")
    ] = None,
    format: Annotated[
        str | None,
        Option(help=f"File format: {', '.join(FORMATS)} (default: from the suffix of FILE).", autocompletion=one_of(FORMATS)),
    ] = None,
    table: Annotated[str, typer.Option(help=f"Table to export: {', '.join(TABLES)}.", autocompletion=one_of(TABLES))] = BARS.name,
    exchange: Exchanges = None,
    symbol: Symbols = None,
    timeframe: Annotated[
        list[str] | None, typer.Option(help="Only bars of this timeframe; repeatable.", autocompletion=timeframes)
    ] = None,
    account: Accounts = None,
    start: Start = None,
    end: End = None,
    partitioned: Annotated[
        bool, typer.Option("--partitioned", help="Write bars to a folder of Parquet files, one per series and month.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file or folder, unless no row matches.")
    ] = False,
    decimals: Annotated[str | None, Option(help="float: write decimals as the nearest floats (default: exact).")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the rows of a table, or some of them, to a file: all columns, exact values, read from a snapshot.

    FILE appears under its name only when it is complete. The exit code is 1 if no row matches. --start and --end apply to the
    entry_time of trades and positions, the created_at of events, and the timestamp of other rows.

    TIME is ISO 8601, e.g. 2024-02-29 (midnight) or 2024-02-29T23:59, in UTC unless it has an offset; or now, or -7d for 7 days
    ago (m minutes, h hours, d days, w weeks).
    """
    if not output:
        raise InvalidValueError("no FILE is given; give one, e.g. -o bars.parquet, or -o - for stdout")
    first, last = time_window(start, end)
    chosen: dict[str, Any] = {"exchanges": exchange or (), "symbols": symbol or (), "timeframes": timeframe or ()}
    chosen |= {"accounts": account or (), "start": first, "end": last}
    # checked before the database is opened
    TableScope([table], **chosen)
    require_arrow()
    target = sys.stdout.buffer if output == "-" else output
    checks.optional_choice(decimals, "--decimals", get_args(ReadDecimals))
    options: dict[str, Any] = {"format": format, "partitioned": partitioned, "overwrite": overwrite, "decimals": decimals}

    async def export_it(db: DatabaseManager) -> ExportReport:
        return await export_table(db, target, table=table, **chosen, **options, progress=progress)

    left = "the printed output is incomplete" if output == "-" else f"the incomplete {output} was removed"
    # a bar on the terminal would be drawn into the rows
    progress = Progress(quiet=quiet or output == "-")
    with explain_stop(lambda: f"stopped; {left}; run the export again to start over"), progress:
        done = run(bound_memory(resolve_url(url)), export_it)
    if as_json and output != "-":
        print_json(done)
    elif done.rows and not quiet:
        files = "" if done.files == 1 else f" in {format_count(done.files, 'file')}"
        where = "" if output == "-" else f" to {output}"
        say(f"{table}: {format_count(done.rows, 'row')}{where}{files}", stderr=output == "-")
    if not done.rows:
        nothing = f"no row of {table} matches the options"
        report_unknown(url, symbol or [], nothing)
        kept = f"{output} has none" if done.files else f"{output} was left as it was"
        print_error(f"{nothing}; {'no row was printed' if output == '-' else kept}")
        raise typer.Exit(1)


def import_(
    url: Url = None,
    files: Annotated[list[str] | None, Argument(metavar="FILE", help=_FILE_HELP)] = None,
    symbol: Annotated[str | None, Option(help="Symbol, if the file does not contain it.")] = None,
    timeframe: Annotated[
        str | None, Option(help="Timeframe, if the file does not contain it.", autocompletion=timeframes)
    ] = None,
    exchange: Annotated[str | None, Option(help="Exchange, if the file does not contain it (default: binance).")] = None,
    insert: Annotated[bool, typer.Option("--insert", help="Fail if a row is already stored, instead of overwriting it.")] = False,
    on_conflict: Annotated[
        Conflict, typer.Option(help="If a stored row has other values: overwrite it, or refuse the file.")
    ] = "source-wins",
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="Store exported bars and trades under new ids, not those of the file.")
    ] = False,
    map: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="COLUMN=NAME,…",
            help="Names in the file of columns that are not recognised, e.g. open=First,timestamp=Day.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Names of all columns of a file without a header, e.g. timestamp,open,high,…."),
    ] = None,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Skip rows without prices, and count them.")] = False,
    tz: Annotated[
        str | None,
        typer.Option(metavar="ZONE", help="Time zone of timestamps without an offset, e.g. Europe/Berlin (default: UTC)."),
    ] = None,
    fold: Annotated[
        str | None, typer.Option(help="earlier or later: how to read a time that occurs twice because clocks are set back.")
    ] = None,
    decimals: Annotated[
        str | None,
        typer.Option(
            help="from-float: accept floats, store for each the shortest decimal that converts back to the same float, "
            "and round decimals to 18 places."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Store the rows of files: exports of iftb-store, candles from Binance, freqtrade, ccxt, pandas or Polars, and databases.

    The format is detected from the content, not the file name; files may be packed with gzip. Each file is stored completely
    or not at all. Rows that are already stored are overwritten, so importing a file twice changes nothing. A file that has
    other values for a bar than an earlier file of the command is refused; if the times of the bars have more than 400,000 gaps,
    some bars are not compared, and the command prints their number. Rows of an export keep their ids.

    freqtrade's tradesv3.sqlite, the original layer's SQLite database and, with --tz, vnpy's are imported too; see
    `iftb-store copy --from`.
    """
    url, patterns = url_and_rest(url, *(files or []))
    if not patterns:
        raise InvalidValueError("no FILE is given; give files after the URL, e.g. bars.parquet or BTCUSDT-1m-2024-02.zip")
    names = _parse_columns(map or [])
    header = check_header(columns.split(",")) if columns is not None else ()
    checks.optional_choice(decimals, "--decimals", ("from-float",))
    read: Any = {"zone": find_zone(tz), "fold": fold, "from_float": decimals is not None}
    hints = Hints(symbol, timeframe, exchange, names, **read, skip_empty=skip_empty, header=header)
    progress = Progress(quiet=quiet)

    def show_result(result: ImportedFile | RefusedFile) -> None:
        progress.end_step()
        if isinstance(result, RefusedFile):
            print_error(result.reason)
        elif not quiet and not as_json:
            say(summary(result))

    # the files are checked before the database is opened
    importing = FileImport(patterns, hints, insert=insert, new_ids=new_ids, on_conflict=on_conflict, tell=show_result)
    count = format_count(len(importing.paths), "file")
    with explain_stop(lambda: _describe_stop(importing, count)), progress:
        done = run(
            bound_memory(resolve_url(url)), lambda db: _import_all(db, importing, progress), create=not supports_migrations(url)
        )
    if as_json:
        print_json(done)
    elif not quiet:
        say(f"{len(done.files)} of {count} imported, {_amount(done.files)}{_format_changes(done.files)}")
    if done.refused:
        raise typer.Exit(1)


async def _import_all(db: DatabaseManager, importing: FileImport, progress: Progress) -> ImportReport:
    try:
        return await importing.run(db, report_steps(progress))
    except RefusedFilesError as error:
        # each file was reported when it was refused
        return error.report


def summary(result: ImportedFile) -> str:
    """Return one line about an imported file: its series or table, rows and time span."""
    if not result.table:
        return f"{format_path(result.path)}: empty, 0 rows"
    what = result.table if result.series is None else " ".join(result.series)
    unit = "bar" if result.table == BARS.name else "row"
    time = f", {format_moment(result.first)} to {format_moment(result.last)} UTC" if result.first and result.last else ""
    notes = f" ({'; '.join(result.notes)})" if result.notes else ""
    return f"{format_path(result.path)}: {what}, {format_count(result.rows, unit)}{_format_changes([result])}{time}{notes}"


def _format_changes(done: Sequence[ImportedFile]) -> str:
    """Return how many rows of the files were inserted, changed and equal; nothing if there are no rows."""
    if not any(result.rows for result in done):
        return ""
    inserted, changed, equal = (sum(getattr(result, name) for result in done) for name in ("inserted", "changed", "equal"))
    return f" ({inserted:,} inserted, {changed:,} changed, {equal:,} equal)"


def _amount(done: Sequence[ImportedFile]) -> str:
    unit = "bar" if all(result.table == BARS.name for result in done) else "row"
    return format_count(sum(result.rows for result in done), unit)


def _describe_stop(importing: FileImport, count: str) -> str:
    """Return the message of an interrupted import: what is stored, and how to continue."""
    stored, state = importing.files, "no row of the current file was stored; "
    if importing.current is not None:
        name, commit = importing.current
        if commit.state == "sent":
            state = f"it is unknown whether {name} is stored too, as its COMMIT was in progress; "
        elif commit.result is not None:
            stored = stored if commit.result in stored else [*stored, commit.result]
            state = ""
    return f"stopped with {len(stored)} of {count} stored, {_amount(stored)}; {state}it is safe to import all of them again"


def _parse_columns(maps: list[str]) -> dict[str, str]:
    columns = {}
    for word in (word for given in maps for word in given.split(",")):
        ours, sign, theirs = word.partition("=")
        if not ours or not sign or not theirs:
            raise InvalidValueError(
                f"--map {show(word)} is not COLUMN=NAME, e.g. open=First; the columns are {', '.join(BarColumns._fields)}"
            )
        columns[ours] = theirs
    return columns
