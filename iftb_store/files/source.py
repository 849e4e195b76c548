"""A file to import: its format, table, columns and series, detected without reading all of it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from iftb_store.errors import InvalidValueError
from iftb_store.files.detect import FileKind, detect_format, read_cells
from iftb_store.files.formats import CANDLE, KLINE, PARTITION, TABLE, VERSION
from iftb_store.files.markets import check_market, check_series_in_name, read_series_in_name
from iftb_store.files.options import Hints
from iftb_store.files.readers.binance import DumpError, KlineDump, is_dump_header, is_dump_name, open_file
from iftb_store.files.readers.texts import is_packed
from iftb_store.registry import require_arrow
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import SERIES, TableSpec
from iftb_store.values.checks import name_text
from iftb_store.values.display import show
from iftb_store.values.timeframes import check_timeframe

if TYPE_CHECKING:
    from iftb_store.files.readers.base import Reader

# maximum bytes of the series' description in a file's metadata; a longer one is cut off, and is then not valid JSON
_LONGEST_PARTITION = 1 << 16


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
        self.named = read_series_in_name(path)
        if self.kind is FileKind.DATABASE:
            return
        if hints.timeframe is not None and self.named[1] not in (None, hints.timeframe):
            raise InvalidValueError(
                f"{path}: the file name contradicts --timeframe {hints.timeframe}; leave the option out, or rename the file"
            )
        self._header = hints.header
        if self.kind is FileKind.DUMP and (hints.header or not is_dump_name(path) or _is_packed_csv(path)):
            self._read_as_csv()
        if self.kind is FileKind.HEADLESS or hints.header:
            self._check_header()
        if self.kind is FileKind.DUMP:
            self._check_name()
            self._check_market()
            self.dump = _dump(path, hints)
            return
        if self.kind is FileKind.NOTHING:
            return
        require_arrow()
        with closing(self.open()) as reader:
            self._find_table(reader)
            if self.table is None:
                self._find_columns(reader)
                if "symbol" not in self.columns and "exchange" not in self.columns:
                    self._check_market()

    def _read_as_csv(self) -> None:
        """Read a kline dump that is not a .csv or .zip as CSV, e.g. one packed with gzip."""
        cells = read_cells(self.path)
        if is_dump_header(cells):
            self.kind = FileKind.CSV
        elif len(cells) == len(KLINE):
            self.kind, self._header = FileKind.HEADLESS, self._header or tuple(KLINE)

    def _check_header(self) -> None:
        if self.kind is FileKind.CSV:
            # a word in the first row need not be a name
            pairs = zip(read_cells(self.path), self._header, strict=False)
            if not any(cell.strip().lower() == name.lower() for cell, name in pairs):
                self.kind = FileKind.HEADLESS
        if self.kind is not FileKind.HEADLESS:
            raise InvalidValueError(
                f"{self.path}: the columns of this file have names, and --columns is for CSV files without a header; "
                "leave --columns out, or rename columns with --map"
            )
        count = len(read_cells(self.path))
        usual = (*CANDLE, "trades_count")
        if not self._header:
            names = ",".join([*usual, *(f"other{number}" for number in range(1, count))][:count])
            raise InvalidValueError(
                f"{self.path}: has no header; name its {count} columns, e.g. --columns {names}; "
                "columns with other names are ignored"
            )
        if len(self._header) != count:
            raise InvalidValueError(f"{self.path}: has {count} columns, but --columns has {len(self._header)} names")

    def _check_name(self) -> None:
        """Raise an error if the symbol must come from the file name and the file name does not show it."""
        if self.hints.symbol is None and "symbol" not in self.columns and "symbol" not in self.fixed:
            check_series_in_name(self.path)

    def _check_market(self) -> None:
        if self.hints.symbol is None and self.hints.exchange is None and "exchange" not in self.fixed:
            check_market(self.path)

    def open(self) -> Reader:
        """Open the file and return its reader."""
        from iftb_store.files.readers.choice import open_reader

        return open_reader(self.path, self.kind, self._header)

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
        """Return the series of a file of a partitioned export (one folder per series), from its metadata or folder names."""
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
        self._check_name()
        folder = self.fixed.get("timeframe")
        if None not in (folder, self.hints.timeframe) and folder != self.hints.timeframe:
            raise InvalidValueError(
                f"{self.path}: the folder name contradicts --timeframe {self.hints.timeframe}; leave the option out"
            )
        for name in ("symbol", "timeframe"):
            if self.series[name] is None and name not in self.columns:
                raise InvalidValueError(
                    f"{self.path}: the file name does not contain the {name} (e.g. BTC_USDT-5m.feather); give it with --{name}"
                )
        if self.series["timeframe"] is not None:
            try:
                check_timeframe(self.series["timeframe"])
            except InvalidValueError as error:
                raise InvalidValueError(f"{self.path}: {error}") from error

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


def _is_packed_csv(path: Path) -> bool:
    with open_file(path) as stream:
        return path.suffix.lower() == ".csv" and is_packed(stream.read(2))


def _dump(path: Path, hints: Hints) -> KlineDump:
    if not is_dump_name(path):
        with path.open("rb") as stream:
            zipped = stream.read(4).startswith(b"PK")
        raise DumpError(
            f"{path}: is a zip archive; rename it to .zip"
            if zipped
            else f"{path}: has no supported format; these are Parquet, Feather, CSV, JSON and kline dumps"
        )
    options = {"symbol": hints.symbol, "timeframe": hints.timeframe}
    return KlineDump(path, **options, exchange=hints.exchange or "binance", from_float=hints.from_float)
