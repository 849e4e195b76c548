"""Checks the memory that decoding a Parquet file needs, from its footer and page headers, before Arrow decodes it."""

from __future__ import annotations

import base64
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from iftb_store.files.limits import LONGEST_FACTS, MOST_COLUMNS, check_at_once, check_ratio, check_types
from iftb_store.files.readers.arrow_bounds import check_schema_message
from iftb_store.files.readers.binance import open_file
from iftb_store.files.readers.thrift import BINARY, LIST, STRUCT, CompactReader

# limits of a footer: column chunks, each of which takes Arrow about a kilobyte; and all structs and list elements
_MOST_CHUNKS, _MOST_ELEMENTS = 50_000, 600_000
# bytes to read for a page header: try the sizes in order, as nearly all headers fit into the first; the last is the maximum
_HEADER_SIZES = (1 << 10, 1 << 16, 1 << 20, 1 << 24)
# maximum bytes of text in rows that are read together
_TEXT_AT_ONCE = 16 << 20
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
# for each kind of page header, by its field number: the field numbers of the number of values and of the encoding
_HEADERS = {5: (1, 2), 7: (1, 2), 8: (1, 4)}
# bytes of memory for an entry in a dictionary of texts, besides its text: its offset and the slots of a hash table
_ENTRY = 80
_DELTA_TEXTS = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}
# Arrow reads this many bytes past a column chunk, in files of some old writers
_PADDING = 100


@dataclass
class _Page:
    kind: int = -1
    unpacked: int = -1
    packed: int = -1
    values: int = 0
    encoding: int = -1


@dataclass
class _Chunk:
    """The memory that decoding one column chunk (the values of one column in one row group) needs."""

    unpacked: int = 0
    pages: int = 0
    at_once: int = 0
    dictionary: int = 0
    # bytes of text per row
    density: float = 0.0


def check_footer(path: Path) -> None:
    """Raise an error if parsing the footer of a Parquet file would need too much memory.

    Raises:
        ValueError: the footer is damaged, or describes more than any valid file contains.
        OSError: the file cannot be read.
    """
    with open_file(path) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if len(end) < 8 or end[4:] != b"PAR1" or length > size - 12:
            raise ValueError("the file ends without a Parquet footer")
        if length > LONGEST_FACTS:
            raise ValueError(f"the footer has {length:,} bytes, more than the limit of {LONGEST_FACTS:,}")
        file.seek(size - 8 - length)
        reader = CompactReader(file.read(length))
    for number, kind in reader.fields():
        if number == 2 and kind == LIST:
            for columns, item in enumerate(reader.items(), 1):
                _check_count(columns, MOST_COLUMNS, "columns")
                reader.skip(item)
        elif number == 4 and kind == LIST:
            _skip_groups(reader)
        elif number == 5 and kind == LIST:
            _check_facts(reader)
        else:
            reader.skip(kind)
        _check_count(reader.elements, _MOST_ELEMENTS, "facts")


def list_groups_within_bounds(
    path: Path, metadata: Any, made: pa.Schema, columns: list[str], rows: int
) -> Generator[tuple[list[int], int]]:
    """Yield lists of row groups that can be decoded together, each with the maximum number of rows to read at once.

    Args:
        path: the file.
        metadata: the file's footer as parsed by Arrow.
        made: the file's Arrow schema.
        columns: the columns to decode.
        rows: the maximum number of rows to read at once.

    Raises:
        ValueError: the row groups are too large when decompressed, need too much memory at once, or are damaged.
    """
    size = path.stat().st_size
    width = check_types(made, columns)
    check_ratio(width * metadata.num_rows, size, texts=False)
    places = [place for place in range(metadata.num_columns) if metadata.schema.column(place).path in columns]
    unpacked = held = 0
    groups: list[int] = []
    density = 0.0
    with open_file(path) as file:
        for group in range(metadata.num_row_groups):
            facts = metadata.row_group(group)
            chunks = [_walk(file, size, facts.column(place)) for place in places]
            unpacked += sum(chunk.unpacked for chunk in chunks)
            check_ratio(unpacked, size, texts=True)
            check_at_once(sum(chunk.at_once + chunk.dictionary for chunk in chunks), "row group")
            groups.append(group)
            held += facts.num_rows
            density = max(density, sum(chunk.density for chunk in chunks))
            if held >= rows:
                yield groups, _count_rows_at_once(rows, density)
                groups, held, density = [], 0, 0.0
    if groups:
        yield groups, _count_rows_at_once(rows, density)


def _count_rows_at_once(rows: int, density: float) -> int:
    return max(1, min(rows, int(_TEXT_AT_ONCE / density))) if density else rows


def _walk(file: Any, size: int, facts: Any) -> _Chunk:
    """Read the page headers of a column chunk, and return the memory that decoding it needs.

    Raises:
        ValueError: the chunk is damaged, or has pages that no valid writer creates.
    """
    start = facts.data_page_offset
    if facts.has_dictionary_page and 0 < facts.dictionary_page_offset < start:
        start = facts.dictionary_page_offset
    end = start + facts.total_compressed_size
    if start < 0 or not start <= end <= size:
        raise ValueError("a column reaches past the end of the file")
    is_text = facts.physical_type == "BYTE_ARRAY"
    chunk, seen, at = _Chunk(), 0, start
    while seen < facts.num_values and at < min(end + _PADDING, size):
        page, length = _page(file, at, size)
        at += length + page.packed
        if page.packed < 0 or page.unpacked < 0 or page.values < 0 or at > size:
            raise ValueError("a page reaches past the end of the file")
        chunk.pages += 1
        chunk.unpacked += page.unpacked
        # no writer creates many pages with few values and bytes, and reading their headers takes long
        if chunk.pages > 100 + seen // 16 + chunk.unpacked // 4_096:
            raise ValueError("the pages of a column contain almost nothing, which no valid file does")
        if page.encoding in _DELTA_TEXTS and page.kind != _DICTIONARY:
            raise ValueError(
                f"a column is encoded as {_DELTA_TEXTS[page.encoding]}, whose length is not known before it is read; "
                "write it with plain or dictionary encoding"
            )
        if page.kind == _DICTIONARY:
            # an entry takes at least one byte; an entry of text takes at least the four bytes of its length
            if page.values > page.unpacked:
                raise ValueError("a dictionary claims more entries than it has bytes")
            chunk.dictionary += page.packed + 3 * page.unpacked + (_ENTRY * page.values if is_text else 0)
        else:
            chunk.at_once = max(chunk.at_once, page.packed + (3 if is_text else 1) * page.unpacked)
        if page.kind in (_DATA, _DATA_V2):
            seen += page.values
            if is_text:
                chunk.density = max(chunk.density, page.unpacked / (page.values or 1))
    return chunk


def _page(file: Any, at: int, size: int) -> tuple[_Page, int]:
    """Read the header of a page; return it and its length in bytes."""
    for length in _HEADER_SIZES:
        file.seek(at)
        reader = CompactReader(file.read(length))
        try:
            return _header(reader), reader.at
        except EOFError:
            if at + length >= size:
                raise
    raise ValueError("a page's header is longer than in any valid file")


def _header(reader: CompactReader) -> _Page:
    page = _Page()
    for number, kind in reader.fields():
        if number == 1:
            page.kind = reader.integer(kind)
        elif number == 2:
            page.unpacked = reader.integer(kind)
        elif number == 3:
            page.packed = reader.integer(kind)
        elif number in _HEADERS and kind == STRUCT:
            values, encoding = _HEADERS[number]
            for inner, inner_kind in reader.fields():
                if inner == values:
                    page.values = max(page.values, reader.integer(inner_kind))
                elif inner == encoding:
                    page.encoding = reader.integer(inner_kind)
                else:
                    reader.skip(inner_kind)
        else:
            reader.skip(kind)
    return page


def _skip_groups(reader: CompactReader) -> None:
    chunks = count(1)
    for kind in reader.items():
        if kind != STRUCT:
            raise ValueError("the row groups are invalid")
        for number, field in reader.fields():
            if number != 1 or field != LIST:
                reader.skip(field)
                continue
            for item in reader.items():
                _check_count(next(chunks), _MOST_CHUNKS, "column chunks")
                reader.skip(item)
        _check_count(reader.elements, _MOST_ELEMENTS, "facts")


def _check_facts(reader: CompactReader) -> None:
    """Read the metadata of the footer, and check the Arrow schema in it."""
    for kind in reader.items():
        if kind != STRUCT:
            raise ValueError("the metadata is invalid")
        key = value = b""
        for number, field in reader.fields():
            if number == 1 and field == BINARY:
                key = reader.binary()
            elif number == 2 and field == BINARY:
                value = reader.binary()
            else:
                reader.skip(field)
        if key == b"ARROW:schema":
            check_schema_message(base64.b64decode(value, validate=True))
        _check_count(reader.elements, _MOST_ELEMENTS, "facts")


def _check_count(found: int, most: int, what: str) -> None:
    if found > most:
        raise ValueError(f"the footer lists more than {most:,} {what}, which no valid file does")
