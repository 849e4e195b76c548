"""What a file may unpack to, as zip and gzip have it: a bound on the whole, and one on what is held at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.values.display import show

# its stubs know nothing of plain values among the arguments
pc: Any = pyarrow.compute

#: Bytes of the longest text in a row of a file that is no text itself.
LONGEST_TEXT = 16 << 20
#: What one row group, or one record batch, may need in memory while it is decoded.
MOST_AT_ONCE = 192 << 20
#: Columns in a file, those within others included.
MOST_COLUMNS = 2_000
#: Text that describes a file: names, metadata.
LONGEST_FACTS = 16 << 20

# a year of minutes that never move passes
_LARGEST_RATIO, _RATIO_FLOOR = 200, 32 << 20
# of texts: one trace of an error may well stand in a hundred thousand events
_LARGEST_TEXT_RATIO, _TEXT_RATIO_FLOOR = 1_000, 256 << 20
# of text in a batch: what is made of it takes several times as much
_TEXT_AT_ONCE = 16 << 20
# of text in the views of a column of a batch
_MOST_VIEWED = 1 << 30
# bytes of a value: narrower ones become decimals or times
_NARROWEST = 8


def check_ratio(unpacked: int, size: int, *, texts: bool) -> None:
    """Refuse a file of ``size`` bytes that holds this many bytes.

    Args:
        unpacked: what it holds.
        size: the bytes of the file.
        texts: whether texts are among what it holds.

    Raises:
        ValueError: they are more than any real file of the size holds.
    """
    ratio, floor = (_LARGEST_TEXT_RATIO, _TEXT_RATIO_FLOOR) if texts else (_LARGEST_RATIO, _RATIO_FLOOR)
    if unpacked > max(floor, size * ratio):
        raise ValueError(f"it unpacks to more than {ratio:,} times its size, which no valid file does")


def check_at_once(needed: int, part: str) -> None:
    """Refuse a part of a file that needs too much memory.

    Raises:
        ValueError: the message names the part and the remedy.
    """
    if needed > MOST_AT_ONCE:
        raise ValueError(
            f"a {part} of it needs {needed:,} bytes at once, the maximum is {MOST_AT_ONCE:,}; write the file in smaller parts"
        )


def check_types(made: pa.Schema, columns: list[str]) -> int:
    """Return the bytes of one row of these columns when decoded, as far as its types tell them.

    Raises:
        ValueError: one has a type whose size its length does not bound, or that holds nothing that is stored.
    """
    width = 0
    for name in columns:
        kind = made.field(name).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not _is_plain(inner):
            raise ValueError(f"the column {show(name)} has the type {show(str(kind))[1:-1]}, which is never stored")
        width += max(_NARROWEST, 0 if _is_text(kind) or pa.types.is_null(kind) else kind.bit_width // 8)
    return width


def check_views(batch: pa.RecordBatch) -> None:
    """Refuse views that make one text stand in very many rows, before all of them are looked at.

    Raises:
        ValueError: they do.
    """
    for column in batch.columns:
        if pa.types.is_string_view(column.type) and (length := pc.sum(_lengths_in(column)).as_py() or 0) > _MOST_VIEWED:
            raise ValueError(f"{batch.num_rows:,} of its rows contain {length:,} bytes of text, which no valid file does")


class TextSplitter:
    """Parts the batches of a file whose texts are long; a text may stand in the file once and in many rows."""

    def __init__(self, size: int) -> None:
        self._size, self._total = size, 0

    def split(self, rows: pa.Table) -> Generator[pa.Table]:
        """Yield the rows in parts whose texts are short enough together.

        Raises:
            ValueError: one row is longer than any that is read, or all so far hold more than a file of the size can.
        """
        lengths = _row_lengths(rows)
        self._total += sum(lengths)
        check_ratio(self._total, self._size, texts=True)
        yield from _split(rows, lengths)


def split_texts(rows: pa.Table) -> Generator[pa.Table]:
    """Yield rows that are to be written in parts whose texts are short enough together.

    Raises:
        ValueError: one row is longer than any that is read.
    """
    yield from _split(rows, _row_lengths(rows))


def _split(rows: pa.Table, lengths: list[int]) -> Generator[pa.Table]:
    if sum(lengths) <= _TEXT_AT_ONCE:
        yield rows
        return
    if (longest := max(lengths)) > LONGEST_TEXT:
        raise ValueError(f"one of its rows contains {longest:,} bytes of text, the maximum is {LONGEST_TEXT:,}")
    first = held = 0
    for index, length in enumerate(lengths):
        if held + length > _TEXT_AT_ONCE and index > first:
            yield rows.slice(first, index - first)
            first, held = index, 0
        held += length
    yield rows.slice(first)


def _row_lengths(rows: pa.Table) -> list[int]:
    """Return the bytes of each row's texts; one sum where all of them together are few."""
    found = [lengths for column in rows.columns if (lengths := _lengths(column)) is not None]
    total = sum(pc.sum(lengths).as_py() or 0 for lengths in found)
    if total <= _TEXT_AT_ONCE:
        return [total]
    added = found[0]
    for lengths in found[1:]:
        added = pc.add(added, lengths)
    whole: list[int] = added.to_pylist()
    return whole


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return True
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return False
    return _is_text(kind) or pa.types.is_null(kind) or pa.types.is_primitive(kind) or pa.types.is_decimal(kind)


def _lengths(column: Any) -> Any:
    """Return the bytes of a column's texts, row by row, 0 for NULL; None of a column without text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            return None
        chunks = [_lengths_in(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
    elif _is_text(kind):
        chunks = [_lengths_in(chunk) for chunk in column.chunks]
    else:
        return None
    return pc.fill_null(pa.chunked_array(chunks, pa.int64()), 0)


def _lengths_in(texts: Any) -> Any:
    if not pa.types.is_string_view(texts.type):
        return pc.binary_length(texts).cast(pa.int64())
    # of the 16 bytes of each view the first four are its length; no kernel tells it, and as text one buffer may stand in each row
    count = texts.offset + len(texts)
    views: Any = pa.Array.from_buffers(pa.int32(), 4 * count, [None, texts.buffers()[1]])
    lengths = views.take(pa.array(range(4 * texts.offset, 4 * count, 4), pa.int64())).cast(pa.int64())
    # below 0 none is valid, which is found out later
    return pc.if_else(texts.is_valid(), pc.max_element_wise(lengths, 0), pa.scalar(0, pa.int64()))
