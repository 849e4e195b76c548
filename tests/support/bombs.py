"""Small Parquet and Feather files that would fill the memory or never end if their claims were trusted."""

from __future__ import annotations

import base64
import struct
from typing import Any, Literal

import pyarrow as pa

from iftb_store.files.readers.flatbuffers import FlatTable
from iftb_store.schema.table_spec import EVENTS
from tests.support import crafted_parquet as crafted
from tests.support.crafted_parquet import Column, Page, candles, parquet, thrift, zstd_zeros

_MEBIBYTE, _GIBIBYTE = 1 << 20, 1 << 30
_RATIO = "unpacks to more than (200|1,000) times the size"
_AT_ONCE = "needs [0-9,]+ bytes of memory"


def parquet_bombs() -> dict[str, tuple[bytes, str]]:
    """Return each file's bytes, and a pattern of its error."""
    text = crafted.BYTE_ARRAY
    zeros = zstd_zeros(_GIBIBYTE)
    page = Page(zeros, _GIBIBYTE, _GIBIBYTE // 8)
    ones = _longs(1_706_745_600, 8)
    small = Column([Page(ones, len(ones), 8)], codec=crafted.UNCOMPRESSED)
    runs = _dictionary_of(60_000_000)
    long_text = struct.pack("<I", 8 * _MEBIBYTE) + b"x" * 8 * _MEBIBYTE
    repeated = _dictionary_of(8, pa.compress(long_text, codec="zstd", asbytes=True), len(long_text), text)
    many = pa.compress(struct.pack("<I", 0) * 16_000_000, codec="zstd", asbytes=True)
    prefixes = Column([Page(b"\x80\x01\x04\xe8\x07\0" * 4, 24, 8, crafted.DELTA_TEXT)], text, crafted.UNCOMPRESSED)
    lengths = Column([Page(b"\x80\x01\x04\xff\xff\xff\xff\x07\0", 9, 8, crafted.DELTA_LENGTH)], text, crafted.UNCOMPRESSED)
    return {
        "page": (candles(_GIBIBYTE // 8, Column([page])), _RATIO),
        "page of few rows": (candles(1_000, Column([page])), f"{_RATIO}|{_AT_ONCE}"),
        "page that claims little": (candles(8, Column([Page(zeros, 64, 8)])), "cannot be read|contains"),
        "page that claims much": (candles(8, Column([Page(ones, (1 << 31) - 1, 8)])), f"{_RATIO}|{_AT_ONCE}"),
        "page beyond the end": (candles(8, Column([Page(ones, 64, 8, packed=1 << 30)])), "past the end of the file"),
        "page of less than nothing": (candles(8, Column([Page(ones, -64, 8, packed=-64)])), "past the end of the file"),
        "rows of one run": (candles(60_000_000, runs), _RATIO),
        "rows that are claimed": (candles(1 << 50, small), _RATIO),
        "rows less than none": (candles(-8, small), "cannot be read"),
        "one place in all groups": (parquet(8, dict.fromkeys(crafted.NAMES, small), groups=8_000), "^64000 rows"),
        "one page in all groups": (
            parquet(
                100, dict.fromkeys(crafted.NAMES, Column([Page(zstd_zeros(24 * _MEBIBYTE), 24 * _MEBIBYTE, 100)])), groups=999
            ),
            _RATIO,
        ),
        "long text in all rows": (candles(8, small, symbol=repeated), "^8 rows"),
        "dictionary of next to nothing": (
            candles(8, small, symbol=_dictionary_of(8, many, 64_000_000, text, 16_000_000)),
            f"{_RATIO}|{_AT_ONCE}",
        ),
        "dictionary that claims much": (
            candles(8, small, symbol=_dictionary_of(8, many, 64_000_000, text, (1 << 31) - 1)),
            f"{_RATIO}|{_AT_ONCE}|more entries than",
        ),
        "texts that lengthen each other": (candles(8, small, symbol=prefixes), "encoded as DELTA_BYTE_ARRAY"),
        "lengths of nothing": (candles(8, small, symbol=lengths), "encoded as DELTA_LENGTH_BYTE_ARRAY"),
        "chunks of nothing": (_chunks(3_000_000), "more than 50,000 column chunks"),
        "facts of nothing": (_facts(3_000_000), "more than 600,000 facts"),
        "columns of nothing": (_columns(200_000), "more than 2,000 columns"),
        "columns within columns": (_nested(1_900), "cannot be read|has no column"),
        "schema that is a web": (
            parquet(8, dict.fromkeys(crafted.NAMES, small), facts={b"ARROW:schema": base64.b64encode(web_of_fields(40))}),
            "more than 2,000 columns",
        ),
        "pages of nothing": (candles(9_000, Column([Page(b"", 0, 1)] * 9_000)), "pages of a column contain almost nothing"),
        "binary": (
            candles(8, small, symbol=Column([Page(long_text, 8, 8)], text, crafted.UNCOMPRESSED)),
            "cannot be read|damage",
        ),
    }


def feather_bombs() -> dict[str, tuple[bytes, str]]:
    """Return each file's bytes, and a pattern of its error."""
    eight = pa.array([0], pa.int64()).take(pa.array([0] * 8))
    zeros = pa.Array.from_buffers(pa.int64(), 8_000_000, [None, pa.py_buffer(bytes(64_000_000))])
    views = struct.pack("<i4sii", 4 * _MEBIBYTE, b"xxxx", 0, 0) * 60_000
    view: Any = pa.Array.from_buffers(pa.string_view(), 60_000, [None, pa.py_buffer(views), pa.py_buffer(b"x" * 4 * _MEBIBYTE)])
    few = zeros.slice(0, 60_000)
    indices = pa.Array.from_buffers(pa.int32(), 60_000, [None, pa.py_buffer(bytes(240_000))])
    times: Any = pa.array(range(1_706_745_600, 1_706_745_600 + 3_600 * 60_000, 3_600))
    names = {**dict.fromkeys(crafted.NAMES, few), "time": times}
    plain = ipc(dict.fromkeys(crafted.NAMES, eight))
    batch = ipc(names)
    nothing: Any = pa.Array.from_buffers(pa.null(), (1 << 31) - 1, [None])
    return {
        "columns": (ipc(dict.fromkeys(crafted.NAMES, zeros)), f"{_RATIO}|{_AT_ONCE}"),
        "columns in LZ4": (ipc(dict.fromkeys(crafted.NAMES, zeros), "lz4"), f"{_RATIO}|{_AT_ONCE}"),
        "column that is not asked for": (ipc({**names, "other": few, "more": few}), "^60000 rows"),
        "claims much": (_lengths_changed(batch, 60_000 * 8, 1 << 40), f"{_RATIO}|{_AT_ONCE}"),
        "claims little": (_lengths_changed(batch, 60_000 * 8, 8), "cannot be read"),
        "claims less than none": (_lengths_changed(batch, 60_000 * 8, -9), "a buffer is damaged"),
        "views of one text": (ipc({**names, "symbol": view}, None), "rows together contain"),
        "long text in all rows": (
            ipc({**names, "symbol": pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 8 * _MEBIBYTE]))}),
            _RATIO,
        ),
        "long text in all events": (
            events_with(pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 3 * _MEBIBYTE]))),
            _RATIO,
        ),
        "dictionary of nothing": (
            ipc({**names, "symbol": pa.DictionaryArray.from_arrays(indices, pa.array([""] * 16_000_000))}),
            f"the dictionaries take more|{_RATIO}",
        ),
        "runs": (
            ipc({**dict.fromkeys(crafted.NAMES, nothing.slice(0, 1 << 30)), "time": _run(1 << 30)}, None),
            f"has the type run_end_encoded|{_RATIO}",
        ),
        "nothing, often": (ipc(dict.fromkeys(crafted.NAMES, nothing), None), _RATIO),
        "lists": (ipc({**names, "symbol": pa.ListArray.from_arrays([0] * 60_000 + [8_000_000], zeros)}), "has the type list"),
        "schema that is a web": (_with_footer_of(plain, web_of_fields(40)), "more than 2,000 columns"),
        "one batch in all blocks": (_blocks(plain, 400_000), f"{_RATIO}|more than 100,000 batches"),
        "facts": (ipc(dict.fromkeys(crafted.NAMES, eight), facts={f"{n}": "x" * 1_000 for n in range(17_000)}), "bytes"),
    }


def ipc(columns: dict[str, Any], codec: Literal["lz4", "zstd"] | None = "zstd", facts: dict[str, str] | None = None) -> bytes:
    """Return a Feather file of one batch."""
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    if facts:
        batch = batch.replace_schema_metadata(facts)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def events_with(text: Any) -> bytes:
    """Return an export of events with these messages."""
    count = len(text)
    values: dict[str, Any] = {name: pa.array(["x"] * count) for name in EVENTS.columns}
    values |= {name: pa.array([1_706_745_600] * count, pa.timestamp("us", "UTC")) for name in ("created_at", "timestamp")}
    values |= {"id": pa.array(range(1, count + 1)), "message": text}
    return ipc({name: values[name] for name in EVENTS.columns})


def web_of_fields(depth: int) -> bytes:
    """Return Arrow's message of a schema in which each struct's two children are the same: 2 ** depth fields in all."""
    kind: Any = pa.struct([("a", pa.int8()), ("b", pa.int8())])
    for _ in range(depth - 1):
        kind = pa.struct([("a", kind), ("b", pa.int8())])
    data = bytearray(pa.schema([("time", kind)]).serialize().to_pybytes())
    start = 8

    def weave(table: FlatTable, field: int) -> None:
        # a vector's offsets count from their own position
        first, count = table._vector(field)
        if not count:
            return
        (offset,) = struct.unpack_from("<I", data, start + first)
        for index in range(1, count):
            struct.pack_into("<I", data, start + first + 4 * index, offset - 4 * index)
        weave(next(table.tables(field)), 5)

    message = FlatTable.root(bytes(data[start:]))
    schema = message.table(2)
    assert schema is not None
    weave(schema, 1)
    return bytes(data)


def _longs(value: int, count: int) -> bytes:
    return struct.pack("<q", value) * count


def _dictionary_of(rows: int, data: bytes = b"", size: int = 8, type: int = crafted.INT64, entries: int = 1) -> Column:
    """Return a column of one run of the first entry of a dictionary."""
    packed = data or pa.compress(_longs(1_706_745_600, 1), codec="zstd", asbytes=True)
    # bits of an index, then a run: its length, shifted, and the index
    run = b"\1" + crafted._varint(rows << 1) + b"\0"
    index = pa.compress(run, codec="zstd", asbytes=True)
    pages = [Page(packed, size, entries, crafted.PLAIN, dictionary=True), Page(index, len(run), rows, crafted.RLE_DICTIONARY)]
    return Column(pages, type)


def _run(length: int) -> Any:
    ends: Any = [pa.array([length], pa.int32()), pa.array([1])]
    kind: Any = pa.run_end_encoded(pa.int32(), pa.int64())
    return pa.RunEndEncodedArray.from_buffers(kind, length, [None], 0, 0, ends)


def _footer(*fields: crafted.Field) -> bytes:
    schema = [thrift((4, crafted.BINARY, b"schema"), (5, crafted.I32, 1)), _element()]
    return crafted.with_footer(
        b"PAR1",
        thrift((1, crafted.I32, 2), (2, crafted.LIST, (crafted.STRUCT, schema)), (3, crafted.I64, 0), *fields),
    )


def _element(children: int = 0) -> bytes:
    kind: list[crafted.Field] = [] if children else [(1, crafted.I32, crafted.INT64)]
    more: list[crafted.Field] = [(5, crafted.I32, children)] if children else []
    return thrift(*kind, (3, crafted.I32, 0), (4, crafted.BINARY, b"x"), *more)


def _chunks(count: int) -> bytes:
    each = thrift((2, crafted.I64, 0))
    groups = [
        thrift((1, crafted.LIST, (crafted.STRUCT, [each] * 150_000)), (2, crafted.I64, 0), (3, crafted.I64, 0))
    ] * (count // 150_000)  # fmt: skip
    return _footer((4, crafted.LIST, (crafted.STRUCT, groups)))


def _facts(count: int) -> bytes:
    about = thrift((3, crafted.LIST, (crafted.BINARY, [b""] * 150_000)))
    chunks = [thrift((2, crafted.I64, 0), (3, crafted.STRUCT, about))] * (count // 150_000)
    group = thrift((1, crafted.LIST, (crafted.STRUCT, chunks)), (2, crafted.I64, 0), (3, crafted.I64, 0))
    return _footer((4, crafted.LIST, (crafted.STRUCT, [group])))


def _columns(count: int) -> bytes:
    schema = [thrift((4, crafted.BINARY, b"schema"), (5, crafted.I32, count)), *[_element()] * count]
    return _with_schema(schema)


def _nested(depth: int) -> bytes:
    schema = [thrift((4, crafted.BINARY, b"schema"), (5, crafted.I32, 1)), *[_element(1)] * depth, _element()]
    return _with_schema(schema)


def _with_schema(schema: list[bytes]) -> bytes:
    groups: list[bytes] = []
    return crafted.with_footer(
        b"PAR1",
        thrift(
            (1, crafted.I32, 2),
            (2, crafted.LIST, (crafted.STRUCT, schema)),
            (3, crafted.I64, 0),
            (4, crafted.LIST, (crafted.STRUCT, groups)),
        ),
    )


def _lengths_changed(data: bytes, old: int, new: int) -> bytes:
    return data.replace(struct.pack("<q", old) + b"\x28\xb5\x2f\xfd", struct.pack("<q", new) + b"\x28\xb5\x2f\xfd")


def _with_footer_of(data: bytes, message: bytes) -> bytes:
    """Return a Feather file whose footer has the schema of a message: only a new table before it."""
    flat = message[8 : 8 + struct.unpack_from("<i", message, 4)[0]]
    header = FlatTable.root(flat).table(2)
    assert header is not None
    # a root, a vtable of two fields, a table: the version, and the schema's position
    head = struct.pack("<IHHHHiIHxx", 12, 8, 12, 8, 4, 8, 0, 4)
    head = head[:16] + struct.pack("<I", len(head) - 16 + header._at) + head[20:]
    footer = head + flat
    return data[: -10 - struct.unpack_from("<i", data, len(data) - 10)[0]] + footer + struct.pack("<i", len(footer)) + b"ARROW1"


def _blocks(data: bytes, count: int) -> bytes:
    """Return a Feather file whose footer lists its only batch repeatedly."""
    length = struct.unpack_from("<i", data, len(data) - 10)[0]
    footer = bytearray(data[-10 - length : -10])
    table = FlatTable.root(bytes(footer))
    first, _ = table._vector(3)
    place = table._place(3)
    assert place is not None
    block = bytes(footer[first : first + 24])
    at = len(footer) + (-len(footer) - 4) % 8
    footer += bytes(at - len(footer)) + struct.pack("<I", count) + block * count
    struct.pack_into("<I", footer, place, at - place)
    return data[: -10 - length] + bytes(footer) + struct.pack("<i", len(footer)) + b"ARROW1"
