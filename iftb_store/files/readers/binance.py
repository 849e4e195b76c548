"""Reads kline dumps as exchanges publish them (Binance public data, .csv and .zip), exactly and in bounded memory."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import IO, Any

from iftb_store.abilities import ConnectedStore
from iftb_store.batches.bars import check_bar
from iftb_store.errors import InvalidValueError, StoreError
from iftb_store.files.commits import Commit
from iftb_store.files.spans import Spans
from iftb_store.models import OHLCVBar
from iftb_store.repositories.ohlcv import OHLCVRepository
from iftb_store.schema.types import from_epoch_us, to_epoch_us
from iftb_store.values.checks import integer, name_text
from iftb_store.values.display import show, type_name
from iftb_store.values.timeframes import MONTH, SECONDS, Timeframe, check_timeframe, is_off_grid

#: Number of bars in a batch: a few megabytes, read in some tens of milliseconds.
BATCH = 5_000

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
        file.close()
        raise
    return file


@contextmanager
def name_damage(path: Path, kinds: tuple[type[Exception], ...], problem: str) -> Iterator[None]:
    """Convert an error of these kinds, in a damaged file, to a DumpError; an OSError with a file name is kept.

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


def is_dump_header(names: list[str]) -> bool:
    """Return whether a file's column names are those of a kline dump."""
    # the names of the last columns differ between files
    return len(names) == len(COLUMNS) and [name.strip().lower().replace("_", " ") for name in names[: len(_FIRST)]] == _FIRST


def _check_is_file(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        remedy = "give the files in it" if stat.S_ISDIR(mode) else "write its output to a file first"
        raise DumpError(f"{path}: is a {kinds.get(stat.S_IFMT(mode), 'device')} and not a file; {remedy}")


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of importing one dump: its series, the number of bars written, the first and the last opening time.

    ``off_grid`` is the number of bars that do not begin at a multiple of the timeframe, e.g. because the file's name is wrong.
    """

    path: Path
    exchange: str
    symbol: str
    timeframe: str
    bars: int
    first: datetime
    last: datetime
    off_grid: int = 0


class _ArchiveFile(io.BufferedReader):
    """A zip file opened for reading, which limits the size of each read.

    zipfile reads the archive's directory in a single read, and the file itself gives the size of that read, perhaps wrongly.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        asked = _LONGEST_READ + 1 if size is None or not 0 <= size <= _LONGEST_READ else size
        data = super().read(asked)
        if len(data) > _LONGEST_READ:
            raise zipfile.BadZipFile("its directory is longer than in any kline dump")
        return data


class KlineDump:
    """One dump file: a .csv, or a .zip that contains one .csv, with or without a header line.

    The symbol and timeframe come from the file's name (``FILUSDT-1m-2023-04.zip``) unless they are given.

    Attributes:
        size: decompressed bytes of the csv; known once reading began.
        bytes_read: number of these bytes read so far.

    Raises:
        InvalidValueError: the symbol or the timeframe is neither given nor in the file's name; the file is neither .csv nor
            .zip; the timeframe is unknown; or an argument is not text.
    """

    def __init__(
        self, path: str | PathLike[str], *, symbol: str | None = None, timeframe: str | None = None, exchange: str = "binance"
    ) -> None:
        if not isinstance(path, str | PathLike) or "\0" in str(path):
            raise InvalidValueError(f"the path of a dump must be text without NUL or a Path, not {type_name(path)} {show(path)}")
        self.path = Path(path)
        if self.path.suffix.lower() not in (".csv", ".zip"):
            raise InvalidValueError(f"{path}: a kline dump is a .csv or a .zip file")
        named = series_in_name(self.path)
        for option, given, found in (("symbol", symbol, named[0]), ("timeframe", timeframe, named[1])):
            if given is None and found is None:
                raise InvalidValueError(
                    f"{path}: its name does not contain the {option} (e.g. FILUSDT-1m-2023-04.zip); give the {option}"
                )
        self.symbol = name_text(named[0] if symbol is None else symbol, "symbol")
        try:
            self.timeframe: Timeframe = check_timeframe(named[1] if timeframe is None else timeframe)
        except InvalidValueError as error:
            raise InvalidValueError(f"{path}: {error}") from error
        self.exchange = name_text(exchange, "exchange")
        self.size = 0
        self.bytes_read = 0

    def batches(self, size: int = BATCH) -> Generator[list[OHLCVBar], None, None]:
        """Yield the bars in the file's order, at most ``size`` at a time.

        Opening times are epoch milliseconds (13 digits, the years 2001 to 2286) or microseconds (16 digits, the same
        years), never both in one file. Every bar can be stored unchanged.

        Raises:
            DumpError: while iterating: a damaged archive or line, a line that is not a kline, or no bars in the file.
            InvalidValueError: ``size`` is below 1.
        """
        most = integer(size, "size", least=1)
        self.bytes_read = 0
        with self._csv() as stream:
            bars = self._bars(stream)
            while True:
                with self._damage_named():
                    batch = list(islice(bars, most))
                if not batch:
                    break
                yield batch
        # zipfile accepts less data than the archive claims if the checksum is right
        if self.path.suffix.lower() == ".zip" and self.bytes_read != self.size:
            raise DumpError(
                f"{self.path}: the archive is damaged (it contains {self.bytes_read:,} bytes and claims {self.size:,}); "
                "download it again"
            )

    def _damage_named(self) -> AbstractContextManager[None]:
        return name_damage(self.path, _DAMAGE, "the archive is damaged ({}); download it again")

    @contextmanager
    def _csv(self) -> Iterator[IO[bytes]]:
        if self.path.suffix.lower() == ".csv":
            with io.BufferedReader(open_file(self.path)) as stream:
                self.size = os.fstat(stream.fileno()).st_size
                yield stream
            return
        with _ArchiveFile(open_file(self.path)) as file:
            with self._damage_named():
                archive = zipfile.ZipFile(file)
            with archive:
                member = self._member(archive)
                self.size = member.file_size
                with self._damage_named():
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

    def _bars(self, stream: IO[bytes]) -> Iterator[OHLCVBar]:
        number = blank = digits = 0
        before: OHLCVBar | None = None
        while raw := stream.readline(_LONGEST_LINE):
            number += 1
            self.bytes_read += len(raw)
            if len(raw) == _LONGEST_LINE and not raw.endswith(b"\n"):
                raise self._error(number, f"longer than {_LONGEST_LINE} bytes, which no kline has")
            line = raw.decode("ascii", "backslashreplace").rstrip("\r\n")
            if number == 1:
                line = line.removeprefix(r"\xef\xbb\xbf")
                if self._is_header(line):
                    continue
            if not line:
                blank = blank or number
                continue
            if "\r" in line:
                raise self._error(number, "it contains a carriage return; lines end with LF or CR LF")
            if blank:
                raise self._error(blank, "empty, though more lines follow")
            bar = self._bar(line, number)
            length = line.index(",")
            if digits not in (0, length):
                raise self._error(number, "open time changes between milliseconds and microseconds within the file")
            digits = length
            if before is not None and bar.timestamp == before.timestamp and bar != before:
                raise self._error(number, "has the same open time as the line before, but other values")
            before = bar
            yield bar
        if not digits:
            raise DumpError(f"{self.path}: contains no bars")

    def _is_header(self, line: str) -> bool:
        if not line.strip()[:1].isalpha():
            return False
        if not is_dump_header(line.split(",")):
            raise self._error(1, f"{show(line)} is not the header of a kline dump; its columns are {', '.join(COLUMNS)}")
        return True

    def _bar(self, line: str, number: int) -> OHLCVBar:
        match = _LINE.fullmatch(line)
        if match is None:
            return self._unusual_bar(line, number)
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

    def _unusual_bar(self, line: str, number: int) -> OHLCVBar:
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
        bar = self._make_bar(fields[0], [values[name] for name in (*_PRICES, "quote volume")], count)
        try:
            return check_bar(bar)
        except InvalidValueError as error:
            raise self._error(number, str(error)) from error

    def _check_times(self, opened: str, closed: str, number: int) -> None:
        if len(opened) != len(closed) or opened > closed:
            raise self._error(number, f"close time {closed} does not follow open time {opened}")

    def _error(self, number: int, problem: str) -> DumpError:
        return DumpError(f"{self.path}, line {number}: {problem}")


def series_in_name(path: Path) -> tuple[str | None, str | None]:
    """Return (symbol, timeframe) from a dump's name, e.g. ``FILUSDT-1m-2023-04.zip``; (None, None) for other names."""
    match = _NAME.match(path.name)
    if match is None:
        return None, None
    # the exchange writes months as 1mo, because some file systems ignore case, and 1m is a minute
    timeframe = MONTH if match["timeframe"] == "1mo" else match["timeframe"]
    return match["symbol"], timeframe


async def import_klines(
    db: ConnectedStore,
    dump: KlineDump,
    *,
    insert: bool = False,
    progress: Callable[[int, int], None] | None = None,
    commit: Commit[Any] | None = None,
) -> Imported:
    """Store the bars of one dump in one transaction: all of them, or none.

    Args:
        db: a connected manager whose schema is in place.
        dump: the file; it is read batch by batch.
        insert: refuse bars that are already stored, instead of overwriting them.
        progress: called after each batch with (bytes read, total bytes).
        commit: records when the COMMIT is sent, see `iftb_store.files.commits.finish_commit`.

    Returns:
        The series, the number of bars written, and the first and last opening time.

    Raises:
        DumpError: the file is damaged.
        IntegrityError: with ``insert``, a bar is already stored or is a duplicate in the file.
    """
    count = off_grid = 0
    ends: list[datetime] = []
    spans, step = Spans(), (SECONDS[dump.timeframe] or 86_400) * 1_000_000
    async with db.get_session() as session:
        repository = OHLCVRepository(session)
        write = repository.insert_many if insert else repository.upsert_many
        with closing(dump.batches()) as batches:
            for batch in batches:
                await write(batch)
                # a bar that an earlier batch contained already is not counted again
                times = sorted({to_epoch_us(bar.timestamp) for bar in batch})
                count += len(times) - len(spans.add(dump.symbol, times, step))
                ends = [*ends, *(from_epoch_us(times[place]) for place in (0, -1))]
                ends = [min(ends), max(ends)]
                off_grid += sum(is_off_grid(bar.timestamp, bar.timeframe) for bar in batch)
                if progress is not None:
                    progress(dump.bytes_read, dump.size)
        if commit is not None:
            commit.state = "sent"
    return Imported(dump.path, dump.exchange, dump.symbol, dump.timeframe, count, ends[0], ends[1], off_grid)
