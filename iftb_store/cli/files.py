"""The commands export and import: write tables to files, and store the rows of files."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from sqlalchemy.exc import IntegrityError

from iftb_store.batches.bars import BarColumns
from iftb_store.cli.completion import one_of, timeframes
from iftb_store.cli.data import Argument, Json, Option, Url, time_window
from iftb_store.cli.output import format_count, format_moment, print_error, print_json, say
from iftb_store.cli.progress import Progress
from iftb_store.cli.target import explain_stop, is_migrated, run, url_and_rest
from iftb_store.cli.transfer import End, Exchanges, Quiet, Start, Symbols
from iftb_store.errors import InvalidValueError, TradeConflictError
from iftb_store.files.commits import Commit
from iftb_store.files.formats import FORMATS
from iftb_store.files.import_ import ImportedFile, Source, import_file
from iftb_store.files.options import Hints
from iftb_store.files.readers.binance import DumpError
from iftb_store.manager import DatabaseManager
from iftb_store.registry import require_arrow
from iftb_store.schema.scope import TABLES, TableScope
from iftb_store.schema.table_spec import BARS, SERIES, TRADES
from iftb_store.values import checks
from iftb_store.values.display import show, to_one_line

_NOTHING = "no row of this file was stored"
_FILE_HELP = "Files, patterns, e.g. '*.zip', or folders of Parquet files (required)."


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
    start: Start = None,
    end: End = None,
    partitioned: Annotated[
        bool, typer.Option("--partitioned", help="Write bars to a folder of Parquet files, one per series and month.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file or folder.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the rows of a table, or some of them, to a file: all columns, exact values, read from a snapshot.

    FILE appears under its name only when it is complete. --start and --end apply to the timestamp of bars, the entry_time of
    trades and positions, and the created_at of events.

    TIME is ISO 8601, e.g. 2024-02-29 (midnight) or 2024-02-29T23:59; it is UTC unless it has an offset.
    """
    if not output:
        raise InvalidValueError("no FILE is given; give one, e.g. -o bars.parquet, or -o - for stdout")
    scope = TableScope([table], exchange or (), symbol or (), timeframe or (), *time_window(start, end))
    require_arrow()
    from iftb_store.files.export import Exported
    from iftb_store.files.export import export as write

    target = sys.stdout.buffer if output == "-" else Path(output)
    progress = Progress(quiet=quiet)

    async def export_it(db: DatabaseManager) -> Exported:
        with progress.step(table) as tell:
            return await write(db, scope, target, format=format, partitioned=partitioned, overwrite=overwrite, progress=tell)

    left = "the printed output is incomplete" if output == "-" else f"the incomplete {output} was removed"
    with explain_stop(lambda: f"stopped; {left}; run the export again to start over"):
        done = run(url, export_it)
    if as_json and output != "-":
        print_json({**asdict(done), "path": output})
    elif not quiet:
        files = "" if done.files == 1 else f" in {format_count(done.files, 'file')}"
        where = "" if output == "-" else f" to {output}"
        say(f"{table}: {format_count(done.rows, 'row')}{where}{files}", stderr=output == "-")


def import_(
    url: Url = None,
    files: Annotated[list[str] | None, Argument(metavar="FILE", help=_FILE_HELP)] = None,
    symbol: Annotated[str | None, Option(help="Symbol, if the file does not contain it.")] = None,
    timeframe: Annotated[
        str | None, Option(help="Timeframe, if the file does not contain it.", autocompletion=timeframes)
    ] = None,
    exchange: Annotated[str | None, Option(help="Exchange, if the file does not contain it (default: binance).")] = None,
    insert: Annotated[bool, typer.Option("--insert", help="Fail if a row is already stored, instead of overwriting it.")] = False,
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="Store exported bars and trades under new ids, not those of the file.")
    ] = False,
    map: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=NAME,…", help="Names of the file's columns, e.g. open=First,timestamp=Day."),
    ] = None,
    tz: Annotated[
        str | None,
        typer.Option(metavar="ZONE", help="Time zone of timestamps without an offset, e.g. Europe/Berlin (default: UTC)."),
    ] = None,
    fold: Annotated[
        str | None, typer.Option(help="earlier or later: how to read a time that occurs twice because clocks are set back.")
    ] = None,
    decimals: Annotated[
        str | None, typer.Option(help="from-float: accept floats and store the shortest decimal of each.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Store the rows of files: exports of iftb-store, and candles from Binance, freqtrade, ccxt, pandas or Polars.

    The format is detected from the content, not the file name. Each file is stored completely or not at all. Rows that are
    already stored are overwritten, so importing a file twice changes nothing. Rows of an export keep their ids.
    """
    url, patterns = url_and_rest(url, *(files or []))
    if not patterns:
        raise InvalidValueError("no FILE is given; give files after the URL, e.g. bars.parquet or BTCUSDT-1m-2024-02.zip")
    paths = list(dict.fromkeys(path for pattern in patterns for path in _files(pattern)))
    columns = _columns(map or [])
    for option, value in (("symbol", symbol), ("exchange", exchange)):
        checks.optional(checks.name_text, value, option)
    checks.optional(partial(checks.choice, choices=("earlier", "later")), fold, "--fold")
    checks.optional(partial(checks.choice, choices=("from-float",)), decimals, "--decimals")
    hints = Hints(symbol, timeframe, exchange, columns, _zone(tz), fold, decimals is not None)  # type: ignore[arg-type]
    sources: list[Source] = []
    for path in paths:
        with _report_refusal(path):
            sources.append(Source(path, hints))
    _refuse_hints(sources, hints)
    _refuse_mixing(sources, symbol, exchange)

    done: list[ImportedFile] = []
    under_way: list[tuple[Source, Commit[ImportedFile]]] = []
    progress = Progress(quiet=quiet)

    async def import_all(db: DatabaseManager) -> None:
        for source in sources:
            commit = Commit[ImportedFile]()
            under_way[:] = [(source, commit)]
            with _report_refusal(source.path, _remedy(source, insert)):
                with progress.step(_name(source.path), "bytes") as tell:
                    result = await import_file(db, source, insert=insert, new_ids=new_ids, progress=tell, commit=commit)
                done.append(result)
                if not quiet and not as_json:
                    say(summary(result))

    with explain_stop(lambda: _stopped(done, len(paths), *under_way)):
        run(url, import_all, create=not is_migrated(url))
    if as_json:
        print_json([{**asdict(result), "path": str(result.path)} for result in done])
    elif not quiet:
        say(f"{len(done)} of {format_count(len(paths), 'file')} imported, {_amount(done)}")
    if len(done) < len(paths):
        raise typer.Exit(1)


def summary(result: ImportedFile) -> str:
    """Return one line about an imported file: its series or table, rows and time span."""
    if not result.table:
        return f"{_name(result.path)}: empty, 0 rows"
    what = result.table if result.series is None else " ".join(result.series)
    unit = "bar" if result.table == BARS.name else "row"
    time = f", {format_moment(result.first)} to {format_moment(result.last)} UTC" if result.first and result.last else ""
    notes = f" ({'; '.join(result.notes)})" if result.notes else ""
    return f"{_name(result.path)}: {what}, {format_count(result.rows, unit)}{time}{notes}"


def _name(path: Path) -> str:
    # the folders of a partitioned export name the series and the month
    parts = path.parts
    return "/".join(parts[next((at for at, part in enumerate(parts) if "=" in part and at < len(parts) - 1), len(parts) - 1) :])


def _amount(done: Sequence[ImportedFile]) -> str:
    unit = "bar" if all(result.table == BARS.name for result in done) else "row"
    return format_count(sum(result.rows for result in done), unit)


def _stopped(done: list[ImportedFile], files: int, *under_way: tuple[Source, Commit[ImportedFile]]) -> str:
    """Return the message of an interrupted import: what is stored, and how to continue."""
    state = "no row of the current file was stored; "
    for source, commit in under_way:
        if commit.state == "sent":
            state = f"it is unknown whether {_name(source.path)} is stored too, as its COMMIT was in progress; "
        elif commit.result is not None:
            done = done if commit.result in done else [*done, commit.result]
            state = ""
    stored = f"{len(done)} of {format_count(files, 'file')} stored, {_amount(done)}"
    return f"stopped with {stored}; {state}it is safe to import all of them again"


@contextmanager
def _report_refusal(path: Path, remedy: str = "") -> Iterator[None]:
    """Print why a file cannot be imported, instead of raising the error."""
    try:
        yield
    except OSError as error:
        print_error(f"{path}: {error.strerror}; {_NOTHING}")
    except DumpError as error:
        print_error(f"{error}; {_NOTHING}")
    except TradeConflictError as error:
        print_error(f"{path}: {error}; {_NOTHING}")
    except IntegrityError as error:
        print_error(f"{path}: {error.orig}; {_NOTHING}; {remedy}")


def _remedy(source: Source, insert: bool) -> str:
    if insert:
        return f"leave --insert out to overwrite stored {'bars' if source.table in (None, BARS) else 'rows'}"
    if source.table in (BARS, TRADES):
        return "use --new-ids to store them under new ids"
    return "import the file into an empty database"


def _columns(maps: list[str]) -> dict[str, str]:
    columns = {}
    for word in (word for given in maps for word in given.split(",")):
        ours, sign, theirs = word.partition("=")
        if ours not in BarColumns._fields or not sign or not theirs:
            raise InvalidValueError(
                f"--map {show(word)} is not COLUMN=NAME, e.g. open=First; the columns are {', '.join(BarColumns._fields)}"
            )
        columns[ours] = theirs
    return columns


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, UnicodeError) as error:
        raise InvalidValueError(f"--tz {show(name)} is not a known time zone; write it as e.g. Europe/Berlin") from error


def _files(pattern: str) -> list[Path]:
    """Return the files that an argument names: one file, the Parquet files of a folder, or all files that match a pattern.

    Patterns are expanded here because not every shell does.
    """
    if not pattern:
        raise InvalidValueError("FILE is an empty text; give a file name, e.g. BTCUSDT-1m-2024-02.zip")
    path = Path(pattern)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*.parquet") if file.is_file())
        if not found:
            raise InvalidValueError(f"{pattern} is a folder without Parquet files; give its files, e.g. {path / '*.zip'}")
        return found
    if path.exists():
        return [path]
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if not Path(name).is_dir()]  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not found:
        raise InvalidValueError(f"there is no file {to_one_line(pattern)}; a database URL contains :// or starts with env:")
    return found


def _refuse_hints(sources: Sequence[Source], hints: Hints) -> None:
    given = [name for name in SERIES if getattr(hints, name)] + (["map"] if hints.columns else [])
    for source in sources:
        if given and source.table is not None:
            raise InvalidValueError(
                f"{source.path}: this is an export of iftb-store, whose rows are stored unchanged; leave --{given[0]} out for it"
            )


def _refuse_mixing(sources: Sequence[Source], symbol: str | None, exchange: str | None) -> None:
    for option, given in (("symbol", symbol), ("exchange", exchange)):
        names = {source.named[0] if option == "symbol" else None for source in sources}
        told = sorted(filter(None, names | {source.fixed.get(option) for source in sources}))
        if given is not None and len(told) > 1:
            raise InvalidValueError(
                f"--{option} {given} would merge the files of {' and '.join(told[:5])} into one series; import them separately"
            )
