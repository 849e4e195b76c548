"""Converts PostgreSQL rows to Arrow tables and back, with COPY in CSV or binary format, piece by piece in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from typing import Any, Literal

import asyncpg
import pyarrow as pa
from pyarrow import csv

from iftb_store.batches.arrow import TIME, complete_rows, identify_row, selection_schema, unreadable_value
from iftb_store.errors import StoreError
from iftb_store.relational import import_modules
from iftb_store.schema.table_spec import ColumnKind, RowFilter
from iftb_store_postgres.copying import send
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


async def send_rows(
    connection: asyncpg.Connection,
    table: str,
    rows: pa.Table,
    schema: str | None = None,
    *,
    created_at: datetime | None = None,
) -> None:
    """Run one COPY of checked rows into a table; if ``created_at`` is given, all rows get it.

    COPY is binary if pgpq, which encodes the rows in a seventh of the time, is installed, and CSV otherwise.

    Args:
        connection: the connection, in a transaction.
        table: the name of the table.
        rows: the rows, with the names of the table's columns.
        schema: the schema of the table; None to look in the search_path.
        created_at: the value of the column created_at, which ``rows`` then lacks.
    """
    columns = [*rows.column_names, *([] if created_at is None else ["created_at"])]
    kind: Literal["binary", "csv"] = "csv" if find_spec("pgpq") is None else "binary"
    pieces = _binary(rows, created_at) if kind == "binary" else _texts(rows, created_at)
    await send(connection, table, columns, pieces, kind, schema)


async def _binary(rows: pa.Table, created_at: datetime | None) -> AsyncIterator[bytes]:
    await import_modules("pgpq")
    encoder: Any = None
    for first in range(0, rows.num_rows, _ROWS):
        part = await asyncio.to_thread(_part, rows, first, created_at)
        if encoder is None:
            encoder = import_module("pgpq").ArrowToPostgresBinaryEncoder(part.schema)
            yield encoder.write_header()
        yield await asyncio.to_thread(encoder.write_batch, part.to_batches()[0])
    yield encoder.finish()


async def _texts(rows: pa.Table, created_at: datetime | None) -> AsyncIterator[bytes]:
    for first in range(0, rows.num_rows, _ROWS):
        yield await asyncio.to_thread(_csv, rows, first, created_at)


def _csv(rows: pa.Table, first: int, created_at: datetime | None) -> bytes:
    text = BytesIO()
    csv.write_csv(_part(rows, first, created_at), text, csv.WriteOptions(include_header=False))
    return text.getvalue()


def _part(rows: pa.Table, first: int, created_at: datetime | None) -> pa.Table:
    """Return the next rows in one chunk, with the column created_at."""
    part = rows.slice(first, _ROWS).combine_chunks()
    return part if created_at is None else part.append_column("created_at", pa.repeat(pa.scalar(created_at, TIME), part.num_rows))


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
