"""Reads JSON in bounded memory: an array of candles or objects, even on one long line, or one object per line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from iftb_store.batches.arrow_input import RowError
from iftb_store.files.candles import KNOWN, normalise_name
from iftb_store.files.formats import CANDLE, KLINE, LONGEST_ROW
from iftb_store.files.readers.base import Reader
from iftb_store.files.readers.binance import DumpError
from iftb_store.files.readers.texts import TextFile
from iftb_store.schema.scope import TABLES
from iftb_store.schema.table_spec import ColumnKind
from iftb_store.values.display import show, type_name

# maximum rows and characters in a batch; parsed objects take many times as much memory as their text
_BATCH, _LONGEST_BATCH = 10_000, 2 << 20
_READ = 1 << 16
# maximum number of unknown names that are remembered, so that each is checked only once
_MOST_NAMES = 1_000
# maximum characters of an array that is a candle, with a margin
_LONGEST_CANDLE = 1 << 12
_SPACE = " \t\r\n"
# the columns whose values are lists of texts
_LISTS = {name for table in TABLES.values() for name, kind in table.kinds.items() if kind == ColumnKind.TEXTS}


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number")


# parses numbers as their text, which is exact
_EXACT = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_refuse)
_PLAIN = json.JSONDecoder(parse_constant=_refuse)


class JsonReader(Reader):
    """Reads JSON. Numbers are returned as text, except in rows of an export, whose decimals are already text."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = TextFile(path)
        self._elements = _Elements(path, self._file)
        first = self._elements.peek()
        if isinstance(first, list):
            self.arrays = True
            self.names = {len(names): names for names in (CANDLE, KLINE)}.get(len(first), [])
        else:
            self.names = list(first) if isinstance(first, dict) else []
        self._known = set(self.names)
        self._whole = any(set(table.columns) == set(self.names) for table in TABLES.values())
        if self._whole:
            self._elements.decoder = _PLAIN
        if not self.names:
            raise DumpError(
                f"{path}: is JSON, but neither an array of candles [[time, open, high, low, close, volume], …] "
                "nor objects with named values, in an array or one per line"
            )

    def tables(self, columns: list[str]) -> Generator[pa.Table]:
        """Read the given columns of all rows, and yield them batch by batch."""
        places = {name: place for place, name in enumerate(self.names)}
        cell: Callable[[Any, str], Any] = (lambda row, name: row[places[name]]) if self.arrays else dict.get
        while rows := self._elements.batch():
            self.bytes_read = self._file.bytes_read
            for index, row in enumerate(rows):
                self._check(row, index)
            yield pa.table({name: _column(name, [cell(row, name) for row in rows]) for name in columns})

    def _check(self, row: Any, index: int) -> None:
        if self.arrays:
            if not isinstance(row, list) or len(row) != len(self.names):
                raise RowError(index, f"is not an array of {len(self.names)} values")
        elif not isinstance(row, dict):
            raise RowError(index, f"is not an object but {type_name(row)}")
        elif self._whole and row.keys() != set(self.names):
            odd = sorted(row.keys() ^ set(self.names))
            raise RowError(index, f"has other names than the first row: {show(odd[0])}")
        elif not row.keys() <= self._known:
            late = row.keys() - self._known
            for name in sorted(name for name in late if normalise_name(name) in KNOWN):
                raise RowError(index, f"has {show(name)}, which the first row lacks; add it there, as null")
            if len(self._known) < _MOST_NAMES:
                self._known |= late


class _Elements:
    """Parses a JSON file one row at a time: the elements of a top-level array, or the objects of a JSON Lines file."""

    def __init__(self, path: Path, stream: TextFile) -> None:
        self._path, self._stream = path, stream
        self._characters = codecs.getincrementaldecoder("utf-8-sig")()
        self.decoder = _EXACT
        self._buffer, self._at, self._ended = "", 0, False
        self._number = self._passed = 0
        self._in_array = self._next_character() == "["
        self._at += self._in_array
        self._rows = self._read_rows()

    def peek(self) -> Any:
        """Return the first row without consuming it, or None if the file has no rows."""
        if self._next_character() in ("", "]"):
            return None
        value, _ = self._element()
        return value

    def batch(self) -> list[Any]:
        """Return the next rows, limited in number and in total length; an empty list at the end."""
        self._passed, rows = 0, list[Any]()
        for row in islice(self._rows, _BATCH):
            rows.append(row)
            if self._passed >= _LONGEST_BATCH:
                break
        return rows

    def _read_rows(self) -> Iterator[Any]:
        while (found := self._next_character()) != "":
            if self._in_array and found == "]":
                self._at += 1
                if self._next_character() != "":
                    raise self._error("there is more text after the array")
                return
            if self._in_array and self._number:
                if found != ",":
                    raise self._error("a comma is missing after the row before")
                self._at += 1
                if self._next_character() == "":
                    break
            value, end = self._element()
            self._passed, self._at = self._passed + end - self._at, end
            self._number += 1
            yield value
        if self._in_array:
            raise self._error("the file ends inside the array")

    def _element(self) -> tuple[Any, int]:
        longest = _LONGEST_CANDLE if self._buffer[self._at] == "[" else LONGEST_ROW
        while True:
            try:
                return self.decoder.raw_decode(self._buffer, self._at)
            except (ValueError, ArithmeticError) as error:
                problem = show(getattr(error, "msg", str(error)), 80)[1:-1]
            except RecursionError:
                problem = "nested too deeply"
            held = len(self._buffer) - self._at
            if self._ended or held >= longest:
                raise self._error(f"{problem}: {show(self._buffer[self._at : self._at + 40])}")
            # read as much again as is in the buffer, so that a long element is not parsed too often
            self._read(min(max(_READ, held), max(_READ, longest - held)))

    def _next_character(self) -> str:
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._ended:
                return ""
            self._read(_READ)

    def _read(self, size: int) -> None:
        data = self._stream.read(size)
        self._ended = len(data) < size
        try:
            text = self._characters.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise self._error("bytes that are not text (UTF-8)") from error
        self._buffer, self._at = self._buffer[self._at :] + text, 0

    def _error(self, problem: str) -> DumpError:
        return DumpError(f"{self._path}, row {self._number + 1}: {problem}")


def _column(name: str, values: list[Any]) -> Any:
    """Return a column of whole numbers, of floats or of text; objects, and lists of texts, are converted to their JSON text.

    Raises:
        RowError: a value is neither text, a whole number, an object nor null, nor a list in a column of lists.
    """
    if name in _LISTS and any(type(value) is list for value in values):
        # earlier versions exported a list as its JSON text
        values = [json.dumps(value) if type(value) is list else value for value in values]
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {int}:
        return _make_column(name, values, pa.int64())
    if float in kinds and kinds <= {float, int}:
        return _make_column(name, values, pa.float64())
    if kinds == {dict}:
        return _make_column(name, [None if value is None else json.dumps(value) for value in values], pa.string())
    if kinds <= {str, int}:
        return _make_column(name, [None if value is None else str(value) for value in values], pa.string())
    index = next(index for index, value in enumerate(values) if type(value) not in (str, int, type(None)))
    hint = "; write decimals as text" if isinstance(values[index], float) else ""
    raise RowError(index, f"{name} is {type_name(values[index])} {show(values[index])}{hint}")


def _make_column(name: str, values: list[Any], wanted: pa.DataType) -> Any:
    try:
        return pa.array(values, wanted)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        for index, value in enumerate(values):
            try:
                pa.scalar(value, wanted)
            except (pa.ArrowException, OverflowError, UnicodeEncodeError):
                raise RowError(index, f"{name} {show(value)} cannot be stored") from error
        raise
