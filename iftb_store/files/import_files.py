"""Imports several files, patterns or folders, one file after the other: import_files of iftb_store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args
from zoneinfo import ZoneInfo

from sqlalchemy.exc import IntegrityError

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.bars import BarColumns
from iftb_store.errors import InvalidValueError, StoreError, TradeConflictError
from iftb_store.files.ahead import ReadAhead
from iftb_store.files.commits import Commit
from iftb_store.files.earlier import EarlierFiles
from iftb_store.files.import_ import import_file
from iftb_store.files.imported import ImportedFile
from iftb_store.files.options import Hints
from iftb_store.files.paths import STDIN, Stdin, find_paths
from iftb_store.files.readers.binance import DumpError, KlineRows
from iftb_store.files.source import Source
from iftb_store.schema.table_spec import BARS, SERIES, TRADES
from iftb_store.transfer.access import check_store
from iftb_store.transfer.progress import ProgressCallback, ProgressFactory, report_steps
from iftb_store.values import checks
from iftb_store.values.choices import CONFLICTS, Conflict, Decimals
from iftb_store.values.display import show, type_name
from iftb_store.values.timeframes import check_timeframe
from iftb_store.values.times import find_zone

#: The names of a file's columns for those of iftb-store, or the names of all columns of a file without a header.
Columns: TypeAlias = Mapping[str, str] | Sequence[str]
#: One file, pattern or folder, or several.
Paths: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_NOTHING = "no row of this file was stored"
# the errors by which a file is refused; all others end the import
_REFUSALS = (OSError, DumpError, TradeConflictError, IntegrityError)


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file that was refused: no row of it was stored.

    Attributes:
        path: the file.
        reason: why, in one line that names the file and the remedy.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import.

    Attributes:
        files: the files that were stored, in their order.
        refused: the files of which no row was stored.
    """

    files: tuple[ImportedFile, ...]
    refused: tuple[RefusedFile, ...]


class RefusedFilesError(StoreError):
    """Some files of an import were refused; the others are stored.

    Attributes:
        report: what was stored, and why each of the other files was refused.
    """

    def __init__(self, report: ImportReport) -> None:
        self.report = report
        first, total = report.refused[0].reason, len(report.files) + len(report.refused)
        super().__init__(first if total == 1 else f"{len(report.refused)} of {total} files were not imported: {first}")


async def import_files(
    db: ConnectedStore,
    paths: Paths,
    *,
    symbol: str | None = None,
    timeframe: str | None = None,
    exchange: str | None = None,
    insert: bool = False,
    on_conflict: Conflict = "source-wins",
    new_ids: bool = False,
    columns: Columns | None = None,
    skip_empty: bool = False,
    tz: str | ZoneInfo | None = None,
    fold: Literal["earlier", "later"] | None = None,
    decimals: Decimals | None = None,
    progress: ProgressCallback | None = None,
) -> ImportReport:
    """Store the rows of files: exports of iftb-store, candles from Binance, freqtrade, ccxt, pandas or Polars, and databases.

    The format is detected from the content, not the file name. Each file is stored completely or not at all, in its own
    transaction; a file that is refused does not stop the others. Rows that are already stored are overwritten, so importing a
    file twice changes nothing. Each bar is compared with the bars of earlier files of the import; if the times of these have
    more than 400,000 gaps, a note says how many bars were not compared. Rows of an export keep their ids. If the import is
    cancelled, the files stored so far stay. An SQLite database of freqtrade, of the original layer, or, with ``tz``, of vnpy is
    copied as by `copy_from`, in batches that are committed one by one; a note counts the rows that were refused.

    Args:
        db: the connected store, e.g. a DatabaseManager.
        paths: a file; a pattern, e.g. "dumps/*.zip"; a folder, whose files with a known suffix are imported; "-" for stdin; or
            a list of these. Files may be packed with gzip.
        symbol: the symbol, if the files do not contain it.
        timeframe: the timeframe, if the files do not contain it.
        exchange: the exchange, if the files do not contain it; None for binance.
        insert: refuse rows that are already stored, instead of overwriting them.
        on_conflict: for rows that are stored with other values: "source-wins" overwrites them, "refuse" refuses the file.
        new_ids: store exported bars and trades under new ids, not those of the file.
        columns: the names in the file of columns that are not recognised, e.g. {"open": "First", "timestamp": "Day"}; or the
            names of all columns of a CSV file without a header, in their order, e.g. ["timestamp", "open", …]. Columns with
            other names are ignored.
        skip_empty: skip rows without prices, and count them, instead of refusing them.
        tz: the time zone of timestamps without an offset, e.g. "Europe/Berlin"; None for UTC.
        fold: how to read a time that occurs twice because clocks are set back; None refuses such times.
        decimals: "from_float": accept floats, store for each the shortest decimal that converts back to the same float, and
            round decimals half-even to 18 places. None: refuse floats, and decimals with more than 18 places.
        progress: called with (file name, rows stored, rows of the file); the last number is estimated from the bytes read.

    Returns:
        For each file, the table, the number of rows, how many of them were new, changed and equal to stored ones, their
        series and time span; ``refused`` is empty.

    Raises:
        RefusedFilesError: some files are damaged or cannot be read, have rows that cannot be stored, or have other values for a
            bar than an earlier file; or some of several files contain no candles, or their series is not known. The other files
            are stored; the ``report`` of the error names the stored and the refused files.
        InvalidValueError: there is no such file; an argument has an invalid value or does not apply to a file; if there is only
            one file, its name, its columns and the arguments contradict each other; or ``new_ids`` is given for rows that are
            identified only by their id. In the last case, the files before this file are stored.
        SchemaError: the database has no tables of iftb-store, or tables of another revision.
        Unsupported: the database does not keep the table of an export.
        OperationalError: the database failed.
        CommitOutcomeUnknown: the connection was lost during a COMMIT; it is safe to import the files again.
        NotConnectedError: before connect().
        MissingDriverError: pyarrow is not installed, and a file is not a kline dump.

    Example:
        report = await import_files(db, "BTCUSDT-1m-*.csv")
        [(file.path.name, file.rows, file.inserted) for file in report.files]  # -> [('BTCUSDT-1m-2024-01.csv', 1, 1)]
    """
    checks.optional_choice(decimals, "decimals", get_args(Decimals))
    names, header = _split_columns(columns)
    empty = checks.boolean(skip_empty, "skip_empty")
    hints = Hints(symbol, timeframe, exchange, names, find_zone(tz), fold, decimals is not None, empty, header)
    step = report_steps(progress)
    check_store(db, "db")
    importing = await asyncio.to_thread(FileImport, paths, hints, insert=insert, new_ids=new_ids, on_conflict=on_conflict)
    return await importing.run(db, step)


class FileImport:
    """An import of several files, whose state can still be read after the import was stopped.

    Args:
        paths: as in `import_files`.
        hints: what the user knows about the files.
        insert: as in `import_files`.
        new_ids: as in `import_files`.
        on_conflict: as in `import_files`.
        tell: called with each file as soon as it is stored or refused.

    Attributes:
        paths: all files.
        files: the files that are stored.
        refused: the files that were refused.
        current: the name of the file that is being stored, and the state of its COMMIT; None before the first file.

    Raises:
        InvalidValueError: there is no such file, or the names, columns and hints contradict each other.
    """

    def __init__(
        self,
        paths: Paths,
        hints: Hints,
        *,
        insert: bool = False,
        new_ids: bool = False,
        on_conflict: Conflict = "source-wins",
        tell: Callable[[ImportedFile | RefusedFile], None] | None = None,
    ) -> None:
        _check_hints(hints)
        self._hints = hints
        self._insert, self._new_ids = checks.boolean(insert, "insert"), checks.boolean(new_ids, "new_ids")
        self._on_conflict: Conflict = checks.choice(on_conflict, "on_conflict", CONFLICTS)
        self._tell = tell
        self.files: list[ImportedFile] = []
        self.refused: list[RefusedFile] = []
        self.current: tuple[str, Commit[ImportedFile]] | None = None
        self._stdin = Stdin()
        self._sources: list[Source] = []
        try:
            self._open(_list_paths(paths))
        except BaseException:
            self._stdin.close()
            raise

    def _open(self, listed: list[str | os.PathLike[str]]) -> None:
        """Find the files, and open each to detect its format."""
        if STDIN in listed:
            stdin = self._stdin.read()
            listed = [stdin if given == STDIN else given for given in listed]
        self.paths = list(dict.fromkeys(path for given in listed for path in find_paths(given)))
        with self._stdin.rename_errors():
            for path in self.paths:
                try:
                    self._sources.append(Source(path, self._hints))
                except _REFUSALS as error:
                    self._refuse(path, error)
                except InvalidValueError as error:
                    # one of several files may be of another kind
                    if len(self.paths) == 1:
                        raise
                    self._refuse(path, DumpError(str(error)))
            self._refuse_hints()
            self._refuse_mixing()

    async def run(self, db: ConnectedStore, step: ProgressFactory) -> ImportReport:
        """Store the files.

        Raises:
            RefusedFilesError: files were refused; all others are stored.
        """
        readers = _read_ahead(self._sources)
        try:
            await self._import_all(db, step, readers)
        finally:
            for reader in readers.values():
                await reader.close()
            self._stdin.close()
        report = ImportReport(tuple(self.files), tuple(self.refused))
        if self.refused:
            raise RefusedFilesError(report)
        return report

    async def _import_all(self, db: ConnectedStore, step: ProgressFactory, readers: dict[Source, ReadAhead[KlineRows]]) -> None:
        earlier = EarlierFiles()
        options: dict[str, Any] = {"insert": self._insert, "new_ids": self._new_ids, "on_conflict": self._on_conflict}
        for source in self._sources:
            name, commit = format_path(source.path), Commit[ImportedFile]()
            self.current = name, commit
            ahead = readers.get(source)
            try:
                with step(name) as tell, self._stdin.rename_errors():
                    done = await import_file(db, source, **options, earlier=earlier, progress=tell, commit=commit, ahead=ahead)
            except _REFUSALS as error:
                self._refuse(source.path, error, self._find_remedy(source))
                continue
            done = replace(done, path=self._stdin.get_given(done.path))
            self.files.append(done)
            if self._tell is not None:
                self._tell(done)

    def _refuse(self, path: Path, error: Exception, remedy: str = "") -> None:
        if isinstance(error, IntegrityError):
            reason = f"{path}: {error.orig}; {_NOTHING}; {remedy}"
        elif isinstance(error, OSError):
            reason = f"{path}: {error.strerror}; {_NOTHING}"
        else:
            reason = f"{error if isinstance(error, DumpError) else f'{path}: {error}'}; {_NOTHING}"
        reason = self._stdin.name_stdin(reason)
        self.refused.append(RefusedFile(self._stdin.get_given(path), reason))
        if self._tell is not None:
            self._tell(self.refused[-1])

    def _find_remedy(self, source: Source) -> str:
        if self._insert:
            return f"leave --insert out to overwrite stored {'bars' if source.table in (None, BARS) else 'rows'}"
        if source.table in (BARS, TRADES):
            return "use --new-ids to store them under new ids"
        return "import the file into an empty database"

    def _refuse_hints(self) -> None:
        given = [name for name in SERIES if getattr(self._hints, name)] + (["map"] if self._hints.columns else [])
        for source in self._sources:
            if given and source.table is not None:
                raise InvalidValueError(
                    f"{source.path}: this is an export of iftb-store, whose rows are stored unchanged; "
                    f"leave --{given[0]} out for it"
                )

    def _refuse_mixing(self) -> None:
        for option, given in (("symbol", self._hints.symbol), ("exchange", self._hints.exchange)):
            names = {source.named[0] if option == "symbol" else None for source in self._sources}
            told = sorted(filter(None, names | {source.fixed.get(option) for source in self._sources}))
            if given is not None and len(told) > 1:
                raise InvalidValueError(
                    f"--{option} {given} would merge the files of {' and '.join(told[:5])} into one series; "
                    "import them separately"
                )


def _read_ahead(sources: Sequence[Source]) -> dict[Source, ReadAhead[KlineRows]]:
    """Return a reader for each kline dump; a dump that follows another one is read while the last part of that one is stored."""
    if find_spec("pyarrow") is None:
        return {}
    readers = {source: ReadAhead(source.dump.tables()) for source in sources if source.dump is not None}
    for source, following in pairwise(sources):
        if source in readers and following in readers:
            readers[source].at_end = readers[following].start
    return readers


def format_path(path: Path) -> str:
    """Return a file's name for messages; for a file of a partitioned export, with the folders that name series and month."""
    if str(path) == STDIN:
        return "stdin"
    parts = path.parts
    return "/".join(parts[next((at for at, part in enumerate(parts) if "=" in part and at < len(parts) - 1), len(parts) - 1) :])


def _check_hints(hints: Hints) -> None:
    for name, value in (("symbol", hints.symbol), ("exchange", hints.exchange)):
        checks.optional(checks.name_text, value, name)
    if hints.timeframe is not None:
        check_timeframe(hints.timeframe)
    checks.optional_choice(hints.fold, "fold", ("earlier", "later"))
    if not isinstance(hints.columns, Mapping):
        raise InvalidValueError(f"columns must be a dict, not {type_name(hints.columns)}")
    for ours, theirs in hints.columns.items():
        if ours not in BarColumns._fields:
            raise InvalidValueError(
                f"there is no column {show(ours)} to map to {show(theirs)}; the columns are {', '.join(BarColumns._fields)}"
            )
        checks.text(theirs, f"the name of the column {ours}")


def _list_paths(paths: object) -> list[str | os.PathLike[str]]:
    listed: list[str | os.PathLike[str]] = []
    for path in [paths] if isinstance(paths, str) or not isinstance(paths, Iterable) else paths:
        if not isinstance(path, str | os.PathLike):
            raise InvalidValueError(f"paths must be a file name or a list of file names, not {type_name(path)}")
        listed.append(path)
    return listed


def _split_columns(columns: object) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Split the argument ``columns``: return the renamed columns (a dict), and the names for files without a header."""
    if columns is None or isinstance(columns, Mapping):
        return columns or {}, ()
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise InvalidValueError(f"columns must be a dict or a list of names, not {type_name(columns)}")
    return {}, check_header(columns)


def check_header(names: Sequence[object]) -> tuple[str, ...]:
    """Return the names of the columns of a file without a header.

    Raises:
        InvalidValueError: a name is not text, or occurs twice.
    """
    header = tuple(checks.text(name, "the name of a column") for name in names)
    for name in header:
        if header.count(name) > 1:
            raise InvalidValueError(f"two columns have the name {show(name)}; give each column its own name")
    return header
