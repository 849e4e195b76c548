"""Converts a batch of rows to lines of CSV or JSON, without loss."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute

from iftb_store.batches.arrow import to_plain_texts
from iftb_store.errors import InvalidValueError
from iftb_store.files.formats import LONGEST_ROW
from iftb_store.files.limits import LONGEST_TEXT
from iftb_store.schema.table_spec import ColumnKind, TableSpec

# the type stubs do not accept plain Python values as arguments
pc: Any = pyarrow.compute

_ENCODER = json.JSONEncoder(ensure_ascii=False)
_ISO = "%Y-%m-%dT%H:%M:%SZ"
# an empty text must be quoted, or it would be read as NULL; and a reader drops an unquoted byte order mark at the beginning
_QUOTED = r'[,"\r\n]|^\s|\s$|^$|^\x{FEFF}'


def csv_header(table: TableSpec) -> bytes:
    """Return the header line with the column names."""
    return f"{','.join(table.columns)}\n".encode()


def csv_lines(table: TableSpec, batch: pa.RecordBatch) -> bytes:
    """Return rows as lines of CSV: plain digits, times in ISO 8601, text quoted if necessary, an empty cell for NULL."""
    cells = [_csv_cells(table.kinds[name], column) for name, column in zip(table.columns, batch.columns, strict=True)]
    lines = pc.binary_join_element_wise(*cells, ",", null_handling="replace", null_replacement="")
    return _join(lines.to_pylist())


def json_lines(table: TableSpec, batch: pa.RecordBatch) -> bytes:
    """Return rows as JSON objects, one per line: decimals and times as text, JSON columns and lists of texts as JSON."""
    cells = [_json_cells(table.kinds[name], column) for name, column in zip(table.columns, batch.columns, strict=True)]
    template = "{" + ", ".join(f'"{name}": %s' for name in table.columns) + "}"
    return _join([template % row for row in zip(*cells, strict=True)])


def _join(lines: list[str]) -> bytes:
    joined = "\n".join([*lines, ""]).encode()
    # a line can be longer than the limit only if the whole text is
    if len(joined) > LONGEST_ROW and (longest := max(len(line.encode()) for line in lines)) > LONGEST_ROW:
        raise InvalidValueError(
            f"a row makes a line of {longest:,} bytes; the maximum is {LONGEST_ROW:,} in text formats, "
            f"{LONGEST_TEXT:,} in Parquet and Feather"
        )
    return joined


def _csv_cells(kind: ColumnKind, column: Any) -> Any:
    if pa.types.is_floating(column.type):
        return column.cast(pa.string())
    if kind == ColumnKind.DECIMAL:
        return pa.array(to_plain_texts(column), pa.string())
    if kind == ColumnKind.TIME:
        return _iso(column)
    if kind == ColumnKind.INTEGER:
        return column.cast(pa.string())
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(column, '"', '""'), '"', "")
    return pc.if_else(pc.match_substring_regex(column, _QUOTED), quoted, column)


def _json_cells(kind: ColumnKind, column: Any) -> list[str]:
    if pa.types.is_floating(column.type):
        return ["null" if value is None else repr(value) for value in column.to_pylist()]
    if kind == ColumnKind.DECIMAL:
        values = to_plain_texts(column)
    else:
        values = (_iso(column) if kind == ColumnKind.TIME else column).to_pylist()
    if kind in (ColumnKind.JSON, ColumnKind.TEXTS):
        # an engine may store the JSON with line breaks, so it is written anew on one line
        values = [None if value is None else json.loads(value) for value in values]
    encode = '"{}"'.format if kind in (ColumnKind.DECIMAL, ColumnKind.TIME) else _ENCODER.encode
    return ["null" if value is None else encode(value) for value in values]


def _iso(column: Any) -> Any:
    return pc.strftime(column.cast(pa.timestamp("us")), format=_ISO)
