"""Limits on the size of a file's decompressed content: in total, and for the part that is in memory at once."""

from __future__ import annotations

from collections.abc import Generator
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow import has_text
from iftb_store.values.display import show

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

#: Maximum bytes of text in a row of a binary file.
LONGEST_TEXT = 16 << 20
#: Maximum bytes of memory that one row group or record batch may need while it is decoded.
MOST_AT_ONCE = 192 << 20
#: Maximum number of columns in a file, including columns nested in others.
MOST_COLUMNS = 2_000
#: Maximum bytes of text that describes a file: names and metadata.
LONGEST_FACTS = 16 << 20

# maximum ratio of decompressed to file size; a year of one-minute bars whose prices never change stays below it
_LARGEST_RATIO, _RATIO_FLOOR = 200, 32 << 20
# the same for files with text columns; one traceback may well be repeated in a hundred thousand events
_LARGEST_TEXT_RATIO, _TEXT_RATIO_FLOOR = 1_000, 256 << 20
# maximum bytes of text in a batch; converting it takes several times as much memory
_TEXT_AT_ONCE = 16 << 20
# maximum bytes of text that the views in one column of a batch may refer to
_MOST_VIEWED = 1 << 30
# minimum bytes counted for a value, because narrower values are converted to decimals or times
_NARROWEST = 8


def check_ratio(unpacked: int, size: int, *, texts: bool) -> None:
    """Raise an error if the decompressed content of a file is too large in relation to the file (a decompression bomb).

    Args:
        unpacked: the decompressed size in bytes.
        size: the file size in bytes.
        texts: whether ``unpacked`` includes texts, which may be compressed more.

    Raises:
        ValueError: the ratio is higher than in any valid file.
    """
    ratio, floor = (_LARGEST_TEXT_RATIO, _TEXT_RATIO_FLOOR) if texts else (_LARGEST_RATIO, _RATIO_FLOOR)
    if unpacked > max(floor, size * ratio):
        raise ValueError(f"the content unpacks to more than {ratio:,} times the size of the file, which no valid file does")


def check_at_once(needed: int, part: str) -> None:
    """Raise an error if a part of a file needs too much memory.

    Args:
        needed: the bytes of memory that the part needs.
        part: the name of the part for the message.

    Raises:
        ValueError: the part needs more than `MOST_AT_ONCE`; the message names the part and the remedy.
    """
    if needed > MOST_AT_ONCE:
        raise ValueError(
            f"a {part} of the file needs {needed:,} bytes of memory, more than the limit of {MOST_AT_ONCE:,}; "
            "write the file in smaller parts"
        )


def check_types(made: pa.Schema, columns: list[str]) -> int:
    """Return the minimum bytes of one decoded row of these columns; a text counts as 8 bytes, whatever its length.

    Raises:
        ValueError: a column has a type that iftb-store never stores, e.g. a list, whose decoded size has no limit per row.
    """
    width = 0
    for name in columns:
        kind = made.field(name).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_fixed = pa.types.is_primitive(inner) or pa.types.is_decimal(inner)
        if not (is_fixed or has_text(inner) or pa.types.is_null(inner)):
            raise ValueError(f"the column {show(name)} has the type {show(str(kind))[1:-1]}, which is never stored")
        width += max(_NARROWEST, kind.bit_width // 8 if is_fixed and inner is kind else 0)
    return width


def check_views(batch: pa.RecordBatch) -> None:
    """Raise an error if a batch repeats long texts in very many rows; Arrow's type string_view stores such a text once.

    Call this before the whole batch is validated.

    Raises:
        ValueError: the values of a column refer to more text than any valid file has.
    """
    for column in batch.columns:
        if pa.types.is_string_view(column.type) and (length := pc.sum(_lengths_in(column)).as_py() or 0) > _MOST_VIEWED:
            raise ValueError(
                f"{batch.num_rows:,} rows together contain {length:,} bytes of text, more than the limit of {_MOST_VIEWED:,}"
            )


class TextSplitter:
    """Splits batches into parts with a limited amount of text, because a small file can repeat one long text in many rows."""

    def __init__(self, size: int | None = None) -> None:
        """Create a splitter for a file of this size; None for a file that is written."""
        self._size, self._total = size, 0

    def split(self, rows: pa.Table) -> Generator[pa.Table]:
        """Yield the rows in parts, each with a limited amount of text.

        Raises:
            ValueError: one row has more text than an import accepts, or the texts so far are more than a file of this size can
                contain.
        """
        found = [part for part in map(_lengths, rows.columns) if part is not None]
        total = sum(pc.sum(part).as_py() or 0 for part in found)
        self._total += total
        if self._size is not None:
            check_ratio(self._total, self._size, texts=True)
        if total <= _TEXT_AT_ONCE:
            yield rows
            return
        lengths: list[int] = reduce(pc.add, found).to_pylist()
        if (longest := max(lengths)) > LONGEST_TEXT:
            raise ValueError(f"a row contains {longest:,} bytes of text, more than the limit of {LONGEST_TEXT:,}")
        first = held = 0
        for index, length in enumerate(lengths):
            if held + length > _TEXT_AT_ONCE and index > first:
                yield rows.slice(first, index - first)
                first, held = index, 0
            held += length
        yield rows.slice(first)


def _lengths(column: Any) -> Any:
    """Return the number of bytes of text in each row of a column, 0 for NULL; None if the column does not contain text."""
    kind = column.type
    is_dictionary = pa.types.is_dictionary(kind)
    if not has_text(kind.value_type if is_dictionary else kind):
        return None
    chunks = [_lengths_in(part.dictionary).take(part.indices) if is_dictionary else _lengths_in(part) for part in column.chunks]
    return pc.fill_null(pa.chunked_array(chunks, pa.int64()), 0)


def _lengths_in(texts: Any) -> Any:
    if not pa.types.is_string_view(texts.type):
        return pc.binary_length(texts).cast(pa.int64())
    # Read each length from the first 4 of the 16 bytes of its view: no Arrow kernel returns the lengths of views, and a cast to
    # text would copy a buffer once for every row that refers to it.
    count = texts.offset + len(texts)
    views: Any = pa.Array.from_buffers(pa.int32(), 4 * count, [None, texts.buffers()[1]])
    lengths = views.take(pa.array(range(4 * texts.offset, 4 * count, 4), pa.int64())).cast(pa.int64())
    # a negative length is invalid, which the later validation reports
    return pc.if_else(texts.is_valid(), pc.max_element_wise(lengths, 0), pa.scalar(0, pa.int64()))
