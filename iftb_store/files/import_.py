"""Stores the rows of a file, all or none: an export of iftb-store with its ids, candles of other tools, or a kline dump."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from iftb_store._io.tasks import import_modules, run_to_end
from iftb_store.abilities import ConnectedStore
from iftb_store.errors import InvalidValueError, integrity_error
from iftb_store.files.commits import Commit, finish_commit
from iftb_store.files.detect import FileKind, detect_format, read_series_in_name
from iftb_store.files.formats import PARTITION, TABLE, VERSION
from iftb_store.files.options import Hints
from iftb_store.files.readers.binance import DumpError, KlineDump, import_klines
from iftb_store.models import Trade
from iftb_store.protocols import Capability, Stores
from iftb_store.registry import get_stores, require_arrow
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.repositories.streams import record_batches
from iftb_store.repositories.trades import TradeRepository
from iftb_store.schema.scope import TABLES, TableScope
from iftb_store.schema.table_spec import BARS, SERIES, TRADES, ColumnKind, RowFilter, TableSpec
from iftb_store.transfer.kept import limit_scope
from iftb_store.transfer.progress import StepCallback
from iftb_store.values.checks import json_object, name_text
from iftb_store.values.display import show
from iftb_store.values.timeframes import check_timeframe

if TYPE_CHECKING:
    import pyarrow as pa

    from iftb_store.files.readers.base import Reader

# number of stored rows that are read at a time to compare their ids
_LOOKED_AT = 2_000
# maximum bytes of the series' description in a file's metadata; a longer one is cut off, and is then not valid JSON
_LONGEST_PARTITION = 1 << 16


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """The result of importing one file.

    Attributes:
        path: the file.
        table: the table of the rows; empty if the file has no rows and does not name its table.
        rows: number of rows written; bars that the file contains more than once count once.
        series: (exchange, symbol, timeframe) of the bars if all belong to one series, otherwise None.
        first: the earliest time of the rows, None if there are no rows.
        last: the latest time of the rows, None if there are no rows.
        notes: remarks for the user on how the file was read, e.g. that floats were converted.
    """

    path: Path
    table: str
    rows: int
    series: tuple[str, str, str] | None
    first: datetime | None
    last: datetime | None
    notes: tuple[str, ...] = ()


class Source:
    """A file to import. Its format and columns are detected without reading all of it.

    Attributes:
        path: the file.
        kind: the format of the file.
        table: the table of an export, whose rows are complete, with ids and times set by the store; None for candles.
        named: (symbol, timeframe) from the file's name, each None if the name does not contain it.

    Raises:
        DumpError: the file is damaged, or its format is not supported.
        InvalidValueError: a required value, e.g. the symbol, is missing from the file's name, the columns and the hints; or
            the name, the columns and the hints contradict each other.
        MissingDriverError: the file is not a kline dump, and pyarrow is not installed.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, hints: Hints) -> None:
        self.path = path
        self.kind = detect_format(path)
        self.table: TableSpec | None = None
        self.hints = hints
        self.fixed: dict[str, str] = {}
        self.columns: dict[str, str] = {}
        self.dump: KlineDump | None = None
        self.named = read_series_in_name(path, traded=hints.symbol is None)
        if hints.timeframe is not None and self.named[1] not in (None, hints.timeframe):
            raise InvalidValueError(
                f"{path}: its name contradicts --timeframe {hints.timeframe}; leave the option out, or rename the file"
            )
        if self.kind is FileKind.DUMP:
            self.dump = _dump(path, hints)
            return
        if self.kind is FileKind.NOTHING:
            return
        require_arrow()
        with closing(self.open()) as reader:
            self._find_table(reader)
            if self.table is None:
                self._find_columns(reader)

    def open(self) -> Reader:
        """Open the file and return its reader."""
        from iftb_store.files.readers.choice import open_reader

        return open_reader(self.path, self.kind)

    def _find_table(self, reader: Reader) -> None:
        self.fixed = self._partition(reader.facts)
        names = {*reader.names, *self.fixed}
        told = reader.facts.get(TABLE, b"").decode(errors="replace")
        self.table = next((table for table in TABLES.values() if set(table.columns) == names), None)
        if told and (self.table is None or self.table.name != told):
            version = show(reader.facts.get(VERSION, b"").decode(errors="replace"))
            raise DumpError(
                f"{self.path}: iftb-store {version} exported this file from the table {show(told)}, whose columns differ in the "
                f"installed version; import it with iftb-store {version}"
            )

    def _partition(self, facts: dict[bytes, bytes]) -> dict[str, str]:
        """Return the series of a file in a partitioned export, from the file's metadata or the names of its folders."""
        if PARTITION not in facts:
            found = (part.partition("=") for part in self.path.absolute().parts)
            return {name: unquote(value) for name, sign, value in found if sign and name in SERIES}
        try:
            told = json.loads(facts[PARTITION][:_LONGEST_PARTITION])
            return {name: name_text(told[name], name) for name in SERIES}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DumpError(f"{self.path}: is damaged: the description of its series cannot be read") from error

    def _find_columns(self, reader: Reader) -> None:
        from iftb_store.files.candles import match_columns

        try:
            self.columns = match_columns(reader.names, self.hints.columns)
        except InvalidValueError as error:
            raise InvalidValueError(f"{self.path}: {error}") from error
        folder = self.fixed.get("timeframe")
        if None not in (folder, self.hints.timeframe) and folder != self.hints.timeframe:
            raise InvalidValueError(
                f"{self.path}: its folder contradicts --timeframe {self.hints.timeframe}; leave the option out"
            )
        for name in ("symbol", "timeframe"):
            if self.series[name] is None and name not in self.columns:
                raise InvalidValueError(
                    f"{self.path}: its name does not contain the {name} (e.g. BTC_USDT-5m.feather); give the {name}"
                )
        if self.series["timeframe"] is not None:
            check_timeframe(self.series["timeframe"])

    @property
    def series(self) -> dict[str, str | None]:
        """The exchange, symbol and timeframe of a candle file, from the hints, the file's name, its metadata or its folder names.

        A value is None if each row has its own value in a column of the file; a value in the hints overrules such a column.
        The exchange is binance if neither the hints nor the file contain an exchange.
        """
        told = {"exchange": self.hints.exchange, "symbol": self.hints.symbol, "timeframe": self.hints.timeframe}
        named = {"symbol": self.named[0], "timeframe": self.named[1]}
        rest = {name: None if name in self.columns else value for name, value in {**named, **self.fixed}.items()}
        found = {name: told[name] or rest.get(name) for name in SERIES}
        if found["exchange"] is None and "exchange" not in self.columns:
            found["exchange"] = "binance"
        return found


async def import_file(
    db: ConnectedStore,
    source: Source,
    *,
    insert: bool = False,
    new_ids: bool = False,
    progress: StepCallback | None = None,
    commit: Commit[ImportedFile] | None = None,
) -> ImportedFile:
    """Store all rows of a file in one transaction, or none; the file is read batch by batch.

    Rows of an export keep their ids, except bars, and the times set by the store, and overwrite the rows with the same key.
    Bars that overwrite stored bars leave their ids and times as they are. A cancellation during the COMMIT waits for its end,
    for a few seconds at most.

    Args:
        db: a connected manager whose schema is in place.
        source: the file.
        insert: refuse rows that are already stored, instead of overwriting them.
        new_ids: store the rows of an export under new ids and times, as if the bot wrote them: only bars, which are identified
            by their series and time, and trades, which are identified by their trade_id and must be equal if already stored.
        progress: called after each batch with (bytes read, total bytes).
        commit: records the state of the COMMIT; read it after a cancellation to find out whether the file is stored.

    Returns:
        The number of rows written, their series and time span; 0 rows for an empty export.

    Raises:
        DumpError: the file is damaged, or a row cannot be stored; the message names the file and the row.
        IntegrityError: with ``insert``, a row is already stored; or an id belongs to another row of the store.
        TradeConflictError: with ``new_ids``, a trade is stored with other values.
        InvalidValueError: ``new_ids`` for rows that are identified only by their id.
        Unsupported: the database does not keep the file's table.
    """
    if source.table is not None:
        limit_scope(TableScope([source.table.name]), database=db)
    commit, progress = commit or Commit(), progress or (lambda done, total: None)
    return await finish_commit(_import(db, source, insert, new_ids, progress, commit), commit)


async def _import(
    db: ConnectedStore, source: Source, insert: bool, new_ids: bool, progress: StepCallback, commit: Commit[ImportedFile]
) -> ImportedFile:
    if source.kind is FileKind.NOTHING:
        return ImportedFile(source.path, "", 0, None, None, None)
    if source.dump is not None:
        done = await import_klines(db, source.dump, insert=insert, progress=progress, commit=commit)
        series = (done.exchange, done.symbol, done.timeframe)
        notes = (f"{done.off_grid:,} off the timeframe's grid",) if done.off_grid else ()
        return ImportedFile(done.path, BARS.name, done.bars, series, done.first, done.last, notes)
    if new_ids and source.table not in (None, BARS, TRADES):
        raise InvalidValueError(
            f"{source.path}: rows of {source.table.name} are identified only by their id, "
            "so they cannot be stored under new ids; import it into an empty database"
        )
    # acero groups rows by series
    await import_modules("pyarrow", "pyarrow.acero")

    async def work(session: Any) -> ImportedFile:
        commit.state = "not sent"
        taken = _Taken(source)
        with closing(Batches(source)) as batches:
            write = _find_writer(session, source, insert, new_ids)
            while (rows := await run_to_end(asyncio.to_thread(next, batches, None))) is not None:
                with name_row(source.path, batches.before):
                    taken.add(rows, await write(rows) if rows.num_rows else 0)
                progress(batches.reader.bytes_read, batches.reader.size)
            if not taken.rows and source.table is None:
                raise DumpError(f"{source.path}: contains no bars")
            keeps_ids = source.table is not None and source.table.has_own_ids and not new_ids
            done = taken.result([*batches.notes(), *(["ids kept"] if keeps_ids else [])])
        commit.state = "sent"
        return done

    if source.table in (None, BARS) or Capability.ISOLATION not in db.capabilities:
        async with db.get_session() as session:
            return await work(session)
    # repeatable read: otherwise a row that another session writes under one of the ids after the check would be overwritten
    return await db.run(work, isolation="repeatable read", idempotent=not insert)


def _dump(path: Path, hints: Hints) -> KlineDump:
    if path.suffix.lower() not in (".csv", ".zip"):
        with path.open("rb") as stream:
            zipped = stream.read(4).startswith(b"PK")
        raise DumpError(
            f"{path}: is a zip archive; rename it to .zip"
            if zipped
            else f"{path}: has no supported format; these are Parquet, Feather, CSV with a header, JSON and kline dumps"
        )
    return KlineDump(path, symbol=hints.symbol, timeframe=hints.timeframe, exchange=hints.exchange or "binance")


class Batches:
    """Iterates over the rows of a file as batches that are converted and checked, ready to be stored.

    Attributes:
        before: number of rows of the file that came before the last batch.
        reader: the reader of the file.
        notes: returns the remarks for the user on how the file was read; they are complete at the end.
    """

    def __init__(self, source: Source) -> None:
        self._path = source.path
        self.reader = source.open()
        self._make, names, self.notes = _maker(source, self.reader)
        self._tables = self.reader.tables(names)
        self.before = self._read = 0

    def __iter__(self) -> Iterator[pa.Table]:
        return self

    def __next__(self) -> pa.Table:
        from iftb_store.files.readers.base import name_any_damage

        with name_row(self._path, self._read), name_any_damage(self._path):
            batch = next(self._tables, None)
            rows = None if batch is None else self._make(batch)
        if batch is None or rows is None:
            raise StopIteration
        self.before, self._read = self._read, self._read + batch.num_rows
        return rows

    def close(self) -> None:
        """Close the file."""
        self._tables.close()
        self.reader.close()


def _maker(source: Source, reader: Reader) -> tuple[Callable[[pa.Table], pa.Table], list[str], Callable[[], list[str]]]:
    """Return three things: a function that converts a batch, the columns to read, and a function that returns the notes.

    The notes are complete once all batches were converted.
    """
    import pyarrow as pa

    from iftb_store.files.candles import Candles, has_floats
    from iftb_store.files.rows import check_complete_rows

    if source.table is None:
        binary = source.kind in (FileKind.PARQUET, FileKind.FEATHER)
        candles = Candles(
            source.hints,
            source.columns,
            source.series,
            floats=source.hints.from_float or (binary and has_floats(reader.names)),
            arrays=reader.arrays,
        )
        return candles.bars, list(dict.fromkeys(source.columns.values())), lambda: candles.notes
    table = source.table

    def whole(batch: pa.Table) -> pa.Table:
        for name, value in source.fixed.items():
            if name not in batch.column_names:
                batch = batch.append_column(name, pa.repeat(pa.scalar(value, pa.string()), batch.num_rows))
        return check_complete_rows(table, batch)

    return whole, [name for name in table.columns if name in reader.names], list


def _find_writer(session: Any, source: Source, insert: bool, new_ids: bool) -> Callable[[pa.Table], Awaitable[int]]:
    """Return a function that writes a batch of rows, and returns how many of them earlier batches did not contain."""
    from iftb_store.files.duplicates import Repeats

    stores, repeats = get_stores(session), Repeats()
    table = source.table

    async def candles(rows: pa.Table) -> int:
        # a bar that an earlier batch contained already is not counted again
        count = await repeats.refuse(rows, session)
        await OHLCVRepository(session).write_arrow(rows, "insert" if insert else "upsert")
        return count

    async def trades(rows: pa.Table) -> int:
        repository = TradeRepository(session)
        for row in rows.to_pylist():
            objects = {name: json_object(row[name]) for name, kind in TRADES.kinds.items() if kind == ColumnKind.JSON}
            await repository.record(Trade(**{**row, **objects}))
        return rows.num_rows

    async def whole(rows: pa.Table) -> int:
        count = rows.num_rows
        if table is BARS:
            count = await (candles(rows) if insert else repeats.refuse(rows, session))
            if insert:
                # no bar was stored, or `candles` would have raised; the rows written now have the times of the export
                await stores.delete_rows(BARS, rows)
        elif table is not None:
            await _refuse_others(stores, table, rows, insert)
        await stores.write_rows(table or BARS, rows)
        return count

    if table is None or (new_ids and table is BARS):
        return candles
    return trades if new_ids else whole


async def _refuse_others(stores: Stores, table: TableSpec, rows: pa.Table, insert: bool) -> None:
    """Check that storing these rows would not overwrite a different row or, with ``insert``, any row.

    A stored row is the same row as a new one if its id, its created_at and its identity columns are equal.

    Raises:
        IntegrityError: an id belongs to another row; or, with ``insert``, an id is already stored.
    """
    names = list(dict.fromkeys(("id", "created_at", *table.identity)))
    given: dict[int, Any] = {row["id"]: row for row in rows.select(names).to_pylist()}
    last = max(given)
    async with aclosing(record_batches(stores, RowFilter(table, after=(min(given) - 1,), limit=_LOOKED_AT))) as batches:
        async for batch in batches:
            for row in batch.select(names).to_pylist():
                number = row["id"]
                if number in given and (insert or given[number] != row):
                    raise integrity_error(f"the id {number} {'is already stored' if insert else 'belongs to another row'}")
                if number >= last:
                    return


class _Taken:
    """Counts the rows of a file that were written so far, and records their series and times."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._table = source.table or BARS
        self._series: dict[str, set[str]] = {name: set() for name in SERIES}
        self._times: list[Any] = []
        self.rows = self._repeated = 0

    def add(self, rows: pa.Table, written: int) -> None:
        """Add the rows of a batch; ``written`` is the number of those that the file did not contain before."""
        import pyarrow.compute as pc

        self.rows += written
        self._repeated += rows.num_rows - written
        found: Any = pc.min_max(rows[self._table.time]).as_py()
        ends = sorted(end for end in (*self._times, *found.values()) if end is not None)
        self._times = [ends[0], ends[-1]] if ends else []
        if self._table is BARS:
            for name, values in self._series.items():
                # two values are enough to show that the rows do not belong to one series
                if len(values) < 2:
                    values.update(value for value in rows[name].unique().to_pylist() if value is not None)

    def result(self, notes: list[str]) -> ImportedFile:
        """Return the result of the import."""
        one = all(len(values) == 1 for values in self._series.values())
        series = tuple(next(iter(self._series[name])) for name in SERIES) if one else None
        first, last = self._times or (None, None)
        return ImportedFile(
            self._source.path,
            self._table.name,
            self.rows,
            series,  # type: ignore[arg-type]
            first,
            last,
            (*notes, *([f"{self._repeated:,} more rows are duplicates of its bars"] if self._repeated else [])),
        )


@contextmanager
def name_row(path: Path, before: int) -> Iterator[None]:
    """Add the file's path and the row's number to an error in the block; ``before`` is the number of rows in earlier batches.

    Raises:
        DumpError: in place of any InvalidValueError that is raised in the block.
    """
    from iftb_store.batches.arrow_input import RowError

    try:
        yield
    except RowError as error:
        raise DumpError(f"{path}, row {before + error.index + 1}: {error.why}") from error
    except InvalidValueError as error:
        raise DumpError(f"{path}: {error}") from error
