"""Reads the lines of kline dumps in blocks with pyarrow; a block with any line out of the ordinary is left to the line parser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute
from pyarrow import csv

from iftb_store.batches.arrow import TIME, to_record_batch
from iftb_store.batches.arrow_input import WRITTEN
from iftb_store.batches.bars import to_columns
from iftb_store.models import OHLCVBar
from iftb_store.schema.table_spec import SERIES

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

# bytes of a block, and of one read: as many as the line parser reads at once, so that damage is found after the same lines
_BLOCK, _READ = 1 << 20, 1 << 16

# what no ordinary line contains: anything but numbers; a number with two points, a leading zero, more than 20 digits before the
# point or 18 behind it, or no digit on one side of the point; an empty field; an empty line. One search finds them all
_UNUSUAL = r"[^0-9.,\n]|[.,\n][.,\n]|\.[0-9]*\.|[0-9]{21}|\.[0-9]{19}|^[.,\n]|(?:^|[,\n])0[0-9]"

# the columns of a bar without those of its series
_SCHEMA = pa.schema([field for field in WRITTEN if field.name not in SERIES])
_VALUES = _SCHEMA.names[1:]
_NAMES = ["opened", *_VALUES[:5], "closed", *_VALUES[5:], "taker volume", "taker quote volume", "ignored"]
_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("opened", "closed"), pa.int64()),
    **{name: _SCHEMA.field(name).type for name in _VALUES},
}
# epochs with 13 digits are milliseconds, with 16 microseconds
_MILLISECONDS, _MICROSECONDS = (10**12, 10**13), (10**15, 10**16)
_MOST_TRADES = 10**18


class Block(NamedTuple):
    """The bars of a block of ordinary lines.

    Attributes:
        table: the bars, without the columns of the series.
        digits: the number of digits of each opening time.
    """

    table: pa.Table
    digits: int


def split_blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a dump in blocks of whole lines; the last line may lack its end.

    If a read fails, the whole lines before the damage are yielded first. A block without the end of a line is yielded as it is,
    because no kline is as long as a block.
    """
    rest, ended, failure = b"", False, None
    while not ended:
        pieces, size = [rest], len(rest)
        while size < _BLOCK and not ended:
            try:
                piece = stream.read1(_READ)  # type: ignore[attr-defined]
            except Exception as error:
                # raised again after the lines before the damage
                failure, ended = error, True
                break
            ended = not piece
            pieces.append(piece)
            size += len(piece)
        content = b"".join(pieces)
        end = content.rfind(b"\n") + 1
        if failure is None and (ended or not end):
            end = len(content)
        rest = content[end:]
        if end:
            yield content[:end]
    if failure is not None:
        raise failure


def parse_block(content: bytes) -> Block | None:
    """Return the bars of a block; None if any line needs the line parser, which reads it or raises the error that names it."""
    if b"\r" in content:
        if content.count(b"\r") != content.count(b"\r\n"):
            return None
        content = content.replace(b"\r\n", b"\n")
    if pc.match_substring_regex(pa.array([content], pa.binary()), _UNUSUAL)[0].as_py():
        return None
    try:
        # the type stubs know only files
        source: Any = pa.BufferReader(content)
        rows = csv.read_csv(
            source,
            read_options=csv.ReadOptions(column_names=_NAMES, block_size=len(content) + 1, use_threads=False),
            parse_options=csv.ParseOptions(quote_char=False, double_quote=False, escape_char=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=_TYPES, include_columns=list(_TYPES), null_values=[], strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid:
        return None
    opened, closed = rows["opened"], rows["closed"]
    digits = next((digits for digits, span in ((13, _MILLISECONDS), (16, _MICROSECONDS)) if _lies_in(opened, *span)), 0)
    if not digits or not _lies_in(closed, *(_MILLISECONDS if digits == 13 else _MICROSECONDS)):
        return None
    if (
        _is_any(pc.greater(opened, closed))
        or _is_any(pc.less(rows["high"], rows["low"]))
        or pc.max(rows["trades_count"]).as_py() >= _MOST_TRADES
        or _is_any(pc.equal(opened[:-1].combine_chunks(), opened[1:].combine_chunks()))
    ):
        return None
    times = (pc.multiply(opened, 1_000) if digits == 13 else opened).cast(TIME)
    return Block(pa.table([times, *(rows[name] for name in _VALUES)], schema=_SCHEMA), digits)


def make_table(bars: Sequence[OHLCVBar]) -> pa.Table:
    """Return a table of bars, which the parser of lines has checked; it lacks exchange, symbol and timeframe."""
    if not bars:
        return _SCHEMA.empty_table()
    return pa.table(to_record_batch(to_columns(bars)).select(_SCHEMA.names))


def join_bars(parts: Sequence[pa.Table], series: tuple[str, str, str]) -> pa.Table:
    """Return the bars of one series in one table with the columns of `WRITTEN`."""
    bars = pa.concat_tables(parts).combine_chunks()
    names = [pa.repeat(pa.scalar(name, pa.string()), bars.num_rows) for name in series]
    return pa.table([*names, *bars.columns], schema=WRITTEN)


def _lies_in(numbers: Any, least: int, beyond: int) -> bool:
    found = pc.min_max(numbers).as_py()
    return found["min"] is not None and least <= found["min"] and found["max"] < beyond


def _is_any(wrong: Any) -> bool:
    return bool(pc.any(wrong).as_py())
