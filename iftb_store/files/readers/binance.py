"""Reads kline dumps as exchanges publish them (Binance public data, .csv and .zip), exactly and in bounded memory."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from iftb_store.batches.bars import check_bar
from iftb_store.errors import InvalidValueError, StoreError
from iftb_store.files.options import ROUNDING
from iftb_store.models import OHLCVBar
from iftb_store.schema.types import from_epoch_us
from iftb_store.values.checks import integer, name_text, round_to_places
from iftb_store.values.display import show, type_name
from iftb_store.values.timeframes import MONTH, Timeframe, check_timeframe

if TYPE_CHECKING:
    import pyarrow as pa

#: Number of bars in a batch: a few megabytes, read in some tens of milliseconds.
BATCH = 5_000
#: Number of bars in a table: about 12 MB.
MOST_ROWS = 100_000

_PRICES = ["open", "high", "low", "close", "volume"]
_FIRST = ["open time", *_PRICES, "close time"]
COLUMNS = [*_FIRST, "quote volume", "trades count", "taker buy volume", "taker buy quote volume", "ignored"]
_LONGEST_LINE = 1_000
# deflate compresses candles whose prices never change about 25 times, and anything at most 1,032 times
_LARGEST_RATIO = 200
_RATIO_FLOOR = 1 << 20
# maximum bytes of an archive's directory, enough for about 20,000 entries
_LONGEST_READ = 1 << 20
# errors that zipfile and zlib raise on damage, found by tests with flipped, cut and spliced bytes
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, OverflowError, struct.error)

_NAME = re.compile(r"(?P<symbol>[^-\s]+)-(?P<timeframe>\d+[A-Za-z]+)-\d{4}-\d{2}(?!\d)")
_TIME = r"([1-9]\d{12}|[1-9]\d{15})"
_NUMBER = r"(\d{1,20}(?:\.\d{1,18})?)"
_LINE = re.compile(",".join([_TIME, *[_NUMBER] * 5, _TIME, _NUMBER, r"(\d{1,18})", _NUMBER, _NUMBER, "[^,]*"]), re.ASCII)
_ANY_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,4})?", re.ASCII)
_MICROSECONDS_A_UNIT = {13: 1_000, 16: 1}


class DumpError(StoreError):
    """A file that cannot be imported; the message names the file and, if one line is the cause, the line."""


def open_file(path: Path) -> io.FileIO:
    """Open a file to read its bytes.

    Raises:
        DumpError: the path is a pipe, a device, a socket or a directory; reading a pipe may never end or may consume data.
        OSError: the file cannot be read.
    """
    # check before opening, because opening a pipe may block and opening a device may have side effects
    _check_is_file(path, path.stat().st_mode)
    file = io.FileIO(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)))
    try:
        # check again, because the file may have been replaced between the check and the open
        _check_is_file(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        # whatever fails, the file must not stay open
        file.close()
        raise
    return file


@contextmanager
def name_damage(path: Path, kinds: tuple[type[Exception], ...], problem: str) -> Iterator[None]:
    """Convert errors of these kinds in the block to a DumpError that names the file; keep an OSError that has a file name.

    Args:
        path: the file.
        kinds: the errors that damage causes.
        problem: the message; ``{}`` is replaced by the first line of the error.
    """
    try:
        yield
    except StoreError:
        raise
    except kinds as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        # the error may contain text from the file, so it is escaped
        reason = show(next(iter(str(error).splitlines()), type(error).__name__), 200)[1:].rstrip("'\"")
        raise DumpError(f"{path}: {problem.format(reason)}") from error


def is_dump_name(path: Path) -> bool:
    """Return whether a file has the suffix of a kline dump."""
    return path.suffix.lower() in (".csv", ".zip")


def is_dump_header(names: list[str]) -> bool:
    """Return whether a file's column names are those of a kline dump."""
    # the names of the last columns differ between files
    return len(names) == len(COLUMNS) and [name.strip().lower().replace("_", " ") for name in names[: len(_FIRST)]] == _FIRST


def _check_is_file(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        remedy = "give the files in it" if stat.S_ISDIR(mode) else "write its output to a file first"
        raise DumpError(f"{path}: is a {kinds.get(stat.S_IFMT(mode), 'device')} and not a file; {remedy}")


class _ArchiveFile(io.BufferedReader):
    """A zip file opened for reading, which limits the size of each read.

    zipfile reads the central directory of the archive in a single read. The file states its size, which may be false.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        asked = _LONGEST_READ + 1 if size is None or not 0 <= size <= _LONGEST_READ else size
        data = super().read(asked)
        if len(data) > _LONGEST_READ:
            raise zipfile.BadZipFile("the central directory of the archive is longer than in any kline dump")
        return data


class KlineRows(NamedTuple):
    """Some consecutive bars of a dump as an Arrow table.

    Attributes:
        table: the bars, with the columns of `iftb_store.batches.arrow_input.WRITTEN`.
        first_line: the number of the first bar's line in the file, from 1.
        bytes_read: the number of decompressed bytes up to the end of the last bar's line.
    """

    table: pa.Table
    first_line: int
    bytes_read: int


@dataclass
class _Position:
    """What the parser of lines knows of the lines that it has read.

    Attributes:
        number: the number of lines.
        blank: the number of the first empty line, 0 if there was none.
        digits: the number of digits of the opening times, 0 before the first bar.
        before: the last bar.
    """

    number: int = 0
    blank: int = 0
    digits: int = 0
    before: OHLCVBar | None = None


class KlineDump:
    """One dump file: a .csv, or a .zip that contains one .csv, with or without a header line.

    The symbol and timeframe come from the file's name (``FILUSDT-1m-2023-04.zip``) unless they are given.

    Attributes:
        size: decompressed size of the CSV in bytes; known once reading has begun.
        bytes_read: number of these bytes read so far.
        rounded: number of values that were rounded so far; only with ``from_float``, which rounds half-even to 18 places.
        header_lines: number of header lines read so far, 0 or 1.

    Raises:
        InvalidValueError: the symbol or the timeframe is neither given nor in the file's name; the file is neither .csv nor
            .zip; the timeframe is unknown; or an argument is not text.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        symbol: str | None = None,
        timeframe: str | None = None,
        exchange: str = "binance",
        from_float: bool = False,
    ) -> None:
        if not isinstance(path, str | PathLike) or "\0" in str(path):
            raise InvalidValueError(
                f"the path of a dump must be a Path or a str without NUL characters, not {type_name(path)} {show(path)}"
            )
        self.path = Path(path)
        if not is_dump_name(self.path):
            raise InvalidValueError(f"{path}: a kline dump is a .csv or a .zip file")
        named = find_series_in_name(self.path)
        for option, given, found in (("symbol", symbol, named[0]), ("timeframe", timeframe, named[1])):
            if given is None and found is None:
                raise InvalidValueError(
                    f"{path}: the file name does not contain the {option} (e.g. FILUSDT-1m-2023-04.zip); give --{option}"
                )
        self.symbol = name_text(named[0] if symbol is None else symbol, "symbol")
        try:
            self.timeframe: Timeframe = check_timeframe(named[1] if timeframe is None else timeframe)
        except InvalidValueError as error:
            raise InvalidValueError(f"{path}: {error}") from error
        self.exchange = name_text(exchange, "exchange")
        self._from_float = from_float
        self.size = 0
        self.bytes_read = 0
        self.rounded = 0
        self.header_lines = 0

    def batches(self, size: int = BATCH) -> Generator[list[OHLCVBar], None, None]:
        """Yield the bars in the file's order, at most ``size`` at a time.

        Opening times are epoch milliseconds (13 digits, the years 2001 to 2286) or microseconds (16 digits, the same
        years), never both in one file. Every bar can be stored unchanged.

        Raises:
            DumpError: while iterating: a damaged archive or line, a line that is not a kline, or no bars in the file.
            InvalidValueError: ``size`` is below 1.
        """
        most, position = integer(size, "size", least=1), _Position()
        self.bytes_read = self.rounded = self.header_lines = 0
        with self._csv() as stream:
            bars = self._bars(stream, position)
            while True:
                with self._name_damage():
                    batch = list(islice(bars, most))
                if not batch:
                    break
                yield batch
        self._check_end(position)

    def tables(self, size: int = MOST_ROWS) -> Generator[KlineRows, None, None]:
        """Yield the bars in the file's order as Arrow tables, each up to the block of lines in which it reaches ``size`` bars.

        The bars and the errors are those of `batches`, in a sixth of the time; pyarrow is needed. If the file has several
        faults, the one in its first line is raised.

        Raises:
            DumpError: while iterating: as `batches`.
            InvalidValueError: ``size`` is below 1.
        """
        from iftb_store.files.readers.kline_blocks import join_bars, split_blocks

        most, position = integer(size, "size", least=1), _Position()
        self.bytes_read = self.rounded = self.header_lines = 0
        parts, count, first = list["pa.Table"](), 0, 0
        with self._csv() as stream:
            blocks = split_blocks(stream)
            while True:
                with self._name_damage():
                    block = next(blocks, None)
                    found = [] if block is None else self._parse(block, position)
                # a header is the only line without a bar before other bars
                first = first or self.header_lines + 1
                parts += found
                count += sum(part.num_rows for part in found)
                if count >= most or (block is None and count):
                    yield KlineRows(join_bars(parts, (self.exchange, self.symbol, self.timeframe)), first, self.bytes_read)
                    parts, count, first = [], 0, first + count
                if block is None:
                    break
        self._check_end(position)

    def _parse(self, block: bytes, position: _Position) -> list[pa.Table]:
        """Return the bars of a block of lines, without the columns of the series, in up to two tables."""
        from iftb_store.files.readers.kline_blocks import make_table, parse_block

        start, parts = 0, list["pa.Table"]()
        if not position.number:
            # the first line may be a header, with or without a byte order mark
            start = block.find(b"\n") + 1 or len(block)
            parts.append(make_table(list(self._bars(io.BytesIO(block[:start]), position))))
        rest = block[start:]
        if not rest:
            return parts
        ordinary = None if position.blank else parse_block(rest)
        if ordinary is not None:
            table, digits = ordinary
            begin = rest.rfind(b"\n", 0, len(rest) - 1) + 1
            before, last = position.before, rest[begin:].decode("ascii").rstrip("\r\n")
            first = from_epoch_us(table["timestamp"][0].value)
            if position.digits in (0, digits) and (before is None or before.timestamp != first):
                position.number += table.num_rows
                position.digits, position.before = digits, self._bar(last, position.number)
                self.bytes_read += len(rest)
                return [*parts, table]
        return [*parts, make_table(list(self._bars(io.BytesIO(rest), position)))]

    def _check_end(self, position: _Position) -> None:
        if not position.digits:
            raise DumpError(f"{self.path}: contains no bars")
        # zipfile accepts less data than the archive claims if the checksum is right
        if self.path.suffix.lower() == ".zip" and self.bytes_read != self.size:
            raise DumpError(
                f"{self.path}: the archive is damaged (it contains {self.bytes_read:,} bytes and claims {self.size:,}); "
                "download it again"
            )

    def _name_damage(self) -> AbstractContextManager[None]:
        return name_damage(self.path, _DAMAGE, "the archive is damaged ({}); download it again")

    @contextmanager
    def _csv(self) -> Iterator[IO[bytes]]:
        if self.path.suffix.lower() == ".csv":
            with io.BufferedReader(open_file(self.path)) as stream:
                self.size = os.fstat(stream.fileno()).st_size
                yield stream
            return
        with _ArchiveFile(open_file(self.path)) as file:
            with self._name_damage():
                archive = zipfile.ZipFile(file)
            with archive:
                member = self._member(archive)
                self.size = member.file_size
                with self._name_damage():
                    packed = archive.open(member)
                with io.BufferedReader(packed, 1 << 16) as stream:  # type: ignore[type-var]
                    yield stream

    def _member(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        # nothing is extracted to disk, so a folder in the member's name does no harm
        found = (item for item in archive.infolist() if item.filename.lower().endswith(".csv"))
        members = [item for item in found if not item.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            raise DumpError(f"{self.path}: the archive contains {len(members) or 'no'} .csv files; a dump contains exactly one")
        member = members[0]
        if member.flag_bits & 1:
            raise DumpError(f"{self.path}: the archive is encrypted; unpack it first")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DumpError(f"{self.path}: the archive uses a compression other than deflate; compress it again with deflate")
        if member.file_size > max(_RATIO_FLOOR, member.compress_size * _LARGEST_RATIO):
            raise DumpError(
                f"{self.path}: {member.compress_size:,} bytes would unpack to {member.file_size:,}, more than {_LARGEST_RATIO} "
                "times as much; no valid dump does, so it is refused as a decompression bomb"
            )
        return member

    def _bars(self, stream: IO[bytes], position: _Position) -> Iterator[OHLCVBar]:
        """Yield the bars of the remaining lines of a file; ``position`` counts the lines, for error messages."""
        while raw := stream.readline(_LONGEST_LINE):
            position.number += 1
            number = position.number
            self.bytes_read += len(raw)
            if len(raw) == _LONGEST_LINE and not raw.endswith(b"\n"):
                raise self._error(number, f"longer than {_LONGEST_LINE} bytes, which no kline has")
            line = raw.decode("ascii", "backslashreplace").rstrip("\r\n")
            if number == 1:
                line = line.removeprefix(r"\xef\xbb\xbf")
                if self._is_header(line):
                    self.header_lines = 1
                    continue
            if not line:
                position.blank = position.blank or number
                continue
            if "\r" in line:
                raise self._error(number, "the line contains a carriage return; lines end with LF or CR LF")
            if position.blank:
                raise self._error(position.blank, "empty, though more lines follow")
            bar = self._bar(line, number)
            length, before = line.index(","), position.before
            if position.digits not in (0, length):
                raise self._error(number, "open time changes between milliseconds and microseconds within the file")
            position.digits = length
            if before is not None and bar.timestamp == before.timestamp and bar != before:
                raise self._error(number, "has the same open time as the line before, but other values")
            position.before = bar
            yield bar

    def _is_header(self, line: str) -> bool:
        if not line.strip()[:1].isalpha():
            return False
        if not is_dump_header(line.split(",")):
            raise self._error(1, f"{show(line)} is not the header of a kline dump, whose columns are {', '.join(COLUMNS)}")
        return True

    def _bar(self, line: str, number: int) -> OHLCVBar:
        match = _LINE.fullmatch(line)
        if match is None:
            return self._parse_unusual_bar(line, number)
        opened, *prices, closed, quote, count, _, _ = match.groups()
        self._check_times(opened, closed, number)
        bar = self._make_bar(opened, [*prices, quote], count)
        if bar.high < bar.low:
            raise self._error(number, f"high {prices[1]} is below low {prices[2]}")
        return bar

    def _make_bar(self, opened: str, prices: Iterable[str | Decimal], count: str | Decimal) -> OHLCVBar:
        time = from_epoch_us(int(opened) * _MICROSECONDS_A_UNIT[len(opened)])
        open_, high, low, close, volume, quote = map(Decimal, prices)
        return OHLCVBar(self.symbol, self.exchange, self.timeframe, time, open_, high, low, close, volume, quote, int(count))

    def _parse_unusual_bar(self, line: str, number: int) -> OHLCVBar:
        """Return the bar of a line in a rare form: with a sign, an exponent, or zeros beyond 18 decimal places.

        Raises:
            DumpError: the line is not a kline; the message says why.
        """
        fields = line.split(",")
        if len(fields) != len(COLUMNS):
            raise self._error(number, f"{len(fields)} columns instead of {len(COLUMNS)}; the line may be cut off: {show(line)}")
        values: dict[str, Decimal] = {}
        for name, field in zip(COLUMNS[:-1], fields, strict=False):
            if name.endswith("time"):
                if not re.fullmatch(_TIME, field, re.ASCII):
                    raise self._error(
                        number, f"{name} {show(field)} is neither epoch milliseconds (13 digits) nor microseconds (16 digits)"
                    )
                continue
            if not _ANY_NUMBER.fullmatch(field):
                raise self._error(number, f"{name} {show(field)} is not a number")
            values[name] = Decimal(field)
        count = values["trades count"]
        if count != count.to_integral_value() or abs(count.adjusted()) > 18:
            raise self._error(number, f"trades count {show(fields[8])} is not a whole number")
        self._check_times(fields[0], fields[6], number)
        prices = [values[name] for name in (*_PRICES, "quote volume")]
        try:
            if self._from_float:
                exact, prices = prices, [round_to_places(value, "value") for value in prices]
                self.rounded += sum(old != new for old, new in zip(exact, prices, strict=True))
            return check_bar(self._make_bar(fields[0], prices, count), ROUNDING)
        except InvalidValueError as error:
            raise self._error(number, str(error)) from error

    def _check_times(self, opened: str, closed: str, number: int) -> None:
        if len(opened) != len(closed) or opened > closed:
            raise self._error(number, f"close time {closed} does not follow open time {opened}")

    def _error(self, number: int, problem: str) -> DumpError:
        return DumpError(f"{self.path}, line {number}: {problem}")


def find_series_in_name(path: Path) -> tuple[str | None, str | None]:
    """Return (symbol, timeframe) from a dump's name, e.g. ``FILUSDT-1m-2023-04.zip``; (None, None) for other names."""
    match = _NAME.match(path.name)
    if match is None:
        return None, None
    # the exchange writes months as 1mo, because some file systems ignore case, and 1m is a minute
    timeframe = MONTH if match["timeframe"] == "1mo" else match["timeframe"]
    return match["symbol"], timeframe
