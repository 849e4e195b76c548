"""Converts PostgreSQL rows to Arrow tables and back, with COPY in CSV format, piece by piece in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any

import asyncpg
import pyarrow as pa
from pyarrow import csv

from iftb_store.batches.arrow import TIME, complete_rows, identify_row, selection_schema, unreadable_value
from iftb_store.errors import StoreError
from iftb_store.schema.table_spec import ColumnKind, RowFilter
from iftb_store_postgres.reading import copy_out

# large enough that the switches between threads cost little, small enough that a piece is parsed in a few milliseconds
_PIECE = 512 << 10
_BLOCK = 2 << 20
_ROWS = 20_000
_BOM = "\ufeff".encode()

_COLUMNS = {
    ColumnKind.DECIMAL: "trim_scale({})",
    ColumnKind.TIME: "{} AT TIME ZONE 'UTC'",
}
# for a session with another DateStyle: Arrow parses only ISO 8601
_ISO = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"

# the first Arrow value of a process makes Arrow import pandas if it is installed, which takes 0.2 s; this module is imported in a
# thread
pa.scalar(0)


def column_sql(column: str, kind: ColumnKind, connection: asyncpg.Connection) -> str:
    """Return the SQL expression that selects a column for COPY TO, in a form that Arrow can parse."""
    if kind == ColumnKind.TIME and not connection.get_settings().DateStyle.startswith("ISO"):
        return _ISO.format(column)
    return _COLUMNS.get(kind, "{}").format(column)


async def read_rows(connection: asyncpg.Connection, selection: RowFilter, sql: str, args: Sequence[Any]) -> pa.Table:
    """Run a selection's query and return the selected rows."""
    parser = _Parser(selection)
    try:
        await copy_out(connection, sql, args, parser.take, "csv")
        return await parser.table()
    finally:
        parser.close()


async def pieces(table: pa.Table, created_at: datetime | None = None) -> AsyncIterator[bytes]:
    """Yield checked rows as CSV for COPY; if ``created_at`` is given, append a column with that value."""
    for first in range(0, table.num_rows, _ROWS):
        yield await asyncio.to_thread(_csv, table.slice(first, _ROWS), created_at)


def _csv(table: pa.Table, created_at: datetime | None) -> bytes:
    text = BytesIO()
    if created_at is not None:
        table = table.append_column("created_at", pa.repeat(pa.scalar(created_at, TIME), table.num_rows))
    csv.write_csv(table, text, csv.WriteOptions(include_header=False))
    return text.getvalue()


class _Parser:
    """Parses the CSV that the server sends; complete rows are parsed as soon as enough bytes have arrived."""

    def __init__(self, selection: RowFilter) -> None:
        wanted = selection_schema(selection)
        self._selection = selection
        self._types = {name: wanted.field(name).type for name in selection.columns}
        # PostgreSQL sends times in UTC without an offset
        self._read = {name: pa.timestamp("us") if kind == TIME else kind for name, kind in self._types.items()}
        self._has_text = pa.string() in self._types.values()
        self._rest: list[bytes] = []
        self._size = 0
        self._enough = _PIECE
        self._parts: list[asyncio.Future[pa.Table]] = []

    async def take(self, data: bytes) -> None:
        """Add bytes that the server sent; if there are enough, parse the complete rows while the server sends the next ones."""
        self._rest.append(data)
        self._size += len(data)
        if self._size >= self._enough:
            await self._parse(whole=False)
            # each attempt copies an incomplete row, so try again only when twice as many bytes have arrived
            self._enough = max(_PIECE, 2 * self._size)

    async def table(self) -> pa.Table:
        """Parse the remaining bytes and return all rows."""
        await self._parse(whole=True)
        if not self._parts:
            return selection_schema(self._selection).empty_table()
        return pa.concat_tables([await part for part in self._parts])

    def close(self) -> None:
        """Cancel or discard the pieces whose rows are no longer needed."""
        for part in self._parts:
            if not part.cancel() and not part.cancelled():
                # asyncio logs an exception that nobody looks at
                part.exception()

    async def _parse(self, *, whole: bool) -> None:
        text = b"".join(self._rest)
        end = len(text) if whole else self._end_of_rows(text)
        self._rest = [text[end:]]
        self._size = len(text) - end
        if end:
            # Arrow drops a byte order mark at the beginning, but here it belongs to the first value, so add another
            rows = pa.py_buffer(_BOM + text[:end]) if text.startswith(_BOM) else pa.py_buffer(text).slice(0, end)
            if self._parts:
                await self._parts[-1]
            self._parts.append(asyncio.ensure_future(asyncio.to_thread(self._parse_buffer, rows)))

    def _end_of_rows(self, text: bytes) -> int:
        end = text.rfind(b"\n") + 1
        # a line may end inside a quoted text; the next piece then shows where the row ends
        return 0 if self._has_text and text.count(b'"', 0, end) % 2 else end

    def _parse_buffer(self, text: pa.Buffer) -> pa.Table:
        try:
            table = self._table(text, self._read)
        except pa.ArrowInvalid as error:
            found = self._unreadable(text)
            if found is None:
                raise
            raise found from error
        columns = {name: table[name].cast(TIME) if kind == TIME else table[name] for name, kind in self._types.items()}
        return complete_rows(self._selection, columns, table.num_rows)

    def _unreadable(self, text: pa.Buffer) -> StoreError | None:
        """Return the error for the first value that iftb-store cannot store: NaN, infinity or a year before 1; otherwise None."""
        table, texts = self._selection.table, self._table(text, dict.fromkeys(self._types, pa.string()))
        for name, kind in self._read.items():
            for index, value in enumerate(texts[name]):
                try:
                    value.cast(kind)
                except pa.ArrowInvalid:
                    row: dict[str, Any] = {**self._selection.equal}
                    row |= {column: texts[column][index].as_py() for column in texts.column_names}
                    number = int(row["id"]) if "id" in row else identify_row(table, row)
                    return unreadable_value(table, name, number, value.as_py())
        return None

    def _table(self, text: pa.Buffer, types: Mapping[str, pa.DataType]) -> pa.Table:
        source: Any = pa.BufferReader(text)
        return csv.read_csv(
            source,
            read_options=csv.ReadOptions(column_names=list(self._types), block_size=_BLOCK),
            parse_options=csv.ParseOptions(newlines_in_values=self._has_text),
            convert_options=csv.ConvertOptions(
                column_types={**types},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
