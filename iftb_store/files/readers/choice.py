"""Chooses the reader for a file's format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from iftb_store.files.detect import FileKind
from iftb_store.files.readers.base import Reader, name_any_damage
from iftb_store.files.readers.binance import DumpError
from iftb_store.files.readers.csv import CsvReader
from iftb_store.files.readers.feather import FeatherReader
from iftb_store.files.readers.json import JsonReader
from iftb_store.files.readers.parquet import ParquetReader


def open_reader(path: Path, kind: FileKind, header: Sequence[str] = ()) -> Reader:
    """Open a file and return the reader for its format; kline dumps are read by `KlineDump` instead.

    Args:
        path: the file.
        kind: its format.
        header: the names of the columns of a CSV file without a header.

    Raises:
        DumpError: the file is damaged.
        OSError: the file cannot be read.
    """
    made: dict[FileKind, Callable[[Path], Reader]] = {
        FileKind.PARQUET: ParquetReader,
        FileKind.FEATHER: FeatherReader,
        FileKind.CSV: CsvReader,
        FileKind.HEADLESS: partial(CsvReader, names=header),
        FileKind.JSON: JsonReader,
        FileKind.JSON_LINES: JsonReader,
    }
    with name_any_damage(path):
        reader = made[kind](path)
        if len(set(reader.names)) < len(reader.names):
            reader.close()
            raise DumpError(f"{path}: has two columns with the same name")
        return reader
